"""Streaming of rows: every format, every kind of bad row, and resuming from any place."""

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tfew.errors import UserError
from tfew.tables.byte_lines import MAX_LINE_BYTES
from tfew.tables.rows import RowStream, StreamedRow, StreamPosition
from tfew.tables.stream import open_stream


def written(path: Path, data: str | bytes) -> str:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


def read(path: str, kind: str | None = None, start: StreamPosition | None = None, **options: Any) -> list[StreamedRow]:
    stream = open_stream(path, kind, **{"text_column": "text", **options})
    try:
        return list(stream.rows(start or StreamPosition()))
    finally:
        stream.close()


CSV = 'id,text\r\n1,"a, ""b"" c"\r\n2,"two\nlines"\r\n\r\n3,last'
JSONL = '{"id": 1, "text": "ä"}\n\n  \n{"id": 2, "text": "\\u00e9"}\r\n{"id": 3, "text": "x"}'


@pytest.mark.parametrize(
    ("name", "data", "texts", "lines"),
    [
        ("a.csv", CSV, ['a, "b" c', "two\nlines", "last"], [2, 4, 6]),
        ("a.CSV", "\ufeff" + CSV, ['a, "b" c', "two\nlines", "last"], [2, 4, 6]),
        ("a.tsv", "id\ttext\n1\ta, b\n", ["a, b"], [2]),
        ("a.jsonl", JSONL, ["ä", "é", "x"], [1, 4, 5]),
        ("a.txt", "one\r\n\ntwo", ["one", "", "two"], [1, 2, 3]),
    ],
)
def test_formats(name: str, data: str, texts: list[str], lines: list[int], tmp_path: Path) -> None:
    rows = read(written(tmp_path / name, data))
    assert [row.problem for row in rows] == [None] * len(texts)
    assert [row.row["text"] for row in rows if row.row] == texts
    assert [row.place.line for row in rows] == lines
    assert [row.place.row for row in rows] == list(range(1, len(texts) + 1))
    assert rows[-1].place.offset == (tmp_path / name).stat().st_size


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt", "a.parquet"])
def test_reading_goes_on_from_any_row(name: str, tmp_path: Path) -> None:
    rows = [{"id": str(i), "text": "a\nb" * (i % 3) + "é"} for i in range(3000 if name == "a.parquet" else 40)]
    path = tmp_path / name
    if name == "a.csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["id", "text"])
            writer.writeheader()
            writer.writerows(rows)
    elif name == "a.parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=700)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = read(str(path))
    assert len(whole) == len(rows)
    for number in (0, 1, 17, 39) if name != "a.parquet" else (0, 1, 699, 700, 1023, 1024, 2999):
        assert read(str(path), start=whole[number].place) == whole[number + 1 :]


@pytest.mark.parametrize(
    ("name", "bad", "problem"),
    [
        ("a.csv", b"7", "has 1 cell, the header has 2"),
        ("a.csv", b"7,x,y", "has 3 cells, the header has 2"),
        ("a.csv", b'7,"x"y', "cannot be read: ',' expected after '\"'"),
        ("a.csv", b"7,caf\xe9", "is not UTF-8 text (byte 0xe9"),
        ("a.jsonl", b'{"text": ', "is not valid JSON: Expecting value at column"),
        ("a.jsonl", b"[1]", "is list, not a JSON object"),
        ("a.jsonl", b'{"text": "caf\xe9"}', "is not UTF-8 text (byte 0xe9"),
        ("a.jsonl", b'{"text": "\\ud800"}', "is not valid JSON: half a surrogate pair is no character"),
        ("a.jsonl", b'{"n": ' + b"9" * 5000 + b"}", "is not valid JSON: Exceeds the limit"),
        ("a.jsonl", b'{"n": ' + b"[" * 90000 + b"}", "is not valid JSON: "),
        ("a.txt", b"caf\xe9", "is not UTF-8 text (byte 0xe9"),
    ],
)
def test_a_bad_row_is_one_row(name: str, bad: bytes, problem: str, tmp_path: Path) -> None:
    """... and the rows before and behind it are read as if it were not there."""
    good = {
        "a.csv": (b'1,"\xc3\xb6ne"', b"2,two"),
        "a.jsonl": ('{"text": "öne"}'.encode(), b'{"text": "two"}'),
        "a.txt": ("öne".encode(), b"two"),
    }
    before, behind = good[name]
    lines = [*([b"id,text"] if name == "a.csv" else []), before, bad, behind]
    rows = read(written(tmp_path / name, b"\n".join(lines) + b"\n"))
    assert [row.row["text"] for row in rows if row.row] == ["öne", "two"]
    assert [row.row is None for row in rows] == [False, True, False]
    assert rows[1].problem is not None
    assert problem in rows[1].problem
    assert rows[1].text == bad.decode(errors="replace")
    assert rows[1].place == StreamPosition(2, len(lines) - 1, sum(map(len, lines[:-1])) + len(lines) - 1)


