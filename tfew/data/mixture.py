"""A mixture of data sets: training on it is ordinary training, on one prompt with one choice per item.

Paper section 3.4: (IA)³ is pre-trained on T0's training mixture. As in the official code (dataset_readers.py,
data_module.py) every template of a data set is a task of its own, which takes the data set's first
min(rows, cap / number of templates) rows; an epoch goes once through every (task, row), shuffled all together. Unlike
there, a row that a template renders empty is replaced by the next template's or row's prompt; officially such an item
teaches the model to answer "<NO INPUT>" with "<NO LABEL>".
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import Any, overload

from tfew.data.dataset import DatasetSpec
from tfew.data.templates import Template, load_templates, select_templates
from tfew.errors import UserError, unknown_value_error
from tfew.schema import Example, Prompt

log = logging.getLogger(__name__)
MISSING = ("error", "skip")
PROBE_ROWS = 4


@dataclass(frozen=True)
class MixtureSpec:
    """A data-set file with `members`; every key is explained in `configs/dataset/t0_mixture.yaml`."""

    name: str
    official_name: str
    paper_name: str
    shots: None
    cap: int | None
    missing: str
    evaluate: bool
    members: Mapping[str, DatasetSpec]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> MixtureSpec:
        known = [f.name for f in fields(cls)]
        if wrong := sorted(set(known) ^ config.keys()):
            raise UserError(
                f"dataset has unknown or missing keys: {', '.join(wrong)}; a mixture has {', '.join(known)}."
            )
        members = {
            key: replace(DatasetSpec.from_config(member), name=key)
            for key, member in config["members"].items()
            if member is not None
        }
        spec = cls(**{**config, "members": members})
        spec._check()
        return spec

    def _check(self) -> None:
        if not self.members:
            raise UserError(f"dataset.members of {self.name} is empty: nothing to train on.")
        if self.missing not in MISSING:
            raise unknown_value_error("value", self.missing, MISSING, "dataset.missing=")
        if not isinstance(self.evaluate, bool):
            raise UserError(f"dataset.evaluate={self.evaluate!r} is neither true nor false.")
        if self.cap is not None and (type(self.cap) is not int or self.cap < 1):
            raise UserError(f"dataset.cap={self.cap} is neither null nor a whole number of at least 1.")
        for name, member in self.members.items():
            if type(member.rate) not in (int, float) or not 0 < member.rate < float("inf"):
                raise UserError(f"dataset.members.{name}.rate={member.rate} is not a number above 0.")


@dataclass(frozen=True)
class Part:
    """A member's contribution: its templates, and how many of its first rows each of them takes."""

    name: str
    templates: Sequence[Template]
    rows: int
    rate: float

    @property
    def items(self) -> int:
        """Prompts in one epoch: `rate` times all pairs of template and row; of a fraction, the first ones."""
        return int(self.rate * len(self.templates) * self.rows)


def make_part(spec: DatasetSpec, rows: int, cap: int | None, use: str) -> Part:
    """`rows`: how many the member has. All its templates share the cap, including those left out, as officially."""
    templates = select_templates(load_templates(spec.prompts), use, None, ranking=False)
    names = [template.name for template in templates]
    for name in spec.leave_out:
        if name not in names:
            raise unknown_value_error("template", name, names, f"dataset.members.{spec.name}.leave_out=")
    kept = [template for template in templates if template.name not in spec.leave_out]
    if not kept:
        raise UserError(f"{spec.name} has no template left to train with: see templates= and its leave_out.")
    part = Part(spec.name, kept, rows if cap is None else min(rows, cap // len(templates)), spec.rate)
    if rows and not part.items:
        raise UserError(f"{spec.name} has no prompt in the mixture: dataset.cap={cap} or rate={spec.rate} is too low.")
    return part


class Mixture(Sequence[Sequence[Prompt]]):
    """Item i of an epoch is one prompt, in a sequence of length 1 as training takes it; rendered on access.

    Items of a member run through all its templates row by row; `len` is the sum over members of
    rate * templates * rows.
    """

    def __init__(self, parts: Sequence[Part], examples: Sequence[Sequence[Example]]) -> None:
        self.parts, self.examples = parts, examples
        self._ends = list(accumulate(part.items for part in parts))
        self._warned: set[str] = set()

    def __len__(self) -> int:
        return self._ends[-1]

    @overload
    def __getitem__(self, key: int) -> Sequence[Prompt]: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[Sequence[Prompt]]: ...
    def __getitem__(self, key: int | slice) -> Sequence[Prompt] | Sequence[Sequence[Prompt]]:
        if isinstance(key, slice):
            return [self[item] for item in range(*key.indices(len(self)))]
        number, row, template = self.locate(key)
        return [self._prompt(number, row, template)]

    def locate(self, item: int) -> tuple[int, int, int]:
        """(member, row, template) of an item, as positions; raises IndexError beyond the epoch."""
        item = range(len(self))[item]
        number = bisect_right(self._ends, item)
        part = self.parts[number]
        offset = item - (self._ends[number - 1] if number else 0)
        row, template = divmod(offset % (len(part.templates) * part.rows), len(part.templates))
        return number, row, template

    def _prompt(self, number: int, row: int, template: int) -> Prompt:
        """The row's prompt by this template; if empty, by the next templates, then for the next rows."""
        part = self.parts[number]
        for turned in range(part.rows):
            try:
                example = self.examples[number][(row + turned) % part.rows]
            except UserError as error:
                self._warn_once(part.name, error)
                continue
            for turn in range(len(part.templates)):
                candidate = part.templates[(template + turn) % len(part.templates)]
                try:
                    if prompt := candidate.render_target(part.name, example):
                        return prompt
                except UserError as error:
                    self._warn_once(f"{part.name}/{candidate.name}", error)
        raise UserError(f"The templates of {part.name} give empty prompts for all its {part.rows} rows.")

    def _warn_once(self, what: str, error: UserError) -> None:
        """One bad row among millions must not end a run of days; `probe` finds systematic errors before training."""
        if what not in self._warned:
            self._warned.add(what)
            log.warning(f"Skipped (later errors of this kind are not reported): {error}")

    def probe(self) -> tuple[int, int]:
        """Renders all templates on each member's first few rows: the number of prompts, and how many are empty.

        Rows that cannot be rendered raise before training starts. The numbers are of this sample only: counting all
        would mean rendering all.
        """
        prompts = [
            template.render_target(part.name, example)
            for part, examples in zip(self.parts, self.examples, strict=True)
            for example in (examples[row] for row in range(min(PROBE_ROWS, part.rows)))
            for template in part.templates
        ]
        return len(prompts), sum(prompt is None for prompt in prompts)
