"""full, layernorm, bitfit, adapter and compacter: counts on T0-3B, and maths written out."""

import copy
import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BartConfig, BartForConditionalGeneration

from tests.architectures import tiny
from tests.models import ragged_batch, t5_of_t0_3b_shape, tiny_t5
from tfew.config import compose, resolved
from tfew.errors import UserError
from tfew.methods.adapter import Adapter
from tfew.methods.base import Method, adapter_parameters, attach
from tfew.methods.compacter import Compacter, PHMLinear
from tfew.models.backbone import give_own_head
from tfew.models.build import attach_weights
from tfew.models.method_builder import NOT_ARGUMENTS, make_method
from tfew.runs.identity import with_former_settings
from tfew.scoring.score import scoring_mode, token_logprob

NEUTRAL = ("full", "layernorm", "bitfit")
BOTTLENECKS = ("adapter", "compacter", "compacter_pp")
METHODS = NEUTRAL + BOTTLENECKS
# what a tiny model of width 32 can hold: inner width 8, a multiple of Compacter's n
TINY = {name: (f"method={name}", "method.reduction=4") for name in BOTTLENECKS}
NORMS_OF_T0_3B = 122 * 2048  # encoder 2 a layer, decoder 3, and one at the end of each
LINEAR_OF_BITFIT = ("q", "k", "v", "o", "wi", "wi_0", "wi_1")


def method(name: str, *overrides: str) -> Method:
    """The method as its YAML describes it."""
    return make_method(resolved(compose(f"method={name}", *overrides).method))


def tiny_method(name: str) -> Method:
    return method(name, *TINY.get(name, ()))


def moved(model: nn.Module, seed: int = 0, spread: float = 0.3) -> nn.Module:
    """The model with trained parameters that are far from where they started."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter_parameters(model).values():
        parameter.data += (spread * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype)
    return model


def attached(name: str, feed_forward: str = "gated-gelu") -> nn.Module:
    model = tiny_t5(feed_forward)
    torch.manual_seed(0)
    attach(tiny_method(name), model)
    return model


def logprob(model: nn.Module) -> Tensor:
    with scoring_mode(model):
        return token_logprob(model, ragged_batch())


def tiny_bart() -> nn.Module:
    config = BartConfig(
        vocab_size=100, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24,
    )  # fmt: skip
    return BartForConditionalGeneration(config)


@contextmanager
def captured(*modules: nn.Module) -> Iterator[dict[nn.Module, list[tuple[Tensor, Tensor]]]]:
    """What goes into and comes out of these modules, call by call, in float64."""
    seen: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {module: [] for module in modules}

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen[module].append((inputs[0].double(), output.double()))

    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def numbers(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and nothing else of a module, in float64."""
    return {name: value.detach().double() for name, value in module.named_parameters()}


# ---- counts, and what the YAML holds


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("full", 2_849_757_184),
        ("layernorm", NORMS_OF_T0_3B),
        ("bitfit", 72 * 4 * 2048 + 48 * 2 * 5120 + NORMS_OF_T0_3B),
        ("adapter", 48 * (2 * 2048 * 64 + 64 + 2048) + NORMS_OF_T0_3B),
        # down: A, left, right, b; up: the same
        ("compacter", 96 * ((64 + 4 * 512 + 4 * 16 + 64) + (64 + 4 * 16 + 4 * 512 + 2048)) + NORMS_OF_T0_3B),
        ("compacter_pp", 48 * ((64 + 4 * 512 + 4 * 16 + 64) + (64 + 4 * 16 + 4 * 512 + 2048)) + NORMS_OF_T0_3B),
    ],
)
def test_counts_on_t0_3b_are_the_formulas_and_the_tables(name: str, count: int) -> None:
    table = {
        "full": 2_849_757_184, "layernorm": 249_856, "bitfit": 1_331_200, "adapter": 12_934_144, "compacter": 870_400,
        "compacter_pp": 560_128,
    }  # fmt: skip
    model = t5_of_t0_3b_shape()
    with torch.device("meta"):
        give_own_head(model)
    chosen = method(name)
    attach(chosen, model)
    assert chosen.trained_count(model) == chosen.stored_count(model) == count == table[name]
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_adapters_where_the_paper_has_them() -> None:
    model = t5_of_t0_3b_shape()
    chosen = method("adapter", "method.places=[SelfAttention,DenseReluDense]")
    attach(chosen, model)
    assert chosen.trained_count(model) == 25_618_432  # the number in the YAML


