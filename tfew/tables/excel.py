"""The first sheet of an Excel workbook as a stream of rows; needs openpyxl (the extra [excel])."""

import datetime
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from tfew.environment.versions import require
from tfew.errors import UserError, shorten_list
from tfew.tables.delimited import check_header, unnamed_note
from tfew.tables.rows import Row, RowStream, StreamedRow, StreamPosition

MAX_UNPACKED_BYTES = 2**31  # a small file could fill any memory


class ExcelStream(RowStream):
    """Rows are numbered, empty ones skipped; formulas have the values that Excel last computed."""

    has_lines = False

    def __init__(self, path: str) -> None:
        try:
            require(f"{path}, an Excel file,", "excel")
        except UserError as error:
            raise UserError(f"{error} Or save it as CSV.") from error
        self._path, self._file = path, _opened(path)
        self._book = _workbook(path, self._file)
        sheets: list[Any] = self._book.worksheets
        self._sheet = sheets[0] if sheets else None
        if self._sheet is not None:
            self._sheet.reset_dimensions()  # the size that the file declares: cells beyond it would be left out
        others = shorten_list(sheet.title for sheet in sheets[1:])
        self._notes = [f"only its first sheet, {sheets[0].title!r}, is read, not {others}"] if len(sheets) > 1 else []
        try:
            self._header = self._read_header()
            check_header(path, self._header)
        except UserError:
            self.close()
            raise
        self._notes += unnamed_note(self._header)
        self._beyond = ""
        self.columns = [column for column in self._header if column]

    @property
    def notes(self) -> Sequence[str]:
        """`RowStream.notes`; one is of rows that were read."""
        return [*self._notes, *([self._beyond] if self._beyond else [])]

    def close(self) -> None:
        self._book.close()
        self._file.close()

    def rows(self, start: StreamPosition) -> Iterator[StreamedRow]:
        for number, cells in enumerate(self._filled(), start=0):
            if number > start.row:
                if not self._beyond and any(cell is not None for cell in cells[len(self._header) :]):
                    self._beyond = f"cells beyond the header's last column are left out, first in row {number}"
                yield StreamedRow(StreamPosition(number, number, number), self._to_row(cells))

    def _read_header(self) -> list[str]:
        cells = list(next(self._filled(), []))
        while cells and cells[-1] is None:
            cells.pop()
        if not cells:
            raise UserError(f"{self._path} is empty: a table begins with a line that names its columns.")
        return ["" if cell is None else str(cell).strip() for cell in cells]

    def _filled(self) -> Iterator[Sequence[Any]]:
        """The non-empty rows of the sheet, the header first."""
        try:
            for cells in self._sheet.iter_rows(values_only=True) if self._sheet is not None else ():
                if any(cell is not None and str(cell).strip() for cell in cells):
                    yield cells
        except Exception as error:  # the file is damaged further on: the library raises a dozen kinds
            raise _unreadable(self._path, error) from error

    def _to_row(self, cells: Sequence[Any]) -> Row:
        """Cells as CSV would have them; those beyond the header's columns have no name, and are left out."""
        filled = [*cells, *[None] * (len(self._header) - len(cells))]
        return {column: _plain(cell) for column, cell in zip(self._header, filled, strict=False) if column}


def _opened(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise _unreadable(path, error) from error


def _workbook(path: str, file: BinaryIO) -> Any:
    """Opens a workbook; closes the file if it is not one."""
    import openpyxl

    try:
        with zipfile.ZipFile(file) as archive:
            if (unpacked := sum(entry.file_size for entry in archive.infolist())) > MAX_UNPACKED_BYTES:
                raise UserError(f"{path} would unpack to {unpacked:,} bytes: save it as CSV.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and the like, which do not matter here
            return openpyxl.load_workbook(file, read_only=True, data_only=True)
    except UserError:
        file.close()
        raise
    except Exception as error:  # the library raises a dozen kinds
        file.close()
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{path} cannot be read as an Excel workbook: {reason.rstrip('.')}; save it as CSV.")


def _plain(cell: Any) -> Any:
    return cell.isoformat() if isinstance(cell, datetime.date | datetime.time) else cell
