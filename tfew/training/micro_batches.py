"""Splits a step's examples into micro-batches, which are halved when memory (or `memory_gb=`) is exhausted.

Losses are shares of the whole step, so smaller micro-batches give the same gradients, except for dropout's draws.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from tfew.errors import UserError
from tfew.schema import Batch
from tfew.scoring.memory_budget import OUT_OF_MEMORY, saved_tensors_within, too_little
from tfew.scoring.score import token_logprob

log = logging.getLogger(__name__)


class MicroBatches:
    """The number of examples at a time, and of chunks of their choices; both are restored when a run is resumed.

    `limit_bytes`: limit on tensors saved for the backward pass; None: the device's memory. Nothing is halved if devices
    shard the weights (`equal_passes`: all must run the same number of forward passes), and examples are not halved if
    the loss is a mean over each micro-batch (`loss_mean="micro_batch"`).
    """

    def __init__(
        self, size: int | None, limit_bytes: float | None, engine: str, loss_mean: str = "step",
        equal_passes: bool = False,
    ) -> None:  # fmt: skip
        self.size, self.limit_bytes, self.engine = size, limit_bytes, engine
        self.loss_mean, self.equal_passes = loss_mean, equal_passes
        self.choice_chunks = 1
        self._fits = 0  # padded tokens of the largest chunk that was found to fit
        self._succeeded = False

    def split(self, batch: Batch) -> list[Batch]:
        return batch.split(self.size or len(batch))

    def count(self, batch: Batch) -> int:
        return -(-len(batch) // (self.size or len(batch)))

    def attempts(self) -> Iterator["MicroBatches"]:
        """Until one succeeds: `for attempt in x.attempts(): with attempt.halved_if_out_of_memory(batch, step): ...`."""
        self._succeeded = False
        while not self._succeeded:
            yield self

    @contextmanager
    def halved_if_out_of_memory(self, batch: Batch, step: int) -> Iterator[None]:
        """A context in which running out of memory ends the attempt and halves what is computed at a time."""
        try:
            yield
            self._succeeded = True
        except OUT_OF_MEMORY as error:
            self._halve(batch, step, error)
        if not self._succeeded and torch.cuda.is_available():
            torch.cuda.empty_cache()

    @contextmanager
    def within_budget(self, model: nn.Module, micro_batch: Batch) -> Iterator[None]:
        """A context for a forward pass; raises OverBudgetError as soon as it saves more than `limit_bytes`."""
        if self.choice_chunks > 1 and self.limit_bytes is not None:
            with saved_tensors_within(self.limit_bytes, model):
                self._try_largest_chunk(model, micro_batch)
        with saved_tensors_within(self.limit_bytes, model):
            yield

    def _try_largest_chunk(self, model: nn.Module, batch: Batch) -> None:
        """A chunk saves its tensors when the backward pass recomputes it: tested once for each new size."""
        chunk = max(batch.by_choices(self.choice_chunks), key=_padded_tokens)
        if (size := _padded_tokens(chunk) + chunk.input_ids.numel()) > self._fits:
            token_logprob(model, chunk, self.engine)
            self._fits = size

    def _halve(self, batch: Batch, step: int, error: RuntimeError) -> None:
        """Halves the micro-batch, or splits the choices further, for the rest of the run; logged each time."""
        examples = min(self.size or len(batch), len(batch))
        choices = int(batch.choice_mask.any(-1).sum(-1).max())
        too_large = f"There is too little memory for {examples} examples at a time, and"
        if self.equal_passes:
            raise UserError(
                f"{too_large} devices that shard the weights cannot halve that on their own: set a smaller"
                " micro_batch_size= or max_tokens=."
            ) from error
        if self.loss_mean == "micro_batch" and examples > 1:
            raise UserError(
                f"{too_large} with fidelity.loss_mean=micro_batch the loss depends on their number: set"
                " micro_batch_size= yourself."
            ) from error
        if examples == 1 and self.choice_chunks >= choices:
            raise too_little(self.limit_bytes, "one choice of one example in training") from error
        if examples > 1:
            self.size = (examples + 1) // 2
        else:
            self.choice_chunks, self._fits = min(2 * self.choice_chunks, choices), 0
        log.info(
            f"Note: step {step} needs more memory than there is"
            f"{'' if self.limit_bytes is None else f' in memory_gb={self.limit_bytes / 1e9:g}'}; from here on"
            f" {self.size or examples} examples are computed at a time, their choices"
            f" {'in parts' if self.choice_chunks > 1 else 'at once'}."
        )


def _padded_tokens(chunk: Batch) -> int:
    """Tokens of the choices that are present, each padded to the longest."""
    return int(chunk.choice_mask.any(-1).sum()) * chunk.choice_ids.shape[2]
