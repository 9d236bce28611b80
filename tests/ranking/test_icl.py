"""In-context learning against one slow forward pass per choice; contexts that are cached, and truncated."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel

from tests.models import tiny_t5, with_ia3
from tests.scoring.test_engines import lively
from tests.scoring.test_fast_decoder_only import KINDS, SIZE, make
from tfew.config import compose
from tfew.data.content_free import content_columns
from tfew.data.tokenization import PromptTokenizer, TokenizedPrompt, collate
from tfew.errors import UserError
from tfew.evaluate import evaluate
from tfew.ranking.icl import Answer, combined, fitting_shots
from tfew.ranking.score_methods import prediction_from, prompts_to_score
from tfew.runs.records import RunRecord
from tfew.schema import Batch, Example, Prediction, Prompt
from tfew.scoring.context import Context
from tfew.scoring.score import plain_token_logprob, scoring_mode, token_logprob
from tfew.task import eval_task, in_context

SHOTS = (("The sky is", "blue"), ("Grass is", "green"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with a small encoder-decoder and a small decoder-only model, with bytes for tokens."""
    found = {}
    for name, model in (("t5", tiny_t5(rows=384)), ("llama", lively("llama")), ("gpt2", _narrow_gpt2())):
        found[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(found[name])
        ByT5Tokenizer().save_pretrained(found[name])
    return found


def _narrow_gpt2() -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_head=4, n_layer=2, n_positions=400, **SIZE)).eval()


@pytest.fixture
def run(models: dict[str, Path], made_data: Path, tmp_path: Path) -> Callable[..., tuple[RunRecord, list[Prediction]]]:
    def run(kind: str, *overrides: str) -> tuple[RunRecord, list[Prediction]]:
        record = evaluate(
            compose(*settings(models[kind], made_data), *overrides, f"runs={tmp_path}", config_name="evaluate")
        )
        lines = (tmp_path / record.name / "predictions.jsonl").read_text().splitlines()
        return record, [Prediction.from_json(line) for line in lines]

    return run


def settings(model: Path, data: Path) -> tuple[str, ...]:
    return (
        "+experiment=cb", f"model.path={model}", f"data_dir={data}", "trainer=cpu", "few_shot=draw", "shots=8",
        "templates=single", "templates.name='can we infer'", "icl.shots=3", "eval_rows=4", "score.norm=sum",
    )  # fmt: skip


@torch.no_grad()
def slow_sum(model: Any, shots: Any, text: str, target: str, eos: str) -> float:
    """log p(target | shots, text), from one sequence in bytes and nothing of ours."""
    tokenizer = ByT5Tokenizer()
    context = [token for a, b in shots for token in tokenizer(f"{a} {b}\n\n", add_special_tokens=False)["input_ids"]]
    own = tokenizer(text, add_special_tokens=False)["input_ids"]
    if model.config.is_encoder_decoder:
        labels = tokenizer(target)["input_ids"]
        ids = [*context, *own, tokenizer.eos_token_id]
        return -float(model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss) * len(labels)
    labels = tokenizer(" " + target, add_special_tokens=eos == "include")["input_ids"]
    ids = [*context, *own, *labels]
    logprob = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return float(sum(logprob[len(ids) - len(labels) - 1 + t, token] for t, token in enumerate(labels)))


def slow_scores(model: nn.Module, method: str, prompt: Prompt, shots: Any, eos: str) -> list[float]:
    if method == "channel":
        turned = [(answer, text) for text, answer in shots]
        return [slow_sum(model, turned, choice, prompt.input, eos) for choice in prompt.choices]
    scores = [slow_sum(model, shots, prompt.input, choice, eos) for choice in prompt.choices]
    if method == "direct":
        return scores
    assert prompt.content_free is not None
    free = [slow_sum(model, shots, prompt.content_free, choice, eos) for choice in prompt.choices]
    return [score - off for score, off in zip(scores, free, strict=True)]


