"""Recognises feed-forwards by the pair of their matrices, and experts, whose matrices are 3-D parameters."""

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from tfew.placement.backbone_rules import rule_for
from tfew.placement.places import FEED_FORWARD, Place, features, is_linear, linears_of

# second matrix -> those that compute its input
FEED_FORWARDS = {
    "wo": ("wi", "wi_0", "wi_1"),
    "down_proj": ("gate_proj", "up_proj", "gate_up_proj"),
    "fc2": ("fc1",),
    "c_proj": ("c_fc",),
    "dense_4h_to_h": ("dense_h_to_4h",),
    "fc_out": ("fc_in",),
    "w2": ("w1", "w3"),
    "lin2": ("lin1",),
    "layer_2": ("layer_1",),
    "output_linear": ("input_linear",),
    "linear_2": ("linear_1",),
    "Wo": ("Wi",),
    "output": ("intermediate",),
}
# (gate, linear branch, second matrix): scaling the branch's output is scaling the second matrix's input, if nothing
# but the product with the activated gate is in between: a norm, which may have no weights, would cancel it
GATED = (("wi_0", "wi_1", "wo"), ("gate_proj", "up_proj", "down_proj"))
NO_FEED_FORWARD = re.compile(r"(^|[._])(router|gate|indexer|(layer)?norm|adapter)s?([._]|$)")


@dataclass
class FeedForward:
    """`place`: where the inner activation is scaled; `matrices`: its linear layers, or experts (3-D parameters)."""

    name: str
    place: Place
    first: list[str]
    second: str

    @property
    def matrices(self) -> list[str]:
        return [*self.first, *([] if self.second in self.first else [self.second])]


def find_feed_forward(name: str, module: nn.Module) -> list[FeedForward]:
    """The feed-forward that this module implements, or none; `name`: its name in the model."""
    if NO_FEED_FORWARD.search(name):
        return []
    rule, linears = rule_for(module), linears_of(module)
    if "experts" in rule or _is_experts(module):
        return [_experts(name, module, rule.get("experts", "experts"))]
    pairs = {**FEED_FORWARDS, **({rule["second"]: rule["first"]} if "second" in rule else {})}
    for second, firsts in pairs.items():
        linears |= {child: module.get_submodule(child) for child in (second, *firsts) if is_linear(module, child)}
        first = [child for child in firsts if child in linears]
        if second in linears and first and features(linears[first[0]])[1] >= features(linears[second])[0]:
            place = _inner_activation(name, module, first, second)
            return [FeedForward(name, place, [f"{name}.{child}" for child in first], f"{name}.{second}")]
    if is_linear(module, "intermediate.dense") and is_linear(module, "output.dense"):  # BERT
        first_name, second_name = f"{name}.intermediate.dense", f"{name}.output.dense"
        size = features(module.get_submodule("output.dense"))[0]
        return [FeedForward(name, Place(second_name, "inputs", FEED_FORWARD, size), [first_name], second_name)]
    return []


def _inner_activation(name: str, module: nn.Module, first: list[str], second: str) -> Place:
    size = features(module.get_submodule(second))[0]
    with_numbers = {child for child, part in module.named_children() if any(True for _ in part.parameters())}
    norms = {child for child, part in module.named_children() if "Norm" in type(part).__name__}
    for gate, branch, last in GATED:
        if with_numbers | norms == {gate, branch, last}:
            return Place(f"{name}.{branch}", "outputs", FEED_FORWARD, size)
    return Place(f"{name}.{second}", "inputs", FEED_FORWARD, size)


def _is_experts(module: Any) -> bool:
    """Whether these are experts with 3-D parameters in transformers' interface (`use_experts_implementation`)."""
    down = getattr(module, "down_proj", None)
    return isinstance(down, nn.Parameter) and down.dim() == 3 and hasattr(module, "has_gate")


def _experts(name: str, module: Any, kind: str) -> FeedForward:
    if kind == "split":
        second = f"{name}.output_linear"
        experts, _, inner = module.output_linear.weight.shape
        return FeedForward(name, Place(second, kind, FEED_FORWARD, (experts, inner)), [f"{name}.input_linear"], second)
    transposed = rule_for(module).get("transposed", getattr(module, "is_transposed", False))
    experts, inner = module.down_proj.shape[0], module.down_proj.shape[1 if transposed else 2]
    return FeedForward(name, Place(name, kind, FEED_FORWARD, (experts, inner)), [name], name)
