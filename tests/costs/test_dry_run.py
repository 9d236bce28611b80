"""A dry run's counts agree with a real run: FLOPs by hand, bytes by torch's profiler."""

import gc
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from tests.architectures import tiny
from tests.methods.test_base import METHODS, configured
from tests.models import ARCH, ragged_batch, tiny_t5
from tests.scoring.test_fast_decoder_only import KINDS, make
from tfew.config import compose, resolved
from tfew.costs.dry_run import (
    Counted,
    HeldBytes,
    OptimizerBytes,
    Recipe,
    make_gradients,
    optimizer_bytes,
    scoring_pass,
    training_step,
    without_numbers,
)
from tfew.data.tokenization import TokenizedPrompt, collate
from tfew.methods.base import adapter_parameters, attach
from tfew.methods.ia3 import IA3
from tfew.models.backbone import random_model, shape_of
from tfew.models.build import make_optimizer
from tfew.models.method_builder import make_method
from tfew.schema import Batch
from tfew.scoring.losses import T_FEW
from tfew.scoring.score import scoring_mode, token_logprob

CPU = torch.device("cpu")
NO_OPTIMIZER = OptimizerBytes(0, 0)
WIDTH, WIDE, ROWS, ENCODER, DECODER = 32, 48, 128, 2, 3  # of tiny_t5, whose heads together are as wide as its states
ONE_LAYER = {**ARCH, "num_layers": 1, "num_decoder_layers": 1, "vocab_size": ROWS, "feed_forward_proj": "gated-gelu"}
OFTEN = ("ia3", "full", "prefix", "gpt2")  # the others, which are alike, are for CI
LONGEST = "said_20k"  # 10 s: its ranking of all weights is counted, too
TWINS = ("compacter_pp", "fish_002", "prompt_100", "said_500k")  # of another number or place only


def how_often(name: str, engine: str) -> Any:
    if name == LONGEST:
        return pytest.mark.drill
    return [] if name in OFTEN and engine == "fast" else pytest.mark.slow


def recipe(engine: str = "fast", **other: Any) -> Recipe:
    return Recipe(T_FEW, engine, **other)


def attached(model: nn.Module, name: str) -> nn.Module:
    attach(make_method(resolved(configured(name).method)), model)
    return model


def even_batch() -> Batch:
    """Three inputs of 7 tokens, two choices of 3 tokens each that begin unlike."""
    return collate([TokenizedPrompt([5] * 6 + [1], [[7, 8, 1], [9, 8, 1]], 0, 0, 0) for _ in range(3)], pad_id=0)


def products(inputs: int, prefixes: int, rows: int) -> dict[str, int]:
    """By hand, two operations a multiply-add: those of the `even_batch` through tiny_t5.

    `inputs` are tokens that pass the encoder, `prefixes` that pass the decoder, which attends to itself in so many
    `rows` of 3, and to inputs of 7 in rows of `prefixes` / 3.
    """
    projection, feed_forward = 2 * WIDTH * WIDTH, 3 * 2 * WIDTH * WIDE
    return {
        "encoder": ENCODER * inputs * (4 * projection + feed_forward),
        "decoder": DECODER * (prefixes * (6 * projection + feed_forward) + inputs * 2 * projection),
        "attention": 4 * WIDTH * (ENCODER * 3 * 7 * 7 + DECODER * (rows * 3 * 3 + prefixes * 7)),
        "head": prefixes * 2 * WIDTH * ROWS,
        # what no gradient has to pass: queries, keys and values made of embeddings that are not trained
        "first": 3 * (inputs + prefixes) * projection + 2 * WIDTH * (3 * 7 * 7 + rows * 3 * 3),
    }


def test_flops_of_scoring_by_hand() -> None:
    """An example's two choices are 5 prefixes: the empty one is shared."""
    fast = products(inputs=21, prefixes=15, rows=6)
    counted = scoring_pass(without_numbers(tiny_t5(), CPU), even_batch(), recipe())
    assert counted.flops == sum(fast[part] for part in ("encoder", "decoder", "attention", "head"))
    plain = products(inputs=21, prefixes=18, rows=6)
    repeated = DECODER * 21 * 2 * 2 * WIDTH * WIDTH  # keys and values of an input for each of its two choices
    counted = scoring_pass(without_numbers(tiny_t5(), CPU), even_batch(), recipe("plain"))
    assert counted.flops == repeated + sum(plain[part] for part in ("encoder", "decoder", "attention", "head"))


