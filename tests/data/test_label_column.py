"""Labels as people write them: the same in several spellings, none at all, several at once, or no label."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.test_train import folder
from tfew.config import checked, compose
from tfew.data.describe_table import TableOptions, describe_table
from tfew.data.label_column import match_label
from tfew.data.labels import LabelRule
from tfew.dataset_config import complete
from tfew.errors import UserError
from tfew.evaluate import evaluate, with_run_settings
from tfew.tables.table_reader import Table
from tfew.task import load_spec
from tfew.train import train

NAN = float("nan")


def table(label: Sequence[Any], **columns: Sequence[Any]) -> Table:
    cells = {"text": [f"text {number}" for number in range(len(label))], **columns, "label": label}
    rows = [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]
    return Table("t.jsonl", list(cells), rows)


def described(label: Sequence[Any], labels: Any = None, **columns: Sequence[Any]) -> Any:
    return describe_table(table(label, **columns), TableOptions(text=["text"], label="label", labels=labels))


def names(label: Sequence[Any], labels: Any = None) -> list[str]:
    found: list[str] = described(label, labels).section["label"]["names"]
    return found


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ([1, "1", 1.0, 2, 2], ["1", "2"]),
        (["1", "1.0", "2", "2.0"], ["1", "2"]),
        ([1.0, 2.0, 2.0], ["1", "2"]),
        ([1.0, 0.5, 0.5, 1.0], ["0.5", "1.0"]),
        (["1.0", "2.0", "2.0"], ["1.0", "2.0"]),  # the table's own spelling, and the only one
        ([True, "true", False, "false"], ["false", "true"]),
        (["a ", "a", "b"], ["a", "b"]),
    ],
)
def test_one_label_in_several_spellings(label: list[Any], expected: list[str]) -> None:
    assert names(label) == expected


def test_spellings_that_are_one_label_are_said() -> None:
    assert described([1, "1", 1.0, 2, 2]).notes[0] == "labels with several spellings were merged: 1 (1, '1', 1.0)"
    assert described([1.0, 2.0, 2.0]).notes[0].startswith("2 labels in 3 rows")


def test_whole_numbers_are_said_without_a_point() -> None:
    assert described(["1.0", "2.0", "2.0"]).section["prompts"][0]["answer_choices"] == ["1", "2"]
    assert described([1.0, 0.5, 0.5]).section["prompts"][0]["answer_choices"] == ["0.5", "1.0"]


def test_labels_are_read_back_in_every_spelling() -> None:
    rule = LabelRule("label", (("0",), ("1",)), None)
    assert [rule.index(value) for value in (1, "1", 1.0, "1.0", 0.0)] == [1, 1, 1, 1, 0]
    rule = LabelRule("label", (("No",), ("not_good",), ("café",)), None)
    assert [rule.index(value) for value in ("no", "Not good", "cafe\u0301", " NO ")] == [0, 1, 2, 0]
    rule = LabelRule("label", (("No",), ("NO",)), None)
    with pytest.raises(ValueError, match="is none of No, NO"):
        rule.index("no")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (["x", NAN, "y", "x", "y"], r"t.jsonl, row 2: the label 'label' is empty \(NaN\); fill it in"),
        (["x", None, "y", " "], r"t.jsonl, rows 2, 4: the label 'label' is empty; fill it in"),
        ([1.0, NAN] * 9, r"rows 2, 4, 6, 8, 10 and 4 more: the label 'label' is empty \(NaN\)"),
        (
            [["a"], ["a", "b"]],
            r"several labels in 1 of 2 rows, such as row 2 \(\['a', 'b'\]\); multi_label=false .* set multi_label=auto",
        ),
        ([{"n": 1}, {"n": 2}], r"row 1: the label 'label' is a dictionary \(\{'n': 1\}\)"),
        ([b"x", b"y"], r"row 1: the label 'label' is binary data \(b'x'\)"),
    ],
)
def test_what_is_no_label(label: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        described(label)


@pytest.mark.parametrize("label", [["New York, NY", "Albany, NY"] * 2, ["a;b", "c;d"] * 2, ["yes, sir", "no"] * 2])
def test_a_separator_alone_makes_no_two_labels(label: list[str]) -> None:
    assert names(label) == sorted(set(label))


def test_joined_labels_that_are_named_are_one() -> None:
    assert names(["x;y", "y", "x", "x;y"], ["x", "y", "x;y"]) == ["x", "y", "x;y"]


def test_a_column_for_each_label_is_recognised() -> None:
    rows = [{"text": f"t {i}", "rude": i % 2, "late": str(i // 2 % 2)} for i in range(8)]
    found = Table("t.csv", ["text", "rude", "late"], rows)
    with pytest.raises(UserError, match=r"yes/no columns \(late, rude\): name one .* label=\[late,rude\]") as raised:
        describe_table(found, TableOptions())
    assert "\n" not in str(raised.value)
    assert describe_table(found, TableOptions(label="rude")).section["label"]["names"] == ["0", "1"]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (b"hat", r"row 3: 'text' holds binary data \(b'hat'\), not text: decode it"),
        (["a", "b"], r"row 3: 'text' holds a list \(\['a', 'b'\]\), not text: join its items"),
        ({"a": 1}, r"row 3: 'text' holds a dictionary .*: turn its keys into columns"),
        (NAN, r"row 3: 'text' is empty \(NaN\)"),
    ],
)
def test_texts_that_are_none(cell: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        described(["x", "y", "x"], text=["a", "b", cell])
    spec = load_spec(own(tmp_path, ["x", "y"] * 4))
    with pytest.raises(UserError, match=message.replace(r" \(NaN\)", "")):
        spec.example(2, {"text": cell}, "new.parquet", labelled=False)


def own(tmp_path: Path, label: Sequence[Any], *overrides: str) -> Any:
    rows = table(label).rows
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return complete(checked(compose("+experiment=local", f"data={tmp_path}/t.jsonl", "text=text", *overrides)))


def test_booleans_among_texts_are_shown_as_json_writes_them() -> None:
    found = describe_table(
        table(["x", "y"] * 2, paid=[True, False, True, True]), TableOptions(text=["text", "paid"], label="label")
    )
    assert found.section["types"] == {"paid": "text"}
    assert describe_table(table(["x", "y"] * 2), TableOptions()).section["types"] == {}


def test_all_labels_may_be_named_also_those_without_rows() -> None:
    assert names(["b", "a", "b"], ["c", "b", "a"]) == ["c", "b", "a"]
    assert names(["Yes", "no", "yes", "No"], ["no", "yes"]) == ["no", "yes"]
    assert names(["Yes", "no", "yes", "No"], ["no", "No", "yes", "Yes"]) == ["no", "No", "yes", "Yes"]
    assert names([True, "False", "true"], [False, True]) == ["false", "true"]
    with pytest.raises(UserError, match=r"labels= does not name 'c' \(2\), which 'label' holds"):
        names(["a", "b", "c", "c"], ["a", "b"])
    with pytest.raises(UserError, match="must list at least two labels, each once"):
        names(["a", "b", "a"], ["a", "a"])
    assert match_label("Not-good", ["not good", "ok"]) == "not good"
    assert match_label("x", ["X", "x "]) is None


def test_labels_of_a_run(tmp_path: Path) -> None:
    config = own(tmp_path, ["x", "y"] * 4, "labels=[y,x,z]")
    assert config.dataset.label.names == ["y", "x", "z"]
    with pytest.raises(UserError, match="labels=strict is not a list of labels"):
        own(tmp_path, ["x", "y"] * 4, "labels=strict")


def test_unknown_labels_are_errors_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Against the same evaluation without these rows, counted by hand."""
    own(tmp_path, ["x", "y"] * 6)
    common = ("+experiment=local", "model=tiny", "trainer=cpu", "steps=2", "batch_size=4", f"runs={tmp_path}/runs")
    run = folder(train(compose(*common, f"data={tmp_path}/t.jsonl", "folds=null", "text=text", "label=label")))
    rows = [{"text": f"text {i}", "label": ("x", "y", "X", "new", "x", "other")[i % 6]} for i in range(12)]

    def evaluated(name: str, rows: list[dict[str, str]], *more: str) -> Any:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = [f"adapter={run}", f"data={tmp_path / name}", f"runs={tmp_path}/e", "trainer=cpu", *more]
        return evaluate(with_run_settings(compose(*given, config_name="evaluate"), given)).metrics

    known = evaluated("known.jsonl", [row for row in rows if row["label"] not in ("new", "other")])
    capsys.readouterr()
    found = evaluated("all.jsonl", rows)
    assert found["unknown_labels"] == {"new": 2, "other": 2}
    assert found["accuracy"] == pytest.approx(known["accuracy"] * 8 / 12)
    assert found["accuracy_by_norm"]["sum"] == pytest.approx(known["accuracy_by_norm"]["sum"] * 8 / 12)
    assert found["classes"]["new"] == {"precision": 0, "recall": 0, "f1": 0, "rows": 2, "predicted": 0}
    assert sum(map(sum, found["confusion"])) == 12
    assert "4 rows have labels that the task does not have, and count as errors: new (2), other (2)" in (
        capsys.readouterr().out
    )
    with pytest.raises(UserError, match=r"row 4: label 'new' in column 'label' is none of x, y"):
        evaluated("all.jsonl", rows, "labels=strict")
