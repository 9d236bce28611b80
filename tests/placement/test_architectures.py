"""The numerical check of placement, one row for each architecture: what vectors at 2 do inside attention and the
feed-forward of a random model. Attention and feed-forward are run again, alone, on the inputs that they had.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tests.architectures import NAMES, one_of_each_kind, tiny
from tfew.errors import UserError
from tfew.methods.base import adapter_parameters, attach
from tfew.methods.ia3 import IA3
from tfew.methods.lora import LoRA
from tfew.placement.places import LINEAR
from tfew.placement.structure import Attention, FeedForward, layers

# no keys and values that are known, for each the reason
REFUSED = {
    "mamba": "no attention", "mamba2": "no attention", "falcon_mamba": "no attention", "rwkv": "no attention",
    "xlstm": "no softmax attention", "xlnet": "matrices of attention that are no layers",
    "moshi": "linear layers of a kind of its own", "lfm3": "no attention in its first two layers",
}  # fmt: skip
# layers without attention that is known, which method.partial=true accepts
HYBRID = {
    "bamba", "granitemoehybrid", "jamba", "lfm2", "lfm2_moe", "minimax", "olmo_hybrid", "qwen3_5", "qwen3_5_text",
    "qwen3_next", "recurrent_gemma", "zamba2",
}  # fmt: skip
IN_CHUNKS = {"led", "led-wide", "pegasus_x", "longt5-global"}  # attention by other products than two
NEEDS_IMAGES = {"llama4"}  # its class cannot run on text alone
PRODUCTS = {
    torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm, torch.baddbmm, Tensor.baddbmm, torch.einsum
}  # fmt: skip
WHOLE = torch.nn.functional.scaled_dot_product_attention


class Products(TorchFunctionMode):
    """Records what attention multiplies: (queries, keys) and (weights, values), or all at once."""

    def __init__(self) -> None:
        super().__init__()
        self.queries: list[Tensor] = []
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self._pending = True
        self.off = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is WHOLE:
            given = {**dict(zip(("query", "key", "value"), args, strict=False)), **(kwargs or {})}
            for kept, name in ((self.queries, "query"), (self.keys, "key"), (self.values, "value")):
                kept.append(given[name].detach().clone())
            with torch._C.DisableTorchFunction():
                return func(*args, **(kwargs or {}))
        if func in PRODUCTS and not self.off:
            flat = [
                a
                for arg in (*args, *(kwargs or {}).values())
                for a in (arg if isinstance(arg, tuple | list) else [arg])
            ]
            first, second = [a for a in flat if isinstance(a, Tensor)][-2:]
            if second.dim() == 2:  # a matrix of the model: Falcon writes linear layers so
                return func(*args, **(kwargs or {}))
            if self._pending:
                self.queries.append(first.detach().clone())
                self.keys.append(second.detach().clone())
            else:
                self.values.append(second.detach().clone())
            self._pending = not self._pending
        return func(*args, **(kwargs or {}))


def calls(model: nn.Module, names: list[str]) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    """What each module was called with in a pass of the whole model."""
    seen: dict[str, Any] = {}

    def keep(name: str, args: Any, kwargs: Any) -> None:
        seen.setdefault(name, (args, dict(kwargs)))

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, args, kwargs, name=name: keep(name, args, kwargs), with_kwargs=True
        )
        for name in names
    ]
    ids = torch.randint(3, 100, (2, 8), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids[:, :5]
    with torch.no_grad():
        model(**inputs, use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen


def structure(model: nn.Module) -> tuple[list[Attention], list[FeedForward]]:
    found = layers(model)
    return [a for layer in found for a in layer.attentions], [f for layer in found for f in layer.feed_forwards]


@contextmanager
def vectors_at(model: nn.Module, value: float, roles: Callable[[str], bool]) -> Iterator[None]:
    parameters = {n: p for n, p in adapter_parameters(model).items() if roles(n)}
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.fill_(value)
        yield
        for parameter in parameters.values():
            parameter.fill_(1.0)


def products(model: nn.Module, name: str, call: Any) -> Products:
    args, kwargs = call
    module = model.get_submodule(name)
    with torch.no_grad(), Products() as recorded:
        hooks = [
            register(lambda *_, off=off: setattr(recorded, "off", off))
            for child, part in module.named_children()
            if child == "indexer"  # it multiplies queries and keys of its own, to choose tokens
            for register, off in ((part.register_forward_pre_hook, True), (part.register_forward_hook, False))
        ]
        module(*args, **kwargs)
    for hook in hooks:
        hook.remove()
    return recorded


def first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize(
    "name", one_of_each_kind((n for n in NAMES if n not in {*REFUSED, *IN_CHUNKS, *NEEDS_IMAGES}), pytest.mark.slow)
)
def test_vectors_at_two_double_keys_and_values_and_leave_queries(name: str) -> None:
    check_attention(name, IA3(partial=name in HYBRID))


def check_attention(name: str, method: IA3) -> None:
    model = tiny(name)
    model.set_attn_implementation("eager")
    model.config.clip_qkv = None  # a clip comes after the matrices, and so after the vectors
    attentions, _ = structure(model)
    attach(method, model)
    seen = calls(model, [attention.name for attention in attentions])
    assert seen.keys() == {attention.name for attention in attentions}
    for attention in attentions:
        before = products(model, attention.name, seen[attention.name])
        with vectors_at(model, 2.0, lambda n, name=attention.name: n.startswith(f"{name}.")):
            after = products(model, attention.name, seen[attention.name])
        assert before.keys
        assert before.values
        for old, new in zip(before.queries, after.queries, strict=True):
            torch.testing.assert_close(new, old, rtol=1e-5, atol=1e-6)
        for kind in ("keys", "values"):
            for old, new in zip(getattr(before, kind), getattr(after, kind), strict=True):
                assert old.abs().max() > 0
                torch.testing.assert_close(new, 2 * old, rtol=1e-5, atol=1e-5, msg=lambda m, k=kind: f"{k}: {m}")


@pytest.mark.parametrize("name", sorted(IN_CHUNKS))
def test_attention_in_chunks(name: str) -> None:
    """Doubled keys give what doubled queries give, and doubled values double what attention gives."""
    model = tiny(name)
    attentions, _ = structure(model)
    attach(IA3(), model)
    with torch.no_grad():
        for bias in (n for n, _ in model.named_parameters() if n.endswith(("out_proj.bias", "output.bias"))):
            model.get_parameter(bias).zero_()
    outer = {a.name: a.name.removesuffix(".longformer_self_attn") for a in attentions}
    seen = calls(model, list(outer.values()))

    def output(attention: str) -> Tensor:
        args, kwargs = seen[outer[attention]]
        with torch.no_grad():
            return first(model.get_submodule(outer[attention])(*args, **kwargs))

    for attention in attentions:
        plain = output(attention.name)
        keys, values = ([p.module for p in attention.places if kind in p.module.rpartition(".")[2]] for kind in "kv")
        with vectors_at(model, 2.0, lambda n, values=values: n.removesuffix(".ia3") in values):
            torch.testing.assert_close(output(attention.name), 2 * plain, rtol=1e-4, atol=1e-5)
        with vectors_at(model, 2.0, lambda n, keys=keys: n.removesuffix(".ia3") in keys):
            doubled_keys = output(attention.name)
        queries = [n for n in attention.matrices if n.rpartition(".")[2].startswith("q")]
        with torch.no_grad():
            for parameter in (p for n in queries for p in model.get_submodule(n).parameters()):
                parameter.mul_(2)
            torch.testing.assert_close(doubled_keys, output(attention.name), rtol=1e-4, atol=1e-5)
            assert (doubled_keys - plain).abs().max() > 1e-4
            for parameter in (p for n in queries for p in model.get_submodule(n).parameters()):
                parameter.div_(2)


@pytest.mark.parametrize(
    "name", one_of_each_kind((n for n in NAMES if n not in {*REFUSED, *NEEDS_IMAGES}), pytest.mark.slow)
)
def test_the_feed_forward_vector_at_two_doubles_what_the_second_matrix_makes(name: str) -> None:
    check_feed_forward(name, IA3(partial=name in HYBRID))


def check_feed_forward(name: str, method: IA3) -> None:
    """Without its bias: what enters it is doubled, since it is linear. So for experts."""
    model = tiny(name)
    _, feed_forwards = structure(model)
    attach(method, model)
    with torch.no_grad():
        for bias in (n for n, _ in model.named_parameters() if n.endswith(("bias",))):
            model.get_parameter(bias).zero_()
    seen = calls(model, [name for part in feed_forwards for name in (part.name, part.second)])
    used = [part for part in feed_forwards if part.name in seen and part.second in seen]
    assert len(used) > 0.4 * len(feed_forwards), "of many experts some have no token"
    for part in used:
        place, parent = part.place.module, part.name
        args, kwargs = seen[parent]
        linear = isinstance(model.get_submodule(part.second), LINEAR)
        with torch.no_grad():
            before, after = [], []
            for kept, value in ((before, 1.0), (after, 2.0)):
                with vectors_at(model, value, lambda n, place=place: n == f"{place}.ia3"):
                    if linear:
                        hook = model.get_submodule(part.second).register_forward_hook(
                            lambda module, given, output, kept=kept: kept.append(output.clone())
                        )
                        model.get_submodule(parent)(*args, **kwargs)
                        hook.remove()
                    else:
                        kept.append(first(model.get_submodule(parent)(*args, **kwargs)))
        for old, new in zip(before, after, strict=True):
            assert old.abs().max() > 0
            torch.testing.assert_close(new, 2 * old, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", one_of_each_kind(NAMES))
def test_lora_takes_every_matrix_of_attention_and_feed_forward(name: str) -> None:
    """With B not zero, each pair changes what the model says; merged, the plain model says the same."""
    if name in REFUSED:
        with pytest.raises(UserError, match=r"has no attention and feed-forward|have no place for the method"):
            attach(LoRA(4, 0.01, layer_norms=False), tiny(name))
        return
    model = tiny(name)
    method = LoRA(2, 0.3, layer_norms=False, partial=name in HYBRID)
    taken = set(method.choice.names(model))
    attentions, feed_forwards = structure(model)
    assert taken == {n for part in (*attentions, *feed_forwards) for n in part.matrices}
