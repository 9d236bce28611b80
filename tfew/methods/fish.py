"""FISH mask: train only the entries that matter most to the training examples (Sung et al. 2021, arXiv 2111.09839).

An entry's score is the empirical Fisher information: the square of the gradient of one example's loss, averaged over
the training examples. The k entries with the largest scores over all parameters are trained; the others are fixed by
zeroing their gradients (official `src/models/fishmask.py`). This requires an optimiser that does not change entries
with zero gradients, so no weight decay.

The positions and values of the k entries are saved, with values in the base's dtype: the base itself is trained.
The mask is in hooks on the parameters, which torch drops from a deep copy: copy a model before `compute_mask`.
An object of this class serves one model, the last that it was attached to.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tfew.errors import UserError, shorten_list
from tfew.methods.base import Method, check_fit

INFINITY_BITS = 0x7F800000  # bits of float32 infinity; finite non-negative scores have smaller bits, in the same order
INT32_MAX = 2**31 - 1


class FISH(Method):
    """`keep` is the fraction of all parameters that is trained."""

    trains_base = True
    takes_quantized = False
    needs_mask = True

    def __init__(self, keep: float) -> None:
        if not 0 < keep <= 1:
            raise UserError(f"method.keep={keep} is not a fraction between 0 and 1.")
        self.keep = keep
        self.kept: dict[str, Tensor] = {}  # by parameter: flat positions, ascending; empty before `compute_mask`
        self._handles: list[RemovableHandle] = []

    def check_optimizer(self, optimizer: Mapping[str, Any]) -> None:
        decay = optimizer.get("weight_decay") or 0
        if decay > 0:
            raise UserError(
                f"optimizer.weight_decay={decay} would change the entries that a FISH mask keeps fixed, because it"
                " needs no gradient; set optimizer.weight_decay=0."
            )

    def attach(self, model: nn.Module) -> None:
        if self._k(model) == 0:
            raise UserError(f"method.keep={self.keep} of {_total(model):,} parameters is less than one; raise it.")
        self.kept = {}
        model.requires_grad_(True)

    def compute_mask(self, model: nn.Module, losses: Iterable[Tensor]) -> None:
        """Selects the entries. A restored adapter's entries are kept: the saved file must hold all of them."""
        if not self.kept:
            self._hold(model, top_positions(fisher_scores(model, losses), self._k(model)))

    def mask_tensors(self) -> dict[str, Tensor]:
        return self.kept

    def load_mask(self, model: nn.Module, found: Mapping[str, Tensor]) -> None:
        device = next(model.parameters()).device
        self._hold(model, {name: positions.to(device) for name, positions in found.items()})

    def stored(self, model: nn.Module) -> dict[str, Tensor]:
        """`NAME.indices` (int32 if large enough) and `NAME.values` of each parameter with entries in the mask."""
        if not self.kept:
            raise RuntimeError("a FISH mask has no entries before it is calibrated or restored")
        parameters = dict(model.named_parameters())
        weights = {}
        for name, positions in self.kept.items():
            parameter = parameters[name].detach()
            weights[f"{name}.indices"] = positions.to(_index_dtype(parameter))
            weights[f"{name}.values"] = parameter.take(positions)
        return weights

    def check_stored(self, model: nn.Module, stored: Mapping[str, Tensor]) -> None:
        _check_sizes(dict(model.named_parameters()), stored, self._k(model))

    def restore(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        parameters = dict(model.named_parameters())
        kept = _positions(parameters, weights, self._k(model))
        with torch.no_grad():
            for name, positions in kept.items():
                parameter = parameters[name]
                parameter.put_(positions, weights[f"{name}.values"].to(parameter))
        self._hold(model, kept)

    def trained_count(self, model: nn.Module) -> int:
        return self._k(model)

    def stored_bytes(self, model: nn.Module) -> int:
        """Exact once there is a mask; before that, an estimate with all k entries in the largest parameter."""
        if self.kept:
            return super().stored_bytes(model)
        largest = max(model.parameters(), key=torch.Tensor.numel)
        return self._k(model) * (largest.element_size() + _index_dtype(largest).itemsize)

    def _k(self, model: nn.Module) -> int:
        return int(_total(model) * self.keep)

    def _hold(self, model: nn.Module, kept: dict[str, Tensor]) -> None:
        """From now on, masks the gradients of all other entries; replaces an earlier mask."""
        for handle in self._handles:
            handle.remove()
        self._handles, self.kept = [], kept
        for name, parameter in model.named_parameters():
            positions = kept.get(name, torch.empty(0, dtype=torch.int64, device=parameter.device))
            hook = partial(mask_gradient, positions=positions)
            self._handles.append(parameter.register_post_accumulate_grad_hook(hook))


def mask_gradient(parameter: Tensor, positions: Tensor) -> None:
    """Zeroes the gradient except at these flat positions, in place, without a second tensor of the parameter's size."""
    gradient = parameter.grad
    if gradient is not None:
        values = gradient.take(positions)
        gradient.zero_().put_(positions, values)


def fisher_scores(model: nn.Module, losses: Iterable[Tensor]) -> dict[str, Tensor]:
    """By parameter, the mean over `losses` of the squared gradient, float32, in the parameter's shape."""
    examples = 0
    with _summing_squares(model) as scores:
        for loss in losses:
            if not torch.isfinite(loss):
                raise UserError(f"The loss of training example {examples} is {loss.item()}; try model.dtype=float32.")
            loss.backward()
            examples += 1
    if examples == 0:
        raise RuntimeError("a FISH mask needs at least one training example")
    return {name: score.div_(examples) for name, score in scores.items()}


@contextmanager
def _summing_squares(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """A context in which backward passes add squared gradients to the sums, one parameter at a time, and free them."""
    model.zero_grad(set_to_none=True)
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in model.named_parameters()}

    def add(parameter: Tensor, name: str) -> None:
        if parameter.grad is not None:
            gradient = parameter.grad.float()
            sums[name].addcmul_(gradient, gradient)
            parameter.grad = None

    handles = [
        parameter.register_post_accumulate_grad_hook(partial(add, name=name))
        for name, parameter in model.named_parameters()
    ]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


def top_positions(scores: Mapping[str, Tensor], k: int) -> dict[str, Tensor]:
    """Flat positions, ascending, of exactly the k largest scores; ties go to the first in the mapping's order."""
    bits = {name: score.flatten().view(torch.int32) for name, score in scores.items()}
    threshold = _kth_largest(list(bits.values()), k)
    ties_left = k - sum(int((b > threshold).sum()) for b in bits.values())
    kept = {}
    for name, b in bits.items():
        ties = (b == threshold).nonzero().flatten()[:ties_left]
        ties_left -= len(ties)
        positions = torch.cat([(b > threshold).nonzero().flatten(), ties]).sort().values
        if len(positions):
            kept[name] = positions
    return kept


def _kth_largest(scores: list[Tensor], k: int) -> int:
    """The k-th largest score, found exactly by binary search over bits, without concatenating or sorting.

    `scores` are the bits of non-negative float32 numbers; as integers they have the same order.
    """
    threshold = 0
    for bit in reversed(range(31)):
        candidate = threshold | 1 << bit
        if candidate <= INFINITY_BITS and sum(int((s >= candidate).sum()) for s in scores) >= k:
            threshold = candidate
    return threshold


def _positions(parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor], k: int) -> dict[str, Tensor]:
    """The positions in a saved adapter, int64, on their parameters' devices; raises UserError if they do not fit."""
    known = _check_sizes(parameters, weights, k)
    bad = [name for name, positions in known.items() if not _is_flat_index(positions, parameters[name].numel())]
    if bad:
        raise UserError(f"The adapter's positions do not fit this model's parameters: {shorten_list(bad)}.")
    return {
        name: known[name].to(parameter.device, torch.int64) for name, parameter in parameters.items() if name in known
    }


