"""The transformer layers of a model, with the attention and the feed-forwards that each has.

An attention is known by its children: matrices for queries, keys and values, one that joins the heads, and nothing
else that could change keys or values but a norm of them. A feed-forward is known by the pair of its matrices. Where
children do not tell (one matrix for queries, keys and values; norms that see heads first), configs/backbone does. What
neither tells is not taken for attention or feed-forward, so its layer is found to be without its share.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from tfew.placement.backbone_rules import number, rule_for
from tfew.placement.places import FEED_FORWARD, KEYS, KEYS_VALUES, LINEAR, VALUES, Place, features

QKV = (
    ("q", "k", "v"),
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q_lin", "k_lin", "v_lin"),
    ("query_proj", "key_proj", "value_proj"),
)
JOINS_HEADS = ("o", "Wo", "o_proj", "out_proj", "dense", "c_proj", "out_lin", "output")
# second matrix -> those that make what enters it
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
# (gate, linear branch, second matrix): scaling the branch's output is scaling what enters the second, where nothing
# but the activation of the gate stands between
GATED = (("wi_0", "wi_1", "wo"), ("gate_proj", "up_proj", "down_proj"))
SELF = (".self", ".longformer_self_attn")  # last name parts of attention whose heads are joined beside it
MLA = ("kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj")
CROSS_ATTENTION = ("encoder_attn", "crossattention", "cross_attn", "EncDecAttention")
TEXT_PARTS = ("language_model", "text_model", "text_decoder")
NO_FEED_FORWARD = re.compile(r"(^|[._])(router|gate|indexer|(layer)?norm|adapter)s?([._]|$)")
NORM = re.compile(r"norm|ln", re.I)
SHARED_NORM = "qk_norm"  # one norm for queries and keys: what it gives with as many heads as keys have is scaled
HARMLESS_NORM = re.compile(
    r"^((q|query)(?!k)\w*|o_norm|(attn_|inner_)?sub_norm|layer_?norm|attn_ln|inner_attn_ln)$", re.I
)


@dataclass
class Attention:
    """`places`: where its keys and values are scaled; `matrices`: its linear layers."""

    name: str
    places: list[Place]
    matrices: list[str]


@dataclass
class FeedForward:
    """`place`: where its inner activation is scaled; `matrices`: its linear layers, or experts (3-D parameters)."""

    name: str
    place: Place
    first: list[str]
    second: str

    @property
    def matrices(self) -> list[str]:
        return [*self.first, *([] if self.second in self.first else [self.second])]


@dataclass
class Layer:
    """One transformer layer; the name is that of its place in the model ("model.layers.3")."""

    name: str
    attentions: list[Attention] = field(default_factory=list)
    feed_forwards: list[FeedForward] = field(default_factory=list)
    shares_keys: bool = False  # with an earlier layer, whose keys and values it attends to
    unknown: list[str] = field(default_factory=list)  # attention and experts that are not known to be placed right

    @property
    def has_keys(self) -> bool:
        return bool(self.attentions) or self.shares_keys


def layers(model: Any) -> list[Layer]:
    """Of the model's text part alone, in its order; layers that hold no matrix are left out."""
    found: dict[str, Layer] = {}
    for root_name, root in _text_roots(model):
        modules = [
            (layer, name, module)
            for name, module in root.named_modules(prefix=root_name)
            if (layer := _layer_name(name)) and (model.config.is_encoder_decoder or not _is_cross_attention(name))
        ]
        unused = {layer for layer, name, module in modules if rule_for(module).get("unused")}
        held = (layer for layer, name, module in modules if _is_matrix(module) and name != layer)
        found |= {layer: Layer(layer) for layer in held if layer not in unused}
        for key, name, module in modules:
            if key not in found:
                continue
            found[key].attentions += _attention(name, module, model)
            found[key].feed_forwards += _feed_forward(name, module)
            found[key].shares_keys |= bool(getattr(module, "is_kv_shared_layer", False))
        for key, name, module in modules:
            if key in found and _looks_like_a_part(name, module) and not _is_known(name, found[key]):
                found[key].unknown.append(name)
    return list(found.values())


