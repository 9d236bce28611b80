"""Memory budgets: split batches give the same results as whole ones, and parts are as small as necessary."""

import gc
import logging
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.profiler import ProfilerActivity, profile
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from tests.models import ragged_batch, tiny_t5, with_ia3
from tests.scoring.test_engines import shared_batch
from tests.scoring.test_fast_decoder_only import make
from tfew.config import compose
from tfew.data.tokenization import TokenizedPrompt, collate
from tfew.errors import UserError
from tfew.models.backbone import random_model
from tfew.schema import Batch
from tfew.scoring import score as scoring
from tfew.scoring.memory_budget import OverBudgetError, halves, joined, saved_tensors_within, scoring_bytes
from tfew.scoring.score import BoundedScorer, scoring_mode, token_logprob
from tfew.train import train
from tfew.training.module import FewShotModule


def sizes_scored(monkeypatch: pytest.MonkeyPatch, most: int | None = None) -> list[tuple[int, int]]:
    """(examples, choices) of each call that scored; above `most` examples the device has no memory."""
    sizes = []
    real = scoring.token_logprob

    def spy(
        model: nn.Module, batch: Any, engine: str = "fast", parts: int = 1, context: Any = None, kept: Any = None
    ) -> torch.Tensor:
        if most is not None and len(batch) > most:
            raise torch.OutOfMemoryError("made up")
        sizes.append((len(batch), int(batch.choice_mask.any(-1).sum())))
        return real(model, batch, engine, parts, context, kept)

    monkeypatch.setattr(scoring, "token_logprob", spy)
    return sizes


@pytest.mark.parametrize("engine", scoring.ENGINES)
@pytest.mark.parametrize("share", [1.1, 0.5, 0.3])
def test_scoring_within_a_budget_gives_the_same(engine: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfew.scoring.memory_budget.LOGIT_BYTES", 1000)
    model, batch = with_ia3(tiny_t5()), shared_batch()
    with scoring_mode(model):
        whole = token_logprob(model, batch, engine)
        limit = share * scoring_bytes(model, batch, engine)
        sizes = sizes_scored(monkeypatch)
        parts = BoundedScorer(model, engine, limit)(batch)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
    assert (sizes == [(4, 11)]) == (share > 1)
    assert sum(choices for _, choices in sizes) == 11


def test_one_example_is_scored_choice_by_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfew.scoring.memory_budget.LOGIT_BYTES", 1000)
    model = with_ia3(tiny_t5())
    choices = [[2 + c, *range(3, 20), 1] for c in range(5)]
    batch = collate([TokenizedPrompt([9, 1], choices, 0, 0, 0)], pad_id=0)
    with scoring_mode(model):
        whole = token_logprob(model, batch)
        single = max(scoring_bytes(model, part, "fast") for part in batch.by_choices(5))
        sizes = sizes_scored(monkeypatch)
        torch.testing.assert_close(BoundedScorer(model, "fast", 1.01 * single)(batch), whole, atol=1e-5, rtol=0)
        assert len(sizes) > 1
        with pytest.raises(UserError, match=r"memory_gb=1e-09 is too little memory for one choice"):
            BoundedScorer(model, "fast", 1.0)(batch)


def test_a_device_without_memory_left_scores_halves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, batch = with_ia3(tiny_t5()), ragged_batch(examples=7)
    caplog.set_level(logging.INFO)
    with scoring_mode(model):
        whole = token_logprob(model, batch)
        sizes = sizes_scored(monkeypatch, most=2)
        scorer = BoundedScorer(model, "fast", None)
        for _ in range(2):
            torch.testing.assert_close(scorer(batch), whole, atol=1e-5, rtol=0)
    assert sum(examples for examples, _ in sizes) == 2 * 7
    # 7, 4 and 3 are each tried once, and that 3 are too many is remembered
    assert [record.message.split()[8] for record in caplog.records] == ["7", "4", "3"]


def test_halves_join_to_the_whole() -> None:
    for batch in (ragged_batch(examples=5), *shared_batch().split(1)):
        if (parts := halves(batch)) is None:
            assert batch.choice_mask.any(-1).sum() == 1
            continue
        first, second = (part.choice_ids * part.choice_mask for part in parts)
        assert torch.equal(joined((first, second), batch), batch.choice_ids * batch.choice_mask)


def test_what_was_kept_for_nothing_is_freed() -> None:
    """Attention keeps its own output; a hook that hands that very tensor back makes a circle that nothing frees."""
    query = torch.randn(1, 1, 8, 4, requires_grad=True)
    with saved_tensors_within(1e9, nn.Linear(1, 1)):
        output = nn.functional.scaled_dot_product_attention(query * 1, query * 2, query * 3)
    kept = weakref.ref(output)
    del output
    gc.collect()
    assert kept() is None


def test_what_is_kept_is_counted_once_and_without_weights() -> None:
    layer = nn.Linear(100, 100, bias=False)
    x = torch.randn(10, 100, requires_grad=True)
    bytes_kept = 10 * 100 * 4 * 2  # x, for the weight's gradient, and exp's result; the weight itself does not count
    with saved_tensors_within(bytes_kept, layer):
        layer(x).exp()
    with saved_tensors_within(None, layer):
        layer(x).exp()
    with pytest.raises(OverBudgetError), saved_tensors_within(bytes_kept - 1, layer):
        layer(x).exp()


@pytest.mark.parametrize("kind", ["gated-gelu", "llama"])
@pytest.mark.parametrize("engine", scoring.ENGINES)
def test_choices_in_parts_have_the_same_scores_and_gradients(engine: str, kind: str) -> None:
    model = with_ia3(make(kind) if kind == "llama" else tiny_t5(kind))
    vectors = [parameter for parameter in model.parameters() if parameter.requires_grad]
    batch = shared_batch()
    whole = token_logprob(model, batch, engine)
    wanted = torch.autograd.grad(whole.exp().sum(), vectors)
    for parts in (2, 5, 9):
        scored = token_logprob(model, batch, engine, parts)
        torch.testing.assert_close(scored, whole, atol=1e-5, rtol=1e-5)
        for ours, expected in zip(torch.autograd.grad(scored.exp().sum(), vectors), wanted, strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def many_choices() -> Batch:
    """77 choices of which one is long: rows of attention are mostly padding."""
    choices = [[2 + c, 3, 1] for c in range(76)] + [[*range(2, 90), 1]]
    return collate([TokenizedPrompt([9, 8, 1], choices, 0, 0, 0)], pad_id=0)


@pytest.mark.parametrize("rows", [100, 5000])
@pytest.mark.parametrize("kind", ["t5", "llama", "bart", "mistral"])
@pytest.mark.parametrize("make_batch", [shared_batch, many_choices])
@pytest.mark.parametrize("engine", scoring.ENGINES)
def test_the_estimate_covers_what_a_pass_takes(engine: str, make_batch: Any, kind: str, rows: int) -> None:
    """Against the sum of what torch's profiler sees allocated and freed; and it is not wildly more."""
    shape = {
        "init_seed": 0, "d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_decoder_layers": 2,
        "num_heads": 4, "vocab_size": rows, "feed_forward_proj": "gated-gelu", "dropout_rate": 0.0,
    }  # fmt: skip
    llama = {
        "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_hidden_layers": 2,
        "vocab_size": rows, "pad_token_id": 0,
    }  # fmt: skip
    bart = {
        "d_model": 128, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "vocab_size": rows, "max_position_embeddings": 128,
    }  # fmt: skip
    make: dict[str, Any] = {
        "t5": lambda: random_model(shape, 0),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**llama)),
        "bart": lambda: BartForConditionalGeneration(BartConfig(**bart)),
        "mistral": lambda: MistralForCausalLM(MistralConfig(**llama, num_key_value_heads=4, sliding_window=16)),
    }
    model, batch = make[kind]().eval(), make_batch()
    with scoring_mode(model):
        token_logprob(model, batch, engine)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            token_logprob(model, batch, engine)
    events = recorded.profiler.kineto_results.events()  # type: ignore[union-attr]
    held = peak = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    assert peak > 100_000
    way = scoring.way_of_scoring(model, batch, engine)
    assert (way == "plain") == (engine == "plain")
    assert peak < scoring_bytes(model, batch, way) < 12 * peak