@pytest.mark.parametrize("name", METHODS)
def test_yaml_lists_every_argument(name: str) -> None:
    config = resolved(compose(f"method={name}").method)
    arguments = inspect.signature(type(make_method(config)).__init__).parameters.keys() - {"self", "args", "kwargs"}
    former = with_former_settings({"_target_": config["_target_"]}).keys()  # of adapters saved then
    assert config.keys() == (arguments - former) | set(NOT_ARGUMENTS)
    assert config["name"] == name


# ---- start, and what is trained


@pytest.mark.parametrize("feed_forward", ["gated-gelu", "relu"])
@pytest.mark.parametrize("name", METHODS)
def test_start(name: str, feed_forward: str) -> None:
    base, start = logprob(tiny_t5(feed_forward)), logprob(attached(name, feed_forward))
    if name in NEUTRAL:
        torch.testing.assert_close(start, base, atol=0, rtol=0)
    else:
        assert 0 < (start - base).abs().max() < 0.1
    assert (logprob(moved(attached(name, feed_forward))) - base).abs().max() > 0.01


@pytest.mark.parametrize("name", METHODS)
def test_only_what_was_promised_is_trained(name: str) -> None:
    ends = {
        "full": ("",),
        "layernorm": ("layer_norm.weight",),
        "bitfit": ("layer_norm.weight", *(f".{linear}.added_bias" for linear in LINEAR_OF_BITFIT)),
        "adapter": ("layer_norm.weight", *(f".adapter.{x}.{y}" for x in ("down", "up") for y in ("weight", "bias"))),
    }
    phm = tuple(f".adapter.{x}.{y}" for x in ("down", "up") for y in ("A", "left", "right", "bias"))
    promised = ends.get(name, ("layer_norm.weight", *phm))
    model = attached(name)
    base = dict(tiny_t5().named_parameters())
    trained = adapter_parameters(model)
    assert trained.keys() == {n for n, _ in model.named_parameters() if n.endswith(promised)}
    optimizer = torch.optim.SGD(trained.values(), lr=0.01)
    start = {n: p.detach().clone() for n, p in trained.items()}
    for seed in range(2):
        optimizer.zero_grad()
        token_logprob(model, ragged_batch(seed)).sum().neg().backward()
        optimizer.step()
    assert all(torch.equal(model.get_parameter(n), value) for n, value in base.items() if n not in trained)
    assert all(p.isfinite().all() for p in trained.values())
    assert [n for n, p in trained.items() if torch.equal(p, start[n])] == []


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_layer_norms_are_a_choice(name: str) -> None:
    model = tiny_t5()
    attach(method(name, *TINY[name], "method.layer_norms=false"), model)
    assert all(".adapter." in n for n in adapter_parameters(model))


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_starting_values_follow_the_seed_alone(name: str) -> None:
    first, second = adapter_parameters(attached(name)), adapter_parameters(attached(name))
    assert all(torch.equal(first[n], second[n]) for n in first)
    other = tiny_t5()
    torch.manual_seed(1)
    attach(tiny_method(name), other)
    drawn = [n for n, p in adapter_parameters(other).items() if not torch.equal(p, first[n])]
    assert drawn == [n for n in first if ".adapter." in n and not n.endswith("bias")]


# ---- maths


@pytest.mark.parametrize("feed_forward", ["gated-gelu", "relu"])
def test_layernorm_maths(feed_forward: str) -> None:
    """x / sqrt(mean(x²) + eps) times the trained scale, in every norm."""
    model = moved(attached("layernorm", feed_forward))
    norms = {n: m for n, m in model.named_modules() if n.endswith("layer_norm")}
    trained = adapter_parameters(model)
    assert {n + ".weight" for n in norms} == trained.keys()
    with captured(*norms.values()) as seen:
        logprob(model)
    for name, norm in norms.items():
        for x, y in seen[norm]:
            expected = x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * trained[name + ".weight"].double()
            torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("feed_forward", ["gated-gelu", "relu"])
