"""Intrinsic SAID: one short vector updates all weights through a fixed random projection (Aghajanyan et al. 2020,
arXiv 2012.13255; official T-Few code `src/models/intrinsic.py`).

Fastfood (Le et al. 2013) projects the shared vector to D numbers, the ray, for each parameter: D is the sum of the
shape, not the product. The update of a vector is scale * ray, of a matrix the outer product of the ray's two parts,
rank 1.

* The shared vector starts at zero, so the function is unchanged. There the gradient of the outer products is exactly
  zero, so only layer norms and biases contribute to the first step. Official behaviour.
* A shared vector longer than a parameter's transform is truncated, not folded: official (`F.pad` with negative
  padding). On T0-3B no transform is longer than 65,536, so most of 500,000 dimensions never receive a gradient.
* The official code scales the gradient by 1/sqrt(L) at each of the two Walsh-Hadamard transforms; here it is exact.
  Adafactor's step does not depend on a constant factor, but clipping does, and L differs between parameters.
* The updated weights exist while their layer runs (and for the backward pass): a second copy of the model in
  training, as in the official code. A parameter must be used by the layer that owns it, as in transformers' T5, BART,
  GPT-2, GPT-NeoX, OPT and Llama; a parameter that only another module reads would not be updated.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.hooks import RemovableHandle

from tfew.errors import UserError
from tfew.methods.base import Method

BLOCK = 64  # the Walsh-Hadamard transform works on this many numbers at a time: two matrix products up to L = 4,096


class SAID(Method):
    """`dimensions` is the budget: the shared vector gets it less one for each parameter's scale, and less one more."""

    # as in the official code: small updates of bfloat16 weights would always be rounded away; where autocast rounds the
    # sum of a float32 weight and its update, they are kept on average
    trains_base = True
    may_be_zero = ("seed",)
    takes_quantized = False

    def __init__(self, dimensions: int, seed: int) -> None:
        self.dimensions = dimensions
        self.seed = seed
        self._handles: list[RemovableHandle] = []

    def attach(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        size = self.dimensions - len(parameters) - 1
        if size < 1:
            raise UserError(
                f"method.dimensions={self.dimensions} leaves nothing for the shared vector: {type(model).__name__} has"
                f" {len(parameters)} parameters, each of which takes one for its scale."
            )
        bad = [f"{name} {list(p.shape)}" for name, p in parameters.items() if p.ndim not in (1, 2)]
        if bad:
            raise UserError(f"method=said updates vectors and matrices; {type(model).__name__} has {', '.join(bad)}.")
        device = next(iter(parameters.values())).device
        shared = SharedVector(size, {name: p.shape for name, p in parameters.items()}, self.seed, device)
        shared.to(device)
        indices = {id(parameter): index for index, parameter in enumerate(parameters.values())}
        # a tied weight has several owners, and gets the same update in all of them
        for owner in model.modules():
            owned = {local: indices[id(p)] for local, p in owner.named_parameters(recurse=False)}
            if owned:
                move = MovedParameters(shared, owned)
                self._handles.append(owner.register_forward_pre_hook(move.put))
                self._handles.append(owner.register_forward_hook(move.remove, always_call=True))
        model.said = shared

    @torch.no_grad()
    def merge(self, model: nn.Module) -> None:
        """Adds the updates to the weights; the model must be the last that this object was attached to."""
        shared: Any = model.said
        del model.said
        for index, parameter in enumerate(model.parameters()):
            parameter.copy_(parameter.float() + shared.update(index))
        for handle in self._handles:
            handle.remove()


class SharedVector(nn.Module):
    """The trained parameters, and the constants of the projections, concatenated, with a slice per parameter.

    The constants depend on the seed and the parameter's name alone, so they need not be saved.
    """

    signs: Tensor  # int8
    permutation: Tensor
    gaussian: Tensor
    hadamard: Tensor

    def __init__(
        self, size: int, shapes: Mapping[str, torch.Size], seed: int, device: torch.device | None = None
    ) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(size, dtype=torch.float32, device=device))
        self.scales = nn.Parameter(torch.ones(len(shapes), dtype=torch.float32))
        self.shapes = list(shapes.values())
        self.lengths = [power_of_two(sum(shape)) for shape in self.shapes]
        constants = [random_constants(length, seed, name) for length, name in zip(self.lengths, shapes, strict=True)]
        for name, parts in zip(("signs", "permutation", "gaussian"), zip(*constants, strict=True), strict=True):
            self.register_buffer(name, torch.cat(parts), persistent=False)
        self.register_buffer("hadamard", hadamard_matrix(BLOCK), persistent=False)

    def update(self, index: int) -> Tensor:
        """The update of the parameter with this index, in its shape, float32."""
        shape, scale = self.shapes[index], self.scales[index]
        start, length = sum(self.lengths[:index]), self.lengths[index]
        signs, permutation, gaussian = (
            constant[start : start + length] for constant in (self.signs, self.permutation, self.gaussian)
        )
        ray = fastfood(self.vector, signs, permutation, gaussian, sum(shape), self.hadamard)
        if len(shape) == 1:
            return ray * scale
        return torch.outer(ray[: shape[0]] * scale, ray[shape[0] :])


