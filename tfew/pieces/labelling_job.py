"""Hands each piece to a worker until all are done; the piece of a lost worker is given to another.

A job that was killed resumes with the missing pieces.
"""

import hashlib
import json
import logging
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from time import monotonic
from typing import Any

from tqdm import tqdm

from tfew.errors import UserError
from tfew.pieces.input_files import InputFile
from tfew.pieces.labeller import Description, Request
from tfew.pieces.manifest import Manifest, Report
from tfew.pieces.piece import Piece, pieces_of
from tfew.pieces.workers import Done, Lost, Workers
from tfew.prediction.bulk_predict import Progress
from tfew.prediction.input_rows import InputForm

log = logging.getLogger(__name__)

WAIT_SECONDS = 1.0
MOST_LOSSES = 5  # of workers at the same piece, or before any has loaded its model


class LabellingJob:
    """`source`: `input=`, for messages; `piece_rows`: rows per piece, or slightly more."""

    def __init__(
        self, files: Sequence[InputFile], request: Request, workers: Workers, source: str, piece_rows: int
    ) -> None:  # fmt: skip
        self._files, self._request, self._workers, self._source = files, request, workers, source
        self._piece_rows = piece_rows
        self._losses: Counter[str] = Counter()
        self._idle: deque[int] = deque()
        self._at_work: dict[int, Piece] = {}
        self._again: deque[Piece] = deque()
        self._columns: Sequence[str] | None = None
        self._noted: set[str] = set()
        self.left_out: set[str] = set()

    def run(self, resume: bool, overwrite: bool) -> tuple[Manifest, Progress, Description]:
        """Labels what is missing, without finishing the manifest. Raises UserError if no row can be labelled."""
        self._request.store.lock()
        self._workers.start()
        description = self._described()
        manifest = Manifest(self._request.store, self._identity(description), resume, overwrite)
        earlier = sum(report.rows for report in manifest.reports.values())
        if manifest.reports:
            log.info(
                f"{self._request.store.folder} is unfinished: {earlier:,} rows are done, continuing with the rest."
            )
        self._columns = self._known_columns(description.form, manifest)
        self._label_all(description, manifest)
        progress = summed(manifest.in_order, earlier)
        self._check_labelled(progress, manifest)
        return manifest, progress, description

    def close(self) -> None:
        self._workers.close()
        self._request.store.unlock()

    def _described(self) -> Description:
        """The description by the first worker that is ready."""
        while True:
            for event in self._workers.wait(WAIT_SECONDS):
                if isinstance(event, Lost):
                    self._count_loss("", event.how)
                elif isinstance(event.answer, Description):
                    self._idle.append(event.worker)
                    return event.answer

    def _identity(self, description: Description) -> dict[str, Any]:
        """Everything that the parts depend on, which the number of workers is not."""
        inputs = json.dumps([asdict(file) for file in self._files])
        request = self._request
        return {
            "input": hashlib.sha256(inputs.encode()).hexdigest(), "files": len(self._files), "format": request.kind,
            "task_column": request.task_column, "parts": request.part_kind, "sets": request.sets,
            "piece_rows": self._piece_rows, **description.fingerprint,
        }  # fmt: skip

    def _known_columns(self, form: InputForm, manifest: Manifest) -> Sequence[str] | None:
        """The output table's columns: those of the first file, or of the first row if rows name them (JSON lines)."""
        if self._request.part_kind == "jsonl":
            return None
        found = next((report.columns for report in manifest.in_order if report.labelled), None)
        if found is None:
            stream = form.open(self._files[0].path)
            found = None if stream.columns is None else list(stream.columns)
            stream.close()
        return found

    def _label_all(self, description: Description, manifest: Manifest) -> None:
        every = pieces_of(self._files, description.form.open, description.window_rows, self._piece_rows)
        missing = (piece for piece in every if piece.name not in manifest.reports)
        size = sum(file.size for file in self._files)
        with closing(every), _Bar(size, manifest.reports.values()) as bar:
            while True:
                while self._idle and self._may_go_on() and (piece := self._next(missing)) is not None:
                    self._give(self._idle.popleft(), piece)
                if self._idle and not self._at_work:
                    return
                for event in self._workers.wait(WAIT_SECONDS):
                    self._take(event, manifest, bar)
                bar.show(len(self._at_work))

    def _next(self, missing: Iterator[Piece]) -> Piece | None:
        return self._again.popleft() if self._again else next(missing, None)

    def _may_go_on(self) -> bool:
        """Whether another piece can start: the output's columns must be known, unless it is the first."""
        return self._request.part_kind == "jsonl" or self._columns is not None or not self._at_work

    def _give(self, worker: int, piece: Piece) -> None:
        self._at_work[worker] = piece
        self._workers.give(worker, piece, self._columns)

    def _take(self, event: Done | Lost, manifest: Manifest, bar: "_Bar") -> None:
        piece = self._at_work.pop(event.worker, None)
        if isinstance(event, Lost):
            if event.worker in self._idle:
                self._idle.remove(event.worker)
            if piece is not None:
                self._again.append(piece)
                log.info(
                    f"A worker ended ({event.how}); rows from {piece.start.row + 1:,} on of {piece.path} go to another."
                )
            self._count_loss("" if piece is None else piece.name, event.how)
            return
        self._idle.append(event.worker)
        self._losses[""] = 0
        if not isinstance(event.answer, Report) and piece is not None:  # a restarted worker, which never had the piece
            self._again.append(piece)
        if isinstance(event.answer, Report):
            self._report(event.answer)
            manifest.add(event.answer)
            bar.add(event.answer)

    def _report(self, report: Report) -> None:
        self.left_out.update(report.left_out)
        if new := [note for note in report.notes if note not in self._noted]:
            self._noted |= {*new}
            log.info(f"{report.path}: {'; '.join(new)}.")
        if self._columns is None and report.labelled and self._request.part_kind != "jsonl":
            self._columns = report.columns

    def _count_loss(self, piece: str, how: str) -> None:
        """Raises UserError after MOST_LOSSES losses."""
        self._losses[piece] += 1
        if self._losses[piece] >= MOST_LOSSES:
            what = (
                f"whatever worker was given piece {piece}" if piece else "every worker, before it had loaded its model,"
            )
            raise UserError(f"{what[0].upper()}{what[1:]} ended ({how}), {MOST_LOSSES} times: is memory too small?")

    def _check_labelled(self, progress: Progress, manifest: Manifest) -> None:
        if not progress.rows:
            self._discard()
            raise UserError(f"{self._source} holds no rows: there is nothing to label.")
        if not progress.labelled:
            self._discard()
            first = next(report.problem for report in manifest.in_order if report.problem)
            raise UserError(
                f"{self._source}: none of its {progress.rows:,} rows can be labelled, and nothing is written. The"
                f" first: {first}"
            )

    def _discard(self) -> None:
        self._request.store.remove(self._request.store.names())