def test_bitfit_maths(feed_forward: str) -> None:
    """x Wᵀ + b in every chosen layer, x Wᵀ in `wo` and the head."""
    model = moved(attached("bitfit", feed_forward))
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    with captured(*linears.values()) as seen:
        logprob(model)
    for name, layer in linears.items():
        own = numbers(layer)
        chosen = name.rpartition(".")[2] in LINEAR_OF_BITFIT
        assert chosen == ("added_bias" in own)
        for x, y in seen[layer]:
            expected = x @ own["weight"].T + (own["added_bias"] if chosen else 0)
            torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma3", "qwen3_vl", "t5gemma2", "bert", "nemotron"])
def test_layernorm_trains_the_norms_that_text_runs_through(name: str) -> None:
    """Also in an output head (BERT), or of a class called LayerNorm1P (Nemotron); none of a tower for images."""
    model, run = tiny(name), set()
    attach(method("layernorm"), model)
    for part in model.modules():
        if "Norm" in type(part).__name__:
            part.register_forward_hook(lambda part, *_: run.update(part.parameters(recurse=False)))
    ids = torch.arange(3, 12)[None]
    model(input_ids=ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}))  # type: ignore[operator, union-attr]
    assert set(adapter_parameters(model).values()) == run


@pytest.mark.parametrize("name", ["gemma3", "t5gemma2"])
def test_an_adapter_with_norms_of_a_tower_is_restored(name: str) -> None:
    """As earlier versions saved it; what else the file has is refused as before."""
    kind, model, again = method("layernorm"), tiny(name), tiny(name)
    attach(kind, model)
    stored = kind.stored(moved(model))
    towers = {n: p for n, p in model.named_parameters() if "vision_tower" in n and "layer_norm1" in n}
    assert towers
    attach_weights(kind, again, {**stored, **towers})
    assert all(torch.equal(again.get_parameter(n), tensor) for n, tensor in stored.items())
    with pytest.raises(UserError, match=r"Only in the file: .*patch_embedding"):
        attach_weights(kind, again, {**stored, **{n: p for n, p in model.named_parameters() if "vision_tower" in n}})


@pytest.mark.parametrize("name", ["olmo", "nanochat"])
def test_norms_without_weights_are_nothing_to_train(name: str) -> None:
    with pytest.raises(UserError, match=r"method=layernorm trains layer norms, and \w+ has none with weights"):
        attach(method("layernorm"), tiny(name))
    attach(method("bitfit"), tiny(name))


def test_bitfit_is_the_model_with_biases_in_its_linear_layers() -> None:
    model, plain = moved(attached("bitfit")), tiny_t5()
    trained = adapter_parameters(model)
    for name, layer in list(plain.named_modules()):
        if name + ".added_bias" in trained:
            layer.bias = nn.Parameter(trained[name + ".added_bias"].detach())
        elif name + ".weight" in trained:
            layer.weight.data = trained[name + ".weight"].detach()
    torch.testing.assert_close(logprob(model), logprob(plain), atol=1e-5, rtol=0)


def test_bitfit_unfreezes_biases_that_are_there() -> None:
    model = tiny_bart().to(torch.bfloat16)
    attach(method("bitfit"), model)
    trained = adapter_parameters(model)
    assert {p.dtype for p in trained.values()} == {torch.bfloat16}
    assert sum(p.numel() for n, p in trained.items() if "norm" not in n) == 3 * 4 * 16 + 2 * 24
    assert all(n.endswith("bias") for n in trained if "norm" not in n)


@pytest.mark.parametrize("layer_norms", ["true", "false"])
def test_bitfit_trains_biases_that_are_there_in_float32(layer_norms: str) -> None:
    """On a GPU; in bfloat16 a small step on a bias is rounded away."""
    bias = torch.tensor(0.25, dtype=torch.bfloat16)
    assert bias + torch.tensor(3e-4, dtype=torch.bfloat16) == bias
    assert method("bitfit", f"method.layer_norms={layer_norms}").trains_base


