"""Multiple choice as people keep it: a column of lists, or a column for each choice, found out and worded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_describe_table import write
from tfew.config import checked, compose
from tfew.data.describe_table import TableOptions, describe_table
from tfew.dataset_config import complete
from tfew.errors import UserError
from tfew.tables.table_reader import Table
from tfew.task import load_spec, train_task

CHOICES = [["Mars", "Jupiter", "Venus"], ["eel", "dolphin"], ["milk", "honey", "silk"], ["Mars", "Jupiter", "Venus"]]
ANSWERS = ["Jupiter", "dolphin", "honey", "Jupiter"]
LETTERS = ["B", "B", "B", "B"]


def quiz(**columns: Sequence[Any]) -> Table:
    cells = {"question": [f"question {number}" for number in range(4)], **columns}
    rows = [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]
    return Table("t.csv", list(cells), rows)


def wide(*names: str, answer: Sequence[Any] = LETTERS) -> Table:
    columns = {name: [row[place] if place < len(row) else "" for row in CHOICES] for place, name in enumerate(names)}
    return quiz(**columns, answer=answer)


def test_a_column_of_lists_that_hold_the_answer() -> None:
    for options in (CHOICES, [" ||| ".join(row) for row in CHOICES]):
        found = describe_table(quiz(options=options, answer=ANSWERS), TableOptions())
        assert found.section["label"] == {
            "column": "answer", "names": None, "first": 0, "choices": "options", "by": "text",
        }  # fmt: skip
        assert found.text == ["question"]
        assert "choices=options (inferred: each row has its own choices)" in found.notes
        assert found.section["lists"] == {}


def test_lists_that_do_not_hold_the_answer_are_no_choices() -> None:
    found = describe_table(quiz(seen=CHOICES, label=["good", "bad"] * 2), TableOptions())
    assert found.section["label"]["names"] == ["bad", "good"]


@pytest.mark.parametrize(
    "names",
    [("A", "B", "C"), ("a", "b", "c"), ("option 1", "option 2", "option 3"), ("choice_0", "choice_1", "choice_2"),
     ("Option A", "Option B", "Option C"), ("(A)", "(B)", "(C)")],
)  # fmt: skip
@pytest.mark.parametrize(("answer", "by"), [(LETTERS, "letter"), (ANSWERS, "text")])
def test_a_column_for_each_choice(names: tuple[str, ...], answer: Sequence[str], by: str) -> None:
    found = describe_table(wide(*names, answer=answer), TableOptions())
    assert (found.section["label"]["by"], found.section["label"]["choices"]) == (by, "options")
    assert found.text == ["question"]
    named = [found.section["rename"].get(name, name) for name in names]
    assert found.section["lists"] == {"options": named}
    assert found.section["columns"] == ["question", "options"]
    assert f"choices=[{','.join(names)}] (inferred: each row has its own choices)" in found.notes


def test_columns_of_choices_may_be_named() -> None:
    table = wide("first", "second", "third")
    found = describe_table(table, TableOptions(label="answer", choices=["first", "second", "third"]))
    assert found.section["lists"] == {"options": ["first", "second", "third"]}


def test_other_columns_that_are_numbered_are_no_choices() -> None:
    found = describe_table(wide("A", "B", "C", answer=["good", "bad"] * 2), TableOptions(text=["A", "B"]))
    assert found.section["label"]["names"] == ["bad", "good"]
    found = describe_table(wide("A", "B", "D", answer=["A", "B"] * 2), TableOptions(text=["question"]))
    assert found.section["lists"] == {}, "there is a gap"


def test_wide_rows_are_worded_with_their_own_choices(tmp_path: Path) -> None:
    path = write(tmp_path / "quiz.csv", wide("A", "B", "C").rows)
    given = ("+experiment=local", "model=tiny", f"data={path}", "batch_size=2", "folds=2")
    config = complete(checked(compose(*given)))
    task = train_task(config)
    assert [prompt.choices for (prompt,) in task.prompts[:2]] == [tuple(CHOICES[0]), tuple(CHOICES[1])]
    assert [prompt.label for (prompt,) in task.prompts] == [1] * 4
    assert task.prompts[1][0].input == "Choices: eel, dolphin\nquestion 1\nAnswer:"
    spec = load_spec(config)
    new = spec.example(0, {"question": "q", "A": "x", "B": "y", "C": "", "answer": "?"}, "new.csv", labelled=False)
    assert new.fields["options"] == ["x", "y"]
    with pytest.raises(UserError, match="row 1: choice 1 is empty, but a later one is not"):
        spec.example(0, {"question": "q", "A": "", "B": "y", "C": "z"}, "new.csv", labelled=False)
    with pytest.raises(UserError, match=r"new\.csv lacks 'B'; it has 'question', 'A'"):
        spec.check_columns(spec.columns, ["question", "A"], "new.csv")
