"""`make test_gpu`: tests for a GPU. Without one, those that a CPU can run as well run there; the rest is skipped.

Shapes are those of T5-small and SmolLM2-135M with random weights, so that nothing is downloaded.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scripts.bench.workload import make_model
from tests.models import ragged_batch, tiny_t5, with_ia3
from tfew.costs.dry_run import Recipe, optimizer_bytes, training_step, without_numbers
from tfew.data.tokenization import TokenizedPrompt, collate
from tfew.methods.base import adapter_parameters
from tfew.schema import Batch
from tfew.scoring.losses import T_FEW, counts, loss_terms
from tfew.scoring.score import BoundedScorer, rank_scores, scoring_mode, token_logprob

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
SHAPES = ("small", "smollm2_135m") if GPU else ("tiny", "smollm2_tiny")
only_on_a_gpu = pytest.mark.skipif(not GPU, reason="torch finds no GPU here")


def batch_of(examples: int, tokens: int, choices: int = 4) -> Batch:
    """Inputs from a quarter to seven quarters of `tokens` long; choices of 1 to 6 tokens."""
    generator = torch.Generator().manual_seed(0)

    def ids(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high + 1, (1,), generator=generator))
        return [*torch.randint(3, 1000, (length,), generator=generator).tolist(), 1]

    items = [
        TokenizedPrompt(ids(tokens // 4, tokens * 7 // 4), [ids(1, 5) for _ in range(choices)], i % choices, 0, 0)
        for i in range(examples)
    ]
    return collate(items, pad_id=0).to(DEVICE)


def model_of(shape: str) -> nn.Module:
    return with_ia3(make_model(shape), spread=0.05).to(DEVICE)


def scores(model: nn.Module, batch: Batch, engine: str = "fast") -> Tensor:
    with scoring_mode(model):
        return rank_scores(token_logprob(model, batch, engine), batch.choice_mask, "token").float().cpu()


def gradients(model: nn.Module, batch: Batch, engine: str = "fast") -> dict[str, Tensor]:
    model.eval()  # no dropout: both engines are to give the same
    model.zero_grad()
    loss_terms(token_logprob(model, batch, engine), batch, T_FEW, counts(batch))["loss"].backward()
    return {name: p.grad.float().cpu() for name, p in adapter_parameters(model).items() if p.grad is not None}


@pytest.mark.parametrize("shape", SHAPES)
def test_both_engines_agree(shape: str) -> None:
    model, batch = model_of(shape), batch_of(8, 48)
    torch.testing.assert_close(scores(model, batch), scores(model, batch, "plain"), atol=2e-4, rtol=1e-4)
    fast, plain = gradients(model, batch), gradients(model, batch, "plain")
    assert fast.keys() == plain.keys()
    for name, gradient in plain.items():
        scale = gradient.abs().max()
        assert scale > 0, name
        assert ((fast[name] - gradient).abs().max() / scale) < 1e-3, name


@pytest.mark.parametrize("shape", SHAPES)
def test_the_device_gives_the_cpus_scores(shape: str) -> None:
    model, batch = model_of(shape), batch_of(8, 48)
    here = scores(model, batch)
    there = scores(model.cpu(), batch.to("cpu"))
    assert here.std() > 0.01
    torch.testing.assert_close(here, there, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_differs_by_its_rounding(shape: str) -> None:
    model, batch = model_of(shape), batch_of(16, 48)
    exact, rounded = scores(model, batch), scores(model.to(torch.bfloat16), batch)
    difference = (exact - rounded).abs()
    assert difference.max() > 0
    assert difference.mean() < 0.02 * exact.abs().mean()


@only_on_a_gpu
@pytest.mark.parametrize("shape", SHAPES)
def test_memory_is_as_foreseen(shape: str) -> None:
    """The forecast of a step's peak against what the allocator counts, within a fifth."""
    batch = batch_of(8, 128)
    model = model_of(shape).train()
    parameters = list(adapter_parameters(model).values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss_terms(token_logprob(model, batch), batch, T_FEW, counts(batch))["loss"].backward()
        optimizer.step()

    step()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    measured = torch.cuda.max_memory_allocated() - before
    shape_alone = without_numbers(with_ia3(make_model(shape)), DEVICE)
    kept = optimizer_bytes(adapter_parameters(shape_alone).values(), lambda p: torch.optim.AdamW(p, lr=1e-3))
    foreseen = training_step(shape_alone, batch.to("cpu"), kept, Recipe(T_FEW, "fast")).peak_bytes
    assert 0.8 < measured / foreseen < 1.2, (measured, foreseen)


@only_on_a_gpu
def test_a_batch_that_does_not_fit_is_halved() -> None:
    model, batch = model_of("small"), batch_of(64, 128, choices=8)
    at_once = scores(model, batch)
    needed = torch.cuda.max_memory_allocated()
    share = 0.7 * needed / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(share)
    scorer = BoundedScorer(model, "fast", None)
    try:
        with scoring_mode(model):
            halved = rank_scores(scorer(batch), batch.choice_mask, "token").float().cpu()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert scorer.too_many is not None
    torch.testing.assert_close(halved, at_once, atol=2e-4, rtol=1e-4)


@only_on_a_gpu
def test_one_device_over_nccl_and_fsdp2(tmp_path: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("nccl", rank=0, world_size=1, store=store)
    try:
        value = torch.ones(4, device=DEVICE)
        torch.distributed.all_reduce(value)
        assert value.tolist() == [1.0] * 4
        batch = ragged_batch(3).to(DEVICE)
        plain, sharded = with_ia3(tiny_t5()).to(DEVICE), with_ia3(tiny_t5()).to(DEVICE)
        trained = set(adapter_parameters(sharded).values())
        for block in [*sharded.get_encoder().block, *sharded.get_decoder().block]:
            fully_shard(block, ignored_params=trained)
        fully_shard(sharded, ignored_params=trained)
        torch.testing.assert_close(scores(sharded, batch), scores(plain, batch), atol=1e-4, rtol=1e-4)
    finally:
        torch.distributed.destroy_process_group()
