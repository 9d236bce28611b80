"""Mixture-of-experts layers whose matrices are 3-D parameters, extended by (IA)³'s vector for each expert's inner
activation or by LoRA's update of each expert's matrices.

    experts   transformers' own interface (`use_experts_implementation`): tokens sorted by expert, one grouped product
    batched   the input is sorted by expert, with an equal number of tokens for each (Llama 4)
    split     each matrix is a module of its own; the input is sorted by expert, with a count for each (JetMoE)

Without additions, a layer's forward here equals transformers' own.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad
from transformers.integrations.moe import _grouped_linear

from tfew.methods.merging import restore_class
from tfew.methods.surgery import swap_class

STRIDE_NUMBERS = 4  # torch's grouped product needs strides of 16 bytes: the rank is padded with zeros


class RoutedExperts(nn.Module):
    """Experts of transformers' interface; a subclass defines the addition. S: selected pairs of token and expert."""

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        module: Any = self
        tokens, chosen = top_k_index.shape[0], top_k_index.shape[-1]
        expert_S, order_S = top_k_index.reshape(-1).sort(stable=True)
        held = torch.histc(expert_S.float(), bins=module.num_experts, min=0, max=module.num_experts - 1)
        ends = held.cumsum(0, dtype=torch.int32)
        first = module.gate_up_proj if module.has_gate else module.up_proj
        first_bias = (module.gate_up_proj_bias if module.has_gate else module.up_proj_bias) if module.has_bias else None
        x_SH = hidden_states[order_S // chosen]
        inner = self._product(x_SH, first, first_bias, expert_S, ends) + self.added_first(x_SH, ends)
        inner = self.scaled_inner(module._apply_gate(inner) if module.has_gate else module.act_fn(inner), expert_S)
        second_bias = module.down_proj_bias if module.has_bias else None
        out = self._product(inner, module.down_proj, second_bias, expert_S, ends) + self.added_second(inner, ends)
        if getattr(module, "has_post_expert_norm", False):
            out = module.post_expert_norm(out)
        out = out * top_k_weights.reshape(-1)[order_S, None]
        back_S = torch.empty_like(order_S).scatter_(0, order_S, torch.arange(len(order_S), device=order_S.device))
        return out[back_S].view(tokens, chosen, -1).sum(1).to(hidden_states.dtype)

    def _product(self, x_SI: Tensor, weight: Tensor, bias: Tensor | None, expert_S: Tensor, ends: Tensor) -> Tensor:
        transposed: bool = self.is_transposed  # type: ignore[assignment]
        product: Tensor = _grouped_linear(x_SI, weight, ends, None, transposed)
        return product if bias is None else product + bias[expert_S]

    def scaled_inner(self, inner_SI: Tensor, expert_S: Tensor) -> Tensor:
        return inner_SI

    def added_first(self, x_SH: Tensor, ends: Tensor) -> Tensor | int:
        return 0

    def added_second(self, inner_SI: Tensor, ends: Tensor) -> Tensor | int:
        return 0


class ScaledExperts(RoutedExperts):
    """`ia3` `[E, inner]` multiplies the inner activation of each expert."""

    ia3: nn.Parameter

    def scaled_inner(self, inner_SI: Tensor, expert_S: Tensor) -> Tensor:
        return (inner_SI * self.ia3[expert_S]).to(inner_SI.dtype)

    @torch.no_grad()
    def merge_ia3(self) -> None:
        _scale_inner_side(self.down_proj, self.ia3, bool(self.is_transposed))


class LowRankExperts(RoutedExperts):
    """Adds x Aᵀ Bᵀ / rank of the token's expert to both products.

    `lora_a_first`, `lora_a_second` `[E, rank, in]`; `lora_b_first`, `lora_b_second` `[E, out, rank]`.
    """

    lora_a_first: nn.Parameter
    lora_b_first: nn.Parameter
    lora_a_second: nn.Parameter
    lora_b_second: nn.Parameter

    def added_first(self, x_SH: Tensor, ends: Tensor) -> Tensor:
        return low_rank(x_SH, self.lora_a_first, self.lora_b_first, ends)

    def added_second(self, inner_SI: Tensor, ends: Tensor) -> Tensor:
        return low_rank(inner_SI, self.lora_a_second, self.lora_b_second, ends)


def low_rank(x_SI: Tensor, a_ERI: Tensor, b_EOR: Tensor, ends: Tensor) -> Tensor:
    """The update of each row by its expert's A and B, in their own dtype."""
    rank = a_ERI.shape[1]
    extra = -rank % STRIDE_NUMBERS
    inner = _grouped_linear(x_SI.to(a_ERI.dtype), pad(a_ERI, (0, 0, 0, extra)), ends)
    update: Tensor = _grouped_linear(inner, pad(b_EOR, (0, extra)), ends) / rank
    return update.to(x_SI.dtype)


class BatchedExperts(nn.Module):
    """Experts with an equal number of tokens each; tokens are sorted by expert."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        module: Any = self
        x_ESH = hidden_states.view(module.num_experts, -1, module.hidden_size)
        gate, up = self.first(x_ESH).chunk(2, dim=-1)
        return self.second(up * module.act_fn(gate)).view(-1, module.hidden_size)

    def first(self, x_ESH: Tensor) -> Tensor:
        return torch.bmm(x_ESH, self.gate_up_proj)  # type: ignore[arg-type]

    def second(self, inner_ESI: Tensor) -> Tensor:
        return torch.bmm(inner_ESI, self.down_proj)  # type: ignore[arg-type]


class ScaledBatchedExperts(BatchedExperts):
    """`ia3` `[E, inner]`."""

    ia3: nn.Parameter

    def second(self, inner_ESI: Tensor) -> Tensor:
        return super().second((inner_ESI * self.ia3[:, None]).to(inner_ESI.dtype))

    @torch.no_grad()
    def merge_ia3(self) -> None:
        _scale_inner_side(self.down_proj, self.ia3, transposed=True)


class LowRankBatchedExperts(BatchedExperts):
    """As `LowRankExperts`."""

    lora_a_first: nn.Parameter
    lora_b_first: nn.Parameter
    lora_a_second: nn.Parameter
    lora_b_second: nn.Parameter

    def first(self, x_ESH: Tensor) -> Tensor:
        return super().first(x_ESH) + _batched_low_rank(x_ESH, self.lora_a_first, self.lora_b_first)

    def second(self, inner_ESI: Tensor) -> Tensor:
        return super().second(inner_ESI) + _batched_low_rank(inner_ESI, self.lora_a_second, self.lora_b_second)


def _batched_low_rank(x_ESI: Tensor, a_ERI: Tensor, b_EOR: Tensor) -> Tensor:
    update = x_ESI.to(a_ERI.dtype) @ a_ERI.mT @ b_EOR.mT / a_ERI.shape[1]
    return update.to(x_ESI.dtype)


class ScaledSplitExperts(nn.Module):
    """`ia3` `[E, inner]` multiplies the input of each expert's matrix; tokens are sorted, with a number per expert."""

    ia3: nn.Parameter

    def forward(self, inputs: Tensor, expert_size: list[int]) -> Tensor:
        sizes = torch.as_tensor(expert_size, device=inputs.device)
        output: Tensor = super().forward(
            (inputs * self.ia3.repeat_interleave(sizes, dim=0)).to(inputs.dtype), expert_size
        )
        return output

    @torch.no_grad()
    def merge_ia3(self) -> None:
        _scale_inner_side(self.weight, self.ia3, transposed=False)


class LowRankSplitExperts(nn.Module):
    """`lora_a` `[E, rank, in]`, `lora_b` `[E, out, rank]`, as `LowRankExperts`."""

    lora_a: nn.Parameter
    lora_b: nn.Parameter

    def forward(self, inputs: Tensor, expert_size: list[int]) -> Tensor:
        output: Tensor = super().forward(inputs, expert_size)
        parts: tuple[Tensor, ...] = inputs.to(self.lora_a.dtype).split(expert_size)
        updates = [linear(linear(part, a), b) for part, a, b in zip(parts, self.lora_a, self.lora_b, strict=True)]
        return output + (torch.cat(updates) / self.lora_a.shape[1]).to(output.dtype)


SCALED = {"experts": ScaledExperts, "batched": ScaledBatchedExperts, "split": ScaledSplitExperts}


def attach_low_rank(layer: Any, pair: Callable[..., tuple[nn.Parameter, ...]]) -> None:
    """Adds LoRA's matrices to experts; `pair(inputs, outputs, device)` makes A and B for sizes [E, size]."""
    if isinstance(getattr(layer, "weight", None), nn.Parameter):  # split
        experts, outputs, inputs = layer.weight.shape
        layer.lora_a, layer.lora_b = pair([experts, inputs], [experts, outputs], layer.weight.device)
        swap_class(layer, LowRankSplitExperts)
        return
    for side, weight in _both(layer):
        experts, outputs, inputs = weight.mT.shape if _is_transposed(layer) else weight.shape
        a, b = pair([experts, inputs], [experts, outputs], weight.device)
        setattr(layer, f"lora_a_{side}", a)
        setattr(layer, f"lora_b_{side}", b)
    swap_class(layer, LowRankExperts if hasattr(layer, "has_gate") else LowRankBatchedExperts)


@torch.no_grad()
def merge_low_rank(layer: Any) -> None:
    """W -> W + BA / rank for each expert; restores the layer's own class."""
    if hasattr(layer, "lora_a"):  # split
        layer.weight.copy_(layer.weight.float() + layer.lora_b @ layer.lora_a / layer.lora_a.shape[1])
        restore_class(layer, "lora_a", "lora_b")
        return
    for side, weight in _both(layer):
        a, b = getattr(layer, f"lora_a_{side}"), getattr(layer, f"lora_b_{side}")
        update = b @ a / a.shape[1]
        weight.copy_(weight.float() + (update.mT if _is_transposed(layer) else update))
    restore_class(layer, *(f"lora_{which}_{side}" for side in ("first", "second") for which in "ab"))


def _both(layer: Any) -> list[tuple[str, nn.Parameter]]:
    first = layer.gate_up_proj if getattr(layer, "has_gate", True) else layer.up_proj
    return [("first", first), ("second", layer.down_proj)]


def _is_transposed(layer: Any) -> bool:
    """Whether the matrices are `[E, in, out]`."""
    return bool(getattr(layer, "is_transposed", True))


def _scale_inner_side(weight: Any, factor_EI: Tensor, transposed: bool) -> None:
    """`weight` `[E, inner, out]` where transposed, else `[E, out, inner]`."""
    weight.copy_(weight.float() * (factor_EI[:, :, None] if transposed else factor_EI[:, None]))
