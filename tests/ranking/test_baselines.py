"""Baselines against scikit-learn on the same rows, intervals against a known truth, and their report by a run."""

import csv
import json
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline

from tests.checks.test_task_check import task
from tfew.config import compose
from tfew.errors import UserError
from tfew.evaluate import evaluate, with_run_settings
from tfew.ranking.baselines import bag_of_words, commonest, compare, guess, guess_in_folds, guess_without_training
from tfew.ranking.evaluation import metrics_of
from tfew.ranking.icl import Answer
from tfew.ranking.label_table import doubts, headline, verdicts
from tfew.ranking.paired_gain import paired_gain
from tfew.runs.card import model_card
from tfew.runs.records import RunRecord, load_record
from tfew.schema import Prediction
from tfew.summary import print_summary
from tfew.train import train

THINGS, PLACES = ("apple", "hat", "lemon", "shirt", "grape"), ("by the beach", "by the farm", "at home")
WORDS = {"praise": ("lovely", "great", "nice", "fine"), "complaint": ("nasty", "awful", "poor", "bad")}


def rows(praise: int, complaints: int) -> list[dict[str, str]]:
    """Reviews that a bag of words tells apart, but for one in five."""
    draw, found = random.Random(0), []
    for number, label in enumerate(["praise"] * praise + ["complaint"] * complaints):
        said = draw.choice(("praise", "complaint")) if draw.random() < 0.2 else label
        place = f"{draw.choice(THINGS)} {number} {draw.choice(PLACES)}"
        found.append({"text": f"my {place} looks {draw.choice(WORDS[said])}, tom.", "label": label})
    draw.shuffle(found)
    return found


