"""Two-stage ranking against the full one: the same best choice, true scores where they are known, bounds elsewhere."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.architectures import tiny
from tests.models import ragged_batch, tiny_t5, with_ia3
from tests.test_train import folder, predictions
from tfew.config import compose
from tfew.data.tokenization import TokenizedPrompt, collate
from tfew.errors import UserError
from tfew.evaluate import evaluate
from tfew.prediction.predictor import Predictor
from tfew.ranking.norms import available
from tfew.ranking.shortlist import MOST_ROUNDS, Shortlist, shortlist_of
from tfew.schema import Batch
from tfew.scoring import fast_decoder_only, fast_encoder_decoder, fast_t5
from tfew.scoring.context import KeptInputs
from tfew.scoring.prefixes import prefixes
from tfew.scoring.score import BoundedScorer, rank_scores, scoring_mode, token_logprob
from tfew.settings import ScoreSettings


def many_choices(seed: int, examples: int = 3, choices: int = 20) -> Batch:
    """Choices of 1 to 5 of four words, so that many begin alike; all are different, one example has fewer."""
    draw = random.Random(seed)
    items = []
    for number in range(examples):
        texts = {tuple(draw.choices(range(2, 6), k=draw.randint(1, 5))) for _ in range(choices - 6 * (number == 1))}
        items.append(TokenizedPrompt([*draw.choices(range(2, 90), k=4 + number), 1], [[*t, 1] for t in texts], 0, 0, 0))
    return collate(items, pad_id=0)


class Table:
    """A made-up model: a log-probability for each token behind each prefix, and which prefixes it was asked for."""

    def __init__(self, seed: int) -> None:
        self.seed, self.asked_for = seed, set[tuple[int, tuple[int, ...]]]()

    @property
    def asked(self) -> int:
        return len(self.asked_for)

    def __call__(self, batch: Batch, kept: KeptInputs | None = None) -> Tensor:
        found = torch.zeros(batch.choice_mask.shape)
        for b, c, t in batch.choice_mask.nonzero().tolist():
            prefix, token = tuple(batch.choice_ids[b, c, :t].tolist()), int(batch.choice_ids[b, c, t])
            draw = random.Random(f"{self.seed}/{batch.input_ids[b].tolist()}/{prefix}/{token}")
            found[b, c, t] = -draw.expovariate(1.0)
            self.asked_for.add((b, prefix))
        return found


@pytest.mark.parametrize("norm", ["token", "sum"])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_the_best_choice_is_the_full_rankings(size: int, norm: str) -> None:
    left_out = asked_in_full = tried = 0
    for seed in range(20):
        batch, table, whole = many_choices(seed), Table(seed), Table(seed)
        full = whole(batch)
        logprob, is_bound = Shortlist(size, norm)(table, batch)
        scores, exact = (rank_scores(found, batch.choice_mask, norm) for found in (logprob, full))
        assert scores.argmax(1).tolist() == exact.argmax(1).tolist()
        known = ~is_bound & batch.choice_mask.any(-1)
        assert torch.equal(scores[known], exact[known]), "what is scored has the very score"
        assert (scores[is_bound] > exact[is_bound]).all(), "what is left out has an upper bound"
        assert not is_bound.gather(1, exact.argmax(1, keepdim=True)).any()
        share, exact_share = scores.softmax(1).amax(1), exact.softmax(1).amax(1)
        assert (share <= exact_share + 1e-6).all(), "a label is never surer than it is"
        left_out, asked_in_full = left_out + int(is_bound.sum()), asked_in_full + whole.asked
        tried += table.asked
    assert left_out > 0
    assert tried < 0.8 * asked_in_full


def test_a_sure_model_is_asked_little() -> None:
    """One choice has next to all of the probability: the cheap pass and the choice's own tokens suffice."""
    batch = many_choices(0, examples=1)
    target = batch.choice_ids[0, 7]

    def sure(part: Batch, kept: KeptInputs | None = None) -> Tensor:
        rounds.append(int(part.choice_mask.any(-1).sum()))
        right = (part.choice_ids == target).cumprod(-1).bool()
        return torch.where(part.choice_mask, torch.where(right, -0.01, -9.0), 0.0)

    rounds: list[int] = []
    _, is_bound = Shortlist(1, "sum")(sure, batch)
    assert len(rounds) == int(batch.choice_mask[0, 7].sum())
    assert rounds[0] == batch.choice_ids.shape[1]
    assert int(is_bound.sum()) >= batch.choice_ids.shape[1] // 2


