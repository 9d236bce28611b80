"""Which tables have several labels a row, however people write them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tfew.config import checked, compose
from tfew.data.labels import LabelSetRule, label_parts
from tfew.dataset_config import complete
from tfew.errors import UserError
from tfew.label_sets.recognise import LabelSets, SetOptions, recognise
from tfew.tables.table_reader import Table
from tfew.task import load_spec

NAN = float("nan")


def table(cells: Sequence[Any], **columns: Sequence[Any]) -> Table:
    given = {"text": [f"text {number}" for number in range(len(cells))], "tags": cells, **columns}
    rows = [dict(zip(given, row, strict=True)) for row in zip(*given.values(), strict=True)]
    return Table("t.jsonl", list(given), rows)


def found(cells: Sequence[Any], **options: Any) -> LabelSets | None:
    return recognise(table(cells), SetOptions(label=["tags"], text=["text"], **options))


def rows(cells: Sequence[Any], **options: Any) -> list[list[str]]:
    sets = found(cells, **options)
    assert sets is not None
    return [list(row) for row in sets.rows]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["x;y", "y", "x", "x;y"], [["x", "y"], ["y"], ["x"], ["x", "y"]]),
        (["x | y", "y", "x", ""], [["x", "y"], ["y"], ["x"], []]),
        (["a, b", "b", "a", None], [["a", "b"], ["b"], ["a"], []]),
        (["a,b", "b", "a", NAN], [["a", "b"], ["b"], ["a"], []]),
        ([["x", "y"], ["y"], []], [["x", "y"], ["y"], []]),
        ([["x", "x"], "y", None], [["x"], ["y"], []]),
        (['["x", "y"]', '["y"]', "[]"], [["x", "y"], ["y"], []]),
        (["['x', 'y']", "['y']", "[]"], [["x", "y"], ["y"], []]),
        ([[1, 2.0], [2]], [["1", "2"], ["2"]]),
        (["é;日本", "日本", "é", "é"], [["é", "日本"], ["日本"], ["é"], ["é"]]),
        (["x;;y; x", "y", "x"], [["x", "y"], ["y"], ["x"]]),
    ],
)
def test_several_labels_in_a_cell(cells: list[Any], expected: list[list[str]]) -> None:
    assert rows(cells) == expected


@pytest.mark.parametrize(
    "cells",
    [["New York, NY", "Albany, NY"] * 2, ["a;b", "c;d"] * 2, ["yes, sir", "no"] * 2, ["x", "y", "x"], [1, 2, 1]],
)
def test_one_label_a_row(cells: list[Any]) -> None:
    assert found(cells) is None


@pytest.mark.parametrize(
    "cells",
    [
        ["1,5", "2,5", "3,5", "1", "2", "3", "5", "1,5"],
        ["1,5", "2,5", "1,0", "2,0", "1,5", "2,0"],
        ["-1,5", "+2,5", "-1", "+2", "5", "5"],
    ],
)
def test_decimal_commas_separate_nothing(cells: list[str]) -> None:
    assert found(cells) is None
    with_colons = [cell.replace(",", ";") for cell in cells]
    assert found(with_colons) is not None, "no number has a semicolon"
    assert rows(cells, several=True)[0] == cells[0].split(","), "if the user says that there are several"
    assert found([*cells, "1,5,2"]) is not None, "no number has two commas"


def test_what_was_found_is_said_with_what_says_otherwise() -> None:
    (note,) = found(["x;y", "y", "x"]).notes  # type: ignore[union-attr]
    assert note == (
        "a row may have several labels, separated by ';' as in 'x;y' (multi_label=false reads each cell as one label)"
    )
    assert found(["x;y", "y", "x"], several=False) is None


def test_labels_that_are_listed_decide() -> None:
    cells = ["x;y", "y", "x", "x;y"]
    assert found(cells, labels=["x", "y", "x;y"]) is None
    assert rows(cells, labels=["x", "y", "z"]) == [["x", "y"], ["y"], ["x"], ["x", "y"]]


def test_a_listed_label_may_hold_the_separator() -> None:
    cells = ["R&D, research, sales", "sales", "R&D, research"]
    assert rows(cells, labels=["sales", "R&D, research"]) == [["R&D, research", "sales"], ["sales"], ["R&D, research"]]
    assert label_parts("a;b;c;a;b", ";", ["a;b", "a", "c", "b;c"]) == ["a;b", "c"]


def test_it_can_be_said() -> None:
    assert rows(["x", "", "y"], several=True) == [["x"], [], ["y"]]
    assert rows(["x/y", "z"], separator="/") == [["x", "y"], ["z"]]
    with pytest.raises(UserError, match="separator='/' needs several labels per row, but multi_label is false"):
        found(["x/y"], separator="/", several=False)
    with pytest.raises(UserError, match="separator='' is empty"):
        found(["x/y"], separator="")


@pytest.mark.parametrize(
    ("late", "rude"),
    [([0, 1, 1, 0], ["1", "0", "0", "1"]),
     ([True, False, None, True], ["yes", "NO", "", "yes"]), ([1.0, NAN, 0.0, 0.0], ["x", "", None, "X"])],
)  # fmt: skip
def test_a_column_for_each_label(late: list[Any], rude: list[Any]) -> None:
    given = table(["free text"] * 4, late=late, rude=rude)
    sets = recognise(given, SetOptions(label=["late", "rude"], text=["text"]))
    assert sets is not None
    assert sets.of_each
    said = (
        [str(cell).lower() in ("1", "1.0", "true", "yes", "x") for cell in late],
        [str(cell).lower() in ("1", "yes", "x") for cell in rude],
    )
    assert [list(row) for row in sets.rows] == [
        [name for name, yes in zip(("late", "rude"), pair, strict=True) if yes] for pair in zip(*said, strict=True)
    ]


def test_columns_are_found_and_said() -> None:
    given = table(["free text"] * 4, late=[0, 1, 1, 0], rude=["yes", "no", "no", "yes"])
    sets = recognise(Table("t", ["text", "late", "rude"], given.rows), SetOptions())
    assert sets is not None
    assert list(sets.columns) == ["late", "rude"]
    assert sets.notes[0] == "label=[late,rude] (inferred)"
    with pytest.raises(UserError, match=r"row 2, column 'late': 'maybe' is neither yes nor no"):
        recognise(table([1, 0], late=[1, "maybe"]), SetOptions(label=["tags", "late"]))
    with pytest.raises(UserError, match=r"label=\[late,rude\] names several columns, but multi_label=false"):
        recognise(given, SetOptions(label=["late", "rude"], several=False))
    with pytest.raises(UserError, match=r"Unknown column 'rood' .label=; t.jsonl."):
        recognise(given, SetOptions(label=["late", "rood"]))


def test_a_column_of_lists_or_joined_labels_is_found_by_what_it_holds() -> None:
    texts = [f"one, two, {number}" for number in range(6)]
    for cells in (["a;b", "b;c", "c;a", "a", "b", "c"], [["a", "b"], ["b"], ["c"], [], ["a"], ["b"]]):
        given = Table("t", ["body", "aspects"], [{"body": b, "aspects": c} for b, c in zip(texts, cells, strict=True)])
        sets = recognise(given, SetOptions())
        assert sets is not None
        assert list(sets.columns) == ["aspects"]


def test_a_rule_reads_a_row() -> None:
    rule = LabelSetRule("tags", ("billing", "Not good", "x"), ";")
    assert rule.label_set({"tags": "x; not_good"}) == ((1, 2), ())
    assert rule.label_set({"tags": None}) == ((), ())
    assert rule.label_set({"tags": ["billing", "new"]}) == ((0,), ("new",))
    rule = LabelSetRule("a", ("a", "b"), ";", ("a", "b"))
    assert rule.label_set({"a": "no", "b": 1}) == ((1,), ())


def own(tmp_path: Path, cells: Sequence[Any], *overrides: str, **columns: Sequence[Any]) -> Any:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in table(cells, **columns).rows))
    return complete(checked(compose("+experiment=local", f"data={path}", "text=text", *overrides)))


def test_the_section_of_a_run(tmp_path: Path) -> None:
    config = own(tmp_path, ["x;y", "y", "", "x"])
    assert config.label == "tags"
    spec = load_spec(config)
    assert spec.label == LabelSetRule("tags", ("x", "y"), ";")
    assert [spec.example(0, {"text": "t", "tags": cell}, "t").labels for cell in ("y;x", None)] == [(0, 1), ()]
    with pytest.raises(UserError, match=r"t, row 1: 'z' in column 'tags' is none of x, y"):
        spec.example(0, {"text": "t", "tags": "z"}, "t")
    config = own(tmp_path, ["-"] * 4, "label=[late,rude]", late=[0, 1, 1, 0], rude=[1, 0, 0, 0])
    assert list(config.label) == ["late", "rude"]
    assert load_spec(config).label == LabelSetRule("late", ("late", "rude"), ";", ("late", "rude"))


@pytest.mark.parametrize(
    ("cells", "overrides", "message"),
    [
        ([["x"]] * 4, (), "every row has 'x', so there is nothing to learn"),
        (["", "", ""], ("multi_label=true",), "every row is without a label, so there is nothing to learn"),
        (["x;y", "y;z", "x"], ("labels=[x,y]",), r"labels= does not name 'z' \(1\)"),
        (["x;y", "y", "x"], ("multi_label=maybe",), "multi_label=maybe is neither auto nor true or false"),
        (["x;y", "y", "x"], ("choices=other",), "a row with choices of its own has one label"),
        (["x;y", "y", "x"], ("choices='{x: one}'", "multi_label=true"), "choices= has no word for the label 'y'"),
        (["x;y", "y", "x"], ("template='{{ tags }}'",), "the prompt would contain the answer"),
    ],
)
def test_what_cannot_be_learnt(cells: list[Any], overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        own(tmp_path, cells, "label=tags", *overrides)
