"""The order of training batches.

The rows of a step's batch, and the template of each, are pure functions of (seed, step): the number of workers and
processes, or an interruption, does not change them.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset, Sampler

from tfew.data.tokenization import PromptTokenizer, TokenizedPrompt, collate
from tfew.devices.distributed import split_between_processes
from tfew.schema import Batch, Prompt

Key = tuple[int, int]  # (step, row)
MAX_CACHED_ROWS = 1000  # larger sets are tokenised again in every epoch


class PromptDataset(Dataset[TokenizedPrompt]):
    """Item (step, row) is the row's prompt by the template that is drawn for that step."""

    def __init__(self, prompts: Sequence[Sequence[Prompt]], prompt_tokenizer: PromptTokenizer, seed: int) -> None:
        self.prompts, self.prompt_tokenizer, self.seed = prompts, prompt_tokenizer, seed
        self._prefetched: dict[Key, TokenizedPrompt] = {}
        self._cache: dict[Prompt, TokenizedPrompt] = {}

    def __getitems__(self, keys: list[Key]) -> list[TokenizedPrompt]:
        """DataLoader's hook for fetching a whole batch."""
        if all(key in self._prefetched for key in keys):
            return [self._prefetched.pop(key) for key in keys]
        return self._tokenize(keys)

    def __getitem__(self, key: Key) -> TokenizedPrompt:
        return self._prefetched.pop(key, None) or self._tokenize([key])[0]

    def lengths(self, keys: Sequence[Key]) -> list[tuple[int, int]]:
        """Tokens of the input and of the longest choice; the items are kept until they are fetched."""
        self._prefetched = dict(zip(keys, self._tokenize(keys), strict=True))
        return [(len(item.input_ids), max(map(len, item.choice_ids))) for item in self._prefetched.values()]

    def _tokenize(self, keys: Sequence[Key]) -> list[TokenizedPrompt]:
        """Prompts of few-shot sets, which are seen again in every epoch, are tokenised once."""
        drawn = [random.Random(f"{self.seed}/{step}/{row}").choice(self.prompts[row]) for step, row in keys]
        new = [prompt for prompt in dict.fromkeys(drawn) if prompt not in self._cache]
        made = dict(zip(new, self.prompt_tokenizer.tokenize(new), strict=True)) if new else {}
        if len(self.prompts) <= MAX_CACHED_ROWS:
            self._cache.update(made)
        return [made.get(prompt) or self._cache[prompt] for prompt in drawn]


class StepSampler(Sampler[list[Key]]):
    """The (step, row) keys of each step from `start` on; rows reshuffled every epoch, a short last batch dropped.

    With `lengths`, the rows of every `window` steps are regrouped by length: batches with little padding, in random
    order. A step's batch is still a pure function of (seed, step).

    Each of several processes gets its share of the same batch, dealt out `piece` rows at a time.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        steps: int,
        seed: int,
        start: int = 0,
        window: int = 1,
        lengths: Callable[[Sequence[Key]], Sequence[Any]] | None = None,
        piece: int = 1,
    ) -> None:
        self.rows, self.batch_size, self.steps, self.seed, self.start = rows, batch_size, steps, seed, start
        self.window, self.lengths, self.piece = window, lengths, piece
        self.steps_per_epoch = rows // batch_size
        self._order, self._order_epoch = np.empty(0, np.int64), -1

    def __iter__(self) -> Iterator[list[Key]]:
        batches, sorted_from = [], -1
        for step in range(self.start, self.steps):
            first = step - step % self.window
            if self.lengths is None or self.window == 1:
                yield split_between_processes(self.keys(step), self.piece)
                continue
            if first != sorted_from:
                batches, sorted_from = self._batches_by_length(first), first
            yield split_between_processes(batches[step - first], self.piece)

    def keys(self, step: int) -> list[Key]:
        epoch, batch = divmod(step, self.steps_per_epoch)
        if epoch != self._order_epoch:
            self._order, self._order_epoch = self.epoch_order(epoch), epoch
        rows = self._order[batch * self.batch_size : (batch + 1) * self.batch_size]
        return [(step, row) for row in rows.tolist()]

    def _batches_by_length(self, first: int) -> list[list[Key]]:
        assert self.lengths is not None
        keys = [key for step in range(first, first + self.window) for key in self.keys(step)]
        by_length = [key for _, key in sorted(zip(self.lengths(keys), keys, strict=True))]
        batches = [by_length[start : start + self.batch_size] for start in range(0, len(keys), self.batch_size)]
        random.Random(f"{self.seed}/window {first}").shuffle(batches)
        return batches

    def epoch_order(self, epoch: int) -> np.ndarray:
        """All rows in the order of this epoch, a pure function of (seed, epoch); int64."""
        digest = hashlib.sha256(f"{self.seed}/epoch {epoch}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big")).permutation(self.rows)

    def __len__(self) -> int:
        return self.steps


class FewShotDataModule(pl.LightningDataModule):
    """Training batches, one per optimiser step; a resumed run starts at the trainer's step."""

    def __init__(
        self,
        prompts: Sequence[Sequence[Prompt]],
        prompt_tokenizer: PromptTokenizer,
        batch_size: int,
        steps: int,
        seed: int,
        workers: int,
        length_window: int = 1,
        piece: int = 1,
    ) -> None:
        super().__init__()
        self.dataset = PromptDataset(prompts, prompt_tokenizer, seed)
        self.order = StepSampler(
            len(prompts), batch_size, steps, seed, window=length_window, lengths=self.dataset.lengths, piece=piece
        )
        self.workers = workers

    def train_dataloader(self) -> DataLoader[TokenizedPrompt]:
        assert self.trainer is not None
        self.order.start = self.trainer.global_step
        return DataLoader(
            self.dataset,
            batch_sampler=self.order,
            num_workers=self.workers,
            collate_fn=_Collate(self.dataset.prompt_tokenizer.pad_id),
        )


@dataclass(frozen=True)
class _Collate:  # a class and not a closure: worker processes must be able to pickle it
    pad_id: int

    def __call__(self, items: Sequence[TokenizedPrompt]) -> Batch:
        return collate(items, self.pad_id)
