"""Baselines that a model should beat on the same rows: the commonest label, and a bag of words.

The bag of words is scikit-learn's TF-IDF of word unigrams and bigrams, with logistic regression; for texts with few
words, or in scripts without blanks between words (Chinese, Thai), TF-IDF of character 1- to 4-grams. Settings were
chosen on the labelled rows of RAFT.
"""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tfew.data.split import own_text
from tfew.errors import UserError
from tfew.ranking.paired_gain import paired_gain
from tfew.ranking.per_label_metrics import balanced_accuracy, confusion, f1_macro
from tfew.task import Task

COMMONEST, BAG_OF_WORDS = "commonest label", "bag of words"
COMMONEST_SET, ALWAYS = "commonest set of labels", "every label for every row"
WORDS_IN_TEXT, CHARACTERS_IN_WORD = 3, 15  # averages: with fewer words, or longer ones, characters are counted
MOST_FEATURES = 50_000
MOST_WEIGHTS = 1_000_000  # features times labels
# of logistic regression: with scikit-learn's C=1 50 rows get almost only the commonest label; without balanced weights
# it hardly ever predicts a rare label, and is too weak a baseline for balanced accuracy
HEAD: Mapping[str, Any] = {"C": 10.0, "class_weight": "balanced", "max_iter": 1000}

# by baseline the label of each row, as an index into the task's labels; for rows that may have several labels a number
# per label: 1 and 0, or a probability
Guesses = Mapping[str, Sequence[Any]]


def guess_in_folds(task: Task, fold_of_row: Sequence[int]) -> dict[str, list[Any]]:
    """The baselines' predictions for each row, trained on the other folds; empty without shared labels."""
    guesses: dict[str, list[Any]] = {}
    for fold in range(max(fold_of_row) + 1):
        held_out = [row for row, own in enumerate(fold_of_row) if own == fold]
        others = [row for row, own in enumerate(fold_of_row) if own != fold]
        for name, of_fold in guess(task.only(others), task.only(held_out)).items():
            of_rows = guesses.setdefault(name, [0] * task.rows)
            for row, label in zip(held_out, of_fold, strict=True):
                of_rows[row] = label
    return guesses


def guess(training: Task, held_out: Task) -> dict[str, list[Any]]:
    """The baselines' predictions for held-out rows; empty for a mixture, or if rows have choices of their own."""
    if held_out.several:
        return _guess_sets(training, held_out)
    labels = [example.label for example in training.examples if example.label is not None]
    if held_out.classes is None or not labels:
        return {}
    rows = zip(training.examples, training.prompts, strict=True)
    texts = [own_text(row[0]) for example, row in rows if example.label is not None]
    return {
        COMMONEST: [commonest(labels)] * held_out.rows,
        BAG_OF_WORDS: bag_of_words(texts, labels, [own_text(row[0]) for row in held_out.prompts]),
    }


def _guess_sets(training: Task, held_out: Task) -> dict[str, list[Any]]:
    """`guess` for rows that may have several labels; the bag of words learns each label separately."""
    texts, new_texts = ([own_text(row[0]) for row in task.prompts] for task in (training, held_out))
    of_labels = []
    for place in range(len(held_out.classes or ())):
        labels = [int(place in (example.labels or ())) for example in training.examples]
        known, probability_RC = bag_of_words_probabilities(texts, labels, new_texts)
        of_labels.append([float(row[known.index(1)]) if 1 in known else 0.0 for row in probability_RC])
    return {**_naive_sets(training, held_out), BAG_OF_WORDS: [list(row) for row in zip(*of_labels, strict=True)]}


def _naive_sets(training: Task, held_out: Task) -> dict[str, list[Any]]:
    places = range(len(held_out.classes or ()))
    sets = Counter(example.labels or () for example in training.examples)
    often = min(sets, key=lambda labels: (-sets[labels], labels))
    return {
        COMMONEST_SET: [[int(place in often) for place in places]] * held_out.rows,
        ALWAYS: [[1 for _ in places]] * held_out.rows,
    }


def guess_without_training(held_out: Task) -> dict[str, list[Any]]:
    """If the training rows are unknown: the commonest label of these rows themselves."""
    if held_out.several:
        return _naive_sets(held_out, held_out)
    labels = [example.label for example in held_out.examples if example.label is not None]
    return {COMMONEST: [commonest(labels)] * held_out.rows} if labels and held_out.classes is not None else {}


def commonest(labels: Sequence[int]) -> int:
    """The commonest label; ties go to the first."""
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label))


def bag_of_words(texts: Sequence[str], labels: Sequence[int], new_texts: Sequence[str]) -> list[int]:
    """The labels of the new texts; the commonest one if there is no other, or if the texts have no features."""
    known, probability_RC = bag_of_words_probabilities(texts, labels, new_texts)
    return [int(known[row.argmax()]) for row in probability_RC]


def bag_of_words_probabilities(
    texts: Sequence[str], labels: Sequence[Any], new_texts: Sequence[str]
) -> tuple[list[Any], Any]:
    """The labels that occur, and their probabilities for each new text, an array [rows, labels].

    With a single label, or if the texts have no features, these are the labels' shares.
    """
    try:
        import numpy as np
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:  # an environment from before it was required
        raise UserError(
            "baselines=true needs scikit-learn, not installed here: pip install scikit-learn, or set baselines=false."
        ) from error

    known = sorted(set(labels))
    most = min(MOST_FEATURES, MOST_WEIGHTS // len(known))
    try:
        vectorizer = TfidfVectorizer(**_features(texts), sublinear_tf=True, max_features=most)
        vectors = vectorizer.fit_transform(texts)
    except ValueError:  # no text has a single word or character
        vectors = None
    if vectors is None or len(known) == 1:
        counts = Counter(labels)
        return known, np.array([[counts[label] / len(labels) for label in known]] * len(new_texts))
    model = LogisticRegression(**HEAD)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes")  # there may be many, with a row or two each
        model.fit(vectors, labels)
    return list(model.classes_), model.predict_proba(vectorizer.transform(new_texts))


def _features(texts: Sequence[str]) -> dict[str, Any]:
    """The settings of scikit-learn's vectorizer for these texts."""
    words = [word for text in texts for word in text.split()]
    if len(words) < WORDS_IN_TEXT * len(texts) or sum(map(len, words)) > CHARACTERS_IN_WORD * len(words):
        return {"analyzer": "char_wb", "ngram_range": (1, 4)}
    return {"ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"}  # words of one letter, too


def compare(
    labels: Sequence[int], predicted: Sequence[int], guesses: Guesses, classes: int, metric: str
) -> dict[str, dict[str, Any]]:
    """By baseline: accuracy, balanced_accuracy, f1_macro, and gain: {metric, value, low, high}.

    `labels` are the rows' own, `predicted` the model's; gain is its `metric` ("accuracy" or "balanced_accuracy") minus
    the baseline's, with a paired 95 % interval.
    """
    right = [label == said for label, said in zip(labels, predicted, strict=True)]
    strata = labels if metric == "balanced_accuracy" else [0] * len(labels)
    found = {}
    for name, guessed in guesses.items():
        counts = confusion(list(zip(labels, guessed, strict=True)), classes)
        guessed_right = [label == said for label, said in zip(labels, guessed, strict=True)]
        found[name] = {
            "accuracy": sum(guessed_right) / len(labels),
            "balanced_accuracy": balanced_accuracy(counts),
            "f1_macro": f1_macro(counts),
            "gain": {"metric": metric, **asdict(paired_gain(right, guessed_right, strata))},
        }
    return found
