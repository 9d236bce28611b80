"""`metrics.csv`: every step's loss terms, gradient norm and learning rate."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path


class MetricsFile:
    """A resumed run keeps the rows up to the step it resumes from, so the file is that of an uninterrupted run."""

    def __init__(self, path: Path, step: int) -> None:
        kept = [row for row in _whole_rows(path) if int(row["step"]) <= step]
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer: csv.DictWriter[str] | None = None
        for row in kept:
            self._write(row)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._write({"step": step, **dict(sorted(values.items()))})

    def close(self) -> None:
        self._file.close()

    def _write(self, row: Mapping[str, object]) -> None:
        if self._writer is None:
            self._writer = csv.DictWriter(self._file, list(row))
            self._writer.writeheader()
        self._writer.writerow(row)
        self._file.flush()


def final_loss(path: Path) -> float:
    """Mean over the last 10 % of the steps."""
    losses = [float(row["loss"]) for row in _whole_rows(path)]
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def _whole_rows(path: Path) -> list[dict[str, str]]:
    """Rows of an earlier file, without a last row that was cut off by a kill."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if all(_is_number(value) for value in row.values())]


def _is_number(text: str | None) -> bool:
    try:
        return text is not None and not math.isnan(float(text))
    except ValueError:
        return False
