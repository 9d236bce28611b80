"""Prediction for one task: a row becomes prompts, and their scores become a label with probabilities.

A row is rendered with every template that the task was trained with, and the probabilities are averaged. Templates that
do not answer with the labels in their order (they reverse the question, or have other choices) are left out: their
predictions do not give the label.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from tfew.data.dataset import DatasetSpec
from tfew.data.labels import SEPARATORS, LabelRule, LabelSetRule
from tfew.data.templates import Template
from tfew.decisions.curve import summarise_curve
from tfew.decisions.decision import Decision
from tfew.decisions.held_out_scores import HeldOutScores, log_mass
from tfew.errors import UserError, shorten_list
from tfew.label_sets.questions import YES, by_question, has_label_sets, render
from tfew.label_sets.scores import set_probability
from tfew.label_sets.thresholds import DEFAULT
from tfew.ranking.norms import rescored
from tfew.ranking.temperature import probabilities
from tfew.schema import Example, Prediction, Prompt

log = logging.getLogger(__name__)
PLACEHOLDER = 0  # passed to templates for the unknown label: some read it


@dataclass(frozen=True)
class Labelled:
    """The prediction for a row; `probabilities` of all choices, by label, or by text if each row has its own; they sum
    to one.

    `label`: None if the row is too doubtful for one (`threshold=`); `guess`: the likeliest label, which has
    `probability`. `labels`: the set that holds the right one as often as `sets=` asks, the likeliest first, or None.
    `log_mass`: see `tfew.decisions.held_out_scores`.
    `bounds`: the number of choices whose probability is only an upper bound, since they were left out of the ranking
    (`tfew.ranking.shortlist`); `probability` is then a lower bound.
    If a row may have several labels, `label_set` has them, and `label` all in one text; each has a probability of its
    own, and `probability` is that of exactly this set, assuming independent labels.
    """

    task: str
    label: str | None
    probability: float
    probabilities: dict[str, float]
    guess: str = ""
    labels: tuple[str, ...] | None = None
    log_mass: float = 0.0
    bounds: int = 0
    label_set: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.guess:
            object.__setattr__(self, "guess", self.label)

    @property
    def abstained(self) -> bool:
        return self.label is None

    def with_threshold(self, threshold: float | None) -> "Labelled":
        """The prediction with another threshold; raises UserError for a row that may have several labels."""
        if threshold is not None and self.label_set is not None:
            raise UserError(
                f"threshold={threshold:g} needs one label per row, but rows of {self.task} may have several, each with"
                " a threshold of its own: leave it out."
            )
        return replace(self, label=self.guess if Decision(threshold).answers(self.probability) else None)


class WrongTemplatesError(UserError):
    """No row can be labelled with these templates."""


class TaskPredictor:
    """`norm` and `temperature`: how choices are scored, and how scores become probabilities.

    `thresholds`: by label, the probability from which a row is given it, if rows may have several.
    """

    def __init__(
        self,
        task: str,
        spec: DatasetSpec,
        templates: Sequence[Template],
        norm: str,
        temperature: float,
        thresholds: Mapping[str, float] | None = None,
    ) -> None:
        self.task, self.spec, self.norm, self.temperature = task, spec, norm, temperature
        self.labels, self.several = spec.label_names, has_label_sets(spec)
        self.thresholds = [(thresholds or {}).get(name, DEFAULT) for name in self.labels or ()]
        self.decision = Decision()
        self.held_out: Callable[[], HeldOutScores] | None = None  # raises UserError if there are none
        self._templates = {template.name: template for template in templates}
        self._spellings = _spellings(spec)
        self._spelling_for: dict[str, tuple[str, ...]] = {}  # spelling of the label that each tried template needs

    @cached_property
    def answering(self) -> dict[str, Any] | None:
        """The curve of `tfew.decisions.curve` on the held-out rows; None if there are no comparable ones."""
        try:
            rows = None if self.held_out is None else self.held_out()
        except UserError:
            return None
        return None if rows is None else summarise_curve(rows.top_R, rows.is_right_R)

    @property
    def templates(self) -> tuple[str, ...]:
        return tuple(self._templates)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a row needs: those of the data set, or if it names none, those of the templates."""
        if self.spec.columns:
            return self.spec.columns
        shown = frozenset[str]().union(*(template.columns for template in self._templates.values()))
        label = () if self.spec.label is None else self.spec.label.columns
        return tuple(sorted(shown - {"answer_choices", *label}))

    @property
    def text_column(self) -> str | None:
        """The column that a plain text fills; None if there are several, or none."""
        return self.columns[0] if len(self.columns) == 1 else None

    def check_columns(self, columns: Iterable[Any], where: str) -> None:
        """Raises UserError if columns that a row needs are missing."""
        needed = self.spec.columns or (() if self.text_column is None else (self.text_column,))
        self.spec.check_columns(needed, columns, where)

    def prompts(self, number: int, row: Mapping[str, Any] | str) -> list[Prompt]:
        """The prompts of row `number` (from 1) by each template, with `dataset` set to the task; raises UserError."""
        row = self._as_row(number, row)
        self.check_columns(row, f"{self.task}, row {number}")
        rendered = [self._rendered(template, number, row) for template in list(self._templates.values())]
        found = [replace(prompt, dataset=self.task, label=None) for prompt in rendered if prompt is not None]
        kept = [prompt for prompt in found if self._comparable(prompt, found[0])]
        if not kept:
            what = "is rendered empty by every template" if not found else "has other choices than there are labels"
            raise UserError(f"{self.task}, row {number} {what}.")
        return kept

    def _comparable(self, prompt: Prompt, first: Prompt) -> bool:
        if self.labels is None:
            return prompt.choices == first.choices
        return self.several or len(prompt.choices) == len(self.labels)

    def labelled(self, prompts: Sequence[Prompt], predictions: Sequence[Prediction]) -> Labelled:
        """The label of a row, from the predictions of its prompts, whose scores are sums."""
        if self.several:
            return self._label_set(prompts, predictions)
        scores_1MC = np.array([[rescored(prediction, "sum", self.norm).scores for prediction in predictions]])
        sums_1MC = np.array([[prediction.scores for prediction in predictions]])
        (probability_C,) = probabilities(scores_1MC, self.temperature).tolist()
        names = prompts[0].choices if self.labels is None else self.labels
        by_name: dict[str, float] = {}
        for name, probability in zip(names, probability_C, strict=True):
            by_name[name] = by_name.get(name, 0.0) + probability
        best = names[max(range(len(names)), key=probability_C.__getitem__)]
        label = best if self.decision.answers(by_name[best]) else None
        labels = self.decision.label_set(by_name)
        mass, bounds = float(log_mass(sums_1MC)[0]), max(prediction.bounds for prediction in predictions)
        return Labelled(self.task, label, by_name[best], by_name, best, labels, mass, bounds)

    def _label_set(self, prompts: Sequence[Prompt], predictions: Sequence[Prediction]) -> Labelled:
        """The labels whose probability reaches their thresholds."""
        of_prompts = [by_question(prompt, [found]) for prompt, found in zip(prompts, predictions, strict=True)]
        scores_KMC = np.array(
            [
                [rescored(one[1][0], "sum", self.norm).scores for one in of_label]
                for of_label in zip(*of_prompts, strict=True)
            ]
        )
        probability_K = probabilities(scores_KMC, self.temperature)[:, YES]
        given_K = probability_K >= np.array(self.thresholds)
        names = self.labels or ()
        labels = tuple(name for name, given in zip(names, given_K, strict=True) if given)
        by_name = dict(zip(names, probability_K.tolist(), strict=True))
        probability = set_probability(probability_K, given_K)
        return Labelled(self.task, self._joined(labels), probability, by_name, label_set=labels)

    def _joined(self, labels: Sequence[str]) -> str:
        """The labels as the table has them; a JSON list if a label contains the separator."""
        separator = self.spec.label.separator if isinstance(self.spec.label, LabelSetRule) else SEPARATORS[0]
        if any(separator in name for name in self.labels or ()):
            return json.dumps(labels, ensure_ascii=False)
        return separator.join(labels)

    def _as_row(self, number: int, row: Mapping[str, Any] | str) -> Mapping[str, Any]:
        if not isinstance(row, str):
            is_text = "idx" in self.spec.rename  # else it is a row's number, and rows are numbered here
            return {key: value for key, value in row.items() if key != "idx" or is_text}
        if self.text_column is None:
            columns = f"columns: {shorten_list(self.columns)}"
            raise UserError(
                f"{self.task}, row {number}: a row of {self.spec.name} is not a plain text; it has {columns}."
            )
        return {self.text_column: row}

    def _rendered(self, template: Template, number: int, row: Mapping[str, Any]) -> Prompt | None:
        if self.labels is None or self.several:
            return render(self.spec, template, self._example(number, row, None))
        spelling = self._spelling_for.get(template.name)
        if spelling is None:
            return self._tried(template, number, row)
        return template.render(self.spec.name, replace(self._example(number, row, spelling[PLACEHOLDER]), label=None))

    def _tried(self, template: Template, number: int, row: Mapping[str, Any]) -> Prompt | None:
        """Renders the first row that the template applies to with each label in turn.

        It must answer with each label, and its input must not depend on the label; otherwise it is left out.
        """
        errors: list[UserError] = []
        for spelling in self._spellings:
            try:
                shown = [template.render(self.spec.name, self._example(number, row, label)) for label in spelling]
            except UserError as error:  # it needs another spelling of the label, or the row is bad
                errors.append(error)
                continue
            if not any(shown):
                return None
            if self._in_order(shown):
                self._spelling_for[template.name] = spelling
                return shown[PLACEHOLDER]
        if len(errors) == len(self._spellings):
            raise errors[0]
        self._leave_out(template.name)
        return None

    def _in_order(self, shown: Sequence[Prompt | None]) -> bool:
        """Whether these prompts, one per label, differ only in the right choice, which is the label's."""
        labels = [None if prompt is None else prompt.label for prompt in shown]
        inputs = {None if prompt is None else (prompt.input, len(prompt.choices)) for prompt in shown}
        return labels == list(range(len(shown))) and len(inputs) == 1

    def _example(self, number: int, row: Mapping[str, Any], label: str | None) -> Example:
        """The row with this label instead of its own; None: without any."""
        rule = self.spec.label
        if rule is None or label is None:
            example = self.spec.example(number - 1, row, self.task, labelled=False)
        else:
            spec, fields = self.spec, {k: v for k, v in row.items() if self.spec.rename.get(k, k) != rule.column}
            if rule.column in spec.rename:  # a text's column has the name that the label's had in training
                spec, fields = replace(spec, rename={}), spec.renamed(fields)
            example = spec.example(number - 1, {**fields, rule.column: label}, self.task)
        return replace(example, idx=number)

    def _leave_out(self, name: str) -> None:
        if len(self._templates) == 1:
            raise WrongTemplatesError(
                f"No template of {self.spec.name} answers with its labels in their order (the last, {name!r}, has other"
                " choices or reverses the question): choose others with templates=."
            )
        del self._templates[name]
        log.info(f"Note: template {name!r} does not answer with the labels of {self.task} in their order; left out.")


def _spellings(spec: DatasetSpec) -> list[tuple[str, ...]]:
    """The spellings of labels that templates may expect: numbers, or names."""
    if not isinstance(spec.label, LabelRule) or spec.label_names is None:
        return []
    names, first = spec.label_names, spec.label.first
    if first is None:
        return [names]
    numbers = tuple(str(first + index) for index in range(len(names)))
    meant = [spec.label.index(number) for number in numbers]  # a label's name may be another's number
    return list(dict.fromkeys([numbers, names] if meant == list(range(len(names))) else [names]))