def write(path: Path, table: Sequence[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return path


def direct() -> Any:
    """The bag of words, as anybody would make it with scikit-learn."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    return make_pipeline(words, LogisticRegression(C=10, class_weight="balanced", max_iter=1000))


def scores(labels: Sequence[Any], predicted: Sequence[Any]) -> dict[str, float]:
    return {
        "accuracy": accuracy_score(labels, predicted),
        "balanced_accuracy": balanced_accuracy_score(labels, predicted),
        "f1_macro": f1_score(labels, predicted, average="macro", zero_division=0),
    }


# what they predict


def test_on_folds_as_scikit_learn_on_the_same_folds() -> None:
    table = rows(26, 34)
    names = ("complaint", "praise")
    made = task([row["text"] for row in table], [names.index(row["label"]) for row in table], names)
    draw = random.Random(1)
    fold_of_row = [draw.randrange(5) for _ in table]
    found = guess_in_folds(made, fold_of_row)
    texts, labels = [row["text"] for row in table], [names.index(row["label"]) for row in table]
    split = PredefinedSplit(fold_of_row)
    assert found["bag of words"] == cross_val_predict(direct(), texts, labels, cv=split).tolist()
    most_frequent = DummyClassifier(strategy="most_frequent")
    assert found["commonest label"] == cross_val_predict(most_frequent, texts, labels, cv=split).tolist()
    assert len(set(found["bag of words"])) == 2


def test_the_template_is_not_part_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Sequence[str]] = []
    monkeypatch.setattr("tfew.ranking.baselines.bag_of_words", lambda *given: seen.extend(given) or [0] * 12)
    guess(task(), task())
    assert seen[0] == seen[2] == [f"text {number} of the table" for number in range(12)]


@pytest.mark.parametrize(
    ("good", "bad", "new"),
    [
        (
            ["这个产品非常好", "我很喜欢这本书", "味道很好，值得买", "质量好极了"],
            ["太差了不推荐", "质量很差，失望", "味道太差", "我不喜欢"],
            ["非常好喜欢", "太差失望"],
        ),
        (["ดีมากชอบมาก", "สินค้าดีมาก", "ชอบร้านนี้มาก"], ["แย่มากไม่ชอบ", "สินค้าแย่มาก", "บริการแย่"], ["ดีมาก", "แย่มาก"]),
        (["refunds", "refunded", "a refund"], ["parcel", "parcels", "the parcel"], ["refunding", "parceled"]),
        (["😀", "😀!", "😀😀"], ["😡", "😡!", "😡😡"], ["😀😀😀", "😡😡😡"]),
    ],
)  # fmt: skip
def test_characters_where_words_are_few(good: list[str], bad: list[str], new: list[str]) -> None:
    labels = [0] * len(good) + [1] * len(bad)
    assert bag_of_words([*good, *bad], labels, new) == [0, 1]


def test_what_cannot_be_learned_is_the_commonest_label() -> None:
    assert bag_of_words(["a b c", "d e f"], [1, 1], ["a b c", "x"]) == [1, 1]
    assert bag_of_words(["", " ", ""], [2, 0, 2], ["text"]) == [2]
    assert bag_of_words(["! ? .", ". . ."], [3, 1], ["?"]) == [1]
    assert commonest([3, 1, 1, 3, 0]) == 1
    one = task(["same text"] * 4, [0, 1, 0, 1])
    assert set(guess_in_folds(one, [0, 1, 0, 1])["bag of words"]) <= {0, 1}


def test_rows_without_shared_labels_have_no_baseline() -> None:
    own = replace(task(), classes=None)
    assert guess(own, own) == guess_in_folds(own, [0, 1] * 6) == guess_without_training(own) == {}
    assert guess_without_training(task(labels=[1] * 7 + [0] * 5)) == {"commonest label": [1] * 12}


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(
        UserError, match=r"baselines=true needs scikit-learn, .*: pip install scikit-learn, or set base"
    ):
        guess(task(), task())


# intervals


@pytest.mark.parametrize(
    ("strata", "better", "worse"),
    [
        ([30], [0.1], [0.05]),
        ([50], [0.3], [0.0]),
        ([20], [0.5], [0.1]),
        ([10], [0.0], [0.05]),
        ([200], [0.2], [0.2]),
        ([90, 10], [0.01, 0.6], [0.03, 0.05]),
        ([45, 5], [0.01, 0.6], [0.03, 0.05]),
        ([12] * 5, [0.2] * 5, [0.1] * 5),
        ([3] * 20, [0.5] * 20, [0.1] * 20),
        ([98, 2], [0.0, 0.8], [0.0, 0.1]),
    ],
)
def test_the_interval_holds_the_truth_as_often_as_it_says(
    strata: list[int], better: list[float], worse: list[float]
) -> None:
    """Rows drawn from a known truth; where one model is better or worse in each stratum with these probabilities."""
    draw, truth = np.random.default_rng(0), float(np.mean(np.subtract(better, worse)))
    place = np.repeat(np.arange(len(strata)), strata)
    chances, above = np.array(better)[place], (np.array(better) + np.array(worse))[place]
    held, draws = 0, 1500
    for uniform in draw.random((draws, len(place))):
        gain = paired_gain((uniform < chances).tolist(), ((uniform >= chances) & (uniform < above)).tolist(), place)
        held += gain.low <= truth <= gain.high
    assert held / draws > 0.925


def test_rows_that_all_agree_are_no_certainty() -> None:
    few, many = (paired_gain([True] * rows, [True] * rows, [0] * rows) for rows in (10, 1000))
    assert few.value == many.value == 0
    assert (few.low, few.high) == (pytest.approx(-0.231, abs=1e-3), pytest.approx(0.231, abs=1e-3))
    assert many.high < 0.003
    nothing_but_better = paired_gain([True] * 3, [False] * 3, [0] * 3)
    assert (nothing_but_better.value, nothing_but_better.high) == (1.0, 1.0)
    assert nothing_but_better.low < 0.4


def test_the_interval_nears_the_usual_one_with_many_rows() -> None:
    """mean(d) -+ 1.96 sd(d) / sqrt(n), of the differences d."""
    draw = np.random.default_rng(0)
    mine, its = draw.random(20_000) < 0.8, draw.random(20_000) < 0.7
    gain = paired_gain(mine.tolist(), its.tolist(), [0] * 20_000)
    differences = mine.astype(float) - its
    half = 1.959964 * differences.std(ddof=1) / np.sqrt(20_000)
    assert gain.value == pytest.approx(differences.mean())
    assert (gain.low, gain.high) == pytest.approx((differences.mean() - half, differences.mean() + half), abs=1e-4)


def test_a_gain_of_balanced_accuracy_is_the_difference_of_two() -> None:
    draw = random.Random(3)
    labels, mine, its = ([draw.choice((0, 0, 0, 1, 2)) for _ in range(80)] for _ in range(3))
    for metric in ("accuracy", "balanced_accuracy"):
        (found,) = compare(labels, mine, {"x": its}, 3, metric).values()
        assert {key: found[key] for key in scores(labels, its)} == pytest.approx(scores(labels, its))
        assert found["gain"]["metric"] == metric
        assert found["gain"]["value"] == pytest.approx(scores(labels, mine)[metric] - found[metric])
        assert found["gain"]["low"] < found["gain"]["value"] < found["gain"]["high"]


# what is said


def evaluated(labels: list[int], predicted: list[int], guesses: dict[str, list[int]]) -> dict[str, Any]:
    """Metrics of a task with the labels ham and spam."""
    made = task([f"text {n}" for n in range(len(labels))], labels, ("ham", "spam"))
    answers = [
        Answer.of(Prediction("d", "t", n, label, said, (-float(said != 0), -float(said != 1)), (1, 1)), "token")
        for n, (label, said) in enumerate(zip(labels, predicted, strict=True))
    ]
    return metrics_of(made, answers, "token", guesses)


UNEVEN = [0] * 90 + [1] * 10


def test_where_labels_are_uneven_balanced_accuracy_leads() -> None:
    bag = [0] * 88 + [1] * 12
    metrics = evaluated(UNEVEN, [0] * 100, {"commonest label": [0] * 100, "bag of words": bag})
    assert (metrics["accuracy"], metrics["balanced_accuracy"]) == (0.9, 0.5)
    assert metrics["leading_metric"] == "balanced_accuracy"
    lines = headline(metrics, 100)
    assert lines[:2] == [
        "balanced accuracy 50.0 % (95 % interval 39.1 to 60.9) on 100 rows",
        "commonest label 50.0 % (accuracy 90.0 %); bag of words 98.9 % (accuracy 98.0 %)",
    ]
    assert lines[2].startswith("no better than the commonest label (95 % interval of the difference -")
    assert lines[3].startswith("worse than a bag of words by 48.9 points of balanced accuracy (95 % interval ")
    assert lines[4].startswith("Try a larger model (model=), ")
    assert lines[5:] == [
        "macro-F1 47.4 %; accuracy 90.0 % (95 % interval 82.6 to 94.5) is less informative, as labels are imbalanced"
    ]
    assert not any("Too little" in line or "Worse" in line for line in doubts(metrics, 100)), "said once"


def test_where_labels_are_even_accuracy_leads() -> None:
    labels = [0, 1] * 15
    predicted = [1, *labels[1:24], 1, 0, *labels[26:]]
    bag = [1 - label if n % 5 == 0 else label for n, label in enumerate(labels)]
    metrics = evaluated(labels, predicted, {"commonest label": [0] * 30, "bag of words": bag})
    assert headline(metrics, 30) == [
        "accuracy 90.0 % (95 % interval 74.4 to 96.5) on 30 rows",
        "commonest label 50.0 %; bag of words 80.0 %",
        "better than a bag of words by 10.0 points (95 % interval -5.9 to 25.9): too few rows to tell",
        "macro-F1 90.0 %",
    ]
    better = evaluated(labels * 20, labels * 20, {"commonest label": [0] * 600, "bag of words": bag * 20})
    assert verdicts(better) == ["better than a bag of words by 20.0 points (95 % interval 16.8 to 23.2)"]
    only = evaluated(labels, [0] * 30, {"commonest label": [0] * 30})
    assert verdicts(only)[0].endswith(" points): too few rows to tell")


def test_without_baselines_a_naive_answer_is_still_named() -> None:
    metrics = evaluated(UNEVEN, [0] * 100, {})
    assert "baselines" not in metrics
    assert headline(metrics, 100)[0].endswith("on 100 rows; chance 50.0 %")
    assert doubts(metrics, 100)[0].endswith("and always saying 'ham' gives 90.0 %.")


def test_a_label_that_the_task_does_not_have_is_an_error_of_the_baselines_too() -> None:
    made = task(labels=[0, 1] * 6)
    made.examples[0] = replace(made.examples[0], label=None, unknown_label="new")  # type: ignore[index]
    answers = [
        Answer.of(Prediction("d", "t", n, None if n == 0 else n % 2, 0, (0.0, -1.0), (1, 1)), "token")
        for n in range(12)
    ]
    metrics = metrics_of(made, answers, "token", {"commonest label": [0] * 12})
    assert metrics["baselines"]["commonest label"]["accuracy"] == metrics["accuracy"] == 5 / 12
    assert metrics["baselines"]["commonest label"]["balanced_accuracy"] == metrics["balanced_accuracy"] == 1 / 3


def test_the_curve_counts_a_label_that_the_task_does_not_have_as_an_error() -> None:
    """The most confident rows are all of it; the expected counts by a loop over the rows."""
    made = task(labels=[0, 1] * 6)
    unknown = (9, 10, 11)
    for row in unknown:
        made.examples[row] = replace(made.examples[row], label=None, unknown_label="new")  # type: ignore[index]
    answers = [
        Answer.of(Prediction("d", "t", n, None if n in unknown else n % 2, 0, (n - 12.0, -20.0), (1, 1)), "sum")
        for n in range(12)
    ]
    answering = metrics_of(made, answers, "sum")["answering"]
    assert answering["rows"] == 12
    sure = [1 / (1 + math.exp(-(n + 8.0))) for n in range(12)]
    right = [n not in unknown and n % 2 == 0 for n in range(12)]
    for point in answering["points"]:
        answered = [n for n in range(12) if sure[n] >= point["threshold"]]
        assert (point["answered"], point["right"]) == (len(answered), sum(right[n] for n in answered))
    assert answering["points"][0]["right"] / 12 == metrics_of(made, answers, "sum")["accuracy"]


def test_several_templates_are_not_compared() -> None:
    made = task(labels=[0, 1] * 6)
    answers = [
        Answer.of(Prediction("d", template, n, n % 2, 0, (0.0, -1.0), (1, 1)), "token")
        for n in range(12)
        for template in "ab"
    ]
    metrics = metrics_of(made, answers, "token", {"commonest label": [0] * 12})
    assert "baselines" not in metrics
    assert metrics["balanced_accuracy"] == 0.5


# runs


def run(path: Path, runs: Path, *overrides: str) -> RunRecord:
    given = ("+experiment=local_mini", "trainer=cpu", "steps=2", f"data={path}", f"runs={runs}", *overrides)
    return train(compose(*given))


def fold_of_each(record: RunRecord) -> list[int]:
    lines = (record.folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["fold"] for line in lines]


def test_a_run_in_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = rows(18, 14)
    record = run(write(tmp_path / "reviews.csv", table), tmp_path, "folds=4")
    texts, labels = [row["text"] for row in table], [row["label"] for row in table]
    split = PredefinedSplit(fold_of_each(record))
    expected = {
        "commonest label": cross_val_predict(DummyClassifier(strategy="most_frequent"), texts, labels, cv=split),
        "bag of words": cross_val_predict(direct(), texts, labels, cv=split),
    }
    found = record.metrics["baselines"]
    assert list(found) == list(expected)
    for name, predicted in expected.items():
        assert {key: found[name][key] for key in scores(labels, predicted)} == pytest.approx(scores(labels, predicted))
        assert found[name]["gain"]["value"] == pytest.approx(record.metrics["accuracy"] - found[name]["accuracy"])
    assert load_record(record.folder).metrics["baselines"] == found
    bag = f"bag of words {100 * found['bag of words']['accuracy']:.1f} %"
    out = capsys.readouterr().out
    assert f"; {bag}\n" in out
    assert f"on {len(table)} held-out rows" in out
    assert bag in str(record)
    assert f"{bag} (gain" in record._repr_html_()
    card = model_card(record, in_peft=False, merges=False)
    assert f"| bag of words | {100 * found['bag of words']['accuracy']:.1f} | 32 |" in card


def test_a_run_with_rows_aside_and_the_evaluation_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = rows(16, 16)
    path = write(tmp_path / "reviews.csv", table)
    record = run(path, tmp_path, "folds=null", "validation=0.25")
    lines = (record.folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    aside = [json.loads(line)["idx"] for line in lines]
    train_on = [row for number, row in enumerate(table) if number not in aside]
    tried_on = [table[number] for number in aside]
    model = direct().fit([row["text"] for row in train_on], [row["label"] for row in train_on])
    labels = [row["label"] for row in tried_on]
    found = record.metrics["baselines"]["bag of words"]["accuracy"]
    assert found == accuracy_score(labels, model.predict([row["text"] for row in tried_on]))

    other = [{**row, "text": f"again {row['text']}"} for row in rows(7, 5)]
    others = write(tmp_path / "other.csv", other)

    def on_others(*overrides: str) -> RunRecord:
        given = [f"adapter={record.folder}", f"data={others}", f"runs={tmp_path}", "trainer=cpu", *overrides]
        return evaluate(with_run_settings(compose(*given, config_name="evaluate"), given))

    capsys.readouterr()
    baselines = on_others().metrics["baselines"]
    predicted = model.predict([row["text"] for row in other])
    assert baselines["bag of words"]["accuracy"] == accuracy_score([row["label"] for row in other], predicted)
    assert "bag of words" in capsys.readouterr().out
    assert "baselines" not in on_others("baselines=false").metrics
    write(path, table[:-1])  # no longer what the adapter was trained on
    without = on_others("overwrite=true").metrics["baselines"]
    assert {name: of["accuracy"] for name, of in without.items()} == {"commonest label": 7 / 12}


def test_runs_in_one_process_have_them_too(tmp_path: Path) -> None:
    from tfew.together import train_together

    path = write(tmp_path / "reviews.csv", rows(12, 12))
    given = ("+experiment=local_mini", "trainer=cpu", "steps=2", f"data={path}", "folds=null", "validation=0.25")
    records = train_together([compose(*given, f"runs={tmp_path}", f"few_shot_seed={seed}") for seed in (0, 1)])
    alone = run(path, tmp_path / "alone", "folds=null", "validation=0.25", "few_shot_seed=1")
    for record in records:
        assert set(record.metrics["baselines"]) == {"commonest label", "bag of words"}
    assert (
        records[1].metrics["baselines"]["bag of words"]["f1_macro"]
        == (alone.metrics["baselines"]["bag of words"]["f1_macro"])
    )


def test_an_uneven_table_and_a_run_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "reviews.csv", rows(27, 3))
    record = run(path, tmp_path, "folds=2")
    assert record.metrics["leading_metric"] == "balanced_accuracy"
    first = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  "))
    assert first.startswith("  balanced accuracy ")
    assert str(record).splitlines()[1].startswith("  accuracy  balanced accuracy ")
    print_summary(load_record(record.folder), tmp_path)
    assert first in capsys.readouterr().out
    without = run(path, tmp_path / "without", "folds=2", "baselines=false")
    assert "baselines" not in without.metrics
    assert {key: without.metrics[key] for key in ("accuracy", "f1_macro", "balanced_accuracy")} == (
        {key: record.metrics[key] for key in ("accuracy", "f1_macro", "balanced_accuracy")}
    )


def test_old_records_print(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of before the baselines, with `majority` in their place."""
    record = run(write(tmp_path / "reviews.csv", rows(27, 3)), tmp_path, "folds=2")
    for key in ("baselines", "leading_metric", "balanced_accuracy", "balanced_accuracy_interval"):
        record.metrics.pop(key)
    record.metrics["majority"] = 0.9
    capsys.readouterr()
    print_summary(record, tmp_path)
    assert capsys.readouterr().out.splitlines()[2].startswith("  accuracy ")
    assert str(record).splitlines()[1].startswith("  accuracy  ")


def test_many_labels_with_a_row_or_two_each_are_no_warning() -> None:
    """Twenty-five labels in thirty rows: scikit-learn takes such labels for numbers, and would say so."""
    texts = [f"word{n % 25} again" for n in range(30)]
    assert bag_of_words(texts, [n % 25 for n in range(30)], ["word7 again"]) == [7]
