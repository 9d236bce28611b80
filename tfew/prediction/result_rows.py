"""How a labelled row is written: its own columns as they came, then label, probability, and each choice's probability.

A table has a column p_LABEL for each label where all rows have the same labels; where they have not (several tasks,
choices of a row's own), one column "probabilities" in JSON, as JSON lines have it always. A column of the row that is
named like one of these goes out as input_NAME. Several labels of a row are a list in JSON lines, and in a table stand
between the separator of the table that was trained on.
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
DIGITS = 6  # of a probability


def kind_of_output(path: str) -> str:
    if path == STANDARD:
        return "jsonl"
    kind = ENDINGS.get(Path(path).suffix.lower())
    if kind is None:
        raise unknown_value_error("file ending", Path(path).suffix, ENDINGS, f"output={path}")
    return kind


class ResultRows:
    """`labels`: those that all rows have; None where they have not. `columns`: of the input; None: the first row's."""

    def __init__(self, kind: str, columns: Sequence[str] | None, labels: Sequence[str] | None) -> None:
        self.kind, self.labels = kind, labels
        self.columns = None if columns is None else list(columns)
        self.left_out: set[str] = set()  # columns of later rows that a table's header has not

    def text(self, rows: Sequence[Mapping[str, Any]], labelled: Sequence[Labelled], first: bool) -> str:
        """The lines of these rows; `first`: nothing is written before them."""
        pairs = zip(rows, labelled, strict=True)
        if self.kind == "jsonl":
            return "".join(_dumped(self._json(row, of)) + "\n" for row, of in pairs)
        if self.columns is None:
            self.columns = list(rows[0]) if rows else []
        own = self._own_columns()
        text = io.StringIO()
        writer = csv.writer(text, delimiter=DELIMITERS[self.kind], lineterminator="\n")
        if first:
            writer.writerow([*(self._renamed(column) for column in self.columns), *own])
        for row, of in pairs:
            self.left_out |= row.keys() - self.columns
            writer.writerow([*(_cell(row.get(column)) for column in self.columns), *self._own_cells(of)])
        return text.getvalue()

    def _own_columns(self) -> list[str]:
        by_label = [PROBABILITIES] if self.labels is None else [OF_LABEL + label for label in self.labels]
        return [LABEL, PROBABILITY, *by_label]

    def _own_cells(self, of: Labelled) -> list[Any]:
        probabilities = _rounded(of)
        by_label = [_dumped(probabilities)] if self.labels is None else [probabilities[label] for label in self.labels]
        return [of.label, round(of.probability, DIGITS), *by_label]

    def _json(self, row: Mapping[str, Any], of: Labelled) -> dict[str, Any]:
        label = of.label if of.labels is None else list(of.labels)
        own = {LABEL: label, PROBABILITY: round(of.probability, DIGITS), PROBABILITIES: _rounded(of)}
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
