"""A disk that fills while a run writes: one sentence, earlier results intact, and the same command continues (slow)."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import run_command

pytestmark = pytest.mark.slow
BYTES = 2**21


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={BYTES}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def train(folder: Path) -> subprocess.CompletedProcess[str]:
    return run_command(
        "tfew.train", "+experiment=demo", "model=tiny", "trainer=cpu", "steps=12", "checkpoint_every=2",
        "dataset=mini/complaint", "dataset.generator.eval=60", "resume=true", f"run_dir={folder}",
    )  # fmt: skip


def leave(disk: Path, free: int) -> Path:
    """Fills the disk but for so many bytes."""
    ballast = disk / "ballast"
    status = os.statvfs(disk)
    ballast.write_bytes(b"x" * max(0, status.f_bavail * status.f_frsize - free))
    return ballast


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.ci
def test_a_run_stops_with_a_sentence_and_goes_on_when_there_is_space(small_disk: Path, tmp_path: Path) -> None:
    assert train(small_disk / "earlier").returncode == 0
    assert train(tmp_path / "whole").returncode == 0
    earlier, whole = contents(small_disk / "earlier"), contents(tmp_path / "whole")
    needed = sum(len(data) for data in whole.values())
    got_to = set()
    for number, share in enumerate((0.0, 0.05, 0.3, 0.7)):
        folder = small_disk / f"run{number}"
        ballast = leave(small_disk, int(share * needed))
        result = train(folder)
        assert result.returncode == 1
        assert "No space left on device" in result.stderr, result.stderr
        assert "choose another place with runs= or run_dir=" in result.stderr
        assert "Traceback" not in result.stderr
        assert not (folder / "result.json").exists()
        got_to.add(tuple(sorted(contents(folder))) if folder.exists() else ())
        ballast.unlink()
        result = train(folder)
        assert result.returncode == 0, result.stderr
        ours = contents(folder)
        assert ours.keys() == whole.keys(), "nothing unfinished is left"
        for name in ("adapter.safetensors", "predictions.jsonl", "metrics.csv"):
            assert ours[name] == whole[name]
        assert contents(small_disk / "earlier") == earlier
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    assert len(got_to) > 1, "it was full at different times"