def run(tmp_path: Path, name: str, *overrides: str) -> Any:
    return train(
        compose(
            "+experiment=mini_few_shot", "dataset=mini/commits", "steps=6", "eval_rows=4", "trainer=cpu",
            f"run_dir={tmp_path}/{name}", *overrides,
        )
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_within_a_budget_ends_with_the_same_adapter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    vectors = {}
    for name, overrides in {"free": [], "examples": ["memory_gb=0.004"], "choices": ["memory_gb=0.0015"]}.items():
        caplog.clear()
        run(tmp_path, name, *overrides)
        vectors[name] = load_file(tmp_path / name / "adapter.safetensors")
        assert ("needs more memory than there is in memory_gb" in caplog.text) == (name != "free")
        assert ("their choices in parts" in caplog.text) == (name == "choices")
    for name in ("examples", "choices"):
        for key, expected in vectors["free"].items():
            torch.testing.assert_close(vectors[name][key], expected, atol=2e-5, rtol=0)
    with pytest.raises(UserError, match="memory_gb=1e-05 is too little memory for one choice of one example"):
        run(tmp_path, "none", "memory_gb=0.00001")
    assert not (tmp_path / "none" / "result.json").exists()


@pytest.mark.slow
def test_pieces_survive_a_resume_and_a_device_that_is_full_is_halved_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Step 3 runs out of memory once; the run is killed at step 5; what is resumed goes on in the smaller pieces."""
    caplog.set_level(logging.INFO)
    real = FewShotModule.loss_terms
    seen: list[tuple[int, int]] = []

    def terms(self: FewShotModule, batch: Batch, total: Any) -> Any:
        if self.global_step == 3 and len(batch) > 4:
            raise torch.OutOfMemoryError("made up")
        if self.global_step == 5 and len(seen) < 20 and kill:
            raise KeyboardInterrupt
        seen.append((self.global_step, len(batch)))
        return real(self, batch, total)

    monkeypatch.setattr(FewShotModule, "loss_terms", terms)
    kill = False
    run(tmp_path, "undisturbed", "checkpoint_every=1")
    assert seen == [(0, 8), (1, 8), (2, 8), (3, 4), (3, 4), (4, 4), (4, 4), (5, 4), (5, 4)]
    assert caplog.text.count("step 3 needs more memory than there is; from here on 4 examples") == 1
    seen.clear()
    kill = True
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "killed", "checkpoint_every=1")
    kill = False
    run(tmp_path, "killed", "checkpoint_every=1", "resume=true")
    assert seen[-2:] == [(5, 4), (5, 4)]
    assert len(seen) == 9
    first, second = (load_file(tmp_path / name / "adapter.safetensors") for name in ("undisturbed", "killed"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_loss_that_depends_on_micro_batches_is_not_halved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set micro_batch_size= yourself"):
        run(tmp_path, "official", "fidelity=official", "memory_gb=0.004")
