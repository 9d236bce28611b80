"""Memory budgets (`memory_gb=`), and splitting of batches that do not fit into memory.

Memory beside the weights is used for tensors that training saves for its backward pass, which are counted, and for
temporary tensors of a forward pass, which are estimated. A batch that does not fit is halved, by examples first, then
by the choices of one example. Losses are shares of the whole step and scores are computed per choice, so the results
are those of the whole batch, except that dropout is drawn differently.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tfew.errors import UserError
from tfew.schema import Batch
from tfew.scoring.text_config import text_config
from tfew.scoring.vocabulary import LOGIT_BYTES

NUMBERS_KEPT = 4  # for each input or output of a matrix, attention's included


class OverBudgetError(RuntimeError):
    """More would be saved for the backward pass than the budget allows."""


OUT_OF_MEMORY = (OverBudgetError, torch.OutOfMemoryError)


class SavedBytes:
    """Bytes saved for a backward pass so far."""

    bytes = 0


@contextmanager
def counting_saved_tensors(model: nn.Module, limit_bytes: float | None = None) -> Iterator[SavedBytes]:
    """Counts the tensors saved for a backward pass, each storage once; weights do not count."""
    seen = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    kept = SavedBytes()

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:  # not its data pointer, which fake tensors lack
            seen.add(storage._cdata)
            kept.bytes += storage.nbytes()
            if limit_bytes is not None and kept.bytes > limit_bytes:
                raise OverBudgetError(f"{kept.bytes:,} bytes would be kept, the budget is {limit_bytes:,.0f}")
        return tensor.detach()  # else an operation that saves its own output is freed by a backward pass only

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        yield kept


@contextmanager
def saved_tensors_within(limit_bytes: float | None, model: nn.Module) -> Iterator[None]:
    """Raises OverBudgetError as soon as more than this is saved for a backward pass; weights do not count."""
    if limit_bytes is None:
        yield
        return
    with counting_saved_tensors(model, limit_bytes):
        yield


def scoring_bytes(model: Any, batch: Batch, engine: str) -> int:
    """Approximate peak memory of one forward pass without gradients: an upper estimate, from shapes alone.

    `engine`: also the result of `tfew.scoring.score.way_of_scoring`.
    """
    examples, length = batch.input_ids.shape
    present = int(batch.choice_mask.any(-1).sum())
    tokens, padded = int(batch.choice_mask.sum()), present * batch.choice_ids.shape[2]
    width, widest, heads, item_bytes = _sizes(model)
    rows = len(model.get_output_embeddings().weight)
    if engine == "plain":  # inputs are repeated for each choice, and all logits are in memory, twice in float32
        repeated = present * length
        tokens = padded
        logit_bytes = tokens * rows * (item_bytes + 8)
    else:
        repeated = examples * length
        logit_bytes = 3 * min(LOGIT_BYTES, 4 * tokens * rows)
    states = max(repeated, tokens) * (4 * widest + 8 * width)
    beside = int(batch.choice_mask.sum((1, 2)).max())
    row = length if model.config.is_encoder_decoder else length + beside
    seen = max(row * row, beside * (beside + length) if engine == "seq2seq" else 0)
    scores = 2 * examples * heads * seen
    in_rows = 0 if engine == "seq2seq" or not model.config.is_encoder_decoder else 4 * padded * width  # one a choice
    return int((states + scores + in_rows) * item_bytes + logit_bytes)


def rough_bytes(model: Any, batch: Batch, engine: str) -> float:
    """An upper bound, up to thirty times too high, on what training saves for its backward pass: to spot small runs."""
    examples, length = batch.input_ids.shape
    present, tokens = int(batch.choice_mask.any(-1).sum()), batch.choice_ids.shape[2]
    inputs = present if engine == "plain" or not model.config.is_encoder_decoder else examples
    places = inputs * length + present * tokens
    numbers = NUMBERS_KEPT * places * sum(sum(weight.shape) for weight in _matrices(model))
    logits = present * tokens * len(model.get_output_embeddings().weight) if engine == "plain" else 0
    return 4.0 * (numbers + NUMBERS_KEPT * logits)


def halves(batch: Batch) -> tuple[Batch, Batch] | None:
    """Splits a batch by examples, or one example by choices; None for one choice of one example."""
    if len(batch) > 1:
        first, *rest = batch.split((len(batch) + 1) // 2)
        return first, rest[0]
    present = int(batch.choice_mask.any(-1).sum())
    if present == 1:
        return None
    first, second = replace(
        batch, choice_ids=batch.choice_ids[:, :present], choice_mask=batch.choice_mask[:, :present], scored_mask=None
    ).by_choices(2)
    return first, second


def joined(parts: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
    """Joins the parts of `halves` to `[B, C, T]` again."""
    whole = torch.cat(parts, dim=0 if len(batch) > 1 else 1)
    absent = batch.choice_mask.shape[1] - whole.shape[1]
    return torch.nn.functional.pad(whole, (0, 0, 0, absent))


def too_little(limit_bytes: float | None, what: str) -> UserError:
    """The error when nothing can be halved any more."""
    has = "The device has" if limit_bytes is None else f"memory_gb={limit_bytes / 1e9:g} is"
    return UserError(
        f"{has} too little memory for {what}: use shorter texts (max_tokens=), a smaller model"
        f"{'' if limit_bytes is None else ', or a larger budget'}."
    )


def _sizes(model: Any) -> tuple[int, int, int, int]:
    """Width of the states, widest layer except the output head, number of heads, bytes per element."""
    config, head = text_config(model), model.get_output_embeddings()
    width = getattr(config, "d_model", None) or config.hidden_size
    heads: int = getattr(config, "num_heads", None) or getattr(config, "num_attention_heads", None) or 1  # no attention
    widest = max(max(weight.shape) for weight in _matrices(model))
    return width, widest, heads, head.weight.element_size()


def _matrices(model: Any) -> list[Tensor]:
    """The matrices that states are multiplied with, except the output head's."""
    head = model.get_output_embeddings()
    weights = [
        module.weight
        for module in model.modules()
        if module is not head and not isinstance(module, nn.Embedding) and getattr(module, "weight", None) is not None
    ]
    return [weight for weight in weights if weight.dim() == 2]
