"""Labels a stream of rows and writes them in order, window by window: memory does not grow with the number of rows.

A window of rows is read, sorted by length into batches, and written in its own order; the state of the output is
saved after each window. Window boundaries depend only on the rows, so a resumed run has the same windows and batches,
and writes exactly the same file.
"""

import json
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from tfew.decisions.drift import Counts, DriftReference
from tfew.errors import UserError
from tfew.files.partial_file import PartialFile
from tfew.prediction.loaded_task import Prepared
from tfew.prediction.predictor import Predictor
from tfew.prediction.result_rows import ResultRows
from tfew.prediction.task_predictor import Labelled
from tfew.tables.rows import RowStream, StreamedRow, StreamPosition

WINDOW_BATCHES = 32
WINDOW_CHARACTERS = 2**22  # of the texts of a window: a few long rows can fill one
SHOWN_BAD_ROWS = 5
OWN = "a choice of the row's own"
NONE = "(no label)"  # of rows that may have several


@dataclass
class Progress:
    """The progress: rows labelled, rows that could not be, and label counts by task.

    Rows' own choices are counted together, as OWN. `earlier`: rows of both kinds before this start. By task also:
    `abstained`, rows below the threshold, which got no label; `set_sizes`, the number of sets by size (a string, for
    JSON); `scores`, the distribution of their scores; `several`, rows that may have several labels.
    """

    place: StreamPosition = field(default_factory=StreamPosition)
    labelled: int = 0
    bad: int = 0
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    earlier: int = 0
    abstained: dict[str, int] = field(default_factory=dict)
    set_sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    scores: dict[str, Counts] = field(default_factory=dict)
    several: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Progress":
        if not state:
            return cls()
        known = {own.name: state[own.name] for own in fields(cls) if own.name in state}  # older versions have fewer
        earlier = state["labelled"] + state["bad"]
        return cls(**{**known, "place": StreamPosition(**state["place"]), "earlier": earlier})

    @property
    def rows(self) -> int:
        return self.labelled + self.bad

    def count(self, labelled: Sequence[Labelled], with_labels: Collection[str]) -> None:
        """`with_labels`: the tasks whose rows all have the same labels."""
        self.labelled += len(labelled)
        for row in labelled:
            if row.labels is not None:
                _add_one(self.set_sizes.setdefault(row.task, {}), str(len(row.labels)))
            if row.label is None:
                _add_one(self.abstained, row.task)
            else:
                label = row.label if row.task in with_labels else OWN
                if row.label_set is not None:
                    _add_one(self.several, row.task)
                for given in [label] if row.label_set is None else row.label_set or [NONE]:
                    _add_one(self.labels.setdefault(row.task, {}), given)

    def count_scores(self, labelled: Sequence[Labelled], references: Mapping[str, DriftReference]) -> None:
        for task, reference in references.items():
            if rows := [row for row in labelled if row.task == task]:
                reference.count(
                    self.scores.setdefault(task, {}),
                    [row.probability for row in rows],
                    [row.log_mass for row in rows],
                    [row.guess for row in rows],
                )