@pytest.mark.slow
def test_flops_of_training_by_hand() -> None:
    """Forward once; backward once again for a frozen matrix, twice for one that is trained."""
    parts = products(inputs=21, prefixes=15, rows=6)
    matrices = parts["encoder"] + parts["decoder"]
    counted = training_step(without_numbers(attached(tiny_t5(), "ia3"), CPU), even_batch(), NO_OPTIMIZER, recipe())
    # attention's two products have two gradients each; the head's slope is made in the forward pass
    assert counted.flops == 2 * matrices + 3 * parts["attention"] + 2 * parts["head"] - parts["first"]
    counted = training_step(without_numbers(attached(tiny_t5(), "full"), CPU), even_batch(), NO_OPTIMIZER, recipe())
    assert counted.flops == 3 * matrices + 3 * parts["attention"] + 4 * parts["head"]  # whose logits are made twice


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        pytest.param(name, engine, marks=how_often(name, engine))
        for name in (*METHODS, *KINDS)
        for engine in (("fast",) if name in TWINS else ("fast", "plain"))
    ],
)
def test_without_numbers_it_counts_what_it_counts_with_them(name: str, engine: str) -> None:
    """All exactly, once what the first run of some code leaves behind is there."""
    causal = name in KINDS
    counted = []
    for numbers in (True, False):
        model = attached(make(name) if causal else random_model(ONE_LAYER, 0), "ia3" if causal else name)
        how, batch = (
            recipe(engine, micro_batch_size=2, autocast=name in ("ia3", "full", "lora")),
            ragged_batch(examples=4),
        )
        if numbers:  # a decoder-only model is tried out the first time
            scoring_pass(model, batch, how)
        else:
            without_numbers(model, CPU)
        counted += [scoring_pass(model, batch, how), training_step(model, batch, NO_OPTIMIZER, how)]
    for real, dry in zip(counted[:2], counted[2:], strict=True):
        assert dry == real
    assert counted[3].flops > counted[2].flops > 0
    assert counted[3].peak_bytes > counted[3].gradient_bytes > 0


def test_counting_does_not_depend_on_when_python_collects() -> None:
    """SAID trains a head that makes its logits twice, by torch's `checkpoint`, which leaves cycles of objects."""
    model, batch = attached(random_model(ONE_LAYER, 0), "said_20k"), ragged_batch(examples=4)
    usual = gc.get_threshold()
    counted = []
    for threshold in (1, 100_000):
        gc.collect()
        gc.set_threshold(threshold)
        try:
            counted.append(training_step(model, batch, NO_OPTIMIZER, recipe(micro_batch_size=2)))
        finally:
            gc.set_threshold(*usual)
    assert counted[0] == counted[1]
    assert gc.isenabled()


def test_what_operations_hold() -> None:
    weight = torch.ones(1000)
    with HeldBytes([weight]) as held:
        once = weight + 1
        weight.add_(1)
        once.view(10, 100).mul_(2)
        assert held.now == 4000
        twice = once * 2
        del once
        assert held.now == 4000
        del twice
    assert (held.now, held.peak) == (0, 8000)


@pytest.mark.parametrize("name", ["ia3", "full"])
@pytest.mark.parametrize("optimizer", ["adafactor", "adamw"])
def test_what_an_optimiser_keeps(name: str, optimizer: str) -> None:
    """Against the state of one that stepped with numbers, and by hand."""
    config = compose(f"optimizer={optimizer}", *(["optimizer.scale_parameter=false"] * (optimizer == "adafactor")))
    model = attached(tiny_t5(), name)
    parameters = list(adapter_parameters(model).values())
    found = optimizer_bytes(parameters, lambda some: make_optimizer(config, some))
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    stepped = make_optimizer(config, parameters)
    stepped.step()
    state = [value for of_one in stepped.state.values() for value in of_one.values() if isinstance(value, torch.Tensor)]
    assert found.state == sum(tensor.nbytes for tensor in state)
    one_number = 4 * len(parameters)  # Adafactor's size of a parameter, AdamW's count of steps
    factored = sum(4 * (sum(p.shape) if p.dim() == 2 else p.numel()) for p in parameters)
    both_moments = 8 * sum(p.numel() for p in parameters)
    assert found.state == one_number + (factored if optimizer == "adafactor" else both_moments)
    largest = 4 * max(p.numel() for p in parameters)
    assert largest <= found.passing <= 3 * largest


