"""The transformer layers of a model, with the attention and the feed-forwards that each has.

A module that `tfew.placement.attention` and `tfew.placement.feed_forward` do not recognise counts as neither, so its
layer is reported as lacking a place.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from tfew.placement.attention import Attention, find_attention
from tfew.placement.backbone_rules import rule_for
from tfew.placement.feed_forward import FeedForward, find_feed_forward
from tfew.placement.places import LINEAR, is_matrix, linears_of

CROSS_ATTENTION = ("encoder_attn", "crossattention", "cross_attn", "EncDecAttention")
TEXT_PARTS = ("language_model", "text_model", "text_decoder")


@dataclass
class Layer:
    """One transformer layer; `name` is its path in the model ("model.layers.3")."""

    name: str
    attentions: list[Attention] = field(default_factory=list)
    feed_forwards: list[FeedForward] = field(default_factory=list)
    shares_keys: bool = False  # with an earlier layer, to whose keys and values it attends
    unknown: list[str] = field(default_factory=list)  # attention and experts that are not recognised

    @property
    def has_keys(self) -> bool:
        return bool(self.attentions) or self.shares_keys


# for each model: its modules' names and classes when its layers were found, and the layers
_known: "WeakKeyDictionary[nn.Module, tuple[Hashable, list[Layer]]]" = WeakKeyDictionary()


def layers(model: Any) -> list[Layer]:
    """The layers of the model's text part, in its order; layers without a matrix are left out.

    The result is cached until a class or name of a module changes, for example when a method is attached.
    """
    modules = tuple((name, type(module)) for name, module in model.named_modules())
    if model not in _known or _known[model][0] != modules:
        _known[model] = modules, _layers(model)
    return _known[model][1]


def _layers(model: Any) -> list[Layer]:
    found: dict[str, Layer] = {}
    for root_name, root in text_roots(model):
        modules = [
            (layer, name, module)
            for name, module in root.named_modules(prefix=root_name)
            if (layer := _layer_name(name)) and (model.config.is_encoder_decoder or not _is_cross_attention(name))
        ]
        unused = {layer for layer, name, module in modules if rule_for(module).get("unused")}
        held = (layer for layer, name, module in modules if is_matrix(module) and name != layer)
        found |= {layer: Layer(layer) for layer in held if layer not in unused}
        for key, name, module in modules:
            if key not in found:
                continue
            found[key].attentions += find_attention(name, module, model)
            found[key].feed_forwards += find_feed_forward(name, module)
            found[key].shares_keys |= bool(getattr(module, "is_kv_shared_layer", False))
        for key, name, module in modules:
            if key in found and _looks_like_a_part(name, module) and not _is_known(name, found[key]):
                found[key].unknown.append(name)
    return list(found.values())


def outside_text(model: Any) -> set[str]:
    """Names of the base model's modules outside its text part, such as towers for images and projections of them; they
    do not run on text. The output head is no part of the base model.
    """
    text = {id(module) for _, root in text_roots(model) for module in root.modules()}
    base = {id(module) for module in model.base_model.modules()}
    return {name for name, module in model.named_modules() if id(module) in base - text}


def _looks_like_a_part(name: str, module: nn.Module) -> bool:
    """Whether this has matrices of its own and is named attention or experts: if not recognised, it is reported."""
    holds = bool(linears_of(module)) or (is_matrix(module) and not isinstance(module, LINEAR))
    of_experts = "experts" in name.split(".") and not linears_of(module)
    shares = getattr(module, "is_kv_shared_layer", False)
    return holds and not shares and ("Attention" in type(module).__name__ or of_experts)


def _is_known(name: str, layer: Layer) -> bool:
    """Whether this is a part that was found, or is inside or around one."""
    parts = [attention.name for attention in layer.attentions] + [part.name for part in layer.feed_forwards]
    return any(f"{name}.".startswith(f"{part}.") or f"{part}.".startswith(f"{name}.") for part in parts)


def text_roots(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """Names and modules of the text part: the encoder's and the decoder's, or the decoder-only model's."""
    names = {id(module): name for name, module in model.named_modules()}
    roots = [model.get_encoder(), model.get_decoder()] if model.config.is_encoder_decoder else [model.get_decoder()]
    for root in map(_text_part, roots):
        root = model.base_model if isinstance(root, LINEAR) else root  # a head named "decoder"
        yield names.get(id(root), ""), root


def _text_part(root: Any) -> nn.Module:
    for name in TEXT_PARTS:
        if isinstance(getattr(root, name, None), nn.Module):
            return _text_part(getattr(root, name))
    return root


def _layer_name(name: str) -> str | None:
    """Everything up to the first number; lists side by side (XLM: attentions, ffns) are one list of layers."""
    parts = name.split(".")
    at = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    if at is None:
        return None
    ahead = parts[: at - 1] if parts[at - 1] in ("attentions", "ffns", "layer_norm1", "layer_norm2") else parts[:at]
    return ".".join([*ahead, parts[at]])


def _is_cross_attention(name: str) -> bool:
    return any(part in CROSS_ATTENTION for part in name.split("."))
