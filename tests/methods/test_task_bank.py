"""Rows of many tasks in one batch compared with one task at a time: in every kind of layer, with both engines."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BartConfig, BartForConditionalGeneration, MT5Config, MT5ForConditionalGeneration

from tests.architectures import tiny
from tests.models import ARCH, ia3, ragged_batch, tiny_t5
from tests.scoring.test_fast_decoder_only import SIZE, make
from tfew.config import compose, resolved
from tfew.errors import UserError
from tfew.methods.base import Method, attach
from tfew.methods.task_bank import BARE, TaskBank, put_scalings, without_tasks
from tfew.models.method_builder import make_method
from tfew.schema import Batch
from tfew.scoring.losses import T_FEW, counts, loss_terms
from tfew.scoring.score import scoring_mode, token_logprob

TASKS = 8
IA3 = ia3()
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def mt5() -> nn.Module:
    config = MT5Config(**{key: value for key, value in ARCH.items() if key != "init_seed"}, vocab_size=128)
    config.decoder_start_token_id = 0
    torch.manual_seed(0)
    return MT5ForConditionalGeneration(config).eval()


def bart() -> nn.Module:
    sizes = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    torch.manual_seed(0)
    config = BartConfig(d_model=32, init_std=0.3, **sizes, **heads, **SIZE, decoder_start_token_id=0)
    return BartForConditionalGeneration(config).eval()


MODELS: dict[str, Callable[[], nn.Module]] = {
    "T5 v1.1": tiny_t5,
    "T5 v1.0": lambda: tiny_t5("relu"),
    "mT5": mt5,
    "BART": bart,
    **{kind: lambda kind=kind: make(kind) for kind in ("gpt2", "gpt_neox", "llama", "opt")},
    # vectors on norms of keys: heads last, heads first, all heads in one
    **{
        name: lambda name=name: tiny(name)
        for name in ("qwen3", "gemma3_text", "olmo2", "stablelm-parallel", "t5gemma2")
    },
}
ENCODER_DECODER = ("T5 v1.1", "T5 v1.0", "mT5", "BART")


def vectors(method: Method, model: nn.Module, task: int, places: str = "") -> dict[str, Tensor]:
    """A task's own, but for those whose name lacks `places`: they are left at one."""
    generator = torch.Generator().manual_seed(task)
    return {
        name: ones + 0.3 * torch.randn(ones.shape, generator=generator) * (places in name)
        for name, ones in method.neutral(model).items()
    }


def alone(make_model: Callable[[], nn.Module], batch: Batch, places: str, engine: str, tasks: Tensor) -> Tensor:
    """Each example by a run of its own task: the method attached in the ordinary way, a batch of this example only."""
    model = make_model()
    own = {task: vectors(IA3, model, task, places) for task in set(tasks.tolist())}
    attach(IA3, model)
    parts = []
    for example, task in zip(batch.split(1), tasks.tolist(), strict=True):
        IA3.restore(model, own[task])
        parts.append(scored(model, replace(example, task_id=None), engine))
    return torch.cat(parts)


def mixed_batch() -> Batch:
    return replace(ragged_batch(3, examples=2 * TASKS), task_id=torch.arange(2 * TASKS) % TASKS)


def holding_all(make_model: Callable[[], nn.Module], places: str = "") -> nn.Module:
    model, method = make_model(), IA3
    put_scalings(model, [method.scalings(model, vectors(method, model, task, places)) for task in range(TASKS)])
    return model


def scored(model: nn.Module, batch: Batch, engine: str) -> Tensor:
    with scoring_mode(model):
        return token_logprob(model, batch, engine)


@pytest.mark.parametrize("engine", ["fast", "plain"])
@pytest.mark.parametrize("kind", MODELS)
def test_a_mixed_batch_of_8_tasks_equals_8_runs(kind: str, engine: str) -> None:
    batch = mixed_batch()
    model = holding_all(MODELS[kind])
    mixed = scored(model, batch, engine)
    expected = alone(MODELS[kind], batch, "", engine, batch.task_id)
    torch.testing.assert_close(mixed, expected, **TOLERANCE)
    other = scored(model, replace(batch, task_id=batch.task_id.roll(1)), engine)
    assert (other - expected).abs().amax((1, 2)).min() > 1e-4, "each row depends on whose it is said to be"