def measured_peak(call: Any) -> int:
    """The most that torch's profiler sees allocated beside what was there."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    held = peak = 0
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@pytest.mark.parametrize(("name", "engine"), [("ia3", "fast"), ("full", "plain")])
def test_what_a_step_holds_by_torchs_profiler(name: str, engine: str) -> None:
    """Within 5 % of a whole step with its optimiser; scoring within 15 %, since kernels hold something themselves."""
    shape = {**ONE_LAYER, "d_model": 128, "d_kv": 32, "d_ff": 256, "vocab_size": 1000}
    config = compose("optimizer=adamw")
    batch = ragged_batch(examples=40)
    dry_model = without_numbers(attached(shape_of(shape), name), CPU)
    parameters = list(adapter_parameters(dry_model).values())
    optimizer_needs = optimizer_bytes(parameters, lambda some: make_optimizer(config, some))
    dry = training_step(dry_model, batch, optimizer_needs, recipe(engine))
    dry_scoring = scoring_pass(dry_model, batch, recipe(engine))

    model = attached(random_model(shape, 0), name)
    optimizer = make_optimizer(config, list(adapter_parameters(model).values()))

    def step() -> None:
        make_gradients(model, batch, recipe(engine))
        optimizer.step()

    step()
    optimizer.zero_grad()
    assert dry.peak_bytes == pytest.approx(measured_peak(step) + optimizer_needs.state, rel=0.05)
    with scoring_mode(model):
        token_logprob(model, batch, engine)
        measured = measured_peak(lambda: token_logprob(model, batch, engine))
    assert dry_scoring.peak_bytes == pytest.approx(measured, rel=0.15)


def test_a_micro_batch_is_kept_at_a_time() -> None:
    counted: dict[int | None, Counted] = {}
    for size in (None, 2):
        model = without_numbers(attached(shape_of(ONE_LAYER), "ia3"), CPU)
        counted[size] = training_step(model, ragged_batch(examples=4), NO_OPTIMIZER, recipe(micro_batch_size=size))
    whole, micro = counted[None], counted[2]
    assert micro.kept_bytes < 0.7 * whole.kept_bytes
    assert micro.peak_bytes < 0.8 * whole.peak_bytes
    assert micro.gradient_bytes == whole.gradient_bytes


def test_what_is_shared_stays_shared() -> None:
    model = without_numbers(make("gpt2"), CPU)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in make("gpt2").parameters())
    assert {type(p).__name__ for p in model.parameters()} == {"FakeTensor"}


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss", "deepseek_v3"])
def test_experts_are_counted_without_numbers(name: str) -> None:
    """torch's counter does not know its grouped product: what it counts with numbers lacks the experts' matrices."""
    real, batch, chosen = tiny(name), ragged_batch(examples=4), []
    attach(IA3(), real)
    experts: list[Any] = [module for module in real.modules() if hasattr(module, "has_gate")]
    for layer in experts:
        layer.register_forward_pre_hook(lambda module, args: chosen.append(args[1].numel()))
    scoring_pass(real, batch, recipe("plain"))  # a decoder-only model is tried out the first time
    chosen.clear()
    without_experts = scoring_pass(real, batch, recipe("plain")).flops
    pairs = sum(chosen)  # of token and expert
    inner = experts[0].down_proj.shape[1 if experts[0].is_transposed else 2]
    fake = tiny(name)
    attach(IA3(), fake)
    without_numbers(fake, CPU)
    counted = scoring_pass(fake, batch, recipe("plain"))
    assert counted.flops - without_experts == pairs * 2 * 64 * 3 * inner, "64 to 2 inner, and inner to 64"
    assert training_step(fake, batch, NO_OPTIMIZER, recipe("plain")).flops > counted.flops
