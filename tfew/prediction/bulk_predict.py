"""A stream of rows labelled and written in order, some at a time: memory does not depend on how many they are.

A window of rows is read, sorted by length into batches, and written in its own order; the state of the output is
saved behind each window. Where windows begin follows from the rows alone, so that a run that was killed makes the same
windows again, and with them the same batches and the very same file.
"""

import json
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

from tqdm import tqdm

from tfew.errors import UserError
from tfew.files.partial_file import PartialFile
from tfew.prediction.predictor import Predictor, Prepared
from tfew.prediction.result_rows import ResultRows
from tfew.prediction.task_predictor import Labelled
from tfew.tables.rows import RowStream, StreamedRow, StreamPosition

WINDOW_BATCHES = 32
WINDOW_CHARACTERS = 2**22  # of the texts of a window: a few long rows are a window, too
SHOWN_BAD_ROWS = 5
OWN = "a choice of the row's own"
NONE = "(no label)"  # of rows that may have several


@dataclass
class Progress:
    """How far it came: rows labelled, rows that could not be, and how often each task's labels were given.

    Choices of rows' own are counted together, as OWN. `several`: the rows of tasks whose rows may have several labels.
    `earlier`: rows of both kinds before this start.
    """

    place: StreamPosition = field(default_factory=StreamPosition)
    labelled: int = 0
    bad: int = 0
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    earlier: int = 0
    several: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Progress":
        if not state:
            return cls()
        labelled, bad = state["labelled"], state["bad"]
        place, several = StreamPosition(**state["place"]), state.get("several", {})
        return cls(place, labelled, bad, state["labels"], labelled + bad, several)

    @property
    def rows(self) -> int:
        return self.labelled + self.bad

    def count(self, labelled: Sequence[Labelled], with_labels: Collection[str]) -> None:
        """`with_labels`: the tasks whose rows all have the same labels."""
        self.labelled += len(labelled)
        for row in labelled:
            counts = self.labels.setdefault(row.task, {})
            label = row.label if row.task in with_labels else OWN
            if row.labels is not None:
                self.several[row.task] = self.several.get(row.task, 0) + 1
            for given in [label] if row.labels is None else row.labels or [NONE]:
                counts[given] = counts.get(given, 0) + 1


