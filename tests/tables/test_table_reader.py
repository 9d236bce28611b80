"""Users' tables: every supported form, and every error reported in a sentence with its place."""

import csv
import datetime
import gzip
import io
import json
import random
import re
import zipfile
from pathlib import Path

import pytest

from tfew.errors import UserError
from tfew.tables.delimited import MAX_CELL_CHARACTERS
from tfew.tables.table_reader import read_table

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
        ("t.csv", b'review, label\n"good, very", 1\nso-so, 0\n'),
        ("t.csv", b'"review", "label"\n"good, very", "1"\n"so-so", "0"\n'),
        ("t.csv", b'review,label\n"good, very", "1"\n"so-so", "0"\n'),
        ("t.csv", b'\n\r\n  \nreview,label\n"good, very",1\nso-so,0\n  \n'),
        ("t.csv", b"sep=|\r\nreview|label\r\ngood, very|1\r\nso-so|0\r\n"),
        ("t.csv.gz", gzip.compress(b'review,label\n"good, very",1\nso-so,0\n', mtime=0)),
        ("t.ndjson", b'{"review": "good, very", "label": "1"}\n{"review": "so-so", "label": "0"}\n'),
        ("t.tsv", b"review\tlabel\ngood, very\t1\nso-so\t0\n"),
        ("t.jsonl", b'{"review": "good, very", "label": "1"}\n\n{"label": "0", "review": "so-so"}\n'),
    ],
)
def test_one_table_in_many_forms(name: str, data: bytes, tmp_path: Path) -> None:
    table = read_table(written(tmp_path / name, data))
    assert table.columns == ["review", "label"]
    assert table.rows == ROWS


UMLAUTS = "größe;urteil\ngut – sehr;schön\nso „naja“;übel\n"


@pytest.mark.parametrize(
    ("encoding", "bom", "said", "recorded"),
    [
        ("utf-8", b"", [], None),
        ("utf-8", b"\xef\xbb\xbf", [], None),
        ("cp1252", b"", ["read as Windows-1252 (cp1252), since it is not UTF-8"], ["cp1252"]),
        ("utf-16-le", b"\xff\xfe", ["read as UTF-16"], ["utf-16-le"]),
        ("utf-16-be", b"\xfe\xff", ["read as UTF-16"], ["utf-16-be"]),
        ("utf-16-le", b"", ["read as UTF-16"], ["utf-16-le"]),
        ("utf-16-be", b"", ["read as UTF-16"], ["utf-16-be"]),
        ("utf-32-le", b"\xff\xfe\0\0", ["read as UTF-32"], ["utf-32-le"]),
    ],
)
def test_encodings(encoding: str, bom: bytes, said: list[str], recorded: list[str] | None, tmp_path: Path) -> None:
    """Also of characters in whose codes a line feed's byte occurs (U+0A05, U+050A)."""
    text = UMLAUTS + ("\u0a05\u050a;x\n" if encoding != "cp1252" else "")
    table = read_table(written(tmp_path / "t.csv", bom + text.encode(encoding)))
    assert table.columns == ["größe", "urteil"]
    assert [row["größe"] for row in table.rows[:2]] == ["gut – sehr", "so „naja“"]
    assert [row["urteil"] for row in table.rows[:2]] == ["schön", "übel"]
    assert [row["größe"] for row in table.rows[2:]] == (["\u0a05\u050a"] if encoding != "cp1252" else [])
    assert table.notes == [*said, "separated by ';'"]
    expected = {"delimiter": ";", "quoting": True} | ({} if recorded is None else {"encoding": recorded})
    assert table.formats == {"csv": expected}


def test_how_a_table_was_read_is_said_and_recorded(tmp_path: Path) -> None:
    table = read_table(written(tmp_path / "t.csv", b'\n\nreview, label\n"good, very", 1\nso-so, 0\n'))
    assert table.notes == ["blanks after a separator removed", "2 empty lines above the header"]
    assert table.formats == {"csv": {"delimiter": ",", "quoting": True, "skip_blanks": True}}
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    table = read_table(written(tmp_path / "t.jsonl", lines.encode("utf-16")))
    assert (table.rows, table.notes) == (ROWS, ["read as UTF-16"])
    assert table.formats == {"jsonl": {"encoding": ["utf-16-le"]}}