LAYERS = {
    "T5 v1.1": ("encoder.block.1.layer.0.SelfAttention.k", "encoder.block.1.layer.0.SelfAttention.v",
                "encoder.block.0.layer.1.DenseReluDense.wi_1", "decoder.block.1.layer.0.SelfAttention.k",
                "decoder.block.1.layer.0.SelfAttention.v", "decoder.block.1.layer.1.EncDecAttention.k",
                "decoder.block.1.layer.1.EncDecAttention.v", "decoder.block.1.layer.2.DenseReluDense.wi_1"),
    "T5 v1.0": ("encoder.block.1.layer.1.DenseReluDense.wo", "decoder.block.1.layer.2.DenseReluDense.wo"),
    "BART": ("encoder.layers.1.self_attn.k_proj", "encoder.layers.1.self_attn.v_proj", "encoder.layers.1.fc2",
             "decoder.layers.1.self_attn.k_proj", "decoder.layers.1.self_attn.v_proj",
             "decoder.layers.1.encoder_attn.k_proj", "decoder.layers.1.encoder_attn.v_proj", "decoder.layers.1.fc2"),
    "gpt2": ("h.0.attn.c_attn", "h.0.mlp.c_proj"),
    "gpt_neox": ("layers.0.attention.query_key_value", "layers.0.mlp.dense_4h_to_h"),
    "llama": ("layers.0.self_attn.k_proj", "layers.0.self_attn.v_proj", "layers.0.mlp.up_proj"),
    "opt": ("layers.0.self_attn.k_proj", "layers.0.self_attn.v_proj", "layers.0.fc2"),
}  # fmt: skip


@pytest.mark.parametrize("engine", ["fast", "plain"])
@pytest.mark.parametrize(("kind", "layer"), [(kind, layer) for kind, layers in LAYERS.items() for layer in layers])
def test_every_kind_of_layer_by_itself(kind: str, layer: str, engine: str) -> None:
    """Only this one layer's vectors differ between tasks, and the wrong task's would be noticed."""
    batch = replace(ragged_batch(3, examples=4), task_id=torch.tensor([2, 0, 5, 2]))
    model = holding_all(MODELS[kind], layer)
    expected = alone(MODELS[kind], batch, layer, engine, batch.task_id)
    torch.testing.assert_close(scored(model, batch, engine), expected, **TOLERANCE)
    for task_id in (torch.tensor([0, 5, 2, 0]), torch.full((4,), 2)):
        wrong = scored(model, replace(batch, task_id=task_id), engine) - expected
        assert wrong.abs().max() > 1e-4, "a wrong task would pass"


@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_choices_in_parts_and_micro_batches_keep_their_tasks(engine: str) -> None:
    batch, model = mixed_batch(), holding_all(tiny_t5)
    whole = scored(model, batch, engine)
    with scoring_mode(model):
        torch.testing.assert_close(token_logprob(model, batch, engine, parts=3), whole, **TOLERANCE)
        halves = [token_logprob(model, part, engine) for part in batch.split(5)]
    torch.testing.assert_close(torch.cat(halves), whole, **TOLERANCE)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_each_task_gets_its_own_gradient(engine: str, parts: int) -> None:
    """Of a loss over the mixed batch, for vectors that are put together in the forward pass."""

    def loss(model: nn.Module, part: Batch) -> Tensor:
        logprob = token_logprob(model, part, engine, parts)
        return loss_terms(logprob, part, T_FEW, counts(part))["loss"]

    batch, mixed, method = mixed_batch(), tiny_t5(), IA3
    start = [vectors(method, mixed, task) for task in range(TASKS)]
    own = [{name: vector.clone().requires_grad_() for name, vector in weights.items()} for weights in start]
    put_scalings(mixed, [method.scalings(mixed, weights) for weights in own])
    logprob = token_logprob(mixed, batch, engine, parts)
    rows = [torch.tensor([task, task + TASKS]) for task in range(TASKS)]
    known = {name: tensor for name, tensor in vars(batch).items() if tensor is not None}
    pieces = [Batch(**{name: tensor[row] for name, tensor in known.items()}) for row in rows]
    sum(
        loss_terms(logprob[row], piece, T_FEW, counts(piece))["loss"] for row, piece in zip(rows, pieces, strict=True)
    ).backward()  # type: ignore[union-attr]
    for weights, given, piece in zip(own, start, pieces, strict=True):
        model = tiny_t5()
        attach(method, model)
        method.restore(model, given)
        loss(model, replace(piece, task_id=None)).backward()
        reached = False
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                torch.testing.assert_close(weights[name].grad, parameter.grad, **TOLERANCE)
                reached = reached or parameter.grad.abs().max() > 1e-2
        assert reached