def adapter_weights(own: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The two matrices [in, out] of an adapter."""
    return own["down.weight"].T, own["up.weight"].T


def compacter_weights(own: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The two matrices [in, out] of a Compacter, with the sum over Kronecker products spelt out."""

    def matrix(part: str) -> Tensor:
        small, left, right = (own[f"{part}.{x}"] for x in ("A", "left", "right"))
        return torch.stack([torch.kron(small[i], left[i] @ right[i]) for i in range(4)]).sum(0)

    return matrix("down"), matrix("up")


@pytest.mark.parametrize("feed_forward", ["gated-gelu", "relu"])
@pytest.mark.parametrize(
    ("name", "weights", "places"),
    [
        ("adapter", adapter_weights, {"DenseReluDense"}),
        ("compacter", compacter_weights, {"DenseReluDense", "SelfAttention"}),
        ("compacter_pp", compacter_weights, {"DenseReluDense"}),
    ],
)
def test_bottleneck_maths(
    name: str, weights: Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]], places: set[str], feed_forward: str
) -> None:
    """Between a sub-layer's last matrix and the layer's dropout: out + relu(out D + d) U + u, or nothing."""
    model = moved(attached(name, feed_forward), spread=0.1)
    found = {"SelfAttention": 0, "EncDecAttention": 0, "DenseReluDense": 0}
    for block in [*model.encoder.block, *model.decoder.block]:
        for layer in block.layer:
            place = next(child for child, _ in layer.named_children() if child in found)
            sub_layer = getattr(layer, place)
            last = sub_layer.wo if place == "DenseReluDense" else sub_layer.o
            with captured(last, layer.dropout) as seen:
                logprob(model)
            out, after = seen[last][0][1], seen[layer.dropout][0][0]
            assert hasattr(sub_layer, "adapter") == (place in places)
            found[place] += 1
            if place in places:
                own = numbers(sub_layer.adapter)
                down, up = weights(own)
                assert down.shape == (32, 8)
                assert up.shape == (8, 32)
                change = torch.clamp(out @ down + own["down.bias"], min=0) @ up + own["up.bias"]
                assert change.abs().max() > 0.01
                out = out + change
            torch.testing.assert_close(after, out, atol=1e-5, rtol=1e-5)
    assert found == {"SelfAttention": 5, "EncDecAttention": 3, "DenseReluDense": 5}


def test_phm_weight_is_the_sum_of_kronecker_products() -> None:
    torch.manual_seed(0)
    layer = PHMLinear(12, 8, n=2, rank=3, init_std=1.0, device=torch.device("cpu"))
    layer.bias.data.normal_()
    products = [torch.kron(layer.A[i], layer.left[i] @ layer.right[i]) for i in range(2)]
    x = torch.randn(5, 3, 12)
    torch.testing.assert_close(layer(x), x @ (products[0] + products[1]) + layer.bias)


def test_starting_distributions() -> None:
    model = tiny_t5()
    torch.manual_seed(0)
    attach(Adapter(["DenseReluDense"], 1, 0.02, False), model)
    drawn = adapter_parameters(model)
    matrices = torch.cat([p.flatten() for n, p in drawn.items() if n.endswith("weight")])
    assert matrices.std().item() == pytest.approx(0.02, rel=0.03)
    assert matrices.mean().abs() < 0.001
    assert all((p == 0).all() for n, p in drawn.items() if n.endswith("bias"))

    model = tiny_t5()
    attach(Compacter(["SelfAttention", "DenseReluDense"], 1, 4, 1, 0.02, False), model)
    drawn = adapter_parameters(model)
    small = torch.cat([p.flatten() for n, p in drawn.items() if n.endswith(".A")])
    assert small.std().item() == pytest.approx(0.02, rel=0.1)
    bound = math.sqrt(2) * math.sqrt(6 / (8 + 1))  # Glorot, gain sqrt(2); fans 32/4 and rank 1
    for part in ("left", "right"):
        values = torch.cat([p.flatten() for n, p in drawn.items() if n.endswith(part)])
        assert 0.97 * bound < values.abs().max() <= bound
        assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    assert all((p == 0).all() for n, p in drawn.items() if n.endswith("bias"))