def summed(reports: Collection[Report], earlier: int) -> Progress:
    """`earlier`: rows that were done before this start."""
    labels: dict[str, Counter[str]] = {}
    for report in reports:
        for task, counts in report.labels.items():
            labels.setdefault(task, Counter()).update(counts)
    counted: Mapping[str, dict[str, int]] = {task: dict(counts) for task, counts in labels.items()}
    several: Counter[str] = Counter()
    for report in reports:
        several.update(report.several)
    labelled, bad = sum(report.labelled for report in reports), sum(report.bad for report in reports)
    return Progress(labelled=labelled, bad=bad, labels=dict(counted), earlier=earlier, several=dict(several))


class _Bar:
    """Progress by bytes of the input, with the rows per second of all workers and the time left."""

    def __init__(self, size: int, done: Collection[Report]) -> None:
        self._rows, self._started = 0, monotonic()
        self._earlier = sum(report.rows for report in done)
        form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
        initial = sum(report.size for report in done)
        self._bar = tqdm(desc="Predicting", total=size, initial=initial, bar_format=form, mininterval=0.5, smoothing=0)

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, report: Report) -> None:
        self._rows += report.rows
        self._bar.update(report.size)

    def show(self, workers: int) -> None:
        rate = self._rows / (monotonic() - self._started)
        who = f"{workers} worker{'s' * (workers != 1)}"
        self._bar.set_postfix_str(f"{self._earlier + self._rows:,} rows, {rate:,.0f} a second, {who}", refresh=False)