def _looks_like_a_part(name: str, module: nn.Module) -> bool:
    """Whether this holds matrices of its own and is called attention or experts: one that is not known is said."""
    holds = bool(_linears(module)) or (_is_matrix(module) and not isinstance(module, LINEAR))
    of_experts = "experts" in name.split(".") and not _linears(module)
    shares = getattr(module, "is_kv_shared_layer", False)
    return holds and not shares and ("Attention" in type(module).__name__ or of_experts)


def _is_known(name: str, layer: Layer) -> bool:
    """Whether this is a part that was found, is in one or around one."""
    parts = [attention.name for attention in layer.attentions] + [part.name for part in layer.feed_forwards]
    return any(f"{name}.".startswith(f"{part}.") or f"{part}.".startswith(f"{name}.") for part in parts)


def _text_roots(model: Any) -> Iterator[tuple[str, nn.Module]]:
    names = {id(module): name for name, module in model.named_modules()}
    roots = [model.get_encoder(), model.get_decoder()] if model.config.is_encoder_decoder else [model.get_decoder()]
    for root in map(_text_part, roots):
        root = model.base_model if isinstance(root, LINEAR) else root  # a head of the name "decoder"
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


def _is_matrix(module: nn.Module) -> bool:
    own = any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))
    return own and not isinstance(module, nn.Embedding)


def _linears(module: nn.Module) -> dict[str, Any]:
    return {name: child for name, child in module.named_children() if isinstance(child, LINEAR)}


def _attention(name: str, module: nn.Module, model: nn.Module) -> list[Attention]:
    rule, linears = rule_for(module), _linears(module)
    qkv = next((names for names in (rule.get("qkv", ()), *QKV) if names and set(names[:2]) <= linears.keys()), None)
    if rule.get("fused") in linears:
        used, places = [rule["fused"]], _fused(name, module, rule, linears)
    elif "keys_values" in rule:
        used = list(rule["keys_values"])
        places = [_outputs(f"{name}.{child}", KEYS_VALUES, linears[child]) for child in used]
    elif set(MLA) <= dict(module.named_children()).keys():
        used, places = list(MLA), _latent(name, module)
    elif qkv is not None:
        used, places = [*qkv, SHARED_NORM], _separate(name, module, rule, qkv[1], qkv[2])
        if hasattr(module, SHARED_NORM) and features(linears[qkv[0]]) == features(linears[qkv[1]]):
            return []  # what the norm gives does not tell whose it is
    else:
        return []
    if _strange_children(module, {*used, *rule.get("allows", ())}):
        return []  # they could change keys or values behind the matrices
    parent = name.rpartition(".")[0]  # of BERT and its like, which join the heads beside the attention
    beside = [f"{parent}.{child}" for child in ("output", "output.dense")] if name.endswith(SELF) else []
    matrices = [
        *(f"{name}.{child}" for child in linears if child not in rule.get("allows", ())),
        *(n for n in beside if _is_linear(model, n)),
    ]
    return [Attention(name, places, matrices)]


def _separate(name: str, module: Any, rule: Any, key: str, value: str) -> list[Place]:
    linears = _linears(module)
    places = []
    for role, child in ((KEYS, key), (VALUES, value)):
        linear = linears.get(child, linears[key])  # values may be keys before their norm
        norm = _norm_of(module, "k" if role == KEYS else "v")
        if norm is None and role == KEYS and hasattr(module, SHARED_NORM):
            norm = SHARED_NORM
        if norm is not None:
            where = "shared heads" if norm == SHARED_NORM else "heads"
            heads_first = bool(rule.get("heads_first"))
            places.append(Place(f"{name}.{norm}", where, role, features(linear)[1], heads_first=heads_first))
        elif child in linears:
            places.append(_outputs(f"{name}.{child}", role, linear))
    return places


