"""Several labels a row as yes/no questions, one for each label, that share the prompt's input.

A label's choices are "LABEL: no" and "LABEL: yes". Those of all labels are choices of one prompt, so that an engine
computes the text once for all of them, in training, too. Losses and scores are each question's own
(`tfew.schema.Batch.by_question`), and count only the tokens in which its choices differ.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from tfew.data.dataset import DatasetSpec
from tfew.data.labels import LabelSetRule
from tfew.data.templates import Template
from tfew.errors import UserError
from tfew.schema import Example, Prediction, Prompt

YES = 1  # the index of yes among a question's choices


def has_label_sets(spec: DatasetSpec) -> bool:
    """Whether a row may have several labels."""
    return isinstance(spec.label, LabelSetRule)


def render(spec: DatasetSpec, template: Template, example: Example, number: int | None = None) -> Prompt | None:
    """The row's prompt by this template; if it may have several labels, with a question for each.

    `number`: as in `Template.render`.
    """
    prompt = template.render(spec.name, example, number)
    return prompt if prompt is None or not has_label_sets(spec) else with_questions(prompt, spec, example.labels)


def with_questions(prompt: Prompt, spec: DatasetSpec, labels: Sequence[int] | None) -> Prompt:
    """`prompt` has the labels' words as its choices, in the labels' order; `labels`: the row's, None where unknown."""
    names, answers = spec.label_names or (), tuple(spec.answers)
    if len(prompt.choices) != len(names):
        raise UserError(
            f"Template {prompt.template!r} answers with {', '.join(prompt.choices)}; the labels of {spec.name} are"
            f" {', '.join(names)}: put words for them in the same order with choices=[...]."
        )
    if len(set(answers)) != 2 or not all(answers):
        raise UserError(f"dataset.answers={list(answers)} must be two different words, for no and for yes.")
    return replace(
        prompt,
        choices=tuple(f"{words}: {answer}" for words in prompt.choices for answer in answers),
        label=None,
        questions=names,
        answers=None if labels is None else tuple(int(place in labels) for place in range(len(names))),
    )


def own_texts(prompt: Prompt) -> list[str]:
    """The scored part of each choice: for a question, the text after the common beginning of its choices."""
    if not prompt.questions:
        return list(prompt.choices)
    texts = []
    for choices in prompt.choices_by_question:
        alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*choices, strict=False))
        start = sum(1 for _ in alike)
        texts += [choice[start:] or choice for choice in choices]
    return texts


def by_question(
    prompt: Prompt, predictions: Sequence[Prediction]
) -> list[tuple[tuple[str, ...], list[Prediction]]]:  # fmt: skip
    """For each question its choices, and its part of each prediction (one prediction per context of the prompt)."""
    if not prompt.questions:
        return [(prompt.choices, list(predictions))]
    found = []
    for place, choices in enumerate(prompt.choices_by_question):
        own = slice(place * len(choices), (place + 1) * len(choices))
        found.append((choices, [_of_question(prompt, place, own, prediction) for prediction in predictions]))
    return found


def _of_question(prompt: Prompt, place: int, own: slice, prediction: Prediction) -> Prediction:
    scores = prediction.scores[own]
    return replace(
        prediction,
        label=None if prompt.answers is None else prompt.answers[place],
        predicted=max(range(len(scores)), key=scores.__getitem__),
        scores=scores,
        tokens=prediction.tokens[own],
        characters=None if prediction.characters is None else prediction.characters[own],
        bytes=None if prediction.bytes is None else prediction.bytes[own],
        unconditional=None if prediction.unconditional is None else prediction.unconditional[own],
        question=prompt.questions[place],
    )


def refuse_in_context(spec: DatasetSpec) -> None:
    """Raises UserError for rows with several labels."""
    if has_label_sets(spec):
        raise UserError(
            f"icl.mode= shows solved examples with one answer each, but the rows of {spec.name} may have several"
            " labels: set icl.mode=none."
        )
