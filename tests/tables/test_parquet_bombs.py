"""Parquet files of a few kilobytes that unpack to gigabytes."""

from collections import deque
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfew.errors import UserError
from tfew.tables import parquet
from tfew.tables.parquet import ParquetStream
from tfew.tables.rows import StreamPosition

MEGA = 2**20


def repeated(path: Path, rows: int, characters: int, kind: pa.DataType) -> Path:
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * characters], kind))
    pq.write_table(pa.table({"text": texts, "n": pa.array(range(rows))}), path, compression="zstd")
    return path


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()])
def test_a_text_repeated_by_its_dictionary(tmp_path: Path, kind: pa.DataType) -> None:
    path = repeated(tmp_path / "t.parquet", 5000, 2 * MEGA, kind)
    assert path.stat().st_size < 20_000
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(UserError, match="unpacks to more than"):
        deque(ParquetStream(str(path)).rows(StreamPosition()), maxlen=1)
    assert pa.default_memory_pool().max_memory() - before < 64 * MEGA


def test_pages_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ALWAYS_BYTES", MEGA)
    path = tmp_path / "t.parquet"
    table = pa.table({"text": ["x" * 500_000 + str(number) for number in range(20)]})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    with pytest.raises(UserError, match="column 'text' would unpack to 10,"):
        next(ParquetStream(str(path)).rows(StreamPosition()))


def test_an_honest_file_is_read_as_it_is_from_any_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "CHARACTERS_AT_A_TIME", 50)
    rows = [{"text": "é" * (n % 40) if n % 7 else None, "n": n, "list": ["a", str(n)]} for n in range(3000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet", row_group_size=700)
    stream = ParquetStream(str(tmp_path / "t.parquet"))
    for start in (0, 1, 699, 700, 1500, 2999):
        assert [found.row for found in stream.rows(StreamPosition(start, start, start))] == rows[start:]
