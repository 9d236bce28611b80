"""Row ends agree with the reader's, on files of all kinds, including every kind of error."""

import gzip
import random
from pathlib import Path

import pytest

from tfew.errors import UserError
from tfew.tables import row_ends as scan
from tfew.tables import text_lines
from tfew.tables.row_ends import can_be_scanned, row_ends
from tfew.tables.rows import StreamPosition
from tfew.tables.stream import open_stream
from tfew.tables.text_lines import LineStream

PIECES = [
    "a", "word", " ", "", ",", ";", "\t", '"', '""', '"a,b"', '"two\nlines"', '"left open', "\n", "\n", "\r\n", "\n\n",
    "\r", "\x00", "é", "\u2028", "{", '{"a": 1}', "[1]", "  \n", '"a"b', ",,", "\x1c", "7", "\ufeff",
]  # fmt: skip


def places(path: Path, start: StreamPosition) -> list[tuple[int, int, int]]:
    stream = open_stream(str(path), None, "text")
    try:
        return [(row.place.row, row.place.line, row.place.offset) for row in stream.rows(start)]
    finally:
        stream.close()


def scanned(path: Path, start: StreamPosition) -> list[tuple[int, int, int]]:
    stream = open_stream(str(path), None, "text")
    try:
        assert isinstance(stream, LineStream)
        assert can_be_scanned(stream)
        return [end[:3] for end in row_ends(stream, start)]
    finally:
        stream.close()


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "txt"])
def test_the_places_are_those_of_reading(ending: str, tmp_path: Path) -> None:
    """Of files put together at random; also from the middle on."""
    source, path, seen = random.Random(ending), tmp_path / f"new.{ending}", 0
    for _ in range(300):
        header = source.choice(["text,label\n", "text\n", '"te\nxt",b\n', "text;label\r\n", "\n\nsep=,\na,b\n"])
        body = "".join(source.choices(PIECES, k=source.randint(0, 60)))
        head = source.choice(["", "", "\ufeff"]) + ("" if ending == "jsonl" else header)
        path.write_bytes((head + body).encode())
        try:
            expected = places(path, StreamPosition())
        except UserError:  # no table at all
            continue
        assert scanned(path, StreamPosition()) == expected, (head, body)
        seen += len(expected)
        if expected:
            middle = StreamPosition(*source.choice(expected))
            assert scanned(path, middle) == places(path, middle)
    assert seen > 500


def test_the_bound_holds(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text('text,n\n"é, ""quoted""\nand on",1\nplain,2\nbad\n', encoding="utf-8")
    stream = open_stream(str(path), None, None)
    assert isinstance(stream, LineStream)
    ends = list(row_ends(stream, StreamPosition()))
    stream.close()
    stream = open_stream(str(path), None, None)
    rows = list(stream.rows(StreamPosition()))
    stream.close()
    assert len(ends) == len(rows) == 3
    for end, row in zip(ends, rows, strict=True):
        assert end.most_characters >= len(row.text) + sum(len(value) for value in (row.row or {}).values())


def test_a_line_without_end_is_an_error_here_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (scan, text_lines):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 50)
    for name, text in (
        ("new.jsonl", "{}\n" * 3 + "x" * 60 + "\n"),
        ("new.csv", 'a,b\n1,2\n1,2\n"\n' + "x" * 60 + "\n"),
    ):
        (tmp_path / name).write_text(text)
        sentences = set()
        for read in (places, scanned):
            with pytest.raises(UserError, match=r"line 4|line 5") as error:
                read(tmp_path / name, StreamPosition())
            sentences.add(str(error.value))
        assert len(sentences) == 1


def test_what_is_not_cut(tmp_path: Path) -> None:
    (tmp_path / "wide.csv").write_bytes("a,b\n1,2\n".encode("utf-16"))
    (tmp_path / "packed.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    for name in ("wide.csv", "packed.csv.gz"):
        stream = open_stream(str(tmp_path / name), None, None)
        assert not can_be_scanned(stream)
        stream.close()
