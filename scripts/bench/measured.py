"""A benchmark's results so far, one JSON line each, so that an interrupted benchmark can resume."""

import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from scripts.bench.case import Case
from scripts.bench.workload import Workload
from tfew.files.atomic import write_atomically

FOLDER = Path("runs/bench")


@dataclass
class Measured:
    """`seconds`: of measuring, over all starts of the command."""

    path: Path
    cases: list[Case] = field(default_factory=list)
    memory: dict[tuple[str, int], int] = field(default_factory=dict)
    starts: Mapping[str, Sequence[float]] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def open(cls, name: str, folder: Path = FOLDER) -> "Measured":
        """What was measured with this code and these versions; nothing where it was finished or they are others."""
        found = cls(folder / f"{name}.jsonl")
        lines = found.path.read_text(encoding="utf-8").splitlines() if found.path.is_file() else []
        rows: list[Any] = [json.loads(line) for line in lines]
        if rows and rows[0] == _code_and_versions():
            for row in rows[1:]:
                found._take(row)
        return found

    def has(self, case: Case) -> bool:
        return case.name in {other.name for other in self.cases}

    def add(self, case: Case) -> None:
        self.cases.append(case)
        self._write()

    def add_memory(self, name: str, choices: int, bytes_: int) -> None:
        self.memory[name, choices] = bytes_
        self._write()

    def add_starts(self, seconds: Mapping[str, Sequence[float]]) -> None:
        self.starts = seconds
        self._write()

    def finish(self) -> None:
        """The next benchmark begins anew."""
        self.path.replace(self.path.with_suffix(".finished.jsonl"))

    @contextmanager
    def timed(self) -> Iterator[None]:
        started = time.time()
        yield
        self.seconds += time.time() - started

    def _write(self) -> None:
        rows: list[Any] = [_code_and_versions(), {"seconds": self.seconds}]
        rows += [{**vars(case), "workload": vars(case.workload)} for case in self.cases] + [
            {"memory": [name, choices, bytes_]} for (name, choices), bytes_ in self.memory.items()
        ]
        rows += [{"starts": self.starts}] if self.starts else []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in rows))

    def _take(self, row: dict[str, Any]) -> None:
        if "what" in row:
            self.cases.append(Case(**{**row, "workload": Workload(**row["workload"])}))
        elif "memory" in row:
            name, choices, bytes_ = row["memory"]
            self.memory[name, choices] = bytes_
        elif "starts" in row:
            self.starts = row["starts"]
        else:
            self.seconds = row["seconds"]


def _code_and_versions() -> dict[str, str]:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout

    changes = git("status", "--porcelain", "--", "tfew", "configs", "scripts/bench/*.py")
    return {
        "commit": git("rev-parse", "HEAD").strip() + ("+changes" if changes else ""),
        "torch": torch.__version__, "transformers": transformers.__version__, "threads": str(torch.get_num_threads()),
    }  # fmt: skip
