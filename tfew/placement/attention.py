"""Recognises attention by its children: matrices for queries, keys and values, one that joins the heads, and nothing
else that could change keys or values except a norm of them. Other classes are described in configs/backbone.
"""

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from tfew.placement.backbone_rules import number, rule_for
from tfew.placement.places import KEYS, KEYS_VALUES, LINEAR, VALUES, Place, features, is_linear, linears_of

QKV = (
    ("q", "k", "v"),
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q_lin", "k_lin", "v_lin"),
    ("query_proj", "key_proj", "value_proj"),
)
JOINS_HEADS = ("o", "Wo", "o_proj", "out_proj", "dense", "c_proj", "out_lin", "output")
SELF = (".self", ".longformer_self_attn")  # last name parts of attention whose heads are joined beside it
MLA = ("kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj")
NORM = re.compile(r"norm|ln", re.I)
SHARED_NORM = "qk_norm"  # one norm for queries and keys: its output is scaled if it has the number of heads of keys
HARMLESS_NORM = re.compile(
    r"^((q|query)(?!k)\w*|o_norm|(attn_|inner_)?sub_norm|layer_?norm|attn_ln|inner_attn_ln)$", re.I
)


@dataclass
class Attention:
    """`places`: where its keys and values are scaled; `matrices`: its linear layers."""

    name: str
    places: list[Place]
    matrices: list[str]


def find_attention(name: str, module: nn.Module, model: nn.Module) -> list[Attention]:
    """The attention that this module implements, or none; `name`: its name in the model."""
    rule, linears = rule_for(module), linears_of(module)
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
            return []  # outputs of the norm for queries and for keys cannot be told apart
    else:
        return []
    if _strange_children(module, {*used, *rule.get("allows", ())}):
        return []  # they could change keys or values after the matrices
    parent = name.rpartition(".")[0]  # BERT and similar models join the heads outside the attention
    beside = [f"{parent}.{child}" for child in ("output", "output.dense")] if name.endswith(SELF) else []
    matrices = [
        *(f"{name}.{child}" for child in linears if child not in rule.get("allows", ())),
        *(n for n in beside if is_linear(model, n)),
    ]
    return [Attention(name, places, matrices)]


def _separate(name: str, module: Any, rule: Any, key: str, value: str) -> list[Place]:
    linears = linears_of(module)
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
    """[queries | keys | values] in each group; the number of query outputs is the input size of the output matrix."""
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
    """Multi-head latent attention: one matrix computes each head's keys and values from the latent, another the latent
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
    """Children with parameters that are not known parts of attention."""
    norms = {_norm_of(module, letter) for letter in "kv"}
    return [
        name
        for name, child in module.named_children()
        if name not in used | norms | {"indexer"}  # which chooses tokens to attend to
        and not isinstance(child, (*LINEAR, nn.Embedding))
        and not (HARMLESS_NORM.match(name) and _is_norm(child))
        and any(True for _ in child.parameters())
    ] + [name for name in linears_of(module) if name not in used and not _is_harmless(name)]


def _is_harmless(linear: str) -> bool:
    """Whether a matrix of this name computes queries, joins heads or gates attention's output."""
    return linear in JOINS_HEADS or linear in ("gate_proj", "g_proj", "gate") or linear.startswith(("q_", "query"))


def _outputs(name: str, role: str, linear: Any) -> Place:
    return Place(name, "outputs", role, features(linear)[1])
