"""The four data types between modules: Example -> Prompt -> Batch -> Prediction.

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
    """One row of a data set after the label rule, without a prompt.

    `fields` is what templates see; `label` is the index of the right choice, None if unknown. `unknown_label` is the
    name of the row's label, if it is not one of the task's.

    If a row may have several labels, `labels` has the indices of all (None if unknown) instead of `label`, and
    `other_labels` those that are not the task's.
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
    characters, that may be truncated if it has too many tokens; without any, its end is. `shots` are the (input,
    answer) pairs that precede it in context; `content_free` is the input without the row's content, if the scoring
    method needs it.

    Several `questions`, each with a name, share the input: the choices are those of the first, then those of the
    second, equally many each. `answers` has the index of the right choice within each question, instead of `label`.
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
    different numbers of choices: an absent choice is all-false in `choice_mask`. label `[B]` is -1 if unknown.
    task_id `[B]` selects the task whose vectors scale each example, if a model has those of many tasks.

    If each example has Q questions, whose choices follow one another, label is `[B, Q]`. scored_mask `[B, C, T]`, if it
    differs from choice_mask, excludes the common beginning of a question's choices.
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
        """Consecutive parts of at most `size` examples; padding is kept."""
        return [self.part(slice(start, start + size)) for start in range(0, len(self), size)]

    def tasks_of(self, example: torch.Tensor) -> torch.Tensor | None:
        """The tasks of these examples (positions in the batch); None if the batch has no tasks."""
        return None if self.task_id is None else self.task_id[example]

    def part(self, examples: slice) -> Batch:
        """Some of the examples; padding is kept."""
        return self._each(lambda tensor: tensor[examples])

    def chosen(self, is_chosen_B: torch.Tensor) -> Batch:
        """The examples for which this is true; padding is kept."""
        return self._each(lambda tensor: tensor[is_chosen_B])

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        tensors: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(tensor) for name, tensor in tensors.items() if tensor is not None})

    def right_choices(self) -> Batch:
        """The same examples with only the right choice of each, or of each of its questions."""
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
        """The log-probabilities with 0 at tokens that are not scored, and the mask of scored tokens."""
        if self.scored_mask is None:
            return token_logprob_BCT, self.choice_mask
        return token_logprob_BCT.masked_fill(~self.scored_mask, 0), self.scored_mask

    def by_question(self) -> Batch:
        """Each question as a separate example, with its scored tokens; for losses, not for a model."""
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
        """At most `parts` batches of the same examples, each with some of the choices, in order."""
        size = -(-self.choice_ids.shape[1] // parts)
        return [
            replace(self, choice_ids=ids_BCT, choice_mask=mask_BCT, scored_mask=None)
            for ids_BCT, mask_BCT in zip(self.choice_ids.split(size, 1), self.choice_mask.split(size, 1), strict=True)
        ]


# of a prediction in JSON: these values
LEFT_OUT = {"fold": None, "same": None, "shortlisted": None, "bounds": 0, "question": None}


@dataclass(frozen=True)
class Prediction:
    """The result of rank classification for one prompt; `scores` has one number per choice, higher is better.

    `tokens`, `characters` and `bytes` are counts for each choice (tokens with end-of-text if it is scored),
    `unconditional` the sums of its log-probabilities after an empty input, None if not requested: with them a score
    under one norm can be converted to another (`tfew.ranking.norms`). That holds for one context; with several
    `contexts` (ensemble in-context learning) the scores are those of the combined predictions. `fold`: the fold that
    held the row out, in cross-validation. `same`: for each choice the first one with the same tokens, if there are such
    (`tfew.ranking.ties`). `bounds`: the number of choices whose score is only an upper bound, since they were left out;
    `shortlisted`: the norm used for that, the only one under which the prediction is valid (`tfew.ranking.shortlist`).
    `question`: the question of the prompt that this answers, if it has several.
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
        """The inverse of `to_json`; raises ValueError or TypeError for anything else."""
        row = parse_own_json(line)
        if not isinstance(row, dict):
            raise ValueError(f"it is {type(row).__name__}, no JSON object")
        fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
        found = validated(cls(**fields))
        for name in ("predicted", "label"):
            if (choice := fields[name]) is not None and not 0 <= choice < len(found.scores):
                raise ValueError(f"{name} is {choice}, and there are {len(found.scores)} choices")
        return found
