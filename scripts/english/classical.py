"""Contenders that are no language model: text classifiers, on the same rows as the runs."""

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.english.contenders import COMMONEST, EMBEDDINGS, SETFIT, SETFIT_BALANCED, WORDS
from tfew.errors import UserError
from tfew.ranking.baselines import HEAD, bag_of_words_probabilities

WORKER = Path(__file__).parent / "sentence_models.py"
RIGHT, WRONG = "right", "wrong"
# by contender: whether MiniLM is fine-tuned, and the settings of the logistic regression on top, SetFit's as its
# documentation has it
SENTENCE_MODELS: Mapping[str, tuple[bool, Mapping[str, Any]]] = {
    EMBEDDINGS: (False, HEAD),
    SETFIT: (True, {"max_iter": 1000}),
    SETFIT_BALANCED: (True, HEAD),
}
# (texts to train on, their labels, texts to classify, seed) -> of each the probability of each label, by label, and
# versions of the libraries that are not this environment's
Found = tuple[Sequence[Mapping[str, float]], Mapping[str, str]]
Classifier = Callable[[Sequence[str], Sequence[str], Sequence[str], int], Found]


@dataclass(frozen=True)
class Outcome:
    """`right`: 0 or 1 for each test row, in order."""

    right: list[int]
    chance: float
    seconds: float
    versions: Mapping[str, str]


def classify(
    classifier: Classifier, train: Sequence[Any], test: Sequence[Any], text: Sequence[str], choices: Sequence[str],
    label: str, seed: int,
) -> Outcome:  # fmt: skip
    """Rows with choices of their own become one text for each choice, right or wrong; the likeliest right one wins."""
    started = time.monotonic()
    if not choices:
        labels = [str(row[label]) for row in train]
        texts = [_text(row, text) for row in train]
        found, versions = classifier(texts, labels, [_text(row, text) for row in test], seed)
        answers = [max(of_row, key=lambda name: of_row[name]) for of_row in found]
        chance = 1 / len(set(labels) | {str(row[label]) for row in test})
    else:
        texts = [_text(row, (*text, choice)) for row in train for choice in choices]
        labels = [RIGHT if row[choice] == row[label] else WRONG for row in train for choice in choices]
        asked = [_text(row, (*text, choice)) for row in test for choice in choices]
        found, versions = classifier(texts, labels, asked, seed)
        answers, chance = [], 1 / len(choices)
        for place, row in enumerate(test):
            of_row = found[place * len(choices) : (place + 1) * len(choices)]
            best = max(range(len(choices)), key=lambda choice: of_row[choice].get(RIGHT, 0.0))
            answers.append(row[choices[best]])
    right = [int(str(row[label]) == str(answer)) for row, answer in zip(test, answers, strict=True)]
    return Outcome(right, chance, time.monotonic() - started, versions)


def _text(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    return "\n".join(str(row[column]) for column in columns)


def commonest(texts: Sequence[str], labels: Sequence[str], asked: Sequence[str], seed: int) -> Found:
    share = {label: count / len(labels) for label, count in Counter(labels).items()}
    return [share] * len(asked), {}


def bag_of_words(texts: Sequence[str], labels: Sequence[str], asked: Sequence[str], seed: int) -> Found:
    known, probability_RC = bag_of_words_probabilities(texts, labels, asked)
    return [dict(zip(known, map(float, row), strict=True)) for row in probability_RC], {}


def of_other_environment(python: Path, model: str) -> Classifier:
    """A sentence model, run by the Python of an environment of its own."""
    fine_tune, head = SENTENCE_MODELS[model]

    def classifier(texts: Sequence[str], labels: Sequence[str], asked: Sequence[str], seed: int) -> Found:
        rows = {"texts": list(texts), "labels": list(labels), "asked": list(asked)}
        job = {**rows, "seed": seed, "fine_tune": fine_tune, "head": dict(head)}
        done = subprocess.run([python, WORKER], input=json.dumps(job), capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{model}: {done.stderr.strip().splitlines()[-1]}")
        found = json.loads(done.stdout.splitlines()[-1])
        return found["probabilities"], found["versions"]

    return classifier


def classifiers(python: Path) -> dict[str, Classifier]:
    """`python`: of the environment with SetFit."""
    others = {name: of_other_environment(python, name) for name in SENTENCE_MODELS}
    return {COMMONEST: commonest, WORDS: bag_of_words, **others}
