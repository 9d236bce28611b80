"""Tables as people have them: every form that is read, and every fault said in a sentence with its place."""

import csv
import io
import json
import random
from pathlib import Path

import pytest

from tfew.data.table_reader import MAX_CELL_CHARACTERS, iter_rows, read_table
from tfew.errors import UserError

ROWS = [{"review": "good, very", "label": "1"}, {"review": "so-so", "label": "0"}]


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.csv", b'review,label\n"good, very",1\nso-so,0\n'),
        ("t.csv", b'\xef\xbb\xbfreview,label\r\n"good, very",1\r\n\r\nso-so,0\r\n'),
        ("t.csv", b"review;label\ngood, very;1\nso-so;0"),
        ("t.csv", b"review\tlabel\ngood, very\t1\nso-so\t0\n"),
        ("t.CSV", b' review | label \n"good, very"|1\nso-so|0\n'),
        ("t.csv", b',review,label\n0,"good, very",1\n1,so-so,0\n'),  # pandas' row numbers
        ("t.tsv", b"review\tlabel\ngood, very\t1\nso-so\t0\n"),
        ("t.jsonl", b'{"review": "good, very", "label": "1"}\n\n{"label": "0", "review": "so-so"}\n'),
    ],
)
def test_one_table_in_many_forms(name: str, data: bytes, tmp_path: Path) -> None:
    table = read_table(written(tmp_path / name, data))
    assert table.columns == ["review", "label"]
    assert table.rows == ROWS


def test_parquet_and_json_keep_their_kinds(tmp_path: Path) -> None:
    import pandas

    rows = [{"text": "é", "label": True, "choices": ["a", "b"], "n": 3}, {"text": "", "label": False} | {"n": None}]
    pandas.DataFrame(rows[:1]).to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").rows == rows[:1]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert read_table(tmp_path / "t.jsonl").rows == [rows[0], {**rows[1], "choices": None}]


def test_quotation_marks_that_quote_nothing(tmp_path: Path) -> None:
    """A .tsv whose cells begin with a quotation mark and are not quoted; and one whose are, with a tab inside."""
    table = read_table(written(tmp_path / "t.tsv", b'text\tlabel\n"Great" film\t1\nbad\t0\n'))
    assert [row["text"] for row in table.rows] == ['"Great" film', "bad"]
    assert table.formats == {"tsv": {"delimiter": "\t", "quoting": False}}
    table = read_table(written(tmp_path / "u.tsv", b'text\tlabel\n"a ""tab"":\t!"\t1\nbad\t0\n'))
    assert [row["text"] for row in table.rows] == ['a "tab":\t!', "bad"]
    assert table.formats == {}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_what_the_csv_library_writes_is_read_back(delimiter: str, tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = [
        {
            "text": "".join(draw.choices("ab,;|\t\"'\n é", k=draw.randint(1, 30))),
            "label": draw.choice("xy"),
            "n": str(i),
        }
        for i in range(300)
    ]
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, ["text", "label", "n"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    path = written(tmp_path / "t.csv", file.getvalue().encode())
    assert read_table(path).rows == rows
    expected = {} if delimiter == "," else {"csv": {"delimiter": delimiter, "quoting": True}}
    assert read_table(path).formats == expected


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.csv", b"", r"t\.csv is empty"),
        ("t.csv", b"review,label\n", r"t\.csv holds no rows"),
        ("t.csv", b",,\na,b,c\n", r"has no header"),
        ("t.csv", b"review,,\na,b,c\n", r"has 2 columns without a name"),
        ("t.csv", b"a,b,a\n1,2,3\n", r"two columns called 'a'"),
        ("t.csv", b"a,b\n1,2\n\n3,4,5\n", r"row 2 \(line 4\) has 3 cells, the header has 2.*','.*must be quoted"),
        ("t.csv", b'a,b\n1,2\n"x\ny",4\n5\n', r"row 3 \(line 5\) has 1 cells"),
        ("t.csv", b"a,b\n1,2\n3,\x004\n", r"line 3 holds a NUL byte"),
        ("t.csv", b"a,b\n1,caf\xe9\n", r"line 2 is not UTF-8 \(byte 0xe9 at place 6\): save the file as UTF-8"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16"), r"is UTF-16: save it as UTF-8"),
        ("t.csv", b'a,b\n"1","2"\n3,"4\n5,6\n', r"row 2 \(line 4\) cannot be read: unexpected end of data"),
        ("t.csv", b"a,b\r1,2\r", r"row 1 \(line 1\) cannot be read"),
        ("t.jsonl", b'{"a": 1}\n{"a": \n', r"row 2 \(line 2\) is not valid JSON: Expecting value at column"),
        ("t.jsonl", b"[1, 2]\n", r"row 1 \(line 1\) is list, not a JSON object"),
        ("t.jsonl", b'{"a": ' + b"[" * 100_000, r"nested too deeply"),
        ("t.parquet", b"not parquet", r"cannot be read as Parquet"),
        ("t.xlsx", b"", r"Unknown file ending '.xlsx'.*Known: '.csv', '.tsv', '.jsonl', '.parquet'"),
    ],
)
def test_what_is_wrong_is_said(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_table(written(tmp_path / name, data))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv does not exist"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        read_table(tmp_path / "folder.csv")


def test_rows_before_a_bad_one_are_there(tmp_path: Path) -> None:
    rows = iter_rows(written(tmp_path / "t.jsonl", b'{"a": 1}\n{"a": 2}\noops\n'))
    assert [next(rows), next(rows)] == [{"a": 1}, {"a": 2}]
    with pytest.raises(UserError, match="row 3"):
        next(rows)


def test_longest_cell(tmp_path: Path) -> None:
    longest = b"x" * MAX_CELL_CHARACTERS
    table = read_table(written(tmp_path / "t.csv", b"text,label\n" + longest + b",a\n"))
    assert len(table.rows[0]["text"]) == MAX_CELL_CHARACTERS
    with pytest.raises(UserError, match="field larger than field limit"):
        read_table(written(tmp_path / "t.csv", b"text,label\n" + longest + b"x,a\n"))
