"""A worker's job, on any machine: load the model once, and label pieces into parts."""

import io
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tfew.errors import UserError
from tfew.pieces.manifest import Report
from tfew.pieces.part_rows import ArrowRows, PartWriter
from tfew.pieces.part_store import PartStore
from tfew.pieces.piece import Piece
from tfew.prediction.bulk_predict import WINDOW_BATCHES, BulkPrediction, Progress
from tfew.prediction.input_rows import InputForm, check_columns
from tfew.prediction.predictor import Predictor
from tfew.prediction.result_rows import ResultRows
from tfew.tables.parquet import ParquetStream
from tfew.tables.rows import RowStream

IN_MEMORY_BYTES = 2**24  # of a part; a larger one is collected on disk


@dataclass(frozen=True)
class Request:
    """`kind` of the input (`format=`); `task_column`: names each row's task; `skip` bad rows; `part_kind`: a file
    ending; `sets`: rows get sets of labels."""

    kind: str | None
    task_column: str | None
    skip: bool
    part_kind: str
    store: PartStore
    sets: bool = False


@dataclass(frozen=True)
class Description:
    """What the job that hands out pieces must know about the predictor."""

    form: InputForm
    window_rows: int
    labels: tuple[str, ...] | None  # shared by all rows
    sets: bool
    bounds: bool
    fingerprint: dict[str, Any]


@dataclass(frozen=True)
class Refused:
    """A `UserError`, on its way to another process."""

    sentence: str


class PieceLabeller:
    """`load`: makes the predictor, on first use."""

    def __init__(self, load: Callable[[], Predictor], request: Request) -> None:
        self._load, self._request = load, request
        self._open: tuple[str, RowStream] | None = None  # the file of the previous piece

    @cached_property
    def _predictor(self) -> Predictor:
        return self._load()

    def describe(self) -> Description | Refused:
        try:
            form = InputForm.of(self._predictor, self._request.kind)
            fingerprint = self._predictor.fingerprint()
            window_rows = self._predictor.batch_size * WINDOW_BATCHES
            known = json.loads(json.dumps(fingerprint, default=str))
            has_bounds = self._predictor.shortlist is not None
            return Description(form, window_rows, self._labels, self._request.sets, has_bounds, known)
        except UserError as error:
            return Refused(str(error))

    def label(self, piece: Piece, columns: Sequence[str] | None) -> Report | Refused:
        """Writes the piece's part and its report; `columns`: of the output table; None: of the file or first row."""
        try:
            return self._labelled(piece, columns)
        except UserError as error:
            return Refused(str(error))

    @property
    def _labels(self) -> tuple[str, ...] | None:
        if self._request.task_column is not None:
            return None
        labels = next(iter(self._predictor.tasks.values())).labels
        return None if labels is None else tuple(labels)

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _labelled(self, piece: Piece, columns: Sequence[str] | None) -> Report:
        started, request = time.monotonic(), self._request
        stream = self._stream(piece)
        results = self._results(stream, columns)
        labelling = BulkPrediction(self._predictor, stream, results, piece.path, request.task_column, request.skip)
        progress = Progress(piece.start)
        with tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES) as file:
            writer, bad_rows = PartWriter(results, file), io.BytesIO()  # type: ignore[arg-type]
            for text, bad in labelling.of_piece(progress, piece.rows):
                writer.write(text)
                bad_rows.writelines(_line({"file": piece.path, **row}) for row in bad)
            writer.close()
            report = Report(
                piece.name, piece.path, piece.start.row, progress.rows, progress.labelled, progress.bad, piece.size,
                f"part-{piece.name}.{request.part_kind}" if progress.labelled else None,
                time.monotonic() - started, progress.labels, results.columns, sorted(results.left_out),
                list(stream.notes), labelling.first_problem,
                progress.several,
            )  # fmt: skip
            if report.part is not None:
                request.store.put(report.part, file)  # type: ignore[arg-type]
            if report.bad:
                request.store.put(report.bad_name, bad_rows)
            request.store.put(report.done_name, io.BytesIO(report.to_json().encode()))
        return report

    def _results(self, stream: RowStream, columns: Sequence[str] | None) -> ResultRows:
        columns = columns or stream.columns
        has = {"sets": self._request.sets, "bounds": self._predictor.shortlist is not None}
        if self._request.part_kind == "parquet":
            schema = stream.schema if isinstance(stream, ParquetStream) else None
            return ArrowRows(columns, self._labels, schema, **has)
        return ResultRows(self._request.part_kind, columns, self._labels, **has)

    def _stream(self, piece: Piece) -> RowStream:
        """The piece's file, kept open for the next one, since opening it reads its beginning."""
        if self._open is not None and self._open[0] == piece.path and piece.start.row:
            return self._open[1]
        self.close()
        stream = InputForm.of(self._predictor, self._request.kind).open(piece.path)
        self._open = piece.path, stream
        check_columns(self._predictor, stream, piece.path, self._request.task_column)
        return stream


def _line(row: dict[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False, default=str) + "\n").encode()
