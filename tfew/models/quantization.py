"""`model.dtype=int8` and `nf4`: frozen linear layers in 8 or 4 bits, by torchao.

int8 has one scale for each output. nf4 is the 4-bit NormalFloat of QLoRA (Dettmers et al. 2023, arXiv 2305.14314,
section 3): blocks of 64 weights, whose scales are in 8 bits. Embeddings, output layer, norms and biases keep their
dtype, in which everything is computed, and what a method adds is float32 as ever. A layer decodes its weight when it
runs, and again in the backward pass: torchao's own int8 layer would keep the decoded weight until then.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tfew.errors import UserError

QUANTIZED = INT8, NF4 = ("int8", "nf4")
BLOCK = 64  # weights of nf4 that share a scale
SCALE_BLOCKS = (256, 128, 64, 32, 16, 8, 4, 2, 1)  # scales that share a scale: the first that divides their number
LEAST_SHARE = 0.5  # of the weights outside embeddings and output layer


class QuantizedLinear(nn.Linear):
    """A frozen `nn.Linear` with a weight of torchao, which has the shape and dtype of the decoded one."""

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = _DecodedProduct.apply(input, self.weight)
        return output if self.bias is None else output + self.bias


class _DecodedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor) -> Tensor:
        ctx.weight, ctx.dtype = weight, input.dtype
        return nn.functional.linear(input, decoded(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return (gradient @ decoded(ctx.weight).to(gradient.dtype)).to(ctx.dtype), None


def decoded(weight: Any) -> Tensor:
    """The weight as an ordinary tensor of its dtype."""
    plain: Tensor = weight.get_original_weight() if hasattr(weight, "get_original_weight") else weight.dequantize()
    return plain


def quantize(model: nn.Module, kind: str, device: torch.device) -> None:
    """Replaces the weights in place, and moves the model to the device, the weights one by one.

    Raises UserError if torchao is missing, or most weights are not those of an `nn.Linear`.
    """
    layers = list(quantizable(model))
    _check_share(model, layers, kind)
    for layer in layers:
        weight = _encoded(layer.weight.detach().to(device).contiguous(), kind)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.__class__ = QuantizedLinear
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and not (name == "weight" and isinstance(module, QuantizedLinear)):
                parameter.data = parameter.data.to(device)
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)


def quantizable(model: nn.Module) -> Iterator[nn.Linear]:
    """Every `nn.Linear` but the output layer, and but small ones that have no whole blocks."""
    kept = _kept(model)
    for module in model.modules():
        if type(module) is nn.Linear and id(module.weight) not in kept and module.weight.numel() % BLOCK == 0:
            yield module


def _kept(model: Any) -> set[int]:
    """The parameters of embeddings and output layer, by id."""
    ends = filter(None, (model.get_input_embeddings(), model.get_output_embeddings()))
    return {id(parameter) for layer in ends for parameter in layer.parameters()}


def saved_bytes(model: nn.Module, kind: str) -> int:
    """What quantising this model, of shapes alone or real, will save, less the one decoded weight of the layer that
    runs."""
    layers = list(quantizable(model))
    saved = sum(layer.weight.nbytes - _encoded_bytes(layer, kind) for layer in layers)
    return saved - max((layer.weight.nbytes for layer in layers), default=0)


def _check_share(model: nn.Module, layers: list[nn.Linear], kind: str) -> None:
    kept = _kept(model)
    total = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in kept)
    share = sum(layer.weight.numel() for layer in layers) / max(total, 1)
    if share < LEAST_SHARE:
        raise UserError(
            f"model.dtype={kind} is for models of nn.Linear layers; in {type(model).__name__} they are"
            f" {100 * share:.0f} % of the weights: use model.dtype=bfloat16."
        )


def _encoded(weight: Tensor, kind: str) -> Tensor:
    torchao = torchao_for(kind)
    if kind == NF4:
        encoded: Tensor = torchao.to_nf4(weight, BLOCK, _scale_block(weight.numel()))
        return encoded
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    torchao.quantize_(layer, torchao.Int8WeightOnlyConfig())
    return layer.weight.detach()


def _scale_block(weights: int) -> int:
    return next(size for size in SCALE_BLOCKS if weights // BLOCK % size == 0)


def _encoded_bytes(layer: nn.Linear, kind: str) -> int:
    weights = layer.weight.numel()
    if kind == INT8:
        return weights + layer.out_features * layer.weight.element_size()
    scales = weights // BLOCK
    return weights // 2 + scales + scales // _scale_block(weights) * layer.weight.element_size()


def torchao_for(kind: str) -> Any:
    """The module `torchao.quantization`; raises UserError if it is not installed."""
    try:
        import torchao.quantization
    except ImportError as error:
        raise UserError(
            f'model.dtype={kind} needs torchao, which is not installed: pip install "tfew[quantized]".'
        ) from error
    return torchao.quantization
