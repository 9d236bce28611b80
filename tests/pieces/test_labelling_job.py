"""Rows labelled in pieces: the output of one process, for any number of files and workers; resuming after kills."""

import csv
import io
import json
import shutil
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from tests.pieces.conftest import ROWS, made_rows, write_jsonl, write_parquet
from tests.test_predict import Killer, read_jsonl, run
from tfew.errors import UserError
from tfew.pieces import piece
from tfew.pieces.labeller import PieceLabeller
from tfew.pieces.labelling_job import LabellingJob
from tfew.pieces.manifest import Report
from tfew.pieces.part_store import PartStore
from tfew.pieces.piece import Piece
from tfew.pieces.workers import Done, Lost, Workers, accepted
from tfew.prediction import bulk_predict

SIZES = ("eval_batch_size=4", "piece_rows=8")


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of eight rows, and files that are cut even when they are small."""
    from tfew.pieces import labeller

    for module in (bulk_predict, labeller):
        monkeypatch.setattr(module, "WINDOW_BATCHES", 2)
    monkeypatch.setattr(piece, "WHOLE_BYTES", 1000)


@pytest.fixture
def one(adapter: Path, tmp_path: Path) -> Callable[[Path, str], bytes]:
    """What the ordinary command makes of one file."""

    def labels(source: Path, ending: str) -> bytes:
        target = tmp_path / "alone" / f"{source.name}.{ending}"
        run(f"adapter={adapter}", f"input={source}", f"output={target}", "eval_batch_size=4", "bad_rows=skip")
        return target.read_bytes()

    return labels


def in_pieces(adapter: Path, source: str | Path, target: str | Path, *more: str) -> Any:
    return run(f"adapter={adapter}", f"input={source}", f"output={target}", "bad_rows=skip", *SIZES, *more)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


class Several(Workers):
    """So many workers in this process, of which some are lost: `dies(worker, piece)`."""

    def __init__(self, make: Callable[[], PieceLabeller], number: int, dies: Callable[[int, Piece], bool]) -> None:
        self._labellers, self._dies = [make() for _ in range(number)], dies
        self._events: deque[Callable[[], list[Done | Lost]]] = deque()

    def start(self) -> None:
        self._events += [partial(self._described, worker) for worker in range(len(self._labellers))]

    def _described(self, worker: int) -> list[Done | Lost]:
        return [Done(worker, accepted(self._labellers[worker].describe()))]

    def give(self, worker: int, piece: Piece, columns: Sequence[str] | None) -> None:
        if self._dies(worker, piece):
            self._events.append(lambda: [Lost(worker, "killed"), *self._described(worker)])
        else:
            self._events.append(lambda: [Done(worker, accepted(self._labellers[worker].label(piece, columns)))])

    def wait(self, seconds: float) -> list[Done | Lost]:
        return self._events.pop()() if self._events else []  # the last first: parts come in any order

    def close(self) -> None:
        for labeller in self._labellers:
            labeller.close()


def use_several(monkeypatch: pytest.MonkeyPatch, number: int, dies: Callable[[int, Piece], bool]) -> None:
    from tfew.pieces.worker_choice import WorkerChoice

    monkeypatch.setattr(WorkerChoice, "workers", lambda self, make, accelerator: Several(make, number, dies))


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_a_file_is_what_one_process_writes(
    ending: str, adapter: Path, one: Callable[[Path, str], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With bad rows, rows of columns that the first has not, and workers that are lost."""
    lost = set()

    def dies(worker: int, given: Piece) -> bool:
        first_time = given.start.row % 3 == 2 and given.name not in lost
        lost.update({given.name} if first_time else ())
        return first_time

    use_several(monkeypatch, 3, dies)
    rows = [{"lead": "no text"}, *made_rows(), {**next(made_rows()), "more": [1]}, {"tail": "bad"}]
    source, target = write_jsonl(tmp_path / "new.jsonl", rows), tmp_path / f"labels.{ending}"
    progress = in_pieces(adapter, source, target, "trainer.devices=3")
    assert (progress.labelled, progress.bad) == (ROWS + 1, 2)
    assert lost
    assert target.read_bytes() == one(source, ending)
    listed = read_jsonl(tmp_path / f"labels.{ending}.bad.jsonl")
    assert [row["row"] for row in listed] == [1, ROWS + 3]
    assert files(tmp_path) == sorted(
        [source.name, *files(tmp_path / "alone"), *[f"labels.{ending}{e}" for e in ("", ".bad.jsonl")]]
    )