def test_tasks_come_and_go() -> None:
    batch = ragged_batch(3, examples=6)
    bare = scored(tiny_t5(), batch, "fast")
    model, method = tiny_t5(), IA3
    bank = TaskBank(model)

    def of(place: int) -> Tensor:
        return scored(model, replace(batch, task_id=torch.full((6,), place)), "fast")

    places = [bank.add(method.scalings(model, vectors(method, model, task))) for task in range(TASKS)]
    assert sorted(places) == list(range(1, TASKS + 1)), "place 0 is the bare model's, and there is room for more"
    torch.testing.assert_close(of(BARE), bare, **TOLERANCE)
    expected = {place: alone(tiny_t5, batch, "", "fast", torch.full((6,), task)) for task, place in enumerate(places)}
    for place in places:
        torch.testing.assert_close(of(place), expected[place], **TOLERANCE)
    bank.remove(places[2])
    torch.testing.assert_close(of(places[2]), bare, **TOLERANCE)
    again = bank.add(method.scalings(model, vectors(method, model, 2)))
    assert again == places[2]
    for place in places:
        torch.testing.assert_close(of(place), expected[place], **TOLERANCE)


def test_a_thousand_tasks_fit() -> None:
    model, method = tiny_t5(), IA3
    bank = TaskBank(model)
    scalings = [method.scalings(model, vectors(method, model, task)) for task in range(TASKS)]
    given = {bank.add(scalings[number % TASKS]): number % TASKS for number in range(1000)}
    batch = replace(ragged_batch(3, examples=4), task_id=torch.tensor([1, 500, 999, 1000]))
    expected = alone(tiny_t5, batch, "", "fast", torch.tensor([given[place] for place in batch.task_id.tolist()]))
    torch.testing.assert_close(scored(model, batch, "fast"), expected, **TOLERANCE)


def test_a_batch_must_say_whose_its_rows_are() -> None:
    model = holding_all(tiny_t5)
    with pytest.raises(RuntimeError, match="has no task_id"):
        token_logprob(model, ragged_batch())
    without_tasks(model)
    assert scored(model, ragged_batch(), "fast").equal(scored(tiny_t5(), ragged_batch(), "fast"))
    assert type(model.get_submodule("encoder.block.0.layer.0.SelfAttention.k")) is nn.Linear


def method_of(name: str) -> Method:
    return make_method(resolved(compose(f"method={name}").method))


@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_other_methods_that_scale_and_mixtures_of_methods(engine: str) -> None:
    batch = replace(ragged_batch(3, examples=3), task_id=torch.tensor([1, 0, 2]))
    methods: Mapping[int, Method] = {0: IA3, 1: method_of("lora_scaling"), 2: IA3}
    model = tiny_t5()
    put_scalings(model, [method.scalings(model, vectors(method, model, k)) for k, method in methods.items()])
    mixed = scored(model, batch, engine)
    for example, task, ours in zip(batch.split(1), batch.task_id.tolist(), mixed, strict=True):
        method, one = methods[task], tiny_t5()
        weights = vectors(method, one, task)
        attach(method, one)
        method.restore(one, weights)
        torch.testing.assert_close(ours[None], scored(one, replace(example, task_id=None), engine), **TOLERANCE)


@pytest.mark.parametrize("name", ["lora", "bitfit", "full", "adapter", "prefix", "prompt_10", "fish_02", "said_20k"])
def test_methods_that_do_more_than_scale_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"cannot share a batch with other tasks.*Use adapter=, one task at a time"):
        method_of(name).scalings(tiny_t5(), {})


def test_vectors_that_do_not_fit_are_refused() -> None:
    model, method = tiny_t5(), IA3
    weights: dict[str, Any] = vectors(method, model, 0)
    weights["encoder.block.0.layer.0.SelfAttention.k.ia3"] = torch.ones(3)
    with pytest.raises(UserError, match=r"does not fit this model and method.*k.ia3 \[3\]"):
        method.scalings(model, weights)