def _check_sizes(parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor], k: int) -> dict[str, Tensor]:
    """The file's positions by parameter; checks names and shapes, but no values."""
    names = [key.removesuffix(".indices") for key in weights if key.endswith(".indices")]
    indices = {name: weights[f"{name}.indices"] for name in names}
    # expected from the file's positions: for parameters of the model, values of the same length
    known = {name: positions for name, positions in indices.items() if name in parameters}
    suffixes = ("indices", "values")
    check_fit({f"{name}.{suffix}": p for name, p in known.items() for suffix in suffixes}, weights)
    found = sum(positions.numel() for positions in known.values())
    if found != k:
        raise UserError(f"The adapter holds {found:,} entries, but method.keep gives {k:,} on this model.")
    return known


def _is_flat_index(positions: Tensor, size: int) -> bool:
    if positions.dtype not in (torch.int32, torch.int64) or positions.ndim != 1 or len(positions) == 0:
        return False
    return bool(positions[0] >= 0 and positions[-1] < size and (positions.diff() > 0).all())


def _index_dtype(parameter: Tensor) -> torch.dtype:
    return torch.int32 if parameter.numel() <= INT32_MAX else torch.int64


def _total(model: nn.Module) -> int:
    """Number of parameters; a weight that two layers share counts once."""
    return sum(parameter.numel() for parameter in model.parameters())
