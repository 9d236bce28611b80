"""`tfew predict ... suggest=N`: the suggested rows, the file's format, and that a kill changes nothing."""

import csv
import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_describe_table import write
from tests.test_predict import KilledError, run
from tests.test_train import folder
from tfew.config import compose
from tfew.errors import UserError
from tfew.files import partial_file
from tfew.prediction import bulk_predict
from tfew.tables.table_reader import read_table
from tfew.train import train

WORDS = ["the lemon is good", "ben likes the lake", "sara has a red box", "the box is bad", "no one came", "it rains"]
TRAINED = [{"id": n, "note": f"{WORDS[n % 6]} {n}", "topic": ("good", "bad")[n % 2], "by": "ann"} for n in range(12)]
POOL = [{"by": "bob", "note": f"{WORDS[n % 6]} and {WORDS[n % 5]} {n}", "extra": n} for n in range(30)]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("suggest")
    data = write(root / "notes.csv", TRAINED)
    common = ("+experiment=local_mini", "trainer=cpu", "steps=2", "batch_size=4", "folds=null")
    return folder(train(compose(*common, f"data={data}", "text=note", "label=topic", f"runs={root}/runs")))


def suggested(adapter: Path, pool: Path, output: Path, *overrides: str) -> list[dict[str, Any]]:
    run(f"adapter={adapter}", f"input={pool}", f"output={output}", "suggest=5", *overrides)
    path = output.with_name(f"{output.stem}.suggest{output.suffix}")
    return list(read_table(path).rows) if path.is_file() else []