@pytest.mark.parametrize(
    ("mode", "method"),
    [
        ("none", "channel"), ("none", "calibrated"), ("concat", "direct"), ("concat", "channel"),
        ("concat", "calibrated"), ("ensemble", "direct"), ("ensemble", "calibrated"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("kind", "eos"), [("t5", "auto"), ("llama", "auto"), ("llama", "include")])
def test_scores_against_one_sequence_at_a_time(
    kind: str, eos: str, mode: str, method: str, run: Any, models: dict[str, Path], made_data: Path
) -> None:
    told = (f"icl.mode={mode}", f"score.method={method}", f"score.eos={eos}")
    record, predictions = run(kind, *told)
    assert record.scoring == {"eos": "exclude" if (kind, eos) == ("llama", "auto") else "include", "chat": False}
    config = compose(*settings(models[kind], made_data), *told, config_name="evaluate")
    task, context = eval_task(config), in_context(config)
    model = tiny_t5(rows=384).eval() if kind == "t5" else lively(kind)
    assert task is not None
    for prediction, (prompt,) in zip(predictions, task.prompts, strict=True):
        shots = context.shots["can we infer"] if context else ()
        if mode == "ensemble":
            each = [torch.tensor(slow_scores(model, method, prompt, [shot], eos)) for shot in shots]
            expected = torch.stack([scores.softmax(0) for scores in each]).mean(0).log().tolist()
        else:
            expected = slow_scores(model, method, prompt, shots, eos)
        assert prediction.scores == pytest.approx(expected, abs=1e-3)
        assert prediction.predicted == max(range(3), key=expected.__getitem__)
        assert len({round(score, 2) for score in prediction.scores}) == 3, "scores that do not differ show nothing"


def test_channel_and_calibrated_change_the_scores_and_norms_go_on_top(run: Any) -> None:
    direct, channel, calibrated = (run("t5", f"score.method={m}")[1] for m in ("direct", "channel", "calibrated"))
    for one, other, third in zip(direct, channel, calibrated, strict=True):
        assert len({one.scores, other.scores, third.scores}) == 3
        assert one.tokens == third.tokens
        assert set(other.tokens) == {len(ByT5Tokenizer()(f"{_input(one)}")["input_ids"])}
    record, per_token = run("t5", "score.method=calibrated", "score.norm=token")
    for one, sums in zip(per_token, calibrated, strict=True):
        assert one.scores == pytest.approx([s / t for s, t in zip(sums.scores, sums.tokens, strict=True)], rel=1e-5)
    assert set(record.metrics["accuracy_by_norm"]) == {"token", "sum", "char", "byte", "pmi"}
    assert set(run("t5", "score.method=channel")[0].metrics["accuracy_by_norm"]) == {"token", "sum", "char", "byte"}


def _input(prediction: Prediction) -> str:
    premise, hypothesis = f"Premise number {prediction.idx}", f"hypothesis {prediction.idx}"
    return INPUTS.get(prediction.idx, f"{premise} {hypothesis}")


INPUTS: dict[int, str] = {}


@pytest.fixture(autouse=True)
def _inputs(models: dict[str, Path], made_data: Path) -> None:
    task = eval_task(compose(*settings(models["t5"], made_data), config_name="evaluate"))
    assert task is not None
    INPUTS.update({prompt.idx: prompt.input for (prompt,) in task.prompts})


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_an_ensemble_of_one_shot_is_a_context_of_one_shot(kind: str, run: Any) -> None:
    concat, ensemble = (run(kind, f"icl.mode={mode}", "icl.shots=1")[1] for mode in ("concat", "ensemble"))
    assert concat == ensemble
    assert concat != run(kind, "icl.mode=none")[1]
    assert concat != run(kind, "icl.mode=concat", "icl.shots=2")[1]


def test_the_order_is_seeded_and_recorded(run: Any, tmp_path: Path) -> None:
    def shots(record: RunRecord) -> list[int]:
        (path,) = (tmp_path / record.name).glob("few_shot/cb/8_shot/0_seed.jsonl")
        return [json.loads(line)["idx"] for line in path.read_text().splitlines()]

    first, predictions = run("llama", "icl.mode=concat", "icl.shots=8", "score.norm=token")
    second, others = run("llama", "icl.mode=concat", "icl.shots=8", "score.norm=token", "icl.order_seed=1")
    again, same = run(
        "llama", "icl.mode=concat", "icl.shots=8", "score.norm=token", "run_dir=" + str(tmp_path / "again")
    )
    assert shots(first) == shots(again) != shots(second)
    assert sorted(shots(first)) == sorted(shots(second))
    assert predictions == same != others
    assert (first.command, first.method) == ("evaluate", "icl_concat")
    assert first.config["icl"] == {
        "mode": "concat", "shots": 8, "order_seed": 0, "combine": "probability", "too_long": "refuse",
    }  # fmt: skip


def test_a_context_beyond_the_window_is_refused_or_cut(run: Any) -> None:
    with pytest.raises(UserError, match=r"'can we infer': 8 shots take \d+ tokens, .*window is 400: fewer shots"):
        run("gpt2", "icl.mode=concat", "icl.shots=8")
    record, cut = run("gpt2", "icl.mode=concat", "icl.shots=8", "icl.too_long=drop")
    kept = 8 - record.counts["dropped_shots"]
    assert 0 < kept < 8
    _, whole = run("llama", "icl.mode=concat", "icl.shots=8", "icl.too_long=drop")
    assert len(whole) == len(cut)
    record, _ = run("llama", "icl.mode=concat", "icl.shots=8")
    assert record.counts["dropped_shots"] == 0, "2,048 positions are enough"
    with pytest.raises(UserError, match="pmi"):
        run("gpt2", "score.method=channel", "score.norm=pmi")
    with pytest.raises(UserError, match=r"icl\.shots=9, but there are 8"):
        run("gpt2", "icl.mode=concat", "icl.shots=9")


def test_which_shots_fit() -> None:
    assert fitting_shots([5, 3, 4], 12, "concat") == [0, 1, 2]
    assert fitting_shots([5, 3, 4], 11, "concat") == [1, 2]  # those nearest to the query stay
    assert fitting_shots([5, 3, 4], 3, "concat") == []
    assert fitting_shots([5, 3, 4], 4, "ensemble") == [1, 2]


def test_combinations_in_closed_form() -> None:
    def one(*scores: float) -> Prediction:
        return Prediction("d", "t", 0, 1, max(range(2), key=scores.__getitem__), scores, (1, 2), (3, 4), (3, 4))

    members = [one(0.0, math.log(3)), one(math.log(4), 0.0), one(5.0, 5.0 + math.log(1.5))]
    mean = combined(members, "probability")  # 1/4, 4/5 and 2/5 of the first choice
    assert mean.scores == pytest.approx([math.log((0.25 + 0.8 + 0.4) / 3), math.log((0.75 + 0.2 + 0.6) / 3)])
    votes = combined(members, "vote")
    assert votes.scores == pytest.approx([1 / 3, 2 / 3])
    assert (mean.predicted, votes.predicted, mean.contexts) == (1, 1, 3)
    assert combined(members[:1], "vote") is members[0]
    assert combined([one(-1e9, 0.0)] * 2, "probability").scores[0] > -math.inf
    answer = Answer(tuple(members), "vote")
    assert answer.norms == ("token", "sum", "char", "byte")
    assert answer.under("token") != answer.under("sum")


def test_questions_of_a_prompt() -> None:
    prompt = Prompt("d", "t", 7, "input", ("a", "b"), 1, shots=SHOTS, content_free="N/A")
    assert [(q.input, q.choices, q.shots) for q in prompts_to_score(prompt, "channel")] == [
        (choice, ("input",), (("blue", "The sky is"), ("green", "Grass is"))) for choice in ("a", "b")
    ]
    asked, free = prompts_to_score(prompt, "calibrated")
    assert (asked.input, free.input) == ("input", "N/A")
    assert asked.choices == free.choices == ("a", "b")
    with pytest.raises(ValueError, match="content_free"):
        prompts_to_score(Prompt("d", "t", 7, "input", ("a", "b"), 1), "calibrated")
    sums = [
        Prediction("d", "t", 7, 1, 0, (-1.0, -2.0), (1, 1)),
        Prediction("d", "t", -1, None, 0, (-0.5, -3.0), (1, 1)),
    ]
    assert prediction_from(prompt, "calibrated", sums).scores == (-0.5, 1.0)
    assert prediction_from(prompt, "calibrated", sums).predicted == 1


def test_columns_with_content() -> None:
    rows = [
        Example(i, {"text": f"text {i}", "side": "ab"[i % 2], "number": i, "label": i % 2}, None) for i in range(40)
    ]
    assert content_columns(rows, ()) == ["text"]
    assert content_columns(rows, ("text", "side")) == ["text"]
    with pytest.raises(UserError, match="no column of these 40 rows holds text"):
        content_columns(rows, ("side", "number"))


def test_a_start_token_stands_once_before_the_context() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(["<s>", "</s>", "<unk>", "a", "b", "c"])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    item = PromptTokenizer(tokenizer, 16, decoder_only=True)(
        Prompt("d", "t", 0, "c", ("a",), 0, shots=(("a", "b"), ("b", "a")))
    )
    assert collate([item], 1).input_ids.tolist() == [[0, 3, 4, 4, 3, 5]]
    alone = PromptTokenizer(tokenizer, 16, decoder_only=True)(Prompt("d", "t", 0, "c", ("a",), 0))
    assert alone.input_ids == [0, 5]


def behind(context_ids: list[int], seed: int, examples: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def tokens(most: int) -> list[int]:
        length = int(torch.randint(1, most + 1, (1,), generator=generator))
        return [*torch.randint(2, 300, (length,), generator=generator).tolist(), 1]

    items = [
        TokenizedPrompt(tokens(8), [tokens(4) for _ in range(1 + n % 4)], 0, 0, 0, context_ids) for n in range(examples)
    ]
    return collate(items, pad_id=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kept_context_changes_nothing_and_is_computed_once(kind: str) -> None:
    model: Any = with_ia3(make(kind))
    first, second = ([n + 2 + 7 * i % 290 for i in range(60)] for n in (0, 80))
    context = Context()
    seen: list[int] = []

    def count(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append((named["input_ids"] if "input_ids" in named else given[0]).numel())

    model.base_model.register_forward_pre_hook(count, with_kwargs=True)
    with scoring_mode(model):
        for number, (ids, examples) in enumerate([(first, 6), (first, 1), (first, 9), (second, 3), (second[:40], 3)]):
            batch = behind(ids, number, examples)
            plain = plain_token_logprob(model, batch)
            token_logprob(model, batch)
            rows = sum(seen[-1:])
            seen.clear()
            torch.testing.assert_close(token_logprob(model, batch, context=context), plain, atol=1e-5, rtol=1e-5)
            assert (max(seen) >= len(ids)) == (number in (0, 3)), "made where it is new, and no other time"
            assert sum(seen) - (len(context.ids_K) if number in (0, 3) else 0) < rows / 2
            assert plain[batch.choice_mask].std() > 0.01


def test_little_in_common_is_not_worth_a_context() -> None:
    model, batch = make("llama"), behind([5, 6, 7], 0, 6)
    context = Context()
    with scoring_mode(model):
        torch.testing.assert_close(token_logprob(model, batch, context=context), token_logprob(model, batch))
    assert len(context.ids_K) == 0
