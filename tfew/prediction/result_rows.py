"""How a labelled row is written: its own columns unchanged, then label, probability, and each choice's probability.

A table has a column p_LABEL per label if all rows have the same labels; otherwise (several tasks, choices of a row's
own) a column "probabilities" in JSON, as JSON lines always have. A column of the row with one of these names becomes
input_NAME, or input_input_NAME beside another input_NAME. Several labels of a row are a list in JSON lines; in a table
they are joined by the separator of the training table.

A row too doubtful for a label (`threshold=`) has none: an empty cell, null in JSON lines. With `sets=` there are
set (a list in JSON, also in a table, since labels may contain any character) and set_size. Doubtful rows for a person
to label also have row, their number in the input, and guess, the likeliest label.

With `score.shortlist=` the column bounds has the number of labels left out of the ranking. Their probabilities are
upper bounds, and that of the label is a lower bound (`tfew.ranking.shortlist`).
"""

import csv
import io
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfew.errors import unknown_value_error
from tfew.prediction.task_predictor import Labelled

STANDARD = "-"
DELIMITERS = {"csv": ",", "tsv": "\t"}
ENDINGS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
LABEL, PROBABILITY, PROBABILITIES, OF_LABEL, OF_INPUT = "label", "probability", "probabilities", "p_", "input_"
ROW, GUESS, SET, SET_SIZE = "row", "guess", "set", "set_size"
BOUNDS = "bounds"
DIGITS = 6  # of a probability


def kind_of_output(path: str) -> str:
    if path == STANDARD:
        return "jsonl"
    kind = ENDINGS.get(Path(path).suffix.lower())
    if kind is None:
        raise unknown_value_error("file ending", Path(path).suffix, ENDINGS, f"output={path}")
    return kind


def suggestions_file(output: Path) -> Path:
    """The file of `suggest=`, beside the output."""
    return output.with_name(f"{output.stem}.suggest{output.suffix}")


def bad_rows_file(output: Path) -> Path:
    return output.with_name(f"{output.name}.bad.jsonl")


def review_file(output: Path) -> Path:
    """The file of the rows that got no label, in their order, with the ending of the output."""
    return output.with_name(f"{output.name}.review{output.suffix}")


class ResultRows:
    """`labels`: those shared by all rows, else None. `columns`: of the input; None: the first row's.

    `sets`: whether rows have sets of labels; `for_review`: whether they are for a person to label; `bounds`: whether
    rows have the column bounds.
    """

    def __init__(
        self, kind: str, columns: Sequence[str] | None, labels: Sequence[str] | None, sets: bool = False,
        for_review: bool = False, bounds: bool = False,
    ) -> None:  # fmt: skip
        self.kind, self.labels, self.sets, self.for_review, self.bounds = kind, labels, sets, for_review, bounds
        self.columns = None if columns is None else list(columns)
        self.left_out: set[str] = set()  # columns of later rows that the table's header lacks

    def text(
        self, rows: Sequence[Mapping[str, Any]], labelled: Sequence[Labelled], first: bool, numbers: Sequence[int] = ()
    ) -> str:
        """The lines of these rows; `first`: nothing was written before; `numbers`: of the rows, for review."""
        places = numbers or [0] * len(rows)
        if self.kind == "jsonl":
            found = zip(rows, labelled, places, strict=True)
            return "".join(_dumped(self._json(row, of, number)) + "\n" for row, of, number in found)
        if self.columns is None:
            self.columns = list(rows[0]) if rows else []
        own = self._own_columns()
        text, delimiter = [], DELIMITERS[self.kind]
        if first:
            text.append(csv_line([*output_columns(self.columns, own), *own], delimiter))
        for row, of, number in zip(rows, labelled, places, strict=True):
            self.left_out |= row.keys() - self.columns
            own_cells = [cell(value) for value in self._own(of, number).values()]
            text.append(csv_line([*(cell(row.get(column)) for column in self.columns), *own_cells], delimiter))
        return "".join(text)

    def _own_columns(self) -> list[str]:
        by_label = [PROBABILITIES] if self.labels is None else [OF_LABEL + label for label in self.labels]
        sets, bounds = [SET, SET_SIZE] if self.sets else [], [BOUNDS] if self.bounds else []
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
        if of.label_set is not None:
            own[LABEL] = list(of.label_set)
        return {**dict(zip(output_columns(row, own), row.values(), strict=True)), **own}


def _rounded(of: Labelled) -> dict[str, float]:
    return {label: round(probability, DIGITS) for label, probability in of.probabilities.items()}


def output_columns(columns: Collection[str], own: Collection[str]) -> list[str]:
    """The names of a row's columns beside `own`, the added ones."""
    return [OF_INPUT + _longest(column, columns) if column in own else column for column in columns]


def input_columns(columns: Collection[str], own: Collection[str]) -> dict[str, str]:
    """Of an output with these columns: output column -> the input's column; without `own`."""
    renamed = {_longest(name, columns): name for name in own}
    return {column: renamed.get(column, column) for column in columns if column not in own}


def _longest(name: str, columns: Collection[str]) -> str:
    """The column input_..._NAME with the most repetitions, maybe none."""
    found = [column for column in columns if column.endswith(name) and not column[: -len(name)].replace(OF_INPUT, "")]
    return max(found, key=len, default=name)


def csv_line(cells: Iterable[Any], delimiter: str) -> str:
    text = io.StringIO()
    # before 3.13 Python's writer quotes a carriage return only if lines end in one
    csv.writer(text, delimiter=delimiter, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n") + "\n"


def cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, list | tuple | dict | set):
        return _dumped(value)
    return value if isinstance(value, str | int | float) else str(value)


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)  # Parquet has dates and the like