def test_a_table_to_be_filled_in(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repeated = [{**POOL[0], "note": POOL[0]["note"].upper()}, {**POOL[1], "note": TRAINED[3]["note"]}]
    pool = write(tmp_path / "new.csv", [*POOL, *repeated])
    rows = suggested(adapter, pool, tmp_path / "out.csv")
    assert len(rows) == 5
    assert list(rows[0]) == ["id", "note", "topic", "by", "extra"], "the table's columns in its order, then the others"
    assert all(not row["topic"] and row["by"] == "bob" for row in rows)
    notes = [str(row["note"]).lower() for row in rows]
    assert len(set(notes)) == 5
    assert TRAINED[3]["note"] not in notes, "what was trained on is known"
    assert set(notes) <= {row["note"] for row in POOL}
    printed = capsys.readouterr().out
    assert f"to label next: 5 rows, the most useful first: {tmp_path}/out.suggest.csv" in printed
    assert "?" in printed
    filled = [{**row, "topic": "good"} for row in rows]
    appended = write(tmp_path / "more.csv", [{**dict.fromkeys(filled[0], ""), **row} for row in [*TRAINED, *filled]])
    assert len(read_table(appended).rows) == 17


def test_they_are_the_most_uncertain_and_unlike(adapter: Path, tmp_path: Path) -> None:
    """With as many candidates as rows the first is the one with the largest uncertainty times distance, by hand."""
    pool = write(tmp_path / "new.csv", [{"note": text} for text in ("zug", "ufer", "abend")])
    rows = suggested(adapter, pool, tmp_path / "out.csv")
    labelled = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    margins = {row["note"]: abs(float(row["p_good"]) - float(row["p_bad"])) for row in labelled}
    assert [row["note"] for row in rows] == sorted(margins, key=margins.__getitem__), "words that no other row has"


def test_json_lines_other_names_and_rows_with_a_label(adapter: Path, tmp_path: Path) -> None:
    pool = [
        {"body": f"{row['note']} x", "label": {"kept": n}, "topic": "good" if n % 2 else None}
        for n, row in enumerate(POOL)
    ]
    path = write(tmp_path / "new.jsonl", pool)
    rows = suggested(adapter, path, tmp_path / "out.jsonl", "text=body")
    assert {"id", "note", "topic", "by", "label"} == rows[0].keys()
    assert all(row["label"]["kept"] % 2 == 0 for row in rows), "what has a label needs none"
    assert all(row["topic"] == "" for row in rows)
    assert all(row["note"].endswith(" x") for row in rows), "columns are called as in the table that was trained on"


def test_where_nothing_is_left_to_label(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = write(tmp_path / "new.csv", [{"note": row["note"]} for row in TRAINED])
    assert suggested(adapter, pool, tmp_path / "out.csv") == []
    assert "every row has a label already" in capsys.readouterr().out
    assert not (tmp_path / "out.suggest.csv").exists()


@pytest.mark.parametrize("moment", ["write", "finish"])
def test_a_kill_changes_nothing(moment: str, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = write(tmp_path / "new.csv", POOL)
    expected = suggested(adapter, pool, tmp_path / "whole.csv")
    monkeypatch.setattr(bulk_predict, "WINDOW_BATCHES", 1)
    original, calls = getattr(partial_file.PartialFile, moment), []

    def dying(self: Any, *arguments: Any) -> None:
        calls.append(moment)
        if len(calls) == (2 if moment == "write" else 1):
            raise KilledError
        original(self, *arguments)

    monkeypatch.setattr(partial_file.PartialFile, moment, dying)
    with pytest.raises(KilledError):
        suggested(adapter, pool, tmp_path / "out.csv", "eval_batch_size=8")
    assert not (tmp_path / "out.csv").exists()
    assert suggested(adapter, pool, tmp_path / "out.csv", "eval_batch_size=8") == expected
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.csv", "out.suggest.csv"]


def test_a_training_table_that_is_gone_is_said(adapter: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pool = write(tmp_path / "new.csv", POOL)
    table = Path(json.loads((adapter / "result.json").read_text())["config"]["data"])
    caplog.set_level(logging.INFO, "tfew")
    moved = table.rename(table.with_suffix(".moved"))
    try:
        rows = suggested(adapter, pool, tmp_path / "out.csv")
    finally:
        moved.rename(table)
    assert "cannot read the training rows" in caplog.text
    assert list(rows[0]) == ["by", "note", "extra", "topic"]


def test_a_training_table_that_has_grown_is_read_as_it_is(
    adapter: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its new rows, one with a new label and one without any, are not suggested again."""
    table = Path(json.loads((adapter / "result.json").read_text())["config"]["data"])
    before = table.read_bytes()
    caplog.set_level(logging.INFO, "tfew")
    pool = write(tmp_path / "new.csv", POOL[:7])
    labels = ("good", "quite new", "")
    new = [{"id": 0, "note": row["note"], "topic": topic, "by": ""} for row, topic in zip(POOL, labels, strict=False)]
    try:
        write(table, [*TRAINED, *new])
        rows = suggested(adapter, pool, tmp_path / "out.csv")
    finally:
        table.write_bytes(before)
    assert {row["note"] for row in rows} == {row["note"] for row in POOL[3:7]}
    assert f"{table} has changed since training; suggest= leaves out the rows that it has now" in caplog.text
    assert "data=" not in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["suggest=0"], "suggest=0 is not a number of rows"),
        (["suggest=many"], "suggest=many is not a number of rows"),
        (["output=-"], "set output=FILE"),
        (["adapter=null", "adapters=x.json"], "adapters= has many"),
    ],
)
def test_what_cannot_be_suggested(overrides: Sequence[str], message: str, adapter: Path, tmp_path: Path) -> None:
    pool = write(tmp_path / "new.csv", POOL)
    with pytest.raises(UserError, match=message):
        suggested(adapter, pool, tmp_path / "out.csv", *overrides)
    assert [path.name for path in tmp_path.iterdir()] == ["new.csv"]


def test_labels_that_a_person_filled_in_are_not_written_over(adapter: Path, tmp_path: Path) -> None:
    pool = write(tmp_path / "new.csv", POOL)
    (tmp_path / "out.suggest.csv").write_text("mine")
    with pytest.raises(UserError, match="perhaps with labels filled in"):
        suggested(adapter, pool, tmp_path / "out.csv")
    assert (tmp_path / "out.suggest.csv").read_text() == "mine"