def _fused(name: str, module: Any, rule: Any, linears: dict[str, Any]) -> list[Place]:
    """[queries | keys | values] in each of the groups; there are as many queries as numbers that join the heads."""
    groups = number(rule.get("groups", 1), module)
    outputs = features(linears[rule["fused"]])[1]
    queries = features(next(linears[child] for child in JOINS_HEADS if child in linears))[0]
    fused = f"{name}.{rule['fused']}"
    if (norm := _norm_of(module, "k")) is None:
        return [Place(fused, "some outputs", KEYS_VALUES, outputs - queries, groups, queries // groups)]
    size = (outputs - queries) // 2
    keys = Place(f"{name}.{norm}", "heads", KEYS, size, heads_first=bool(rule.get("heads_first")))
    return [keys, Place(fused, "some outputs", VALUES, size, groups, queries // groups + size // groups)]


def _latent(name: str, module: Any) -> list[Place]:
    """Multi-head latent attention: one matrix makes each head's keys and values from the latent, another the latent
    and the part of the keys that has positions, which all heads share.
    """
    down, latent_norm, up = (getattr(module, child) for child in MLA)
    outputs, latent = features(down)[1], latent_norm.weight.shape[0]
    places = [_outputs(f"{name}.{MLA[2]}", KEYS_VALUES, up)]
    if outputs > latent:
        places.append(Place(f"{name}.{MLA[0]}", "some outputs", KEYS, outputs - latent, 1, latent))
    return places


def _norm_of(module: nn.Module, letter: str) -> str | None:
    pattern = re.compile(rf"^{letter}(ey|alue)?_?(layer_?)?(norm|ln)$", re.I)
    return next((n for n, child in module.named_children() if pattern.match(n) and _is_norm(child)), None)


def _is_norm(module: nn.Module) -> bool:
    return bool(NORM.search(type(module).__name__))


def _strange_children(module: nn.Module, used: set[str]) -> list[str]:
    """Children with numbers of their own that are neither of what attention is made of."""
    norms = {_norm_of(module, letter) for letter in "kv"}
    return [
        name
        for name, child in module.named_children()
        if name not in used | norms | {"indexer"}  # which chooses tokens to attend to
        and not isinstance(child, (*LINEAR, nn.Embedding))
        and not (HARMLESS_NORM.match(name) and _is_norm(child))
        and any(True for _ in child.parameters())
    ] + [name for name in _linears(module) if name not in used and not _is_harmless(name)]


def _is_harmless(linear: str) -> bool:
    """Whether a matrix of this name makes queries, joins heads or gates what attention gives."""
    return linear in JOINS_HEADS or linear in ("gate_proj", "g_proj", "gate") or linear.startswith(("q_", "query"))


def _outputs(name: str, role: str, linear: Any) -> Place:
    return Place(name, "outputs", role, features(linear)[1])


def _feed_forward(name: str, module: nn.Module) -> list[FeedForward]:
    if NO_FEED_FORWARD.search(name):
        return []
    rule, linears = rule_for(module), _linears(module)
    if "experts" in rule or _is_experts(module):
        return [_experts(name, module, rule.get("experts", "experts"))]
    pairs = {**FEED_FORWARDS, **({rule["second"]: rule["first"]} if "second" in rule else {})}
    for second, firsts in pairs.items():
        linears |= {child: module.get_submodule(child) for child in (second, *firsts) if _is_linear(module, child)}
        first = [child for child in firsts if child in linears]
        if second in linears and first and features(linears[first[0]])[1] >= features(linears[second])[0]:
            place = _inner_activation(name, module, first, second)
            return [FeedForward(name, place, [f"{name}.{child}" for child in first], f"{name}.{second}")]
    if _is_linear(module, "intermediate.dense") and _is_linear(module, "output.dense"):  # BERT
        first_name, second_name = f"{name}.intermediate.dense", f"{name}.output.dense"
        size = features(module.get_submodule("output.dense"))[0]
        return [FeedForward(name, Place(second_name, "inputs", FEED_FORWARD, size), [first_name], second_name)]
    return []


def _inner_activation(name: str, module: nn.Module, first: list[str], second: str) -> Place:
    size = features(module.get_submodule(second))[0]
    with_numbers = {child for child, part in module.named_children() if any(True for _ in part.parameters())}
    for gate, branch, last in GATED:
        if with_numbers == {gate, branch, last}:
            return Place(f"{name}.{branch}", "outputs", FEED_FORWARD, size)
    return Place(f"{name}.{second}", "inputs", FEED_FORWARD, size)


def _is_experts(module: Any) -> bool:
    """Experts as 3-D parameters that transformers' interface computes (`use_experts_implementation`)."""
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


def _is_linear(model: nn.Module, name: str) -> bool:
    try:
        return isinstance(model.get_submodule(name), LINEAR)
    except AttributeError:
        return False