def test_a_table_with_quoted_line_breaks(adapter: Path, one: Callable[[Path, str], bytes], tmp_path: Path) -> None:
    source = tmp_path / "new.csv"
    with source.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "judged", "lead", "tail", "number"])
        writer.writeheader()
        writer.writerows(
            {**row, "lead": 'one\n"two",\r\n' if int(row["number"]) % 5 == 0 else ""} for row in made_rows()
        )
    in_pieces(adapter, tmp_path / "new*.csv", tmp_path / "labels.csv")
    assert (tmp_path / "labels.csv").read_bytes() == one(source, "csv")


def test_many_files_into_a_folder(
    adapter: Path, one: Callable[[Path, str], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sorted by their names, the parts are what one process makes of file after file; and as one file they are, too."""
    rows = list(made_rows())
    sources = [
        write_parquet(tmp_path / "new" / "a.parquet", rows[:40], 16),
        write_parquet(tmp_path / "new" / "b" / "c.parquet", rows[40:41], 16),
        write_parquet(tmp_path / "new" / "d.parquet", rows[41:], 100),
    ]
    expected = b"".join(one(source, "jsonl") for source in sources)
    use_several(monkeypatch, 2, lambda worker, given: False)
    in_pieces(adapter, tmp_path / "new", f"{tmp_path}/labels/")
    parts = sorted((tmp_path / "labels").glob("part-*"))
    assert len(parts) > 5
    assert b"".join(part.read_bytes() for part in parts) == expected
    manifest = json.loads((tmp_path / "labels" / "manifest.json").read_text())
    assert (manifest["finished"], manifest["rows"], manifest["labelled"], manifest["bad"]) == (True, ROWS, ROWS, 0)
    assert [part["part"] for part in manifest["parts"]] == [part.name for part in parts]
    assert [part["rows"] for part in manifest["parts"]] == [len(read_jsonl(part)) for part in parts]
    assert files(tmp_path / "labels") == ["manifest.json", *(part.name for part in parts)]
    in_pieces(adapter, tmp_path / "new", tmp_path / "labels.jsonl")
    assert (tmp_path / "labels.jsonl").read_bytes() == expected
    with pytest.raises(UserError, match="already exists"):
        in_pieces(adapter, tmp_path / "new", f"{tmp_path}/labels/")


def test_parts_in_parquet(adapter: Path, one: Callable[[Path, str], bytes], tmp_path: Path) -> None:
    """Of Parquet the types stay, of anything else all is text: what looks like a number is none."""
    import pyarrow
    import pyarrow.parquet

    rows = [{**row, "count": 7} for row in made_rows()]
    for source in (write_parquet(tmp_path / "new.parquet", rows, 50), write_jsonl(tmp_path / "new.jsonl", rows)):
        target = tmp_path / source.suffix[1:]
        in_pieces(adapter, source, f"{target}/", "parts=parquet")
        table = pyarrow.parquet.read_table(sorted(target.glob("*.parquet")))
        found = table.to_pylist()
        alone = list(csv.DictReader(io.StringIO(one(source, "csv").decode())))
        assert [row["number"] for row in found] == [row["number"] for row in rows]
        for ours, theirs in zip(found, alone, strict=True):
            assert ours["label"] == theirs["label"]
            assert [ours[key] for key in ours if key.startswith("p")] == [
                float(theirs[key]) for key in ours if key.startswith("p")
            ]
        is_typed = source.suffix == ".parquet"
        assert table.schema.field("count").type == (pyarrow.int64() if is_typed else pyarrow.string())
        assert found[0]["judged"] == (["dull"] if is_typed else '["dull"]')


def test_behind_urls(adapter: Path, one: Callable[[Path, str], bytes], tmp_path: Path) -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    rows = list(made_rows())
    source = write_jsonl(tmp_path / "a.jsonl", [*rows[:50], {"lead": "bad"}])
    other = write_parquet(tmp_path / "b.parquet", rows[50:], 20)
    try:
        for path in (source, other):
            system.pipe_file(f"/pieces/new/{path.name}", path.read_bytes())
        in_pieces(adapter, "memory://pieces/new/", "memory://pieces/labels/")
        names = sorted(path.rsplit("/", 1)[1] for path in system.find("/pieces/labels"))
        assert names[0] == "bad_rows.jsonl"
        assert names[1] == "manifest.json"
        parts = b"".join(system.cat_file(f"/pieces/labels/{name}") for name in names[2:])
        assert parts == one(source, "jsonl") + one(other, "jsonl")
        assert json.loads(system.cat_file("/pieces/labels/bad_rows.jsonl"))["row"] == 51
        with pytest.raises(UserError, match="already exists"):
            in_pieces(adapter, "memory://pieces/new/", "memory://pieces/labels/")
        with pytest.raises(UserError, match="would be read as rows"):
            in_pieces(adapter, "memory://pieces/", "memory://pieces/labels/")
    finally:
        system.rm("/pieces", recursive=True)


@pytest.mark.parametrize("moment", [1, 4, 9, 16])
def test_killed_and_started_again(
    moment: int, adapter: Path, one: Callable[[Path, str], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any of the files that are written; what is done is not done again."""
    source, target = write_jsonl(tmp_path / "new.jsonl", list(made_rows())), tmp_path / "labels.csv"
    put, written = PartStore.put, []

    def killed(self: PartStore, name: str, file: BinaryIO) -> None:
        if len(written) == moment:
            raise KeyboardInterrupt
        written.append(name)
        put(self, name, file)

    monkeypatch.setattr(PartStore, "put", killed)
    with pytest.raises(KeyboardInterrupt):
        in_pieces(adapter, source, target, "trainer.devices=1", f"output={target}", "input=" + f"{tmp_path}/*.jsonl")
    done = {name for name in written if name.startswith("done-")}
    written.clear()
    monkeypatch.setattr(PartStore, "put", lambda self, name, file: (written.append(name), put(self, name, file))[1])
    progress = in_pieces(adapter, f"{tmp_path}/*.jsonl", target)
    assert not done & set(written)
    assert (progress.rows, progress.earlier) == (ROWS, 8 * len(done))
    assert target.read_bytes() == one(source, "csv")
    assert not (tmp_path / "labels.csv.parts").exists()


def test_what_is_unfinished_is_not_continued_as_something_else(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = write_jsonl(tmp_path / "new.jsonl", list(made_rows())), f"{tmp_path}/labels/"
    with monkeypatch.context() as patched:
        die = Killer(3)

        def report(self: LabellingJob, report: Report) -> None:
            if die():
                raise KeyboardInterrupt

        patched.setattr(LabellingJob, "_report", report)
        with pytest.raises(KeyboardInterrupt):
            in_pieces(adapter, source, target)
    with pytest.raises(UserError, match="a part of another output \\(different eval_batch_size\\)"):
        in_pieces(adapter, source, target, "eval_batch_size=8")
    write_jsonl(source, list(made_rows())[::-1])
    with pytest.raises(UserError, match=r"a part of another output \(different input\)"):
        in_pieces(adapter, source, target)
    assert in_pieces(adapter, source, target, "overwrite=true").rows == ROWS


def test_rows_that_cannot_be_labelled(adapter: Path, tmp_path: Path) -> None:
    rows = [*made_rows(20), {"lead": "bad"}]
    source, target = write_jsonl(tmp_path / "new.jsonl", rows), f"{tmp_path}/labels/"
    with pytest.raises(UserError, match=r"line 21.*bad_rows=skip the same command continues"):
        in_pieces(adapter, source, target, "bad_rows=stop")
    assert in_pieces(adapter, source, target).bad == 1  # and goes on with what was done before
    write_jsonl(source, [{"lead": "bad"}] * 3)
    with pytest.raises(UserError, match="none of its 3 rows can be labelled"):
        in_pieces(adapter, source, f"{tmp_path}/none/")
    write_jsonl(source, [])
    with pytest.raises(UserError, match="holds no rows"):
        in_pieces(adapter, source, f"{tmp_path}/none/")
    assert not (tmp_path / "none").exists()


def test_a_piece_that_ends_its_workers(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_several(monkeypatch, 2, lambda worker, given: given.start.row == 16)
    source = write_jsonl(tmp_path / "new.jsonl", list(made_rows()))
    with pytest.raises(UserError, match=r"piece 000000-000000000016 ended \(killed\), 5 times"):
        in_pieces(adapter, source, f"{tmp_path}/labels/")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["trainer.devices=0"], "trainer.devices=0 is neither"),
        (["piece_rows=0"], "piece_rows=0 is no"),
        (["parts=csv"], "Unknown kind 'csv'"),
        (["threshold=0.9"], "threshold= writes rows for a person"),
        (["suggest=3"], "suggest= writes rows for a person"),
        (["output=-", "trainer.devices=2"], "need an output="),
        (["input=-"], "cannot be split among workers"),
        (["output=FOLDER/new/labels/", "input=FOLDER/new"], "would be read as rows"),
    ],
)
def test_what_cannot_work(overrides: list[str], sentence: str, adapter: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_jsonl(tmp_path / "new" / f"{name}.jsonl", list(made_rows(2)))
    told = [f"input={tmp_path}/new", f"output={tmp_path}/labels/", *overrides]
    with pytest.raises(UserError, match=sentence):
        run(f"adapter={adapter}", *(each.replace("FOLDER", str(tmp_path)) for each in told))


def test_two_jobs_do_not_write_one_folder(adapter: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", list(made_rows(9)))
    held = PartStore(f"{tmp_path}/labels")
    held.lock()
    with pytest.raises(UserError, match="being written by another process"):
        in_pieces(adapter, source, f"{tmp_path}/labels/")
    assert (tmp_path / "labels" / ".lock").exists()
    held.unlock()
    assert in_pieces(adapter, source, f"{tmp_path}/labels/").rows == 9


def test_a_folder_of_something_else_is_left_alone(adapter: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "new.jsonl", list(made_rows(9)))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds files that are not part of an output \(thesis.txt\)"):
        in_pieces(adapter, source, f"{tmp_path}/labels/", "overwrite=true")
    assert (tmp_path / "labels" / "thesis.txt").read_text() == "mine"


def test_killed_while_the_parts_are_removed(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output is complete; nothing is resumed from the parts that are left, and the next run removes them."""
    write_jsonl(tmp_path / "new.jsonl", list(made_rows()))
    target, given = tmp_path / "labels.csv", (adapter, f"{tmp_path}/*.jsonl", tmp_path / "labels.csv")

    def dying(folder: Path, **_: Any) -> None:
        next(Path(folder).iterdir()).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", dying)
        with pytest.raises(KeyboardInterrupt):
            in_pieces(*given)
    written = target.read_bytes()
    with pytest.raises(UserError, match="already exists: choose another, or set overwrite=true"):
        in_pieces(*given)
    assert target.read_bytes() == written
    in_pieces(*given, "overwrite=true")
    assert target.read_bytes() == written
    assert {path.name for path in tmp_path.iterdir()} == {"new.jsonl", "labels.csv"}
