"""Streams rows of a file or of standard input: memory stays constant, and reading can resume at any row.

The format follows from the file's name, or is set (`format=`); the dialect and encoding are detected. A row that cannot
be read is yielded with the reason, and reading continues after it. Only a file that cannot be read at all raises
UserError.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfew.errors import UserError, unknown_value_error
from tfew.tables.byte_lines import GZIP, STDIO, ByteSource, open_source, source_of
from tfew.tables.delimited import TableStream
from tfew.tables.formats import Format
from tfew.tables.json_lines import JsonStream
from tfew.tables.remote import is_url
from tfew.tables.rows import RowStream
from tfew.tables.text_lines import TextStream

# endings of tables with named columns, which can be trained on, and their kinds
TABLES = {
    ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".xlsx": "xlsx",
    ".xlsm": "xlsx",
}  # fmt: skip
TEXTS = {".txt": "text"}
FILE_FORMATS = ("csv", "tsv", "jsonl", "text", "parquet", "xlsx")
BINARY = ("parquet", "xlsx")
SPREADSHEETS = (".xls", ".xlsb", ".ods", ".numbers", ".dta", ".sav")


def file_ending(path: str) -> str:
    """The ending in lower case, without .gz."""
    return Path(path.lower().removesuffix(GZIP)).suffix


def is_table(path: str) -> bool:
    """Whether a file of this name is a table."""
    return file_ending(path) in TABLES


def open_stream(
    path: str, kind: str | None, text_column: str | None, formats: Mapping[str, Mapping[str, Any]] | None = None
) -> RowStream:
    """The rows of this file, or of standard input ("-").

    `kind`: one of FILE_FORMATS; None: by the file's ending, JSON lines on standard input. `text_column`: the column
    for plain lines of text, if any. `formats`: of a data set whose files have a declared format, as in
    `tfew.tables.formats`; for any other table it is detected.
    """
    is_assumed = kind is None and path == STDIO
    kind = _kind(path, kind, {**TABLES, **TEXTS})
    if path != STDIO and not is_url(path) and not Path(path).is_file():
        raise UserError(f"{path} {'is a folder' if Path(path).is_dir() else 'does not exist'}.")
    if kind in BINARY:
        return _open_binary(path, kind)
    stream = stream_of(open_source(path), kind, text_column, formats)
    if isinstance(stream, JsonStream):
        stream.is_assumed = is_assumed
    return stream


def open_bytes(data: bytes, kind: str, name: str) -> RowStream:
    return stream_of(source_of(data, name), kind)


def stream_of(
    source: ByteSource,
    kind: str,
    text_column: str | None = None,
    formats: Mapping[str, Mapping[str, Any]] | None = None,
) -> RowStream:
    """The rows of a text file of this kind; closes the source if it cannot be read at all."""
    try:
        return _text_stream(source, kind, text_column, formats or {})
    except UserError:
        source.close()
        raise


def _text_stream(
    source: ByteSource, kind: str, text_column: str | None, formats: Mapping[str, Mapping[str, Any]]
) -> RowStream:
    if kind == "jsonl":
        return JsonStream(source, kind)
    if kind == "text":
        return TextStream(source, text_column)
    described = formats.get(kind)
    form = None if described is None else Format.from_config(described, f"dataset.formats.{kind}")
    return TableStream(source, kind, form)


def _kind(path: str, kind: str | None, endings: Mapping[str, str]) -> str:
    kind = kind or ("jsonl" if path == STDIO else endings.get(file_ending(path)))
    if kind is None:
        raise unknown_ending(path, endings, "; set format= to its format")
    if kind not in FILE_FORMATS:
        raise unknown_value_error("format", kind, FILE_FORMATS, "format=")
    return kind


def unknown_ending(path: str, endings: Mapping[str, str], remedy: str = "") -> UserError:
    ending = file_ending(path)
    if ending in SPREADSHEETS:
        return UserError(f"{path} cannot be read ({ending}): save it as CSV, or as .xlsx.")
    return unknown_value_error("file ending", ending, endings, f"of {path}{remedy}")


def _open_binary(path: str, kind: str) -> RowStream:
    what = "Parquet" if kind == "parquet" else "An Excel workbook"
    if path == STDIO:
        raise UserError(f"{what} cannot be read from standard input: name a file with input=.")
    if path.lower().endswith(GZIP):
        raise UserError(f"{path}: {what} is packed already: unpack the .gz first.")
    if kind == "parquet":
        from tfew.tables.parquet import ParquetStream

        return ParquetStream(path)
    if is_url(path):
        raise UserError(f"{path}: Excel workbooks are read from files of this machine only; save it as CSV or Parquet.")
    from tfew.tables.excel import ExcelStream

    return ExcelStream(path)
