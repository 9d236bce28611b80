"""A user's table is read in one way: by training, evaluation, prediction and the service, and on standard input."""

import gzip
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.commands import run_command
from tests.test_predict import read_csv
from tests.test_predict import run as predict
from tests.test_predict import trained as trained_family
from tests.test_train import folder
from tfew.config import compose
from tfew.errors import UserError
from tfew.evaluate import evaluate, with_run_settings
from tfew.runs.records import RunRecord, load_record
from tfew.service.table import read_table as read_posted_table
from tfew.tables.table_reader import read_table
from tfew.train import train

THINGS = ("apple", "hat", "lemon", "shirt")
PRAISE, COMPLAINT = ("lovely", "great", "nice"), ("nasty", "awful", "poor")
ROWS = [
    {"id": str(number), "text": f"my {thing} by the beach looks {word}, tom.", "label": label}
    for number, (thing, word, label) in enumerate(
        (thing, word, label)
        for thing in THINGS
        for words in zip(PRAISE, COMPLAINT, strict=True)
        for word, label in zip(words, ("praise", "complaint"), strict=True)
    )
]
NEW = [{"id": "1", "text": "my hat looks nasty, tom."}, {"id": "2", "text": "my hat, it looks great."}]


def delimited(rows: Sequence[dict[str, str]], delimiter: str, after: str = "", quote: str = "") -> str:
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    return "".join((delimiter + after).join(f"{quote}{cell}{quote}" for cell in line) + "\n" for line in lines)


def forms(rows: Sequence[dict[str, str]]) -> dict[str, bytes]:
    """The same table as different programs write it, by file name."""
    comma = delimited(rows, ",", quote='"')
    return {
        "comma.csv": comma.encode(),
        "semicolon.csv": delimited(rows, ";").encode(),
        "tab.csv": delimited(rows, "\t").encode(),
        "bar.csv": delimited(rows, "|").encode(),
        "usual.tsv": delimited(rows, "\t").encode(),
        "blanks.csv": delimited(rows, ",", after=" ", quote='"').encode(),
        "empty_lines.csv": b"\n\n" + comma.encode(),
        "bom.csv": comma.encode("utf-8-sig"),
        "utf_16.csv": delimited(rows, ";").encode("utf-16"),
        "packed.csv.gz": gzip.compress(comma.encode()),
        "lines.ndjson": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "lines.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode("utf-16"),
    }


NAMES = tuple(forms(ROWS))


def trained(path: Path, runs: Path, *more: str) -> RunRecord:
    common = ("+experiment=local_mini", "trainer=cpu", "steps=2", "folds=null", "validation=0.25", f"runs={runs}")
    return train(compose(*common, f"data={path}", "text=text", "label=label", *more))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own")
    (root / "rows.csv").write_bytes(forms(ROWS)["comma.csv"])
    return folder(trained(root / "rows.csv", root / "runs"))


@pytest.mark.ci
@pytest.mark.parametrize("name", NAMES)
def test_what_trains_can_be_labelled(name: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(forms(ROWS)[name])
    assert read_table(tmp_path / name).rows == ROWS
    new = tmp_path / f"new_{name}"
    new.write_bytes(forms(NEW)[name])
    predict(f"adapter={run}", f"input={new}", f"output={tmp_path}/out.csv")
    found = read_csv(tmp_path / "out.csv")
    assert [{key: row[key] for key in ("id", "text")} for row in found] == NEW
    assert {row["label"] for row in found} <= {"praise", "complaint"}


@pytest.mark.parametrize("name", ["semicolon.csv", "utf_16.csv", "blanks.csv"])
def test_other_rows_are_evaluated_in_any_form(name: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(forms(ROWS[:6])[name])
    given = [f"adapter={run}", f"data={tmp_path / name}", f"runs={tmp_path}", "trainer=cpu"]
    record = evaluate(with_run_settings(compose(*given, config_name="evaluate"), given))
    assert record.counts["rows"] == 6


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".csv")])
def test_the_service_reads_them_too(name: str) -> None:
    assert read_posted_table(forms(NEW)[name], len(NEW)) == (["id", "text"], NEW)


