"""LoRA: every chosen W becomes W + BA / rank (Hu et al. 2021; official configs/lora.json); layer norms train too.

A starts as N(0, init_scale²), B as zero, so the model is unchanged at first. The product is computed in float32 beside
the frozen matrix, which is equivalent to adding it to the weight. The paper does not divide; the official code
divides by the rank. HF peft initialises A differently and wraps layers, so only its file format is used.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from tfew.errors import UserError
from tfew.methods.base import Method, adapter_parameters
from tfew.methods.experts import attach_low_rank, merge_low_rank
from tfew.methods.merging import add_to_weight, restore_class
from tfew.methods.peft_format import PREFIX, PeftAdapter, common_config, is_transposed, number, target_names
from tfew.methods.surgery import swap_class, train_layer_norms
from tfew.placement.places import LINEAR, features
from tfew.placement.report import MatrixChoice, Placement

PEFT_NAMES = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight"}
# settings of peft's LoRA with which it is not W + scale BA with one rank and one scale for all layers
NOT_OURS = (
    "use_dora",
    "lora_bias",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "arrow_config",
    "velora_config",
    "monteclora_config",
)
# beginnings of peft's init_lora_weights with which it changes the base's weights, so that W + BA starts as W
CHANGES_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")


class LowRank(nn.Module):
    """Adds x Aᵀ Bᵀ / rank to a linear layer's output; `lora_a` `[rank, inputs]`, `lora_b` `[outputs, rank]`."""

    lora_a: nn.Parameter
    lora_b: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input)
        update = linear(linear(input.to(self.lora_a.dtype), self.lora_a), self.lora_b) / len(self.lora_a)
        return output + update.to(output.dtype)

    def lora_update(self) -> Tensor:
        """The update of the weight, `[outputs, inputs]`."""
        return self.lora_b @ self.lora_a / len(self.lora_a)


class LoRA(Method):
    """On every matrix of attention and feed-forward, experts included; `targets` names linear layers instead, by full
    name, last name part or pattern. `partial` accepts a model with layers where no matrix is found.

    `layers`, last name parts, is the argument of adapters saved before version 0.3.
    """

    def __init__(
        self,
        rank: int,
        init_scale: float,
        layer_norms: bool,
        targets: Sequence[str] | None = None,
        partial: bool = False,
        layers: Sequence[str] | None = None,
    ) -> None:
        self.rank, self.init_scale = rank, init_scale
        self.choice = MatrixChoice(targets, partial, layers)
        self.layer_norms = self.trains_base = layer_norms

    def attach(self, model: nn.Module) -> None:
        for name in self.choice.names(model):
            layer: Any = model.get_submodule(name)
            if isinstance(layer, LINEAR):
                inputs, outputs = features(layer)
                layer.lora_a, layer.lora_b = self._pair([inputs], [outputs], layer.weight.device)
                swap_class(layer, LowRank)
            else:
                attach_low_rank(layer, self._pair)
        if self.layer_norms:
            train_layer_norms(model)

    def _pair(self, inputs: Sequence[int], outputs: Sequence[int], device: torch.device) -> tuple[nn.Parameter, ...]:
        """A and B; for experts (sizes [E, size]) with a leading dimension E."""
        options: dict[str, Any] = {"dtype": torch.float32, "device": device}
        *experts, size = inputs
        a = self.init_scale * torch.randn(*experts, self.rank, size, **options)
        return nn.Parameter(a), nn.Parameter(torch.zeros(*outputs, self.rank, **options))

    def placement(self, model: nn.Module) -> Placement:
        return self.choice.placement(model)

    peft_types = ("LORA",)

    def merge(self, model: nn.Module) -> None:
        layer: Any
        for layer in map(model.get_submodule, self.choice.names(model)):
            if not isinstance(layer, LINEAR):
                merge_low_rank(layer)
                continue
            linear_layer: Any = layer
            add_to_weight(linear_layer, linear_layer.lora_update())
            restore_class(layer, *PEFT_NAMES)

    def to_peft(self, model: nn.Module) -> PeftAdapter:
        """peft scales by lora_alpha / r: ours is alpha = 1. Layer norms are whole modules (`modules_to_save`)."""
        names = self.choice.names(model)
        if experts := [name for name in names if not isinstance(model.get_submodule(name), LINEAR)]:
            raise UserError(
                f"HF peft's files are not written for LoRA on experts ({experts[0]}): use to=merged, or train with"
                " method.targets= on linear layers."
            )
        stored = self.stored(model)
        norms = {name.rpartition(".")[0] for name in stored if name.rpartition(".")[2] not in PEFT_NAMES}
        config = common_config(self.peft_types[0], model) | {
            "r": self.rank,
            "lora_alpha": 1,
            "lora_dropout": 0.0,
            "bias": "none",
            "use_rslora": False,
            "target_modules": target_names(model, names),
            "modules_to_save": target_names(model, norms, dotted=False) or None,
            "fan_in_fan_out": is_transposed(model, names),
        }
        return PeftAdapter(config, {f"{PREFIX}{_to_peft(name)}": tensor for name, tensor in stored.items()})

    @classmethod
    def from_peft(
        cls, arguments: Mapping[str, Any], adapter: PeftAdapter, model: nn.Module, fused_queries: str
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The file determines rank, layers and whether layer norms are trained; missing norms are the model's own."""
        if strange := [f"{key}={adapter.config[key]}" for key in NOT_OURS if adapter.config.get(key)]:
            raise UserError(f"This adapter is a LoRA of a kind that only peft has ({', '.join(strange)}).")
        if str(start := adapter.config.get("init_lora_weights")).lower().startswith(CHANGES_BASE):
            raise UserError(
                f"This adapter was made with init_lora_weights={start}, for which peft changes the base model's own"
                " weights, so it does not fit the unchanged base: save it with peft as a plain LoRA"
                " (path_initial_model_for_weight_conversion=)."
            )
        rank = int(number(adapter, "r"))
        # B is rescaled from alpha / r, or rslora's alpha / sqrt r, since this method divides by r
        scale = number(adapter, "lora_alpha") * (rank**0.5 if adapter.config.get("use_rslora") else 1)
        weights = {_from_peft(key): tensor.float() for key, tensor in adapter.tensors.items()}
        weights = {name: scale * tensor if name.endswith(".lora_b") else tensor for name, tensor in weights.items()}
        layers = [name.removesuffix(".lora_a") for name in weights if name.endswith(".lora_a")]
        layer_norms = any(name.rpartition(".")[2] not in PEFT_NAMES for name in weights)
        if layer_norms:
            model.requires_grad_(False)
            train_layer_norms(model)
            weights = {name: norm.detach().float() for name, norm in adapter_parameters(model).items()} | weights
        targets = None if _takes_all(model, layers) else target_names(model, layers)
        return {**arguments, "rank": rank, "targets": targets, "layer_norms": layer_norms}, weights


def _takes_all(model: nn.Module, layers: Sequence[str]) -> bool:
    """Whether these are exactly the layers that the method selects by structure."""
    try:
        return set(MatrixChoice().names(model)) == set(layers)
    except UserError:
        return False


def _to_peft(name: str) -> str:
    layer, _, last = name.rpartition(".")
    return f"{layer}.{PEFT_NAMES.get(last, last)}"


def _from_peft(key: str) -> str:
    for ours, theirs in PEFT_NAMES.items():
        key = key.replace(f".{theirs}", f".{ours}")
    return key.removeprefix(PREFIX)
