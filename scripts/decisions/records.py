"""Scores of one run's held-out rows, of its test rows and of another set's texts; numbers alone."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tfew.files.atomic import write_atomically

DIGITS = 4  # of a log-probability


@dataclass(frozen=True)
class Scored:
    """Of each row each label's score, up to a constant of the row; the log of the mass of all labels; the right one."""

    scores: list[list[float]]
    log_mass: list[float]
    label: list[int]

    @cached_property
    def scores_R1C(self) -> np.ndarray:
        return np.array(self.scores)[:, None]


@dataclass(frozen=True)
class Record:
    """`others`: rows of the other set, whose labels mean nothing here. `seconds`: of the run."""

    way: str
    dataset: str
    seed: int
    labels: list[str]
    temperature: float
    held_out: Scored
    test: Scored
    others: Scored
    trained_rows: int
    seconds: dict[str, float]
    git_commit: str | None

    @property
    def key(self) -> tuple[str, str, int]:
        return self.way, self.dataset, self.seed


def rounded(scores_RC: np.ndarray, log_mass_R: Any, label_R: Sequence[int]) -> Scored:
    scores_RC = scores_RC - scores_RC.max(1, keepdims=True)
    return Scored(
        np.round(scores_RC, DIGITS).tolist(), np.round(np.array(log_mass_R), DIGITS).tolist(), list(map(int, label_R))
    )


def load_records(path: Path) -> list[Record]:
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found.append(Record(**{**row, **{part: Scored(**row[part]) for part in ("held_out", "test", "others")}}))
    return found


def save_records(path: Path, records: Sequence[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(json.dumps(asdict(record), separators=(",", ":")) + "\n" for record in records))
