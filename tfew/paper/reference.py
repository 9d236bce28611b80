"""The paper's own numbers (`reference.csv`), and which runs belong to which of its rows (`tables.yaml`)."""

import csv
from functools import cache
from pathlib import Path
from typing import Any

import yaml

AVERAGE = "average"
REFERENCE = Path(__file__).with_name("reference.csv")  # percent as printed, one line per cell (arXiv 2205.05638v2)
TABLES = Path(__file__).with_name("tables.yaml")


@cache
def printed_accuracies() -> dict[tuple[str, str, str], tuple[float, float | None]]:
    """(table, row, column) to accuracy and interquartile range; the column of a row's average is `AVERAGE`."""
    with REFERENCE.open(encoding="utf-8", newline="") as file:
        return {
            (line["table"], line["row"], line["column"]): (
                float(line["accuracy"]),
                float(line["iqr"]) if line["iqr"] else None,
            )
            for line in csv.DictReader(file)
        }


@cache
def specs() -> dict[str, Any]:
    """Which runs belong to which row of the paper's tables and figures, and notes on them."""
    loaded: dict[str, Any] = yaml.safe_load(TABLES.read_text(encoding="utf-8"))
    return loaded