def test_a_run_records_how_its_table_is_written(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(delimited(ROWS, ";").encode("utf-16"))
    record = trained(tmp_path / "t.csv", tmp_path)
    written = {"csv": {"delimiter": ";", "quoting": True, "encoding": ["utf-16-le"]}}
    assert record.config["dataset"]["formats"] == written
    (tmp_path / "new.csv").write_text(delimited(NEW, ",").replace("nasty, tom", "nasty").replace("hat, it", "hat it"))
    predict(f"adapter={folder(record)}", f"input={tmp_path}/new.csv", f"output={tmp_path}/out.csv")
    assert len(read_csv(tmp_path / "out.csv")) == 2, "new rows need not be written as those that were trained on"


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_standard_input_of_any_format(
    kind: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = {"csv": delimited(NEW, ";"), "tsv": delimited(NEW, "\t")}.get(kind, "".join(map(as_line, NEW)))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    predict(f"adapter={run}", f"format={kind}")
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == ["1", "2"]


def as_line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def test_standard_input_says_that_it_takes_json_lines(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(delimited(NEW, ",").encode())))
    with pytest.raises(UserError, match=r"standard input is read as JSON lines unless format= names another format"):
        predict(f"adapter={run}")


@pytest.mark.parametrize("skip", ["bad_rows=stop", "bad_rows=skip"])
def test_the_header_is_checked_before_the_first_row(skip: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("id,Text,more\n1,my hat looks nasty,x\n")
    given = (f"adapter={run}", f"input={tmp_path}/new.csv", f"output={tmp_path}/out.csv", skip)
    message = r"new.csv lacks 'text'; it has 'id', 'Text', 'more' \(did you mean 'Text'\?\).*set text=Text\.$"
    with pytest.raises(UserError, match=message):
        predict(*given)
    assert [path.name for path in tmp_path.iterdir()] == ["new.csv"]
    predict(*given, "text=Text")
    assert read_csv(tmp_path / "out.csv")[0]["Text"] == "my hat looks nasty"


@pytest.mark.parametrize("skip", ["bad_rows=stop", "bad_rows=skip"])
def test_where_no_row_can_be_labelled_nothing_is_written(skip: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / "new.jsonl").write_text('{"id": 1, "body": "my hat"}\n{"id": 2, "body": "my hat"}\n')
    given = (f"adapter={run}", f"input={tmp_path}/new.jsonl", skip)
    with pytest.raises(UserError, match=r"lacks 'text'; it has 'id', 'body'\. If") as raised:
        predict(*given, f"output={tmp_path}/out.csv")
    assert "'label'" not in str(raised.value), "the file has no such column"
    assert "bad_rows" not in str(raised.value), "that would leave out every row"
    assert not (tmp_path / "out.csv").exists()
    with pytest.raises(UserError, match="lacks 'text'"):
        predict(*given)  # to standard output
    (tmp_path / "none.csv").write_text("id,text\n")
    with pytest.raises(UserError, match=r"none\.csv holds no rows: there is nothing to label"):
        predict(f"adapter={run}", f"input={tmp_path}/none.csv", f"output={tmp_path}/out.csv", skip)


def test_the_exit_code_says_that_nothing_was_labelled(run: Path, tmp_path: Path) -> None:
    (tmp_path / "new.jsonl").write_text('{"id": 1, "body": "my hat"}\n')
    given = (f"adapter={run}", "trainer=cpu", f"input={tmp_path}/new.jsonl", "bad_rows=skip")
    ended = run_command("tfew.predict", *given, f"output={tmp_path}/out.csv")
    assert ended.returncode == 1
    assert "its only row cannot be labelled, and nothing is written. The first: rows, row 1 lacks" in ended.stderr


def test_a_bad_row_among_good_ones_is_told_what_to_do(run: Path, tmp_path: Path) -> None:
    (tmp_path / "new.jsonl").write_text('{"text": "my hat looks nasty"}\n{"body": "my hat"}\n')
    with pytest.raises(
        UserError, match=r"row 2 lacks 'text'.*bad_rows=skip the same command continues, and lists such rows"
    ):
        predict(f"adapter={run}", f"input={tmp_path}/new.jsonl", f"output={tmp_path}/out.csv")


def test_texts_in_other_columns_are_for_ones_own_tables(tmp_path: Path) -> None:
    made = folder(trained_family(tmp_path, "complaint", "steps=1", "shots=8"))
    (tmp_path / "x.jsonl").write_text('{"body": "my hat"}\n')
    with pytest.raises(UserError, match=r"text= is for runs on a table of your own; this one is on complaint"):
        predict(f"adapter={made}", "text=body", f"input={tmp_path}/x.jsonl", f"output={tmp_path}/out.csv")


def test_labels_of_an_adapter_no_better_than_guessing_come_with_a_warning(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"my {thing} looks poor, tom."} for thing in THINGS] * 3
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    predict(f"adapter={run}", f"input={tmp_path}/new.jsonl", f"output={tmp_path}/out.csv")
    labels = {row["label"] for row in read_csv(tmp_path / "out.csv")}
    assert ("Warning: every row" in capsys.readouterr().out) == (len(labels) == 1)
    gains = [scores["gain"]["low"] for scores in load_record(run).metrics["baselines"].values()]
    warned = [message for message in caplog.messages if "was not significantly better than" in message]
    assert len(warned) == (min(gains) <= 0) == 1, "six rows held out tell nothing"
