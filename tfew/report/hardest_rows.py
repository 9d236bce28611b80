"""The held-out rows with the highest loss: those whose given label the adapter found least probable.

Rows with a wrong label are among them, so a person should read them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfew.data.split import own_text
from tfew.ranking.temperature import aligned, probabilities
from tfew.schema import Prediction
from tfew.task import Task

MOST_ROWS = 10
LEAST_ROWS = 3  # shown even if fewer are wrong


@dataclass(frozen=True)
class HardRow:
    """`number`: of the row in its table, from 1; `loss`: -log of the given label's probability, in nats."""

    number: int
    text: str
    given: str
    predicted: str
    given_probability: float
    predicted_probability: float
    fold: int | None

    @property
    def is_right(self) -> bool:
        return self.given == self.predicted

    @property
    def loss(self) -> float:
        return -math.log(self.given_probability) if self.given_probability else math.inf


def hardest_rows(task: Task, predictions: Sequence[Prediction], temperature: float) -> list[HardRow]:
    """The wrong ones by loss, highest first; if hardly any is wrong, also those that nearly were.

    Of rows with several labels, those with a wrong answer about one label.
    """
    idx, scores_RMC, label_R = aligned(predictions)
    if not idx:
        return []
    probability_RC = probabilities(scores_RMC, temperature)
    predicted_R = probability_RC.argmax(-1)
    given_R = probability_RC[np.arange(len(idx)), label_R]
    is_right_R = predicted_R == label_R
    shown = min(max(int((~is_right_R).sum()), LEAST_ROWS), MOST_ROWS)
    order = np.lexsort((given_R, is_right_R))[:shown]
    number_by_idx = {example.idx: number for number, example in enumerate(task.examples)}
    questions = [
        question for _, question in dict.fromkeys((p.idx, p.question) for p in predictions if p.label is not None)
    ]
    fold_by_idx = {prediction.idx: prediction.fold for prediction in predictions}
    rows = []
    for row in order.tolist():
        number = number_by_idx[idx[row]]
        prompt = task.prompts[number][0]
        names = prompt.choices if task.classes is None else task.classes
        if (question := questions[row]) is not None:
            names = prompt.choices_by_question[prompt.questions.index(question)]
        rows.append(
            HardRow(
                idx[row] + 1,
                own_text(prompt),
                names[label_R[row]],
                names[predicted_R[row]],
                float(given_R[row]),
                float(probability_RC[row, predicted_R[row]]),
                fold_by_idx[idx[row]],
            )
        )
    return rows
