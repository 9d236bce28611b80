"""A table with several labels a row, from training to prediction, in every form that a user meets."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from starlette.testclient import TestClient

import tfew
from tests.test_predict import run as predict
from tests.test_train import folder, vectors
from tfew.config import compose
from tfew.errors import UserError
from tfew.evaluate import evaluate, with_run_settings
from tfew.label_sets.thresholds import best_threshold
from tfew.models.adapters_io import load_thresholds, save_temperature
from tfew.prediction.predictor import Predictor
from tfew.ranking import tuning
from tfew.ranking.label_set_table import other_lines
from tfew.runs.card import model_card
from tfew.runs.records import RunRecord
from tfew.schema import Prediction
from tfew.service.app import make_app
from tfew.service.limits import Limits
from tfew.service.metrics import Metrics
from tfew.service.queue import LabelQueue
from tfew.together import settings_of_each, train_together
from tfew.train import train

THINGS = ("apple", "hat", "lemon", "shirt", "pear", "coat")
SAID = {"praise": "looks lovely", "late": "came late", "": "is here"}
ROWS = [
    {"text": f"my {thing} {' and '.join(SAID[part] for part in tags.split(';'))}, tom {number}.", "tags": tags}
    for number, thing in enumerate(THINGS)
    for tags in ("praise", "late", "praise;late", "")
]
NEW = ["my hat looks lovely.", "my pear came late, tom."]
COMMON = ("+experiment=local_mini", "trainer=cpu", "steps=2", "text=text", "label=tags")


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def trained(path: Path, runs: Path, *more: str) -> RunRecord:
    return train(compose(*COMMON, f"data={path}", f"runs={runs}", *more))


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    root = tmp_path_factory.mktemp("sets")
    return trained(written(root / "rows.csv", ROWS), root / "runs", "folds=2", "method=bitfit")


@pytest.fixture(scope="module")
def predictions(record: RunRecord) -> list[Prediction]:
    lines = (folder(record) / "predictions.jsonl").read_text().splitlines()
    return [Prediction.from_json(line) for line in lines]


def test_each_row_is_held_out_once_with_all_its_questions(predictions: list[Prediction]) -> None:
    assert [(p.idx, p.question) for p in predictions] == [(i, q) for i in range(len(ROWS)) for q in ("late", "praise")]
    folds = {p.idx: p.fold for p in predictions}
    assert all(p.fold == folds[p.idx] for p in predictions)
    assert sorted(map(list(folds.values()).count, (0, 1))) == [12, 12]
    assert [p.label for p in predictions] == [int(q in row["tags"]) for row in ROWS for q in ("late", "praise")]


@pytest.mark.ci
def test_numbers_are_those_of_the_predictions_by_the_other_folds_thresholds(
    record: RunRecord, predictions: list[Prediction]
) -> None:
    metrics = record.metrics
    temperature = metrics["calibration"]["temperature"]
    yes_RK = np.array([1 / (1 + np.exp((p.scores[0] - p.scores[1]) / temperature)) for p in predictions]).reshape(-1, 2)
    has_RK = np.array([p.label for p in predictions], bool).reshape(-1, 2)
    fold_R = np.array([p.fold for p in predictions[::2]])
    given_RK = np.zeros_like(has_RK)
    for fold in (0, 1):
        for label in (0, 1):
            others = fold_R != fold
            threshold = best_threshold(yes_RK[others, label], has_RK[others, label])
            given_RK[~others, label] = yes_RK[~others, label] >= threshold
    assert metrics["f1_micro"] == pytest.approx(f1_score(has_RK, given_RK, average="micro"))
    assert metrics["f1_macro"] == pytest.approx(f1_score(has_RK, given_RK, average="macro"))
    assert metrics["accuracy"] == pytest.approx(accuracy_score(has_RK, given_RK))
    assert [of["rows"] for of in metrics["classes"].values()] == [12, 12]
    kept = {name: best_threshold(yes_RK[:, place], has_RK[:, place]) for place, name in enumerate(("late", "praise"))}
    assert load_thresholds(folder(record), "token") == pytest.approx(kept)
    assert load_thresholds(folder(record), "sum") is None
    assert metrics["label_sets"]["same_rows"]["f1_micro"] >= metrics["label_sets"]["at_default"]["f1_micro"] - 1e-9


def test_baselines_stand_beside_it(record: RunRecord) -> None:
    baselines = record.metrics["baselines"]
    assert list(baselines) == ["commonest set of labels", "every label for every row", "bag of words"]
    assert baselines["every label for every row"]["f1_micro"] == pytest.approx(2 * 24 / (24 + 48))
    for scores in baselines.values():
        gain = scores["gain"]
        assert gain["metric"] == "f1_micro"
        assert gain["value"] == pytest.approx(record.metrics["f1_micro"] - scores["f1_micro"])
        assert gain["low"] <= gain["value"] <= gain["high"]


def test_what_a_person_reads(record: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    from tfew.summary import print_summary

    print_summary(record, folder(record) / "result.json")
    text = capsys.readouterr().out
    assert re.search(r"micro-F1 [\d.]+ % \(95 % interval .*\) on 24 held-out rows", text)
    assert re.search(r"label +precision +recall +F1 +rows +threshold\n  late ", text)
    assert "24 texts were scored, each computed once for all its 2 yes/no questions (engine=fast)." in text
    assert "micro-F1" in str(record)
    assert "| late |" in model_card(record, in_peft=False, merges=True)
    page = (folder(record) / "report.html").read_text()
    assert "late: no" in page or "late: yes" in page
    assert "Confusion matrix" not in page


def test_a_table_comes_back_with_labels_joined(record: RunRecord, tmp_path: Path) -> None:
    new = written(tmp_path / "new.csv", [{"text": text} for text in NEW])
    predict(f"adapter={folder(record)}", f"input={new}", f"output={tmp_path}/out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["text", "label", "probability", "p_late", "p_praise"]
    thresholds = load_thresholds(folder(record), "token")
    assert thresholds is not None
    for row in rows:
        given = [name for name in ("late", "praise") if float(row[f"p_{name}"]) >= thresholds[name]]
        assert row["label"] == ";".join(given)
        shares = [float(row[f"p_{n}"]) if n in given else 1 - float(row[f"p_{n}"]) for n in ("late", "praise")]
        assert float(row["probability"]) == pytest.approx(shares[0] * shares[1], abs=1e-5)


def test_json_lines_have_lists(record: RunRecord, tmp_path: Path) -> None:
    new = written(tmp_path / "new.csv", [{"text": text} for text in NEW])
    predict(f"adapter={folder(record)}", f"input={new}", f"output={tmp_path}/out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    found = Predictor.load(folder(record))(NEW)
    assert [row["label"] for row in rows] == [list(labelled.label_set or ()) for labelled in found]
    assert [row["probabilities"] for row in rows] == [
        pytest.approx(labelled.probabilities, abs=1e-6) for labelled in found
    ]


def test_other_rows_are_evaluated_and_unknown_labels_count(record: RunRecord, tmp_path: Path) -> None:
    rows = [*ROWS[:5], {"text": "my hat is torn.", "tags": "torn;late"}]
    data = written(tmp_path / "rows.csv", rows)
    given = [f"adapter={folder(record)}", f"data={data}", f"runs={tmp_path}", "trainer=cpu"]
    metrics = evaluate(with_run_settings(compose(*given, config_name="evaluate"), given)).metrics
    assert metrics["unknown_labels"] == {"torn": 1}
    assert metrics["classes"]["torn"]["rows"] == 1
    assert metrics["classes"]["torn"]["predicted"] == 0
    given.append("labels=strict")
    with pytest.raises(UserError, match="row 6: 'torn' in column 'tags' is none of late, praise"):
        evaluate(with_run_settings(compose(*given, config_name="evaluate"), given))


@pytest.mark.parametrize("saved_at", [(1.0, 0.5), (3.0, 0.4), (0.4, 0.62)])
def test_an_evaluation_decides_as_prediction_does(
    saved_at: tuple[float, float], record: RunRecord, tmp_path: Path
) -> None:
    """By the saved temperature and thresholds, whatever the evaluated rows would choose."""
    temperature, threshold = saved_at
    adapter = tmp_path / "adapter"
    shutil.copytree(folder(record), adapter)
    calibration = {"temperature": temperature, "ece_calibrated": 0.1, "thresholds": {"late": threshold, "praise": 0.5}}
    save_temperature(adapter, calibration, "token")
    data = written(tmp_path / "rows.csv", ROWS)
    given = [f"adapter={adapter}", f"data={data}", f"runs={tmp_path}", "trainer=cpu"]
    evaluated = evaluate(with_run_settings(compose(*given, config_name="evaluate"), given))
    found = Predictor.load(adapter, "trainer=cpu")([row["text"] for row in ROWS])
    lines = (folder(evaluated) / "predictions.jsonl").read_text().splitlines()
    by_row: dict[int, set[str | None]] = {idx: set() for idx in range(len(ROWS))}
    for prediction in map(Prediction.from_json, lines):
        by_row[prediction.idx] |= {prediction.question} if prediction.predicted else set()
    assert list(by_row.values()) == [set(labelled.label_set or ()) for labelled in found]
    has, gives = (
        np.array([[name in labels for name in ("late", "praise")] for labels in rows])
        for rows in ([row["tags"].split(";") for row in ROWS], [labelled.label_set or () for labelled in found])
    )
    metrics = evaluated.metrics
    assert metrics["f1_micro"] == pytest.approx(f1_score(has, gives, average="micro", zero_division=0))
    assert metrics["accuracy"] == pytest.approx(accuracy_score(has, gives))
    assert metrics["calibration"]["temperature"] == temperature
    assert metrics["calibration"]["thresholds"] == {"late": threshold, "praise": 0.5}
    assert "the adapter's saved thresholds, as tfew predict does" in " ".join(other_lines(metrics))


def test_validation_yes_and_no_columns_and_the_service(tmp_path: Path) -> None:
    rows = [{"text": row["text"], **{tag: int(tag in row["tags"]) for tag in ("praise", "late")}} for row in ROWS]
    data = written(tmp_path / "rows.csv", rows)
    record = trained(data, tmp_path / "runs", "label=[praise,late]", "folds=null", "validation=0.25")
    assert (record.counts["rows"], record.config["label"]) == (6, ["praise", "late"])
    found = Predictor.load(folder(record))
    (labelled,) = found(NEW[:1])
    assert list(labelled.probabilities) == ["praise", "late"]
    assert "folds" not in record.metrics
    queue = LabelQueue(found, max_waiting=40, batch_rows=16)
    try:
        service = TestClient(make_app(queue, Metrics(), Limits(20, 20_000, 60.0, ("testserver",), None)))
        assert service.get("/tasks").json()[0]["several"] is True
        (answer,) = service.post("/predict", json={"text": NEW[0]}).json()["labels"]
        assert answer["label_set"] == list(labelled.label_set or ())
        assert answer["probabilities"] == pytest.approx(labelled.probabilities)
        table = service.post("/table", content=f"text\n{NEW[0]}\n", headers={"content-type": "text/csv"}).text
        assert next(csv.DictReader(table.splitlines()))["label"] == labelled.label
    finally:
        queue.close()
        queue.join()


def test_the_api_takes_and_gives_lists_or_columns() -> None:
    texts, tags = [row["text"] for row in ROWS], [row["tags"].split(";") if row["tags"] else [] for row in ROWS]
    options: dict[str, Any] = {"experiment": "local_mini", "steps": 2, "validation": None, "verbose": 0, "folds": None}
    lists = tfew.TfewClassifier(**options).fit(texts, tags)
    assert lists.classes_.tolist() == ["late", "praise"]
    probability_BK = lists.predict_proba(NEW)
    assert probability_BK.shape == (2, 2)
    given = lists.predict(NEW)
    assert given == [[n for n, p in zip(lists.classes_, row, strict=True) if p >= 0.5] for row in probability_BK]
    assert lists.score(NEW, given) == 1.0
    has = np.array([[int("praise" in row), int("late" in row)] for row in tags])
    columns = tfew.TfewClassifier(**options, settings={"trainer": "cpu"}).fit(texts, has)
    found = columns.predict(NEW)
    assert found.shape == (2, 2)
    assert found.tolist() == (columns.predict_proba(NEW) >= 0.5).astype(int).tolist()
    assert columns.score(NEW, found) == 1.0


def test_two_kinds_of_tasks_share_batches(record: RunRecord, tmp_path: Path) -> None:
    single = [{"text": row["text"], "tags": row["tags"] or "none"} for row in ROWS if ";" not in row["tags"]]
    options = ("folds=null", "validation=null")
    other = trained(written(tmp_path / "single.csv", single), tmp_path / "runs", *options)
    sets = trained(written(tmp_path / "rows.csv", ROWS), tmp_path / "runs", *options)
    both = Predictor.load({"single": folder(other), "sets": folder(sets)})
    alone = Predictor.load(folder(sets)), Predictor.load(folder(other))
    first, second = both(NEW, ["sets", "single"])
    assert first.probabilities == pytest.approx(alone[0](NEW[:1])[0].probabilities, abs=1e-5)
    assert second.probabilities == pytest.approx(alone[1](NEW[1:])[0].probabilities, abs=1e-5)
    assert second.label_set is None
    assert sum(second.probabilities.values()) == pytest.approx(1)
    likely = {name for name, probability in first.probabilities.items() if probability >= 0.5}
    assert set(first.label_set or ()) == likely, "nothing held out"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("folds=2", "template=super_glue/cb"), "promptsource's templates answer with one label"),
        (("folds=2", "dataset.answers=[yes,yes]"), "must be two different words, for no and for yes"),
    ],
)
def test_what_does_not_go_with_several_labels(overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        trained(written(tmp_path / "rows.csv", ROWS), tmp_path / "runs", *overrides)


def test_solved_examples_have_one_answer_each(tmp_path: Path) -> None:
    data = written(tmp_path / "rows.csv", ROWS)
    given = ["+experiment=local_mini", f"data={data}", "icl.mode=concat", f"runs={tmp_path}", "trainer=cpu"]
    with pytest.raises(UserError, match=r"may have several labels: set icl.mode=none"):
        evaluate(compose(*given, config_name="evaluate"))


@pytest.mark.parametrize("method", ["calibrated", "channel"])
def test_other_ways_of_scoring(method: str, tmp_path: Path) -> None:
    data = written(tmp_path / "rows.csv", ROWS[:6])
    given = ["+experiment=local_mini", f"data={data}", "multi_label=true", f"score.method={method}"]
    record = evaluate(compose(*given, f"runs={tmp_path}", "trainer=cpu", config_name="evaluate"))
    assert record.metrics["f1_micro"] >= 0
    assert len((folder(record) / "predictions.jsonl").read_text().splitlines()) == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("threshold=0.8",), "threshold= needs one label per row, but rows of rows may have several"),
        (("sets=0.9",), "sets= needs one label per row"),
        (("coverage=0.9",), "coverage= needs one label per row"),
        (("score.shortlist=1",), r"score\.shortlist= needs one label per row"),
        (("suggest=3",), "suggest= is for one label a row"),
    ],
)
def test_what_is_for_one_label_is_refused(
    settings: tuple[str, ...], message: str, record: RunRecord, tmp_path: Path
) -> None:
    new = tmp_path / "new.csv"
    new.write_text("\n".join(["text", *(f'"{text}"' for text in NEW)]))
    with pytest.raises(UserError, match=message):
        predict(f"adapter={folder(record)}", f"input={new}", f"output={tmp_path}/out.csv", "trainer=cpu", *settings)
    assert [path.name for path in tmp_path.iterdir()] == ["new.csv"]


def test_a_shortlist_is_refused_in_evaluation(record: RunRecord, tmp_path: Path) -> None:
    data = written(tmp_path / "rows.csv", ROWS[:5])
    given = (f"adapter={folder(record)}", f"data={data}", "trainer=cpu", "score.shortlist=1", f"runs={tmp_path}")
    config = with_run_settings(compose(*given, config_name="evaluate"), given)
    with pytest.raises(
        UserError, match=r"score\.shortlist= finds one label per row, but rows of rows may have several"
    ):
        evaluate(config)


def test_a_threshold_of_a_request_is_refused(record: RunRecord) -> None:
    queue = LabelQueue(Predictor.load(folder(record), "trainer=cpu"), max_waiting=40, batch_rows=16)
    try:
        client = TestClient(make_app(queue, Metrics(), Limits(20, 20_000, 60.0, ("testserver",), None)))
        body = {"items": [{"text": NEW[0]}], "threshold": 0.9}
        answers = [
            client.post("/predict", json=body),
            client.post("/table?threshold=0.9", content=f"text\n{NEW[0]}\n", headers={"content-type": "text/csv"}),
        ]
    finally:
        queue.close()
    for answer in answers:
        assert answer.status_code == 422
        assert "may have several, each with a threshold of its own" in answer.json()["detail"]


def test_several_workers_write_lists(record: RunRecord, tmp_path: Path) -> None:
    new = tmp_path / "new.jsonl"
    new.write_text("".join(json.dumps({"text": text}) + "\n" for text in NEW))
    common = (f"adapter={folder(record)}", f"input={new}", "trainer=cpu")
    predict(*common, f"output={tmp_path}/one.jsonl")
    predict(*common, f"output={tmp_path}/two.jsonl", "trainer.devices=2")
    lines = (tmp_path / "one.jsonl").read_text().splitlines()
    assert (tmp_path / "two.jsonl").read_text().splitlines() == lines
    assert all(isinstance(json.loads(line)["label"], list) for line in lines)


@pytest.mark.ci
def test_a_parquet_file_keeps_its_lists(tmp_path: Path) -> None:
    """Trained and predicted from Parquet with lists of labels: the same as from CSV with labels joined."""
    tables = {"csv": written(tmp_path / "rows.csv", ROWS), "parquet": tmp_path / "rows.parquet"}
    lists = [{**row, "tags": row["tags"].split(";") if row["tags"] else []} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(lists), tables["parquet"])
    pq.write_table(pa.Table.from_pylist([{"text": text} for text in NEW]), tmp_path / "new.parquet")
    records = {kind: trained(path, tmp_path / kind, "folds=2", "seed=1") for kind, path in tables.items()}
    assert records["parquet"].metrics == records["csv"].metrics
    predict(f"adapter={folder(records['parquet'])}", f"input={tmp_path}/new.parquet", f"output={tmp_path}/out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == NEW
    found = Predictor.load(folder(records["csv"]))(NEW)
    assert [row["label"] for row in rows] == [list(labelled.label_set or ()) for labelled in found]


@pytest.mark.ci
def test_settings_are_chosen_by_micro_f1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "MULTIPLES", ((1, 1), (2, 1)))
    record = trained(written(tmp_path / "rows.csv", ROWS), tmp_path, "folds=2", "tune=true")
    found = record.metrics["tuning"]
    assert [tried["steps"] for tried in found["settings"]] == [2, 4]
    assert found["value"] == max(tried["value"] for tried in found["settings"]) == record.metrics["f1_micro"]
    assert record.config["steps"] == found["settings"][found["chosen"]]["steps"]


@pytest.mark.ci
def test_tasks_trained_together_are_those_trained_alone(tmp_path: Path) -> None:
    sets = written(tmp_path / "sets.csv", ROWS)
    options = ("folds=null", "validation=0.25", "model.arch.dropout_rate=0")
    given = [*COMMON, f"data={sets}", *options]
    joint = train_together(settings_of_each([*given, f"runs={tmp_path}/joint"], [0, 1]))
    alone = [train(config) for config in settings_of_each([*given, f"runs={tmp_path}/alone"], [0, 1])]
    for ours, theirs in zip(joint, alone, strict=True):
        assert ours.metrics["f1_micro"] == pytest.approx(theirs.metrics["f1_micro"])
        for name, vector in vectors(folder(theirs)).items():
            torch.testing.assert_close(vectors(folder(ours))[name], vector, atol=1e-5, rtol=0)
