"""Pieces hold every row once, and end where the windows of a single process end."""

import csv
import json
import random
from pathlib import Path

import pytest

from tests.pieces.conftest import write_jsonl, write_parquet
from tfew.pieces import piece as cutting
from tfew.pieces.input_files import find_files
from tfew.pieces.piece import Piece, pieces_of
from tfew.prediction.bulk_predict import windows
from tfew.tables.rows import RowStream, StreamPosition
from tfew.tables.stream import open_stream

WINDOW_ROWS, WINDOW_CHARACTERS = 7, 300


def opened(path: str) -> RowStream:
    return open_stream(path, None, "text")


def pieces(source: Path, piece_rows: int) -> list[Piece]:
    return list(pieces_of(find_files(str(source), None), opened, WINDOW_ROWS, piece_rows))


def window_ends(path: Path) -> list[int]:
    stream = opened(str(path))
    found = [w[-1].place.row for w in windows(stream.rows(StreamPosition()), WINDOW_ROWS, WINDOW_CHARACTERS)]
    stream.close()
    return found


def written(folder: Path, kind: str) -> Path:
    source = random.Random(kind)
    texts = [source.choice(["short", 'a\nb, "c"', "long " * source.randint(1, 90)]) for _ in range(150)]
    rows = [{"text": text, "other": "é"} for text in texts]
    path = folder / f"new.{kind}"
    if kind == "parquet":
        return write_parquet(path, rows, 40)
    if kind == "jsonl":
        return write_jsonl(path, rows)
    if kind == "txt":
        path.write_text("".join(row["text"].replace("\n", " ") + "\n" for row in rows))
        return path
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "other"])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("piece_rows", [1, 20, 1000])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "txt", "parquet"])
def test_pieces_end_with_windows(kind: str, piece_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "WINDOW_CHARACTERS", WINDOW_CHARACTERS)
    path = written(tmp_path, kind)
    ends, found = window_ends(path), pieces(path, piece_rows)
    assert len(ends) > 150 // WINDOW_ROWS + 1  # some windows end for their characters
    assert found[0].start == StreamPosition()
    last = 0
    for each in found:
        assert each.rows is not None
        assert each.start.row == last
        last += each.rows
        assert last in ends
    assert last == ends[-1] == 150
    if piece_rows == 1 and kind != "parquet":  # a piece of Parquet has at least two of forty rows
        assert [each.start.row for each in found] == [0, *ends[:-1]]
    if piece_rows > 1:
        assert all((each.rows or 0) >= piece_rows for each in found[:-1])
    if kind != "parquet":
        assert sum(each.size for each in found) + found[0].start.offset == path.stat().st_size
    assert sorted(each.name for each in found) == [each.name for each in found]


def test_reading_the_pieces_is_reading_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "csv")
    stream = opened(str(path))
    whole = [row.row for row in stream.rows(StreamPosition())]
    stream.close()
    parts = []
    for each in pieces(path, 20):
        stream = opened(str(path))
        rows = stream.rows(each.start)
        parts += [next(rows).row for _ in range(each.rows or 0)]
        stream.close()
    assert parts == whole


def test_small_files_among_others_are_pieces(tmp_path: Path) -> None:
    for number in range(3):
        write_jsonl(tmp_path / f"{number}.jsonl", [{"text": "a"}] * 50)
    assert [(each.file, each.rows) for each in pieces(tmp_path, 10)] == [(0, None), (1, None), (2, None)]


def test_a_large_row_group_is_few_pieces(tmp_path: Path) -> None:
    """Each piece reads its row group from the beginning: of 320 rows none is of fewer than 20."""
    path = write_parquet(tmp_path / "new.parquet", [{"text": "a"}] * 320, 320)
    assert len(pieces(path, 1)) == 16
    assert json.dumps([each.rows for each in pieces(path, 1)]) == json.dumps([21] * 15 + [5])
