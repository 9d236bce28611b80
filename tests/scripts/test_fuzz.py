"""The readers of `scripts/drills/fuzz.py`, on valid files and on all inputs found by fuzzing (tests/seeds)."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.drills.fuzz import SEEDS, TARGETS, ForbiddenError, judge, outcome, seeds, whole
from tfew.errors import UserError


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_whole_is_taken(name: str) -> None:
    assert judge(TARGETS[name], whole(name)) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_is_refused_in_a_sentence_or_taken(name: str) -> None:
    """`judge` raises where anything else happens; many inputs, so not much may hide behind one kind of refusal."""
    said = {outcome(name, data) for data in seeds(name)}
    assert len(said) > 5


def test_each_target_has_seeds() -> None:
    assert {path.stem for path in SEEDS.iterdir()} == set(TARGETS)


def unpickles(data: bytes, folder: Path) -> None:
    del folder
    pickle.loads(data)


def starts(data: bytes, folder: Path) -> None:
    subprocess.run([sys.executable, "-c", data.decode()], cwd=folder, check=True)


def escapes(data: bytes, folder: Path) -> None:
    (folder.parent / f"{folder.name}.escaped").write_bytes(data)


def shell(data: bytes, folder: Path) -> None:
    del folder
    os.system(data.decode())


@pytest.mark.parametrize(
    ("reader", "data"),
    [(unpickles, pickle.dumps(print)), (starts, b"1"), (escapes, b"1"), (shell, b"true")],
)
def test_what_no_reader_may_do_is_noticed(reader: Callable[[bytes, Path], None], data: bytes) -> None:
    with pytest.raises(ForbiddenError):
        judge(reader, data)


def test_what_a_reader_may_do_and_what_is_no_refusal() -> None:
    def writes(data: bytes, folder: Path) -> None:
        (folder / "a").write_bytes(data)

    def refuses(data: bytes, folder: Path) -> None:
        raise UserError(f"{data!r} is bad.")

    def says_nothing(data: bytes, folder: Path) -> None:
        raise UserError("")

    def fails(data: bytes, folder: Path) -> None:
        raise KeyError(data)

    assert judge(writes, b"x") == ""
    assert judge(refuses, b"x") == "b'x' is bad."
    with pytest.raises(AssertionError, match="no sentence"):
        judge(says_nothing, b"x")
    with pytest.raises(KeyError):
        judge(fails, b"x")