def test_excel(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "rows"
    for cells in ((), ("review", "stars", "on"), ("good, very", 1, datetime.date(2024, 1, 2)), (), ("so-so", 2.5)):
        sheet.append(cells)
    book.create_sheet("notes")
    book.save(tmp_path / "t.xlsx")
    table = read_table(tmp_path / "t.xlsx")
    assert table.columns == ["review", "stars", "on"]
    assert table.rows == [
        {"review": "good, very", "stars": 1, "on": "2024-01-02T00:00:00"},
        {"review": "so-so", "stars": 2.5, "on": None},
    ]
    assert table.notes == ["only its first sheet, 'rows', is read, not notes"]
    damaged = bytearray((tmp_path / "t.xlsx").read_bytes())
    damaged[60:400] = bytes(340)
    with pytest.raises(UserError, match=r"u\.xlsx cannot be read as an Excel workbook.*save it as CSV"):
        read_table(written(tmp_path / "u.xlsx", bytes(damaged)))


def test_excel_beyond_the_size_that_the_file_declares(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["text", "label"], *([f"text {number}", "ab"[number % 2]] for number in range(9))):
        book.active.append(row)
    book.save(tmp_path / "whole.xlsx")
    declared = re.compile(rb'<dimension ref="A1:B10"')
    with zipfile.ZipFile(tmp_path / "whole.xlsx") as whole, zipfile.ZipFile(tmp_path / "t.xlsx", "w") as file:
        for name in whole.namelist():
            file.writestr(name, declared.sub(b'<dimension ref="A1:A4"', whole.read(name)))
    table = read_table(tmp_path / "t.xlsx")
    assert (table.columns, table.rows) == (["text", "label"], read_table(tmp_path / "whole.xlsx").rows)
    assert len(table.rows) == 9


def test_excel_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfew.environment.versions.installed", lambda name: None)
    with pytest.raises(UserError, match=r"an Excel file, needs openpyxl, not installed here: pip install.*save it as"):
        read_table(written(tmp_path / "t.xlsx", b""))


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


@pytest.mark.parametrize("rows", [3, 500])
@pytest.mark.parametrize("header", ["Notes (a, b)", "notes"])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_quoted_cells_that_all_hold_the_delimiter(ending: str, header: str, rows: int, tmp_path: Path) -> None:
    """Without quoting every line has the same number of cells, too, and more of them."""
    delimiter = {"csv": ", ", "tsv": "\t"}[ending]
    wanted = [{header.replace(", ", delimiter): f"x{row}{delimiter}y", "review": f"cup {row}"} for row in range(rows)]
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(wanted[0]), delimiter=delimiter[0])
    writer.writeheader()
    writer.writerows(wanted)
    table = read_table(written(tmp_path / f"t.{ending}", file.getvalue().encode()))
    assert (table.rows, table.formats) == (wanted, {})


def test_quotation_marks_that_quote_nothing_in_a_long_file(tmp_path: Path) -> None:
    rows = [{"text": '"Great" film' if row % 50 == 7 else f"film {row}", "label": "1"} for row in range(400)]
    data = "text\tlabel\n" + "".join(f"{row['text']}\t1\n" for row in rows)
    table = read_table(written(tmp_path / "t.tsv", data.encode()))
    assert (table.rows, table.formats) == (rows, {"tsv": {"delimiter": "\t", "quoting": False}})


@pytest.mark.parametrize("first", [3, 300])
def test_stray_quotation_marks_of_a_tab_separated_table_join_no_rows(first: int, tmp_path: Path) -> None:
    rows = [{"text": f"text {row}", "label": "p"} for row in range(400)]
    rows[first]["text"], rows[first + 10]["text"] = '"Great, 5', "height 5'2\""
    data = "text\tlabel\n" + "".join(f"{row['text']}\tp\n" for row in rows)
    table = read_table(written(tmp_path / "t.tsv", data.encode()))
    assert (table.rows, table.formats) == (rows, {"tsv": {"delimiter": "\t", "quoting": False}})


