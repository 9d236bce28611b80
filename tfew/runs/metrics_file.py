"""`metrics.csv`: every step's loss terms, gradient norm and learning rate."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from tfew.files.atomic import write_bytes_atomically


class MetricsFile:
    """A resumed run keeps the rows up to the step it resumes from, so the file is that of an uninterrupted run."""

    def __init__(self, path: Path, step: int) -> None:
        kept = [row for row in _whole_rows(path) if int(row["step"]) <= step]
        text = io.StringIO(newline="")
        _write(text, kept)
        # atomically: a kill between emptying the file and writing its rows again would lose them
        write_bytes_atomically(path, text.getvalue().encode())
        self._file = path.open("a", newline="", encoding="utf-8")
        self._columns = list(kept[0]) if kept else None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        row = {"step": step, **dict(sorted(values.items()))}
        _write(self._file, [row], self._columns)
        self._file.flush()
        self._columns = self._columns or list(row)

    def close(self) -> None:
        self._file.close()


def final_loss(path: Path) -> float:
    """Mean over the last 10 % of the steps."""
    losses = [float(row["loss"]) for row in _whole_rows(path)]
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def _write(file: TextIO, rows: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None) -> None:
    """`columns`: of the header that is there; None: writes one."""
    if rows:
        writer = csv.DictWriter(file, columns or list(rows[0]))
        if columns is None:
            writer.writeheader()
        writer.writerows(rows)


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
