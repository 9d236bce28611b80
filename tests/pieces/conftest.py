"""A run on the tiny model, and rows of uneven length for it."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.test_predict import trained
from tests.test_train import folder

ROWS = 90


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    one = ("model=tiny", "steps=2", "templates=single", 'templates.name="wording 1"')
    return folder(trained(tmp_path_factory.mktemp("runs"), "complaint", *one))


def made_rows(count: int = ROWS) -> Iterator[dict[str, Any]]:
    source = random.Random(0)
    for number in range(count):
        words = source.choices(["grape", "dull", "broken", "007", 'so "good"', "late,"], k=source.choice((1, 3, 20)))
        yield {
            "text": " ".join(words),
            "judged": ["dull"],
            "lead": "",
            "tail": " it",
            "number": f"{number:03d}",
        }


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]], group: int) -> Path:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path, row_group_size=group)
    return path