class MovedParameters:
    """Forward hooks of one layer: the layer sees updated parameters while it runs, and the frozen ones otherwise.

    An instance attribute shadows the registered parameter of the same name, which is not changed: names,
    `state_dict` and code that reads `wo.weight.dtype` see the frozen base.
    """

    def __init__(self, shared: SharedVector, indices: Mapping[str, int]) -> None:
        self.shared = shared
        self.indices = dict(indices)

    def put(self, layer: nn.Module, inputs: Any) -> None:
        for name, index in self.indices.items():
            base = layer.get_parameter(name)
            layer.__dict__[name] = (base + self.shared.update(index)).to(base.dtype)

    def remove(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        for name in self.indices:
            layer.__dict__.pop(name, None)


def fastfood(
    vector: Tensor, signs: Tensor, permutation: Tensor, gaussian: Tensor, size: int, hadamard: Tensor
) -> Tensor:
    """The ray `[size]`: the first entries of H G Pi H B v / (sqrt(L sum(G²)) sqrt(size / L)).

    B are the `signs`, G the `gaussian`, both diagonal, Pi the `permutation`, all `[L]`; v is the `vector`, filled up
    with zeros or cut to L. `hadamard` as in `walsh_hadamard`.
    """
    length = len(signs)
    padded = pad(vector, (0, length - len(vector)))
    mixed = walsh_hadamard(padded * signs, hadamard).index_select(0, permutation)
    projected = walsh_hadamard(mixed * gaussian, hadamard)[:size]
    return projected / (length * gaussian.square().sum() * size / length).sqrt()


def walsh_hadamard(x: Tensor, hadamard: Tensor) -> Tensor:
    """H x, unnormalised, for `x` `[L]`, L a power of two; `hadamard` is H of some smaller power of two, b.

    H of L is a Kronecker product of smaller ones, so x is seen as an array with log_b(L) axes of b and each is
    transformed by itself: O(L log L) for fixed b, in few operations, which is what counts on a GPU.
    """
    axes, rest = [], len(x)
    while rest > 1:
        axes.append(min(rest, len(hadamard)))
        rest //= axes[-1]
    # autocast would round the products to bfloat16
    with torch.autocast(x.device.type, enabled=False):
        for axis in axes:  # transforms the last axis and makes it the first, once for each axis
            x = (x.reshape(-1, axis) @ hadamard[:axis, :axis]).T
    return x.reshape(-1)


def hadamard_matrix(size: int) -> Tensor:
    """Sylvester's matrix of +-1, float32 `[size, size]`; its corners are the smaller ones."""
    matrix = torch.ones(1, 1)
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    while len(matrix) < size:
        matrix = torch.kron(two, matrix)
    return matrix


def random_constants(length: int, seed: int, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Signs, permutation and Gaussian numbers of one parameter's projection.

    From numpy's RandomState, which is guaranteed to give the same numbers in all versions: saved adapters need this.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    source = np.random.RandomState(np.frombuffer(digest, dtype="<u4"))
    signs = source.randint(0, 2, length).astype(np.int8) * 2 - 1
    permutation = source.permutation(length).astype(np.int64)
    gaussian = source.standard_normal(length).astype(np.float32)
    return torch.from_numpy(signs), torch.from_numpy(permutation), torch.from_numpy(gaussian)


def power_of_two(least: int) -> int:
    """The smallest power of two that is not below `least`."""
    return 1 << (least - 1).bit_length()
