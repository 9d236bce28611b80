"""The tokens of prompts, padded to a batch."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tfew.schema import Batch


@dataclass(frozen=True)
class TokenizedPrompt:
    """A tokenised prompt; `choice_ids` are the tokens of each choice that count. `cut_*` count what was truncated.

    `labels`: replaces `label` if there are several questions: one each, -1 where unknown.

    `context_ids` come before `input_ids`: the common beginning of prompts with the same shots, one list object for all
    prompts of a call. The end of the shots, whose tokens depend on the next text, may be part of `input_ids`.
    """

    input_ids: list[int]
    choice_ids: list[list[int]]
    label: int
    cut_tokens: int
    cut_choice_tokens: int
    context_ids: Sequence[int] = ()
    labels: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        return len(self.context_ids) + len(self.input_ids)


def collate(items: Sequence[TokenizedPrompt], pad_id: int) -> Batch:
    """Pads to the longest input, the most choices and the longest choice."""
    choices = max(len(item.choice_ids) for item in items)
    absent: list[list[int]] = [[]]
    rows = [ids for item in items for ids in item.choice_ids + absent * (choices - len(item.choice_ids))]
    choice_ids, choice_mask = _padded(rows, pad_id)
    input_ids, input_mask = _padded([[*item.context_ids, *item.input_ids] for item in items], pad_id)
    choice_mask = choice_mask.view(len(items), choices, -1)
    return Batch(
        input_ids=input_ids,
        input_mask=input_mask,
        choice_ids=choice_ids.view(len(items), choices, -1),
        choice_mask=choice_mask,
        label=_labels(items),
        scored_mask=_scored_mask(items, choice_mask),
    )


def _labels(items: Sequence[TokenizedPrompt]) -> torch.Tensor:
    """`[B]`, or `[B, Q]` for prompts with the same number Q of questions; if Q differs, no label may be known."""
    if len({len(item.labels) for item in items}) == 1:
        return torch.tensor([item.labels or item.label for item in items])
    if any(label >= 0 for item in items for label in (item.label, *item.labels)):
        raise ValueError("prompts with different numbers of questions cannot be trained on in one batch")
    return torch.full((len(items),), -1)


def _scored_mask(items: Sequence[TokenizedPrompt], choice_mask_BCT: torch.Tensor) -> torch.Tensor | None:
    """The mask without the tokens that all choices of a question begin with: they do not affect the answer."""
    if not any(item.labels for item in items):
        return None
    scored_BCT = choice_mask_BCT.clone()
    for mask_CT, item in zip(scored_BCT, items, strict=True):
        size = len(item.choice_ids) // max(len(item.labels), 1)
        for start in range(0, len(item.choice_ids), size) if item.labels else ():
            choices = item.choice_ids[start : start + size]
            alike = itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*choices, strict=False))
            beginning = min(sum(1 for _ in alike), min(map(len, choices)) - 1)  # each keeps a token
            mask_CT[start : start + size, :beginning] = False
    return scored_BCT


def _padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids `[R, W]`, and a mask that is false at padding."""
    length_R = np.fromiter(map(len, rows), np.int64, len(rows))
    mask_RW = np.arange(length_R.max()) < length_R[:, None]
    ids_RW = np.full(mask_RW.shape, pad_id, np.int64)
    ids_RW[mask_RW] = np.fromiter(itertools.chain.from_iterable(rows), np.int64, length_R.sum())
    return torch.from_numpy(ids_RW), torch.from_numpy(mask_RW)
