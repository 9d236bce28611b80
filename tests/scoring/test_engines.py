"""The fast engine against the plain one: the same numbers and gradients, on ragged batches, for every method."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MT5Config,
    MT5ForConditionalGeneration,
)

from tests.models import ARCH, ragged_batch, tiny_t5, with_ia3
from tests.scoring.test_fast_decoder_only import KINDS, make
from tfew.config import CONFIGS, compose, resolved
from tfew.data.tokenization import TokenizedPrompt, collate
from tfew.methods.base import adapter_parameters, attach
from tfew.models.method_builder import make_method
from tfew.schema import Batch, Prediction
from tfew.scoring import fast_decoder_only, fast_t5, prefix_layout, self_test, vocabulary
from tfew.scoring import score as scoring
from tfew.scoring.losses import T_FEW, counts, loss_terms
from tfew.scoring.packing import packing, packing_by_row
from tfew.scoring.prefixes import prefixes
from tfew.scoring.score import scoring_mode, token_logprob

METHODS = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))
CHANGE_ATTENTION = {"prefix", "prompt_10", "prompt_100"}  # other keys and values, states in front


def shared_batch() -> Batch:
    """Choices that begin alike, one within another, twice the same, a single token; lone choices; a long input."""
    choices = [
        [[5, 6, 7, 1], [5, 6, 8, 9, 1], [5, 6, 1], [5, 6, 7, 1], [1]],
        [[5, 6, 7, 1]],
        [[40, 41, 1], [40, 42, 1], [43, 1]],
        [[7, 7, 7, 7, 7, 7, 1], [7, 7, 1]],
    ]
    inputs = [[9, 3, 4, 1], [8, 1], [*range(20, 60), 1], [4, 4, 4, 1]]
    return collate([TokenizedPrompt(i, c, 0, 0, 0) for i, c in zip(inputs, choices, strict=True)], pad_id=0)


BATCHES = {"ragged": ragged_batch(3, examples=7), "shared": shared_batch(), "one": ragged_batch(1, examples=1)}


def attached(name: str, model: nn.Module) -> nn.Module:
    """The model with a method whose parameters are moved off their neutral start."""
    fit = {"prompt": ["method.first_row=3", "method.last_row=90"], "compacter": ["method.reduction=8"]}
    overrides = [f"method={name}", *fit.get(name.partition("_")[0], [])]
    method = make_method(resolved(compose(*overrides).method))
    torch.manual_seed(0)
    attach(method, model)
    if method.needs_mask:
        losses = (token_logprob(model, ragged_batch(seed), "plain").sum() for seed in range(2))
        method.compute_mask(model, losses)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter += 0.05 * torch.randn(parameter.shape)
    return model


@pytest.fixture
def only_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever falls back on the plain engine fails."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the plain engine was asked")

    monkeypatch.setattr(scoring, "plain_token_logprob", refuse)


def assert_same_scores(model: nn.Module, batch: Batch, tolerance: float = 1e-5) -> None:
    with scoring_mode(model):
        fast, plain = token_logprob(model, batch, "fast"), scoring.plain_token_logprob(model, batch)
    assert fast.dtype == torch.float32
    torch.testing.assert_close(fast, plain, atol=tolerance, rtol=tolerance)
    assert plain[batch.choice_mask].std() > 0.01


def gradients(model: nn.Module, batch: Batch, engine: str) -> dict[str, torch.Tensor]:
    model.zero_grad()
    logprob = token_logprob(model, batch, engine)
    loss_terms(logprob, batch, T_FEW, counts(batch))["loss"].backward()
    return {name: parameter.grad.clone() for name, parameter in adapter_parameters(model).items()}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("feed_forward", ["gated-gelu", "relu"])
def test_t5_scores_equal_the_plain_ones(feed_forward: str, name: str) -> None:
    assert_same_scores(with_ia3(tiny_t5(feed_forward)), BATCHES[name])


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_the_same_scores_and_gradients(name: str) -> None:
    model = attached(name, tiny_t5())
    assert fast_t5.supports(model) == (name not in CHANGE_ATTENTION)
    for batch in BATCHES.values():
        assert_same_scores(model, batch)
        fast, plain = gradients(model, batch, "fast"), gradients(model, batch, "plain")
        largest = max(gradient.abs().max().item() for gradient in plain.values())
        for key, expected in plain.items():  # a bias of keys changes nothing: its gradient is rounding alone
            scale = max(expected.abs().max().item(), 1e-2 * largest)
            torch.testing.assert_close(fast[key] / scale, expected / scale, atol=1e-4, rtol=0, msg=f"{name}: {key}")
    assert any(gradient.abs().max() > 0 for gradient in plain.values())


def test_mt5_and_a_scaled_output() -> None:
    config = MT5Config(**{key: value for key, value in ARCH.items() if key != "init_seed"}, vocab_size=128)
    config.decoder_start_token_id = 0
    torch.manual_seed(0)
    model = MT5ForConditionalGeneration(config).eval()
    assert fast_t5.supports(model)
    assert_same_scores(model, shared_batch())
    scaled: Any = tiny_t5()
    unscaled = token_logprob(scaled, shared_batch()).detach()
    scaled.config.scale_decoder_outputs = True
    assert_same_scores(scaled, shared_batch())
    assert not torch.allclose(token_logprob(scaled, shared_batch()), unscaled, atol=1e-2)


def sure_model() -> nn.Module:
    """One that gives many tokens a probability of nearly one."""
    model: Any = tiny_t5()
    with torch.no_grad():
        model.lm_head.weight *= 40
    return model


@pytest.mark.parametrize("engine", scoring.ENGINES)
@pytest.mark.parametrize("autocast", [False, True])
def test_no_probability_is_above_one_in_bfloat16(autocast: bool, engine: str) -> None:
    """Where it were, the unlikelihood loss would be NaN."""
    model = attached("ia3", sure_model())
    model = model if autocast else model.to(torch.bfloat16)
    for seed in range(5):
        batch = ragged_batch(seed, examples=8)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logprob = token_logprob(model, batch, engine)
            assert logprob.max() <= 0
            loss = loss_terms(logprob, batch, T_FEW, counts(batch))["loss"]
        assert torch.isfinite(loss)
        loss.backward()
    assert logprob[batch.choice_mask].max() > -0.1


def test_bfloat16_differs_by_its_rounding_only() -> None:
    exact, model = tiny_t5(), tiny_t5().to(torch.bfloat16)
    batch = shared_batch()
    with scoring_mode(model), scoring_mode(exact):
        truth = token_logprob(exact, batch, "plain")
        plain, fast = token_logprob(model, batch, "plain"), token_logprob(model, batch, "fast")
    assert 0 < (fast - truth).abs().max() < 1.5 * (plain - truth).abs().max() + 0.02


def test_mixed_precision_trains_alike() -> None:
    model = attached("full", tiny_t5())
    with torch.autocast("cpu", torch.bfloat16):
        fast, plain = gradients(model, shared_batch(), "fast"), gradients(model, shared_batch(), "plain")
    for key, expected in plain.items():
        scale = expected.abs().max().item() + 1e-6
        torch.testing.assert_close(fast[key] / scale, expected / scale, atol=0.1, rtol=0, msg=key)


@pytest.mark.usefixtures("only_fast")
def test_t5_leaves_nothing_behind_and_computes_each_prefix_once() -> None:
    model: Any = with_ia3(tiny_t5())
    seen: dict[str, int] = {}
    for stack in ("encoder", "decoder"):
        last = model.get_submodule(stack).block[-1].layer[-1]
        last.register_forward_hook(lambda _, args, __, stack=stack: seen.__setitem__(stack, args[0].shape[1]))
    classes = [type(module) for module in model.modules()]
    with scoring_mode(model):
        token_logprob(model, shared_batch())
    assert seen["encoder"] == 4 + 2 + 41 + 4
    assert seen["decoder"] == 6 + 4 + 5 + 7  # different beginnings of each example's choices, the empty one included
    assert [type(module) for module in model.modules()] == classes
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.usefixtures("only_fast")
def test_dropout_is_drawn_in_training() -> None:
    model = tiny_t5().train()
    assert not torch.equal(token_logprob(model, shared_batch()), token_logprob(model, shared_batch()))


def test_prefixes_against_sets_of_tuples() -> None:
    for batch in BATCHES.values():
        tree = prefixes(batch)
        expected, pairs = [], []
        for b in range(len(batch)):
            choices = [ids[mask].tolist() for ids, mask in zip(batch.choice_ids[b], batch.choice_mask[b], strict=True)]
            expected.append({tuple(ids[:t]) for ids in choices for t in range(len(ids))})
            pairs += [(b, tuple(ids[:t]), ids[t]) for ids in choices for t in range(len(ids))]
        assert len(tree.last_token_M) == sum(map(len, expected))
        names: dict[int, tuple[int, tuple[int, ...]]] = {}
        for m, (b, beginning, _) in zip(tree.prefix_P.tolist(), pairs, strict=True):
            assert names.setdefault(m, (b, beginning)) == (b, beginning)
            assert tree.depth_M[m] == len(beginning)
            assert tree.last_token_M[m] == (beginning[-1] if beginning else 0)
            assert tree.example_M[m] == b
        assert tree.target_P.tolist() == [target for _, _, target in pairs]
        assert torch.equal(tree.prefix_NT.flatten()[tree.token_position_M], torch.arange(len(tree.token_position_M)))


def test_rows_and_line_are_inverse() -> None:
    present = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1]]).bool()
    line = torch.randn(6, 2)
    rows = packing(present)
    assert torch.equal(rows.pack(rows.unpack(line)), line)
    assert torch.equal(rows.unpack(line)[present], line)
    by = packing_by_row(torch.tensor([0, 0, 1, 2, 2, 2]), 3)
    assert by.mask_RW is not None
    assert torch.equal(by.mask_RW, present)
    whole = packing(torch.ones(2, 3, dtype=torch.bool))
    assert torch.equal(whole.pack(whole.unpack(line)), line)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("rows_at_a_time", [1, 3, 100])
def test_log_probabilities_of_states_against_autograd(
    trained: bool, rows_at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "LOGIT_BYTES", 4 * 50 * rows_at_a_time)
    torch.manual_seed(0)
    head = nn.Linear(8, 50, bias=False).double().requires_grad_(trained)
    state = (3 * torch.randn(7, 8, dtype=torch.float64)).requires_grad_()
    state_P, token_P = torch.randint(0, 7, (11,)), torch.randint(0, 50, (11,))
    weights = torch.randn(11)
    expected = head(state).log_softmax(-1)[state_P, token_P]
    (expected * weights).sum().backward()
    wanted = [state.grad, head.weight.grad]
    state.grad = head.weight.grad = None
    ours = vocabulary.token_logprob_of_states(state, head, state_P, token_P)
    (ours * weights).sum().backward()
    torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state.grad, wanted[0], atol=1e-5, rtol=1e-5)
    if trained:
        torch.testing.assert_close(head.weight.grad, wanted[1], atol=1e-5, rtol=1e-5)


def lively(kind: str) -> nn.Module:
    """New weights are so small that attention hardly matters to the scores; these are not."""
    model = make(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter *= 8
    return model


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("kind", KINDS)
def test_decoder_only_scores_and_gradients_equal_the_plain_ones(kind: str, name: str) -> None:
    model, batch = with_ia3(lively(kind)), BATCHES[name]
    assert fast_decoder_only.supports(model, scoring.plain_token_logprob)
    assert_same_scores(model, batch)
    fast, plain = gradients(model, batch, "fast"), gradients(model, batch, "plain")
    for key, expected in plain.items():
        scale = expected.abs().max().item()
        torch.testing.assert_close(fast[key] / scale, expected / scale, atol=1e-4, rtol=0, msg=key)


def odd_models() -> dict[str, nn.Module]:
    """Some that cannot be told positions."""
    torch.manual_seed(0)
    return {
        "alibi": BloomForCausalLM(BloomConfig(hidden_size=32, n_head=4, n_layer=2, vocab_size=384)).eval(),
        "alibi_with_positions": FalconForCausalLM(
            FalconConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=2, vocab_size=384, alibi=True)
        ).eval(),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_decoders_are_recognised_in_bfloat16_and_when_new(kind: str) -> None:
    batch = shared_batch()
    assert fast_decoder_only.supports(make(kind), scoring.plain_token_logprob)
    model = lively(kind).to(torch.bfloat16)
    assert fast_decoder_only.supports(model, scoring.plain_token_logprob)
    mixed = lively(kind)
    with torch.autocast("cpu", torch.bfloat16):
        assert fast_decoder_only.supports(mixed, scoring.plain_token_logprob)
    with scoring_mode(model):
        difference = token_logprob(model, batch) - scoring.plain_token_logprob(model, batch)
    assert difference.abs().max() < 0.2


def test_padding_does_not_run_out_of_positions() -> None:
    """The row of a short input beside many choices is longer than any text."""
    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_head=4, n_layer=2, n_positions=16, vocab_size=384)
    many = [[5 + c, 6, 7, 1] for c in range(12)]
    batch = collate([TokenizedPrompt([3, 4, 5], many, 0, 0, 0), TokenizedPrompt([3] * 10, [[5, 1]], 0, 0, 0)], pad_id=0)
    model = GPT2LMHeadModel(config).eval()
    assert fast_decoder_only.supports(model, scoring.plain_token_logprob)
    assert_same_scores(model, batch)


@pytest.mark.parametrize("kind", ["alibi", "alibi_with_positions"])
def test_models_that_do_not_fit_take_the_plain_engine(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    model = odd_models()[kind]
    caplog.set_level("INFO")
    assert_same_scores(model, shared_batch(), tolerance=0)
    assert_same_scores(model, shared_batch(), tolerance=0)
    assert sum("engine=plain is used" in record.message for record in caplog.records) == 1


def test_a_decoder_that_does_not_agree_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """One prefix that does not see its input's first token."""

    def wrong(*arguments: Any) -> torch.Tensor:
        sees_BKK = prefix_layout.own_prefixes(*arguments)
        sees_BKK[0, -1, 0] = False
        return sees_BKK

    monkeypatch.setattr(self_test, "RIGHT", prefix_layout.Sees(wrong))
    assert not fast_decoder_only.supports(lively("llama"), scoring.plain_token_logprob)
    monkeypatch.setattr(self_test, "RIGHT", prefix_layout.TOO_MUCH)
    assert not fast_decoder_only.supports(lively("llama"), scoring.plain_token_logprob)