def _add_one(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1


class BulkPrediction:
    """`name` of the input, for messages; `task_column`: names each row's task; None: there is one task; `skip`: skip
    rows that cannot be labelled; `at_once`: rows may arrive slowly, so answer batch by batch; `review`: the form of
    doubtful rows in the file for a person; `references`: by task, the reference for drift of scores."""

    def __init__(
        self, predictor: Predictor, stream: RowStream, results: ResultRows, name: str,
        task_column: str | None = None, skip: bool = False, at_once: bool = False, review: ResultRows | None = None,
        references: Mapping[str, DriftReference] | None = None,
    ) -> None:  # fmt: skip
        self.review, self.references = review, references or {}
        self.predictor, self.stream, self.results, self.name = predictor, stream, results, name
        self.task_column, self.skip = task_column, skip
        self.first_problem: str | None = None
        self.before_finish: Callable[[Path], None] | None = None  # called with the complete output
        self.with_labels = {name for name, labeller in predictor.tasks.items() if labeller.labels is not None}
        self.window_rows = predictor.batch_size * (1 if at_once else WINDOW_BATCHES)

    def into(self, file: PartialFile) -> Progress:
        """Writes all rows to the file, continuing where it stopped."""
        progress = Progress.from_state(file.state)
        if file.state.get("columns") is not None:
            self.results.columns = file.state["columns"]
        for window in self._windows(progress):
            text, bad, doubtful = self._labelled(window, progress)
            state = {**asdict(progress), "columns": self.results.columns}
            listed = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in bad)
            file.write(text, (listed, doubtful), state)
        if not progress.labelled:
            file.discard()
        self._check_labelled(progress)
        if self.before_finish is not None:
            self.before_finish(file.written)
        file.finish()
        return progress

    def to(self, output: TextIO) -> Progress:
        """Writes all rows to standard output."""
        progress = Progress()
        for window in self._windows(progress):
            text, bad, _ = self._labelled(window, progress)
            output.write(text)
            output.flush()
            for row in bad[: max(0, SHOWN_BAD_ROWS - progress.bad + len(bad))]:
                print(f"{self.name}, line {row['line']} is skipped: {row['reason']}", file=sys.stderr)
        self._check_labelled(progress)
        return progress

    def of_piece(self, progress: Progress, rows: int | None) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Labels `rows` rows after the progress's position, None: all; yields each window's lines and bad rows."""
        piece = islice(self.stream.rows(progress.place), rows)
        for window in windows(piece, self.window_rows, WINDOW_CHARACTERS):
            text, bad, _ = self._labelled(window, progress)
            yield text, bad

    def _check_labelled(self, progress: Progress) -> None:
        """Raises UserError if no row was labelled."""
        if not progress.rows:
            raise UserError(f"{self.name} holds no rows: there is nothing to label.")
        if not progress.labelled:
            first = "" if self.first_problem is None else f" The first: {self.first_problem}"
            none = "its only row cannot" if progress.rows == 1 else f"none of its {progress.rows:,} rows can"
            raise UserError(f"{self.name}: {none} be labelled, and nothing is written.{first}")

    def _labelled(self, window: Sequence[StreamedRow], progress: Progress) -> tuple[str, list[dict[str, Any]], str]:
        """The window's lines, reports of its bad rows, and the lines of doubtful ones; updates the counts."""
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
        doubtful = self._doubtful([row for row, _ in good], labelled, first=not any(progress.abstained.values()))
        progress.count(labelled, self.with_labels)
        progress.count_scores(labelled, self.references)
        progress.bad += len(bad)
        progress.place = window[-1].place
        return text if good else "", bad, doubtful

    def _doubtful(self, rows: Sequence[StreamedRow], labelled: Sequence[Labelled], first: bool) -> str:
        """Lines of the rows without a label, in the order of the input; `first`: none was written before."""
        found = [(row, of) for row, of in zip(rows, labelled, strict=True) if of.abstained]
        if self.review is None or not found:
            return ""
        self.review.columns = self.results.columns
        numbers = [row.place.row for row, _ in found]
        return self.review.text([row.row or {} for row, _ in found], [of for _, of in found], first, numbers)

    def _task_of(self, row: Mapping[str, Any] | None) -> str | None:
        task = None if self.task_column is None or row is None else row.get(self.task_column)
        return None if task is None else str(task)

    def _bad(self, row: StreamedRow, problem: UserError | None, advise: bool) -> dict[str, Any]:
        """The entry of the bad-rows file for a row that cannot be labelled; raises UserError if rows are not skipped.

        `advise`: other rows can be labelled, so the error suggests bad_rows=skip.
        """
        reason = str(problem) if problem is not None else f"row {row.place.row} {row.problem}."
        self.first_problem = self.first_problem or reason
        if not self.skip:
            advice = " With bad_rows=skip the same command continues, and lists such rows." if advise else ""
            raise UserError(f"{self.name}, line {row.place.line}: {reason}{advice}")
        content = row.text if row.row is None else row.row
        return {"row": row.place.row, "line": row.place.line, "reason": reason, "content": content}

    def _windows(self, progress: Progress) -> Iterator[list[StreamedRow]]:
        """Windows under a progress bar by bytes, or by rows if the size is unknown."""
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