def test_a_quotation_mark_that_is_never_closed_is_a_bad_row(tmp_path: Path) -> None:
    rows = read(written(tmp_path / "a.csv", 'id,text\n1,"one"\n2,"open\n3,three\n'))
    assert [row.problem for row in rows] == [None, "cannot be read: unexpected end of data"]


def test_what_has_no_name_is_left_out_with_a_note(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in ((None, "text"), (7, "one"), (8, "two", None, "beyond")):
        book.active.append(row)
    book.save(tmp_path / "t.xlsx")
    paths = [written(tmp_path / "t.csv", ",text\n7,one\n8,two\n"), str(tmp_path / "t.xlsx")]
    streams = [open_stream(path, None, None) for path in paths]
    for stream in streams:
        assert list(stream.notes) == ["column 1, which has no name in the header, is left out"]
        assert [row.row for row in stream.rows(StreamPosition())] == [{"text": "one"}, {"text": "two"}]
        stream.close()
    assert list(streams[1].notes)[1:] == ["cells beyond the header's last column are left out, first in row 2"]


@pytest.mark.parametrize(
    ("name", "data", "options", "message"),
    [
        ("a.csv", "", {}, "a.csv is empty: a table begins with a line that names its columns"),
        ("a.csv", "a,b,a\n", {}, "a.csv has two columns called 'a'"),
        ("a.csv", b"caf\xe9,b\n\xc3\xa4,1", {}, "its header line is not UTF-8 text"),
        ("a.doc", "x", {}, r"Unknown file ending '.doc'.*set format= to its format.*'.csv'.*'.parquet'"),
        ("a.xls", "x", {}, r"a.xls cannot be read \(.xls\): save it as CSV"),
        ("a.jsonl", "x", {"kind": "xml"}, r"Unknown format 'xml' \(format=\)"),
        ("a.parquet", "no parquet", {}, "a.parquet cannot be read as Parquet"),
        ("a.txt", "x", {"text_column": None}, r"plain text, but the data set has several columns"),
        ("a.csv", "x\n", {"formats": {"csv": {"pattern": "x"}}}, "are not tables"),
    ],
)
def test_files_that_make_no_sense(
    name: str, data: str | bytes, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        read(written(tmp_path / name, data), **options)


def test_longest_line(tmp_path: Path) -> None:
    """One without end is refused before it fills the memory."""
    whole = b"x" * (MAX_LINE_BYTES - 1)
    assert len(read(written(tmp_path / "a.txt", whole + b"\ny"))) == 2
    with pytest.raises(UserError, match="line 1 is longer than 16,777,216 bytes"):
        read(written(tmp_path / "a.txt", whole + b"x\ny"))


def test_the_data_sets_own_formats(tmp_path: Path) -> None:
    formats = {"csv": {"delimiter": ";", "encoding": ["utf-8", "latin-1"], "codes": {"label": ["no", "yes"]}}}
    rows = read(written(tmp_path / "a.csv", b"text;label\ncaf\xe9;yes\nx;maybe\n"), formats=formats)
    assert rows[0].row == {"text": "café", "label": 1}
    assert "Unknown value in column 'label'" in str(rows[1].problem)


def test_standard_input_is_read_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Input:
        buffer = io.BytesIO(b'{"text": "a"}\n{"text": "b"}\n')

    monkeypatch.setattr(sys, "stdin", Input())
    stream: RowStream = open_stream("-", None, None)
    rows = stream.rows(StreamPosition())
    assert next(rows).row == {"text": "a"}
    assert Input.buffer.tell() < len(Input.buffer.getvalue()), "the second line is not read before it is asked for"
    assert stream.size is None
    assert next(rows).row == {"text": "b"}
    stream.close()
    assert not Input.buffer.closed
