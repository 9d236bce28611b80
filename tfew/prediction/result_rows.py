"""How a labelled row is written: its own columns as they came, then label, probability, and each choice's probability.

A table has a column p_LABEL for each label where all rows have the same labels; where they have not (several tasks,
choices of a row's own), one column "probabilities" in JSON, as JSON lines have it always. A column of the row that is
named like one of these goes out as input_NAME.

A row too doubtful for a label (`threshold=`) has none: an empty cell, null in JSON lines. With `sets=` there are
set (a list in JSON, in a table too, since labels may hold any character) and set_size. Rows for a person to label, the
doubtful ones, also have row, their number in the input, and guess, the likeliest label.

With `score.shortlist=` a column bounds says how many labels were left out of the ranking. Their probabilities are too
high, if anything, and that of the label is too low (`tfew.ranking.shortlist`).
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfew.errors import unknown_value_error
from tfew.prediction.task_predictor import Labelled

STANDARD = "-"
DELIMITERS = {"csv": ",", "tsv": "\t"}
ENDINGS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
LABEL, PROBABILITY, PROBABILITIES, OF_LABEL, OF_INPUT = "label", "probability", "probabilities", "p_", "input_"
BOUNDS = "bounds"
ROW, GUESS, SET, SET_SIZE = "row", "guess", "set", "set_size"
DIGITS = 6  # of a probability


def kind_of_output(path: str) -> str:
    if path == STANDARD:
        return "jsonl"
    kind = ENDINGS.get(Path(path).suffix.lower())
    if kind is None:
        raise unknown_value_error("file ending", Path(path).suffix, ENDINGS, f"output={path}")
    return kind


def suggestions_file(output: Path) -> Path:
    """Of `suggest=`, beside the output."""
    return output.with_name(f"{output.stem}.suggest{output.suffix}")


class ResultRows:
    """`labels`: those that all rows have; None where they have not. `columns`: of the input; None: the first row's.

    `sets`: whether rows have sets of labels; `for_review`: whether they are for a person to label."""

    def __init__(
        self, kind: str, columns: Sequence[str] | None, labels: Sequence[str] | None, sets: bool = False,
        for_review: bool = False,
    ) -> None:  # fmt: skip
        self.kind, self.labels, self.sets, self.for_review = kind, labels, sets, for_review
        self.columns = None if columns is None else list(columns)
        self.left_out: set[str] = set()  # columns of later rows that a table's header has not
        self.bounds = False  # whether rows say of how many labels the probability is a bound

    def text(
        self, rows: Sequence[Mapping[str, Any]], labelled: Sequence[Labelled], first: bool, numbers: Sequence[int] = ()
    ) -> str:
        """The lines of these rows; `first`: nothing is written before them; `numbers`: the rows', for review."""
        places = numbers or [0] * len(rows)
        if self.kind == "jsonl":
            found = zip(rows, labelled, places, strict=True)
            return "".join(_dumped(self._json(row, of, number)) + "\n" for row, of, number in found)
        if self.columns is None:
            self.columns = list(rows[0]) if rows else []
        own = self._own_columns()
        text = io.StringIO()
        writer = csv.writer(text, delimiter=DELIMITERS[self.kind], lineterminator="\n")
        if first:
            writer.writerow([*(self._renamed(column) for column in self.columns), *own])
        for row, of, number in zip(rows, labelled, places, strict=True):
            self.left_out |= row.keys() - self.columns
            own_cells = [_cell(value) for value in self._own(of, number).values()]
            writer.writerow([*(_cell(row.get(column)) for column in self.columns), *own_cells])
        return text.getvalue()

    def _own_columns(self) -> list[str]:
        by_label = [PROBABILITIES] if self.labels is None else [OF_LABEL + label for label in self.labels]
        sets = [SET, SET_SIZE] if self.sets else []
        bounds = [BOUNDS] if self.bounds else []
        return [LABEL, *([GUESS, ROW] if self.for_review else []), PROBABILITY, *bounds, *sets, *by_label]

    def _own(self, of: Labelled, number: int) -> dict[str, Any]:
        """What is added to a row, by column; in JSON lines all but the columns of labels."""
        probabilities = _rounded(of)
        by_label: dict[str, Any] = {PROBABILITIES: probabilities}
        if self.labels is not None and self.kind != "jsonl":
            by_label = {OF_LABEL + label: probabilities[label] for label in self.labels}
        return {
            LABEL: of.label,
            **({GUESS: of.guess, ROW: number} if self.for_review else {}),
            PROBABILITY: round(of.probability, DIGITS),
            **({BOUNDS: of.bounds} if self.bounds else {}),
            **({SET: list(of.labels or ()), SET_SIZE: len(of.labels or ())} if self.sets else {}),
            **by_label,
        }

    def _json(self, row: Mapping[str, Any], of: Labelled, number: int) -> dict[str, Any]:
        own = self._own(of, number)
        return {**{OF_INPUT + key if key in own else key: value for key, value in row.items()}, **own}

    def _renamed(self, column: str) -> str:
        return OF_INPUT + column if column in self._own_columns() else column


def _rounded(of: Labelled) -> dict[str, float]:
    return {label: round(probability, DIGITS) for label, probability in of.probabilities.items()}


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return value if isinstance(value, str | int | float) else _dumped(value)


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)  # Parquet has dates and the like
