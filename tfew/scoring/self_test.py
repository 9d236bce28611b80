"""Tests whether a fast engine agrees with the plain one, on a few made-up tokens with the current weights.

They are scored with both engines, and with a mask that shows too much: rounding errors are small compared with the
effect of a wrong mask, whatever the model's weights and dtype. Attention windows matter in longer texts only, so a text
longer than a window is tested before the first such batch, and must agree far better than one without the window.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from tfew.schema import Batch
from tfew.scoring.prefix_layout import BEYOND_WINDOWS, RIGHT, TOO_MUCH
from tfew.scoring.text_config import rope_limit, text_config, windows

# the largest accepted difference from the plain engine, as a share of the difference with a wrong mask: in float32,
# and in 16 bits
ENGINE_AGREEMENT, ENGINE_AGREEMENT_16_BIT = 1e-3, 0.1
WINDOW_AGREEMENT = 0.5  # the same as a share of the difference without windows
SHORT, BEYOND = 9, 6  # tokens of the longest made-up input; tokens beyond a window
Way = Callable[..., Tensor]


def window_exceeded(model: Any, batch: Batch | None) -> int:
    """The largest window that is smaller than the longest row of a batch, with all choices in the row; 0 for none."""
    sizes = windows(model)
    if batch is None or not sizes:
        return 0
    length_B = batch.choice_mask.sum((1, 2))
    longest = int((length_B + (1 if model.config.is_encoder_decoder else batch.input_mask.sum(-1))).max())
    return max((size for size in sizes if size < longest), default=0)


def rope_limit_exceeded(model: Any, batch: Batch) -> bool:
    """Whether some input and choice of a decoder-only model are together beyond `rope_limit`: texts of unlike length
    must then not share a forward pass.
    """
    limit = None if model.config.is_encoder_decoder else rope_limit(model)
    if limit is None or is_fake(model):
        return False
    return int((batch.input_mask.sum(-1) + batch.choice_mask.sum(-1).max(-1).values).max()) > limit


def agrees_with_plain(model: Any, plain: Callable[[Any, Batch], Tensor], way: Way, window: int = 0) -> bool:
    """Whether `way(model, batch, sees=...)` agrees with `plain`, for texts that are longer than `window`."""
    if is_fake(model):
        return True  # a dry run, without values to compare
    batch = made_up_batch(model, window)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            expected = plain(model, batch)
            masks = (RIGHT, TOO_MUCH, BEYOND_WINDOWS)[: 3 if window else 2]
            ours, *wrong = (_difference(way(model, batch, sees=sees), expected) for sees in masks)
    except (ValueError, TypeError, IndexError, RuntimeError, AttributeError, KeyError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return False  # it needs another mask or other positions
    finally:
        model.train(was_training)
    return ours < agreement(model) * max(wrong) and (not window or ours < WINDOW_AGREEMENT * wrong[1])


def agreement(model: Any) -> float:
    exact = dtype(model) == torch.float32 and not torch.is_autocast_enabled(next(model.parameters()).device.type)
    return ENGINE_AGREEMENT if exact else ENGINE_AGREEMENT_16_BIT


def _difference(ours: Tensor, expected: Tensor) -> float:
    return (ours - expected).abs().max().item()


def is_fake(model: Any) -> bool:
    return isinstance(next(model.parameters()), FakeTensor)


def dtype(model: Any) -> torch.dtype:
    of_embeddings: torch.dtype = model.get_input_embeddings().weight.dtype
    return of_embeddings


def made_up_batch(model: Any, window: int = 0) -> Batch:
    """Two inputs of different length, more than half alike; choices that share tokens and differ in length and number.

    A decoder-only model's inputs, and an encoder-decoder's choices, are longer than the window.
    """
    longest, tokens = SHORT, 4
    if window and model.config.is_encoder_decoder:
        tokens = window + BEYOND
    elif window:
        longest = max(SHORT, window + BEYOND)
    generator = torch.Generator().manual_seed(0)
    rows = model.get_input_embeddings().num_embeddings
    ids = torch.randint(0, rows, (2 * longest + 6 * tokens,), generator=generator)
    ids = torch.where(torch.isin(ids, torch.tensor(_special_ids(model))), (ids + rows // 2) % rows, ids)
    alike = longest // 2 + 1
    ids[longest : longest + alike] = ids[:alike]
    choice_ids = ids[2 * longest :].view(2, 3, tokens).clone()
    choice_ids[:, 1, :2] = choice_ids[:, 0, :2]
    length_BC1 = torch.tensor([[[0], [0], [1]], [[1], [0], [tokens]]])
    batch = Batch(
        input_ids=ids[: 2 * longest].view(2, longest),
        input_mask=torch.arange(longest) < torch.tensor([[longest], [longest - 2]]),
        choice_ids=choice_ids,
        choice_mask=torch.arange(tokens) < tokens - length_BC1,
        label=torch.tensor([0, 1]),
        task_id=torch.tensor([0, 0]),  # for a model with vectors of many tasks: the bare model
    )
    return batch.to(next(model.parameters()).device)


def _special_ids(model: Any) -> list[int]:
    """Padding and image tokens: a model may treat them differently from words."""
    named = {**text_config(model).to_dict(), **model.config.to_dict()}
    ids = [value for name, value in named.items() if name.endswith(("token_id", "token_index"))]
    return [value for value in ids if isinstance(value, int)]
