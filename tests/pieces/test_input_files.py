"""The files that `input=` names."""

from pathlib import Path

import pytest

from tfew.errors import UserError
from tfew.pieces.input_files import absolute, find_files, names_many


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.csv", "a.jsonl", "deep/c.parquet", "_SUCCESS", ".hidden.csv", "notes.md", "deep/d.csv.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def names(source: str, tree: Path, kind: str | None = None) -> list[str]:
    return [str(Path(file.path).relative_to(tree)) for file in find_files(source, kind)]


def test_a_folder_and_a_pattern(tree: Path) -> None:
    assert names(str(tree), tree) == ["a.jsonl", "b.csv", "deep/c.parquet", "deep/d.csv.gz"]
    assert names(str(tree), tree, "csv") == ["a.jsonl", "b.csv", "deep/c.parquet", "deep/d.csv.gz", "notes.md"]
    assert names(f"{tree}/*.csv", tree) == ["b.csv"]
    assert names(f"{tree}/**/*.parquet", tree) == ["deep/c.parquet"]
    assert names(f"{tree}/b.csv", tree) == ["b.csv"]


def test_a_file_is_known_by_its_size_and_time(tree: Path) -> None:
    before = find_files(f"{tree}/b.csv", None)
    assert (before[0].size, find_files(f"{tree}/b.csv", None)) == (5, before)
    (tree / "b.csv").write_text("other")
    assert find_files(f"{tree}/b.csv", None) != before


def test_a_file_whose_name_looks_like_a_pattern(tree: Path) -> None:
    (tree / "new[1].csv").write_text("a")
    assert not names_many(f"{tree}/new[1].csv")
    assert names(f"{tree}/new[1].csv", tree) == ["new[1].csv"]
    assert names_many(f"{tree}/new*.csv")
    assert names_many(str(tree))
    assert names_many("s3://bucket/new.csv")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("nowhere.csv", "does not exist"),
        ("TREE/*.tsv", "matches no file"),
        ("EMPTY", "holds no file with a known ending"),
        ("-", "cannot be split among workers"),
        ("what3://bucket/new.csv", "cannot be reached"),
    ],
)
def test_nothing_to_read(source: str, sentence: str, tree: Path) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(UserError, match=sentence):
        find_files(source.replace("TREE", str(tree)).replace("EMPTY", str(tree / "empty")), None)


def test_behind_a_url(tree: Path) -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    for name in ("a.csv", "deep/b.csv", "_SUCCESS"):
        system.pipe_file(f"/input-files/{name}", b"text\n")
    try:
        found = [file.path for file in find_files("memory://input-files/", None)]
        assert found == ["memory:///input-files/a.csv", "memory:///input-files/deep/b.csv"]
        assert [file.path for file in find_files("memory://input-files/*.csv", None)] == found[:1]
        assert find_files("memory://input-files/a.csv", None)[0].size == 5
        with pytest.raises(UserError, match="does not exist"):
            find_files("memory://input-files/none.csv", None)
    finally:
        system.rm("/input-files", recursive=True)


def test_paths_that_are_here_are_made_absolute(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert absolute("b.csv") == str(tree / "b.csv")
    assert [absolute(path) for path in ("hub:owner/name", "owner/name")] == ["hub:owner/name", "owner/name"]