def test_full_trains_as_plain_descent_on_every_weight() -> None:
    model, plain = attached("full"), tiny_t5().requires_grad_(True)
    token_logprob(model, ragged_batch()).sum().backward()
    torch.optim.SGD(adapter_parameters(model).values(), lr=0.01).step()
    names, weights = zip(*plain.named_parameters(), strict=True)
    gradients = torch.autograd.grad(token_logprob(plain, ragged_batch()).sum(), weights)
    for name, weight, gradient in zip(names, weights, gradients, strict=True):
        torch.testing.assert_close(model.get_parameter(name).detach(), (weight - 0.01 * gradient).detach())


def test_full_counts_tied_weights_once() -> None:
    model, chosen = tiny_bart(), method("full")
    attach(chosen, model)
    storages = {
        p.data_ptr(): p.numel() for module in model.modules() for p in module._parameters.values() if p is not None
    }
    assert model.lm_head.weight is model.model.shared.weight
    assert chosen.trained_count(model) == sum(storages.values())
    assert chosen.stored_bytes(model) == 4 * sum(storages.values())


# ---- bf16, saving, copying


@pytest.mark.parametrize("name", METHODS)
def test_bf16_base(name: str) -> None:
    """What is new is float32; what was the model's own stays as it was."""
    model = tiny_t5().to(torch.bfloat16)
    own = {n for n, _ in model.named_parameters()}
    attach(tiny_method(name), model)
    trained = adapter_parameters(model)
    assert all(p.dtype == (torch.bfloat16 if n in own else torch.float32) for n, p in trained.items())
    token_logprob(moved(model, spread=0.05), ragged_batch()).sum().backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype and (p.grad != 0).any() for p in trained.values())


@pytest.mark.parametrize("name", METHODS)
def test_stored_and_restored(name: str) -> None:
    model, fresh, chosen = moved(attached(name)), tiny_t5(), tiny_method(name)
    attach(chosen, fresh)
    assert (logprob(fresh) - logprob(model)).abs().max() > 0.01
    chosen.restore(fresh, {n: value.clone() for n, value in chosen.stored(model).items()})
    torch.testing.assert_close(logprob(fresh), logprob(model), atol=0, rtol=0)


@pytest.mark.parametrize("name", METHODS)
def test_a_copy_runs_its_own_parameters(name: str) -> None:
    model = attached(name)
    before = logprob(model)
    other = moved(copy.deepcopy(model))
    torch.testing.assert_close(logprob(model), before, atol=0, rtol=0)
    assert (logprob(other) - before).abs().max() > 0.01


# ---- refusals


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_other_families_are_refused(name: str) -> None:
    with pytest.raises(
        UserError, match=r"No module of BartForC\w+ is named DenseReluDense.*\(method\.places\).*T5 fam"
    ):
        attach(method(name), tiny_bart())


def test_places_that_are_not_there() -> None:
    with pytest.raises(UserError, match=r"named SelfAtention \(method.places\). Near matches: .*SelfAttention"):
        attach(method("adapter", "method.places=[SelfAtention,DenseReluDense]"), tiny_t5())
    with pytest.raises(UserError, match=r"\.wi_1 of T5ForConditionalGeneration \(method.places\) is no sub-layer"):
        attach(method("adapter", "method.places=[wi_1]"), tiny_t5())
    with pytest.raises(UserError, match=r"is named nothing \(method.places\)"):
        attach(method("compacter", "method.places=[]"), tiny_t5())


def test_widths_that_do_not_come_out_even() -> None:
    with pytest.raises(UserError, match=r"method.reduction=64 leaves nothing of the model's width 32"):
        attach(method("adapter", "method.reduction=64"), tiny_t5())
    with pytest.raises(
        UserError, match=r"width 32 and the inner width 1 \(method.reduction=32\) to be divisible by method.n=4"
    ):
        attach(method("compacter"), tiny_t5())


def test_models_without_layer_norms_or_names() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"method=layernorm trains layer norms, and Sequential has none"):
        attach(method("layernorm"), model)
    with pytest.raises(UserError, match=r"No Linear layer of Sequential is named q \(method.targets=\)"):
        attach(method("bitfit", "method.targets=[q]"), model)
