"""The four things that travel: Example -> Prompt -> Batch -> Prediction.

Letters in names, here and everywhere: B examples, L input tokens, C answer choices, T tokens of a choice,
N choices that are present (not padding) in a batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from tfew.files.untrusted import parse_own_json, validated

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Example:
    """One row of a data set after the label rule; knows no prompt.

    `fields` is what templates see; `label` is the index of the right choice, None where unknown. `unknown_label` is
    what the row's label is called, where that is none of the task's.

    Where a row may have several labels, `labels` are the indices of all of them (None where unknown) in place of
    `label`, and `other_labels` those that are none of the task's.
    """

    idx: int
    fields: dict[str, Any]
    label: int | None
    unknown_label: str | None = None
    labels: tuple[int, ...] | None = None
    other_labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """One example rendered by one template: text only.

    A generation task has `choices=(target,)` and `label=0`. `cuttable`: the parts of `input`, (start, end) in
    characters, that may be shortened where it has too many tokens; with none, its end is cut. `shots` are the (input,
    answer) pairs that stand before it in context; `content_free` is the input with nothing of the row in it, where the
    scoring method wants it.

    Several `questions`, each by its name, share the input: the choices are those of the first, then those of the
    second, equally many of each. `answers` has the right one of each question's own, in place of `label`.
    """

    dataset: str
    template: str
    idx: int
    input: str
    choices: tuple[str, ...]
    label: int | None
    cuttable: tuple[tuple[int, int], ...] = ()
    shots: tuple[tuple[str, str], ...] = ()
    content_free: str | None = None
    questions: tuple[str, ...] = ()
    answers: tuple[int, ...] | None = None

    @property
    def has_label(self) -> bool:
        return self.label is not None or self.answers is not None

    @property
    def choices_by_question(self) -> list[tuple[str, ...]]:
        size = len(self.choices) // max(len(self.questions), 1)
        return [self.choices[start : start + size] for start in range(0, len(self.choices), size)]


@dataclass(frozen=True)
class Batch:
    """Prompts as padded token ids.

    input_ids, input_mask `[B, L]`; choice_ids, choice_mask `[B, C, T]`; masks are bool. Examples may have
    different numbers of choices: an absent choice is all-false in `choice_mask`. label `[B]` is -1 where unknown.
    task_id `[B]` says whose vectors each example is scaled by, where a model holds those of many tasks.

    Where each example has Q questions, whose choices follow one another, label is `[B, Q]`. scored_mask `[B, C, T]`,
    where it is not all of choice_mask, leaves out what the choices of a question begin with alike.
    """

    input_ids: torch.Tensor
    input_mask: torch.Tensor
    choice_ids: torch.Tensor
    choice_mask: torch.Tensor
    label: torch.Tensor
    task_id: torch.Tensor | None = None
    scored_mask: torch.Tensor | None = None

    def __post_init__(self) -> None:
        shapes = {name: tuple(tensor.shape) for name, tensor in vars(self).items() if tensor is not None}
        B, L = self.input_ids.shape
        _, C, T = self.choice_ids.shape
        wanted = {"input_ids": (B, L), "input_mask": (B, L), "choice_ids": (B, C, T), "choice_mask": (B, C, T)}
        wanted |= {"scored_mask": (B, C, T), "label": (B, *self.label.shape[1:2])}
        if wrong := {name: shape for name, shape in shapes.items() if shape != wanted.get(name, (B,))}:
            raise ValueError(f"a batch of {B} examples, {L} input tokens, {C} choices of {T} tokens has {wrong}")

    def __len__(self) -> int:
        return len(self.label)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def split(self, size: int) -> list[Batch]:
        """Consecutive parts of at most `size` examples; padding stays as it is."""
        return [self.part(slice(start, start + size)) for start in range(0, len(self), size)]

    def tasks_of(self, example: torch.Tensor) -> torch.Tensor | None:
        """The tasks of these examples (positions in the batch); None where the batch names no tasks."""
        return None if self.task_id is None else self.task_id[example]

    def part(self, examples: slice) -> Batch:
        """Some of the examples; padding stays as it is."""
        return self._each(lambda tensor: tensor[examples])

    def chosen(self, is_chosen_B: torch.Tensor) -> Batch:
        """The examples for which this is true; padding stays as it is."""
        return self._each(lambda tensor: tensor[is_chosen_B])

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        tensors: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(tensor) for name, tensor in tensors.items() if tensor is not None})

    def right_choices(self) -> Batch:
        """The same examples with the right choice of each, or of each of its questions, alone."""
        label_BQ = self.label if self.label.dim() == 2 else self.label[:, None]
        choices = self.choice_ids.shape[1] // label_BQ.shape[1]  # of a question
        place_BQ = label_BQ + choices * (label_BQ.new_ones(label_BQ.shape[1]).cumsum(0) - 1)
        choice_BQT = place_BQ[:, :, None].expand(-1, -1, self.choice_ids.shape[2])
        return replace(
            self,
            choice_ids=self.choice_ids.gather(1, choice_BQT),
            choice_mask=self.choice_mask.gather(1, choice_BQT),
            label=self.label * 0,
            scored_mask=None if self.scored_mask is None else self.scored_mask.gather(1, choice_BQT),
        )

    def scored(self, token_logprob_BCT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same with 0 at tokens that are not scored, and the mask of those that are."""
        if self.scored_mask is None:
            return token_logprob_BCT, self.choice_mask
        return token_logprob_BCT.masked_fill(~self.scored_mask, 0), self.scored_mask

    def by_question(self) -> Batch:
        """Each question as an example of its own, with the tokens that are scored; for losses, not for a model."""
        if self.label.dim() == 1:
            return self
        questions, (_, C, T) = self.label.shape[1], self.choice_ids.shape
        scored_BCT = self.choice_mask if self.scored_mask is None else self.scored_mask
        return Batch(
            input_ids=self.input_ids.repeat_interleave(questions, 0),
            input_mask=self.input_mask.repeat_interleave(questions, 0),
            choice_ids=self.choice_ids.reshape(-1, C // questions, T),
            choice_mask=scored_BCT.reshape(-1, C // questions, T),
            label=self.label.flatten(),
        )

    def by_choices(self, parts: int) -> list[Batch]:
        """At most so many batches of the same examples, each with some of the choices, in order: to be computed."""
        size = -(-self.choice_ids.shape[1] // parts)
        return [
            replace(self, choice_ids=ids_BCT, choice_mask=mask_BCT, scored_mask=None)
            for ids_BCT, mask_BCT in zip(self.choice_ids.split(size, 1), self.choice_mask.split(size, 1), strict=True)
        ]


# of a prediction in JSON: these values
LEFT_OUT = {"fold": None, "same": None, "shortlisted": None, "bounds": 0, "question": None}


@dataclass(frozen=True)
class Prediction:
    """What rank classification says of one prompt; `scores` has one number per choice, higher is better.

    `tokens`, `characters` and `bytes` count each choice's (tokens with end-of-text where it is scored), `unconditional`
    are the sums of their log-probabilities after an empty input, None where they were not asked for: with them a score
    under one norm can be made one under another (`tfew.ranking.norms`). That goes for one context; of several
    `contexts` (ensemble in-context learning) the scores are what their predictions were combined to. `fold` is the one
    that held the row out, in a cross-validation. `same` has for each choice the first one of the same tokens, where
    there are such (`tfew.ranking.ties`). `bounds` says of how many choices the score is an upper bound, since they were
    left out, and `shortlisted` under which norm: what is predicted is right under that alone
    (`tfew.ranking.shortlist`). `question` is the one of the prompt's that this answers, where it has several.
    """

    dataset: str
    template: str
    idx: int
    label: int | None
    predicted: int
    scores: tuple[float, ...]
    tokens: tuple[int, ...]
    characters: tuple[int, ...] | None = None
    bytes: tuple[int, ...] | None = None
    unconditional: tuple[float, ...] | None = None
    contexts: int = 1
    fold: int | None = None
    same: tuple[int, ...] | None = None
    shortlisted: str | None = None
    bounds: int = 0
    question: str | None = None

    def to_json(self) -> str:
        known = {name: value for name, value in vars(self).items() if name not in LEFT_OUT or value != LEFT_OUT[name]}
        return json.dumps(known, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> Prediction:
        """What `to_json` gave; raises ValueError or TypeError for anything else."""
        row = parse_own_json(line)
        if not isinstance(row, dict):
            raise ValueError(f"it is {type(row).__name__}, no JSON object")
        fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
        found = validated(cls(**fields))
        for name in ("predicted", "label"):
            if (choice := fields[name]) is not None and not 0 <= choice < len(found.scores):
                raise ValueError(f"{name} is {choice}, and there are {len(found.scores)} choices")
        return found
