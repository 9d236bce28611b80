"""Caches keys and values of the common prefix of a decoder-only model's inputs.

In-context learning puts the same examples before every query, and many prompts begin with the same instruction. The
rest of all inputs forms one row for the whole batch: each token attends to the common prefix, which is present once,
and to its own input and choice. The cached prefix is reused in later batches as long as it matches.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from tfew.schema import Batch
from tfew.scoring.text_config import text_config, windows

Made = TypeVar("Made")


class KeptInputs:
    """Caches a model's computations for a batch's inputs, for several calls that each score some of the choices.

    Inputs are identified by their tensor object, so a batch with other choices must hold the same object.
    """

    def __init__(self) -> None:
        self._input_ids: Tensor | None = None
        self._made: Any = None

    def of(self, input_ids: Tensor, make: Callable[[], Made]) -> Made:
        if self._input_ids is not input_ids:
            self._input_ids, self._made = None, None  # frees its memory before more is allocated
            self._made = make()
            self._input_ids = input_ids
        made: Made = self._made
        return made

    def release(self) -> None:
        self._input_ids = self._made = None


class Context:
    """The last common prefix, with its keys and values, for one model whose weights do not change."""

    def __init__(self) -> None:
        self.ids_K = torch.empty(0, dtype=torch.long)
        self._layers: list[tuple[Tensor, Tensor]] = []

    def length_for(self, batch: Batch) -> int:
        """Number of tokens of this batch's inputs to take from the cache; 0 if the common part is not the larger one.

        Each input keeps at least one token of its own, since the choices follow its last one.
        """
        common_K = _common_beginning(batch)
        known = _agreement(common_K, self.ids_K.to(common_K.device))
        length = known if 2 * known >= len(common_K) or len(batch) == 1 else len(common_K)
        own = batch.input_mask.sum(-1).max().item() - length
        return length if length >= own else 0

    def cache(self, model: Any, batch: Batch, length: int) -> Cache:
        """A cache of the first `length` tokens of the batch's inputs for one forward pass; computed if missing."""
        ids_K = batch.input_ids[0, :length]
        if _agreement(ids_K, self.ids_K.to(ids_K.device)) < length:
            made = new_cache(model)
            model.base_model(input_ids=ids_K[None], cache=made, use_cache=True)
            self.ids_K = ids_K
            self._layers = layers_of(made)
        return kept_cache([(keys[:, :, :length], values[:, :, :length]) for keys, values in self._layers])


def new_cache(model: Any) -> DynamicCache:
    """An empty cache, without windows: it would drop older tokens, which tokens early in the row still see."""
    return DynamicCache() if windows(model) else DynamicCache(config=text_config(model))


def layers_of(cache: Cache) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each layer."""
    return [(layer.keys, layer.values) for layer in cache.layers]


def kept_cache(layers: list[tuple[Tensor, Tensor]]) -> Cache:
    """A cache with these keys and values, for one forward pass."""
    return Cache(layers=[_Kept(keys, values) for keys, values in layers])


class _Kept(DynamicLayer):
    """Keys and values `[B, H, K, D]`; new ones are appended for attention, but not stored."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


def _common_beginning(batch: Batch) -> Tensor:
    """The tokens that all inputs of the batch begin with, at most all but the last of the shortest input."""
    shortest = int(batch.input_mask.sum(-1).min())
    ids_BL = batch.input_ids[:, : shortest - 1]
    return ids_BL[0, : int((ids_BL == ids_BL[0]).all(0).cumprod(0).sum())]


def _agreement(first_K: Tensor, second_K: Tensor) -> int:
    shorter = min(len(first_K), len(second_K))
    return int((first_K[:shorter] == second_K[:shorter]).cumprod(0).sum())