def test_an_engine_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="'quick' is neither"):
        token_logprob(tiny_t5(), ragged_batch(), "quick")


def test_a_whole_run_with_either_engine_ends_with_the_same_scores(made_data: Path) -> None:
    from tfew.evaluate import evaluate

    for engine in scoring.ENGINES:
        evaluate(
            compose(
                "+experiment=cb", "model=tiny", f"data_dir={made_data}", "trainer=cpu", f"engine={engine}",
                f"run_dir={made_data.parent}/{engine}", config_name="evaluate",
            )
        )  # fmt: skip
    fast, plain = (
        [
            Prediction.from_json(line)
            for line in (made_data.parent / engine / "predictions.jsonl").read_text().splitlines()
        ]
        for engine in scoring.ENGINES
    )
    assert len(fast) == 180
    for ours, expected in zip(fast, plain, strict=True):
        assert (ours.idx, ours.template) == (expected.idx, expected.template)
        assert ours.scores == pytest.approx(expected.scores, abs=1e-5)


@pytest.mark.parametrize(
    ("dtype", "edge"),
    [
        (torch.float32, self_test.ENGINE_AGREEMENT),
        (torch.bfloat16, self_test.ENGINE_AGREEMENT_16_BIT),
    ],
)
def test_how_far_a_decoder_may_differ(dtype: torch.dtype, edge: float) -> None:
    model = lively("llama").to(dtype)

    def agrees(share: float) -> bool:
        """Whether a way is taken whose largest difference from the plain one is this share of a wrong mask's."""

        def way(model: Any, batch: Any, sees: Any) -> torch.Tensor:
            return torch.zeros(3) + (share if sees is self_test.RIGHT else 1.0)

        with scoring_mode(model):
            return self_test.agrees_with_plain(model, lambda model, batch: torch.zeros(3), way)

    assert agrees(0.99 * edge)
    assert not agrees(1.01 * edge)
