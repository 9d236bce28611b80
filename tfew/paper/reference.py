"""The paper's own numbers, in percent, as printed: `reference.csv`, one line a cell (arXiv 2205.05638v2)."""

import csv
from functools import cache
from pathlib import Path

AVERAGE = "average"
FILE = Path(__file__).with_name("reference.csv")


@cache
def printed() -> dict[tuple[str, str, str], tuple[float, float | None]]:
    """(table, row, column) to accuracy and interquartile range; the column of a row's average is `AVERAGE`."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return {
            (line["table"], line["row"], line["column"]): (
                float(line["accuracy"]),
                float(line["iqr"]) if line["iqr"] else None,
            )
            for line in csv.DictReader(file)
        }