class BulkPrediction:
    """`name` of the input, for messages; `task_column`: says whose a row is, None: there is one task; `skip`: go on
    behind rows that cannot be labelled; `at_once`: rows may come slowly, so answer them batch by batch."""

    def __init__(
        self, predictor: Predictor, stream: RowStream, results: ResultRows, name: str,
        task_column: str | None = None, skip: bool = False, at_once: bool = False,
    ) -> None:  # fmt: skip
        self.predictor, self.stream, self.results, self.name = predictor, stream, results, name
        self.task_column, self.skip = task_column, skip
        self.first_problem: str | None = None
        self.with_labels = {name for name, labeller in predictor.tasks.items() if labeller.labels is not None}
        self.window_rows = predictor.batch_size * (1 if at_once else WINDOW_BATCHES)

    def into(self, file: PartialFile) -> Progress:
        """All rows into the file, from where it was left."""
        progress = Progress.from_state(file.state)
        if file.state.get("columns") is not None:
            self.results.columns = file.state["columns"]
        for window in self._windows(progress):
            text, bad = self._labelled(window, progress)
            state = {**asdict(progress), "columns": self.results.columns}
            listed = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in bad)
            file.write(text, listed, state)
        if not progress.labelled:
            file.discard()
        self._check_labelled(progress)
        file.finish()
        return progress

    def to(self, output: TextIO) -> Progress:
        """All rows to standard output."""
        progress = Progress()
        for window in self._windows(progress):
            text, bad = self._labelled(window, progress)
            output.write(text)
            output.flush()
            for row in bad[: max(0, SHOWN_BAD_ROWS - progress.bad + len(bad))]:
                print(f"{self.name}, line {row['line']} is skipped: {row['reason']}", file=sys.stderr)
        self._check_labelled(progress)
        return progress

    def _check_labelled(self, progress: Progress) -> None:
        """Raises UserError where no row was labelled."""
        if not progress.rows:
            raise UserError(f"{self.name} holds no rows: there is nothing to label.")
        if not progress.labelled:
            first = "" if self.first_problem is None else f" The first: {self.first_problem}"
            none = "its only row cannot" if progress.rows == 1 else f"none of its {progress.rows:,} rows can"
            raise UserError(f"{self.name}: {none} be labelled, and nothing is written.{first}")

    def _labelled(self, window: Sequence[StreamedRow], progress: Progress) -> tuple[str, list[dict[str, Any]]]:
        """The window's lines, and what is to be said of its bad rows; counts both."""
        readable = [row for row in window if row.row is not None]
        prepared = dict(
            zip(
                (row.place.row for row in readable),
                self.predictor.prepare([(row.place.row, self._task_of(row.row), row.row or {}) for row in readable]),
                strict=True,
            )
        )
        good: list[tuple[StreamedRow, Prepared]] = []
        bad = []
        for row in window:
            found = prepared.get(row.place.row)
            if isinstance(found, Prepared):
                good.append((row, found))
            else:
                bad.append(self._bad(row, found, advise=bool(progress.labelled or good)))
        labelled = self.predictor.answer([found for _, found in good])
        text = self.results.text([row.row or {} for row, _ in good], labelled, first=not progress.labelled)
        progress.count(labelled, self.with_labels)
        progress.bad += len(bad)
        progress.place = window[-1].place
        return text if good else "", bad

    def _task_of(self, row: Mapping[str, Any] | None) -> str | None:
        task = None if self.task_column is None or row is None else row.get(self.task_column)
        return None if task is None else str(task)

    def _bad(self, row: StreamedRow, problem: UserError | None, advise: bool) -> dict[str, Any]:
        """What the side file says of a row that cannot be labelled; raises UserError where that ends the run.

        `advise`: other rows can be labelled, so that leaving out such rows is worth a word.
        """
        reason = str(problem) if problem is not None else f"row {row.place.row} {row.problem}."
        self.first_problem = self.first_problem or reason
        if not self.skip:
            advice = " The same command with bad_rows=skip goes on, and lists such rows." if advise else ""
            raise UserError(f"{self.name}, line {row.place.line}: {reason}{advice}")
        content = row.text if row.row is None else row.row
        return {"row": row.place.row, "line": row.place.line, "reason": reason, "content": content}

    def _windows(self, progress: Progress) -> Iterator[list[StreamedRow]]:
        """With a bar by bytes, or where those are not known, by rows."""
        size = self.stream.size
        form = (
            "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}" if size else "{desc}: {elapsed}{postfix}"
        )
        bar = tqdm(desc="Predicting", total=size, initial=progress.place.offset, bar_format=form, mininterval=0.5)
        started = time.monotonic()
        with bar:
            for window in windows(self.stream.rows(progress.place), self.window_rows, WINDOW_CHARACTERS):
                yield window
                rate = (progress.rows - progress.earlier) / (time.monotonic() - started)
                bar.set_postfix_str(f"{progress.rows:,} rows, {rate:,.0f} a second")
                bar.update(progress.place.offset - bar.n)


def windows(rows: Iterator[StreamedRow], most_rows: int, most_characters: int) -> Iterator[list[StreamedRow]]:
    """A window ends with the row that fills it."""
    window: list[StreamedRow] = []
    characters = 0
    for row in rows:
        window.append(row)
        characters += len(row.text) + sum(len(value) for value in (row.row or {}).values() if isinstance(value, str))
        if len(window) == most_rows or characters >= most_characters:
            yield window
            window, characters = [], 0
    if window:
        yield window