def test_stray_quotation_marks_after_the_sample_decide_about_quoting(tmp_path: Path) -> None:
    data = "text,label\n" + "film,1\n" * 300 + '"Great" film,1\n' + "film,1\n" * 9
    table = read_table(written(tmp_path / "t.csv", data.encode()))
    assert (len(table.rows), table.rows[300]["text"]) == (310, '"Great" film')
    assert table.notes == ["quotation marks read as plain characters"]


def test_rows_that_quotation_marks_join_are_named(tmp_path: Path) -> None:
    lines = ["text,label", *["film,1"] * 300, '"Great,1', "film,1", "film,1", 'screen of 5",1', "film,1"]
    table = read_table(written(tmp_path / "t.csv", "\n".join(lines).encode()))
    assert table.rows[300]["text"].endswith("Great,1\nfilm,1\nfilm,1\nscreen of 5")
    (note,) = table.notes
    assert note.startswith("row 301 is lines 302 to 305, joined by quotation marks, though each has 2 cells")
    usual = b'text,label\n"two lines\nand more",1\n"one\ntwo, three",1\n"Dear all, hello\nit was fine",1\n'
    assert read_table(written(tmp_path / "u.csv", usual)).notes == []


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
        ("t.csv", b'a,b\n1,2\n"x\ny",4\n5\n', r"row 3 \(line 5\) has 1 cell, the header has 2"),
        ("t.csv", b"a,b\n1,2\n3,\x004\n", r"row 2 \(line 3\) holds a NUL byte: is it a text file\?"),
        ("t.ndjson", b'{"a": "\x00"}\n', r"row 1 \(line 1\) holds a NUL byte"),
        (
            "t.csv",
            b"a,b\n\xc3\xa4,2\n1,caf\xe9\n",
            r"row 2 \(line 3\) is not UTF-8 text \(byte 0xe9 at position 6\): save the file as UTF-8",
        ),
        ("t.csv", b"a,b\n1,\xff\xfe\x81\n", r"row 1 \(line 2\) is not UTF-8 text \(byte 0xff at position 3\)"),
        ("t.csv", b'a,b\n"1","2"\n3,"4\n5,6\n', r"row 2 \(line 4\) cannot be read: unexpected end of data"),
        ("t.csv", b"a,b\r1,2\r", r"t\.csv, line 1: its header line cannot be read"),
        ("t.jsonl", b'{"a": 1}\n{"a": \n', r"row 2 \(line 2\) is not valid JSON: Expecting value at column"),
        ("t.jsonl", b"[1, 2]\n", r"row 1 \(line 1\) is list, not a JSON object"),
        ("t.jsonl", b'{"a": ' + b"[" * 100_000, r"nested too deeply"),
        ("t.parquet", b"not parquet", r"cannot be read as Parquet"),
        ("t.csv.gz", b"not packed", r"t\.csv\.gz cannot be read: Not a gzipped file"),
        ("t.xls", b"", r"t\.xls cannot be read \(\.xls\): save it as CSV, or as \.xlsx"),
        ("t.doc", b"", r"Unknown file ending '.doc'.*Known: '.csv', '.tsv', '.jsonl', '.ndjson', '.parquet', '.xlsx'"),
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


def test_longest_cell(tmp_path: Path) -> None:
    longest = b"x" * MAX_CELL_CHARACTERS
    table = read_table(written(tmp_path / "t.csv", b"text,label\n" + longest + b",a\n"))
    assert len(table.rows[0]["text"]) == MAX_CELL_CHARACTERS
    with pytest.raises(UserError, match="field larger than field limit"):
        read_table(written(tmp_path / "t.csv", b"text,label\n" + longest + b"x,a\n"))
