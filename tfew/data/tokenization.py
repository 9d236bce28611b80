"""Prompt -> Batch: tokenising, truncating to `max_tokens`, padding."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tfew.errors import UserError
from tfew.schema import Batch, Prompt


@dataclass(frozen=True)
class TokenizedPrompt:
    """A tokenised prompt; every choice ends in the end-of-text token. `cut_*` count tokens that were truncated.

    `context_ids`, the tokens before the input, is the same list object for all prompts with the same context.
    """

    input_ids: list[int]
    choice_ids: list[list[int]]
    label: int
    cut_tokens: int
    cut_choice_tokens: int
    context_ids: Sequence[int] = ()

    @property
    def length(self) -> int:
        return len(self.context_ids) + len(self.input_ids)


@dataclass(frozen=True)
class PromptTokenizer:
    """Tokenises texts, each truncated to `max_tokens`.

    An input with cuttable parts (`Prompt.cuttable`) loses only tokens at the ends of those, the longest first, until
    the longest are equally long. Any other input loses its end.

    For an encoder-decoder, input and choices end in end-of-text, as officially, also after truncation. For a
    decoder-only model a choice continues the input: the input has no end-of-text, the choice starts with a space.
    """

    tokenizer: Any
    max_tokens: int
    decoder_only: bool = False

    @property
    def pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)  # padding is masked: any token will do

    def __call__(self, prompt: Prompt) -> TokenizedPrompt:
        return self.tokenize([prompt])[0]

    def tokenize(self, prompts: Sequence[Prompt]) -> list[TokenizedPrompt]:
        """Tokenises many prompts at once, which is much faster; a choice that they share is tokenised once."""
        inputs = [self._input(ids) for ids in self.tokenizer([prompt.input for prompt in prompts])["input_ids"]]
        texts = list(dict.fromkeys(choice for prompt in prompts for choice in prompt.choices))
        choice_ids = dict(zip(texts, map(self._choice, self._tokenized_choices(texts)), strict=True))
        contexts = {shots: self.context(shots) for shots in dict.fromkeys(prompt.shots for prompt in prompts)}
        encoded = []
        for prompt, (input_ids, cut) in zip(prompts, inputs, strict=True):
            if cut and prompt.cuttable:
                input_ids = self._truncate_cuttable(prompt)
            choices = [choice_ids[choice] for choice in prompt.choices]
            label = -1 if prompt.label is None else prompt.label
            context_ids = contexts[prompt.shots]
            own_ids = input_ids[self._count_bos(input_ids) :] if context_ids else input_ids
            cut_choices = sum(n for _, n in choices)
            encoded.append(TokenizedPrompt(own_ids, [ids for ids, _ in choices], label, cut, cut_choices, context_ids))
        return encoded

    def context(self, shots: Sequence[tuple[str, str]]) -> list[int]:
        """The tokens before an input: solved examples, each followed by an empty line, none truncated.

        Each is tokenised on its own, as the input is. Only the first is preceded by a start-of-text token.
        """
        if not shots:
            return []
        start = self.tokenizer("")["input_ids"][:1]
        first = start[: self._count_bos(start)]
        return [token for ids in (first, *map(self.shot, shots)) for token in ids]

    def shot(self, shot: tuple[str, str]) -> list[int]:
        text, answer = shot
        return list(self.tokenizer(f"{text} {answer}\n\n", add_special_tokens=False)["input_ids"])

    def _count_bos(self, ids: Sequence[int]) -> int:
        """1 if the ids begin with a start-of-text token, else 0."""
        return int(bool(ids) and ids[0] == self.tokenizer.bos_token_id and ids[0] != self.tokenizer.eos_token_id)

    def _input(self, ids: list[int]) -> tuple[list[int], int]:
        if not self.decoder_only:
            return _truncate_before_eos(ids, self.max_tokens)
        if ids and ids[-1] == self.tokenizer.eos_token_id:
            ids = ids[:-1]
        if not ids:  # a choice needs a token before it: start-of-text
            start = self.tokenizer.bos_token_id
            ids = [self.tokenizer.eos_token_id if start is None else start]
        return ids[: self.max_tokens], max(0, len(ids) - self.max_tokens)

    def check_cuttable_budget(self, prompts: Sequence[Prompt]) -> None:
        """Raises UserError if the fixed parts of a prompt leave no tokens for its cuttable parts."""
        for prompt in prompts:
            if prompt.cuttable:
                self._cuttable_budget(prompt, self._segments(prompt))

    def _truncate_cuttable(self, prompt: Prompt) -> list[int]:
        """The input's tokens with its cuttable parts truncated; each part is tokenised on its own."""
        pieces = self._segments(prompt)
        most = even_limit([len(part) for part in pieces[1::2]], self._cuttable_budget(prompt, pieces))
        ids = itertools.chain.from_iterable(part[:most] if number % 2 else part for number, part in enumerate(pieces))
        return [*ids, *self._end_ids()]

    def _segments(self, prompt: Prompt) -> list[list[int]]:
        """Tokens of the parts, alternately fixed and cuttable."""
        bounds = [0, *(place for span in prompt.cuttable for place in span), len(prompt.input)]
        texts = [prompt.input[start:end] for start, end in itertools.pairwise(bounds)]
        return list(self.tokenizer(texts, add_special_tokens=False)["input_ids"])

    def _end_ids(self) -> list[int]:
        return [] if self.decoder_only else [self.tokenizer.eos_token_id]

    def _cuttable_budget(self, prompt: Prompt, pieces: Sequence[Sequence[int]]) -> int:
        """Tokens left for the cuttable parts, at least one for each; raises UserError if there are fewer."""
        kept = sum(map(len, pieces[::2])) + len(self._end_ids())
        if self.max_tokens - kept < len(prompt.cuttable):
            raise UserError(
                f"Template {prompt.template!r} of {prompt.dataset} has {kept} tokens besides the texts that may be cut,"
                f" which leaves nothing of them: max_tokens={self.max_tokens} is too small."
            )
        return self.max_tokens - kept

    def _tokenized_choices(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        if not self.decoder_only:
            return list(self.tokenizer(texts)["input_ids"])
        return list(self.tokenizer([" " + text for text in texts], add_special_tokens=False)["input_ids"])

    def _choice(self, ids: list[int]) -> tuple[list[int], int]:
        return _truncate_before_eos([*ids, self.tokenizer.eos_token_id] if self.decoder_only else ids, self.max_tokens)


def collate(items: Sequence[TokenizedPrompt], pad_id: int) -> Batch:
    """Pads to the longest input, the most choices and the longest choice."""
    choices = max(len(item.choice_ids) for item in items)
    absent: list[list[int]] = [[]]
    rows = [ids for item in items for ids in item.choice_ids + absent * (choices - len(item.choice_ids))]
    choice_ids, choice_mask = _padded(rows, pad_id)
    input_ids, input_mask = _padded([[*item.context_ids, *item.input_ids] for item in items], pad_id)
    return Batch(
        input_ids=input_ids,
        input_mask=input_mask,
        choice_ids=choice_ids.view(len(items), choices, -1),
        choice_mask=choice_mask.view(len(items), choices, -1),
        label=torch.tensor([item.label for item in items]),
    )


def _padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids `[R, W]`, and a mask that is false at padding."""
    length_R = np.fromiter(map(len, rows), np.int64, len(rows))
    mask_RW = np.arange(length_R.max()) < length_R[:, None]
    ids_RW = np.full(mask_RW.shape, pad_id, np.int64)
    ids_RW[mask_RW] = np.fromiter(itertools.chain.from_iterable(rows), np.int64, length_R.sum())
    return torch.from_numpy(ids_RW), torch.from_numpy(mask_RW)


def even_limit(lengths: Sequence[int], room: int) -> int:
    """The largest limit on each length with which their sum is at most `room`."""
    for position, length in enumerate(rising := sorted(lengths)):
        share = room // (len(rising) - position)
        if share < length:
            return share
        room -= length
    return max(rising, default=0)


def _truncate_before_eos(ids: list[int], max_tokens: int) -> tuple[list[int], int]:
    cut = len(ids) - max_tokens
    return (ids, 0) if cut <= 0 else ([*ids[: max_tokens - 1], ids[-1]], cut)