def test_an_unsure_model_is_asked_half_as_much_again_at_most() -> None:
    """Long choices that are equally likely: no bound tells one from another before its end."""
    texts = [[2 + n % 5, *(2 + (n // 5**t) % 5 for t in range(1, 3)), *[9] * 12, 1] for n in range(60)]
    batch = collate([TokenizedPrompt([7, 1], texts, 0, 0, 0)] * 2, pad_id=0)
    made: list[int] = []

    def unsure(part: Batch, kept: KeptInputs | None = None) -> Tensor:
        made.append(len(prefixes(part).depth_M))
        return -0.5 * part.choice_mask.float()

    _, is_bound = Shortlist(4, "token")(unsure, batch)
    assert not is_bound.any()
    assert sum(made) < 1.6 * len(prefixes(batch).depth_M)
    assert len(made) <= MOST_ROUNDS + 2


def test_choices_that_are_the_same_tokens_are_scored_together() -> None:
    twins = [[4, 5, 1], [4, 6, 1], [4, 5, 1], [7, 1]]
    batch = collate([TokenizedPrompt([9, 1], twins, 0, 0, 0)], pad_id=0)
    logprob, _ = Shortlist(1, "sum")(Table(3), batch)
    full = Table(3)(batch)
    assert (
        rank_scores(logprob, batch.choice_mask, "sum").argmax() == rank_scores(full, batch.choice_mask, "sum").argmax()
    )


@pytest.mark.parametrize("norm", ["char", "byte", "pmi"])
def test_norms_without_bounds_are_refused(norm: str) -> None:
    with pytest.raises(UserError, match=f"score.norm=token and sum, not {norm}"):
        Shortlist(3, norm)


def test_what_has_other_scores_or_passes_is_refused() -> None:
    token = ScoreSettings("token", "direct", shortlist=3)
    assert shortlist_of(token, "concat") == Shortlist(3, "token")
    assert shortlist_of(replace(token, shortlist=None), "ensemble") is None
    for refused, message in (
        ((replace(token, method="channel"),), "score.method=direct, not channel"),
        ((token, "ensemble"), "icl.mode=ensemble has many"),
        ((token, "none", True), "a sharded model"),
    ):
        with pytest.raises(UserError, match=message):
            shortlist_of(*refused)


@pytest.mark.parametrize("name", ["t5", "bart", "llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_kept_inputs_change_no_score(name: str, engine: str) -> None:
    """Some choices after others, behind inputs that are encoded once, against all of them at once."""
    model = with_ia3(tiny_t5()) if name == "t5" else tiny(name)
    batch = replace(ragged_batch(examples=4), task_id=None)
    with scoring_mode(model):
        expected, kept = token_logprob(model, batch, "plain"), KeptInputs()
        for choices in ([0], [2, 3], [1], []):
            mask = batch.choice_mask.clone()
            mask[:, [c for c in range(4) if c not in choices]] = False
            if not mask.any():
                continue
            found = token_logprob(model, replace(batch, choice_mask=mask), engine, kept=kept)
            torch.testing.assert_close(found, expected * mask, atol=2e-5, rtol=0)
            others = batch.part(slice(0, 2))  # other inputs in between are not taken for the same
            token_logprob(model, others, engine, kept=kept)


@pytest.mark.parametrize("memory", [None, 1e6])
def test_inputs_that_begin_alike_and_halves_of_a_batch(memory: float | None) -> None:
    """What is common to all inputs is kept as ever; where memory does not suffice, halves may have no choices left."""
    model, draw = tiny("llama"), random.Random(1)
    shared = draw.choices(range(2, 90), k=30)
    batch = many_choices(2, examples=4)
    own = batch.input_ids[:, :4]
    inputs = torch.cat([torch.tensor([shared]).expand(4, -1), own], dim=1)
    batch = replace(batch, input_ids=inputs, input_mask=torch.ones_like(inputs, dtype=torch.bool))
    scorer = BoundedScorer(model, "fast", memory)
    with scoring_mode(model):
        expected = token_logprob(model, batch, "plain")
        logprob, is_bound = Shortlist(1, "sum")(scorer, batch)
    assert memory is not None or len(scorer.context.ids_K) == 30
    known = ~is_bound[..., None] & batch.choice_mask
    torch.testing.assert_close(logprob[known], expected[known], atol=2e-5, rtol=0)
    best = rank_scores(expected, batch.choice_mask, "sum").argmax(1)
    assert torch.equal(rank_scores(logprob, batch.choice_mask, "sum").argmax(1), best)


@pytest.mark.parametrize(
    ("name", "module", "encoder"),
    [("t5", fast_t5, "_encoded"), ("bart", fast_encoder_decoder, "_encoded"),
     ("llama", fast_decoder_only, "_input_layers")],
)  # fmt: skip
def test_inputs_are_encoded_once(name: str, module: Any, encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_t5() if name == "t5" else tiny(name)
    batch, times, encode = many_choices(5), [], getattr(module, encoder)

    def counted(*arguments: Any) -> Any:
        times.append(len(arguments[1]))
        return encode(*arguments)

    scorer = BoundedScorer(model, "fast", None)
    with scoring_mode(model):
        Shortlist(2, "token")(scorer, batch)  # whether the engine fits is known
        monkeypatch.setattr(module, encoder, counted)
        rounds = []
        logprob, is_bound = Shortlist(2, "token")(lambda part, kept: rounds.append(0) or scorer(part, kept), batch)
        expected = token_logprob(model, batch, "plain")
    assert times == [len(batch)]
    assert len(rounds) > 1
    known = ~is_bound[..., None] & batch.choice_mask
    torch.testing.assert_close(logprob[known], expected[known], atol=2e-5, rtol=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tfew.train import train

    runs = tmp_path_factory.mktemp("runs")
    single = ("templates=single", "templates.name='wording 1'", "score.shortlist=3")
    common = ("dataset=mini/request", "trainer=cpu", "steps=2", f"runs={runs}", "dataset.generator.eval=24")
    return folder(train(compose("+experiment=mini_few_shot", *common, *single)))


def test_prediction_and_evaluation_find_the_full_rankings_labels(run: Path, tmp_path: Path) -> None:
    trained = predictions(run)
    assert all(found.bounds == 0 for found in trained), "a training's own numbers are of all choices"
    overrides = (f"adapter={run}", "trainer=cpu", f"runs={tmp_path}")
    from tfew.cli import with_run_settings

    record = evaluate(with_run_settings(compose(*overrides, config_name="evaluate"), overrides))
    found = predictions(tmp_path / record.name)
    assert [p.predicted for p in found] == [p.predicted for p in trained]
    assert 0 < sum(p.bounds for p in found) < 36 * len(found)
    assert list(record.metrics["accuracy_by_norm"]) == ["token"], "no other norm's best is known"
    shortlisted = next(p for p in found if p.bounds)
    assert available(shortlisted) == ("token",)
    texts = ["my card is gone", "the parcel is late", "please stop my ticket"]
    short = Predictor.load(run, "trainer=cpu")(texts)
    full = Predictor.load(run, "trainer=cpu", "score.shortlist=null")(texts)
    for ours, theirs in zip(short, full, strict=True):
        assert ours.label == theirs.label
        assert ours.probability <= theirs.probability + 1e-6
        assert sum(ours.probabilities.values()) == pytest.approx(1)
        assert theirs.bounds == 0


def test_several_templates_are_refused(run: Path) -> None:
    with pytest.raises(UserError, match="choose one with templates=single"):
        Predictor.load(run, "trainer=cpu", "templates=all", "templates.name=null")


def test_what_does_not_go_with_it(run: Path) -> None:
    for override, message in (("score.norm=pmi", "not pmi"), ("score.shortlist=0", "score.shortlist=0 is not")):
        overrides: Any = ("trainer=cpu", override)
        with pytest.raises(UserError, match=message):
            Predictor.load(run, *overrides)


@pytest.mark.parametrize("override", ["coverage=0.9", "risk=0.1", "sets=0.9"])
def test_promises_about_probabilities_are_refused(override: str, run: Path) -> None:
    with pytest.raises(UserError, match=f"{override.partition('=')[0]}= needs exact probabilities"):
        Predictor.load(run, "trainer=cpu", override)
