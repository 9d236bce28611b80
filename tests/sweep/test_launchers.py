"""Whole sweeps in processes of their own, under each launcher, and killed in the middle (slow)."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.commands import run_command, start_command

STEPS = 20
SEEDS = (0, 1, 32, 42)
pytestmark = pytest.mark.slow


def command(runs: Path, *overrides: str) -> list[str]:
    return [
        "tfew.train", "-m", "+experiment=demo", "model=tiny", "trainer=cpu", f"steps={STEPS}",
        "dataset.generator.eval=4", f"few_shot_seed={','.join(map(str, SEEDS))}", f"runs={runs}", *overrides,
    ]  # fmt: skip


def run(runs: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """A sweep to its end: itself forked off, its workers real processes."""
    return run_command(*command(runs, *overrides), timeout=400)


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a real one in the background, in a session of its own that is killed at the end."""
    processes: list[subprocess.Popen[str]] = []

    def start(runs: Path, *overrides: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", *command(runs, *overrides)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(happened: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not happened():
        assert process.poll() is None, "the sweep ended before it could be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def finished(runs: Path) -> dict[int, tuple[float, bytes]]:
    """By seed: when the record was written, and all predictions."""
    found = {}
    for path in runs.glob("demo_*/result.json"):
        seed = json.loads(path.read_text())["few_shot_seed"]
        assert seed not in found
        found[seed] = (path.stat().st_mtime, (path.parent / "predictions.jsonl").read_bytes())
    return found


def workers(process: subprocess.Popen[str]) -> list[int]:
    """joblib's worker processes of a sweep."""
    listing = subprocess.run(["ps", "-wweo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listing.splitlines()]
    return [int(row[0]) for row in rows if row[1] == str(process.pid) and "popen_loky" in row[2]]


def alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def predictions(runs: Path) -> dict[int, bytes]:
    return {seed: text for seed, (_, text) in finished(runs).items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, bytes]:
    runs = tmp_path_factory.mktemp("undisturbed")
    result = run(runs)
    assert result.returncode == 0, result.stderr
    assert sorted(predictions(runs)) == sorted(SEEDS)
    assert list(runs.glob(".*")) == []
    return predictions(runs)


def numbers(output: str) -> tuple[int, ...]:
    """Made, finished before, failed."""
    found = re.search(r": (\d+) made, (\d+) finished before, (\d+) failed, in", output)
    assert found is not None, output
    return tuple(map(int, found.groups()))


@pytest.mark.parametrize("launcher", ["joblib", pytest.param("submitit_local", marks=pytest.mark.drill)])
def test_launchers(launcher: str, tmp_path: Path, undisturbed: dict[int, bytes]) -> None:
    """One job's value cannot be: the other runs, and once it is mended only what is left is made."""
    values = (f"few_shot_seed={SEEDS[0]}", "optimizer.lr=2e-2,0")  # the first rate is the experiment's own
    result = run(tmp_path, f"hydra/launcher={launcher}", *values)
    assert result.returncode == 1
    assert numbers(result.stdout) == (1, 0, 1)
    assert "FAILED: optimizer.lr=0: optimizer.lr=0 is not a number above 0." in result.stdout
    assert "Warning" not in result.stderr
    assert "Traceback" not in result.stderr
    before = finished(tmp_path)
    result = run(tmp_path, f"hydra/launcher={launcher}", f"few_shot_seed={SEEDS[0]},{SEEDS[1]}")
    assert result.returncode == 0
    assert numbers(result.stdout) == (1, 1, 0)
    assert before.items() <= finished(tmp_path).items()
    assert predictions(tmp_path).items() <= undisturbed.items()
    assert list(tmp_path.glob(".*")) == [], "nothing is left of a sweep that went well"


@pytest.mark.drill
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_killed_in_the_middle_and_started_again(
    launcher: str, tmp_path: Path, undisturbed: dict[int, bytes], started: Callable[..., subprocess.Popen[str]]
) -> None:
    process = started(tmp_path, f"hydra/launcher={launcher}")
    wait_for(lambda: finished(tmp_path), process)
    orphans = workers(process)
    assert (len(orphans) > 0) == (launcher == "joblib")
    process.kill()
    process.wait()
    before = finished(tmp_path)
    result = run(tmp_path, f"hydra/launcher={launcher}")
    assert result.returncode == 0
    made, found, failed = numbers(result.stdout)
    assert (made + found, failed) == (len(SEEDS), 0)
    assert found >= len(before)
    assert before.items() <= finished(tmp_path).items(), "no run is made twice"
    assert predictions(tmp_path) == undisturbed
    assert list(tmp_path.glob(".*")) == list(tmp_path.glob("*/.*")) == []
    assert not [pid for pid in orphans if alive(pid)], "workers end with their sweep"


@pytest.mark.drill
def test_a_killed_worker_costs_only_time(
    tmp_path: Path, undisturbed: dict[int, bytes], started: Callable[..., subprocess.Popen[str]]
) -> None:
    process = started(tmp_path, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    wait_for(lambda: workers(process) and list(tmp_path.glob("demo_*/metrics.csv")), process)
    os.kill(workers(process)[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0
    assert numbers(output)[2] == 0
    assert "Traceback" not in output
    assert predictions(tmp_path) == undisturbed


@pytest.mark.drill
def test_two_people_start_the_same_sweep(tmp_path: Path, undisturbed: dict[int, bytes]) -> None:
    """They share the work, each run is made once, and both end when all runs are finished."""
    both = [start_command(*command(tmp_path)) for _ in range(2)]
    outputs = [process.communicate(timeout=400)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    counted = [numbers(output) for output in outputs]
    assert sum(made for made, _, _ in counted) == len(SEEDS)
    assert all(made + found == len(SEEDS) for made, found, _ in counted)
    assert predictions(tmp_path) == undisturbed
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=pytest.mark.drill)])
def test_ctrl_c(launcher: str, tmp_path: Path, started: Callable[..., subprocess.Popen[str]]) -> None:
    process = started(tmp_path, f"hydra/launcher={launcher}", "steps=2000")
    wait_for(lambda: list(tmp_path.glob("demo_*/metrics.csv")), process)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "Interrupted: 0 made, 0 finished before, 0 failed, 4 left, in" in output
    assert "The same command continues: finished runs are skipped." in output
    assert "Traceback" not in output
    assert not (tmp_path / ".sweep").exists()
    assert not finished(tmp_path)


SBATCH = """#!{python}
import os, pathlib, re, subprocess, sys
script = pathlib.Path(sys.argv[1])
pathlib.Path(sys.argv[0]).with_name("script").write_text(script.read_text())
first, last = map(int, re.search(r"--array=(\\d+)-(\\d+)", script.read_text()).groups())
one = dict(SLURM_ARRAY_JOB_ID="77", SLURM_NTASKS="1", SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NODEID="0")
for task in range(first, last + 1):
    env = os.environ | one | dict(SLURM_JOB_ID=str(77 + task), SLURM_ARRAY_TASK_ID=str(task), SLURM_JOB_NUM_NODES="1")
    subprocess.Popen(["bash", str(script)], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("Submitted batch job 77")
"""
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do
    [[ $1 == --output || $1 == --error ]] && shift
    shift
done
exec "$@"
"""
SACCT = """#!/bin/bash
echo "JobID|State|NodeList"
for task in 0 1; do echo "77_$task|RUNNING|here"; done
"""


@pytest.mark.drill
def test_slurm(tmp_path: Path, undisturbed: dict[int, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for Slurm's commands run the array's tasks here; the script is the one that a cluster would get."""
    bin_folder, runs = tmp_path / "bin", tmp_path / "runs"
    bin_folder.mkdir()
    for name, text in {"sbatch": SBATCH.format(python=sys.executable), "srun": SRUN, "sacct": SACCT}.items():
        (bin_folder / name).write_text(text)
        (bin_folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    options = ("hydra.launcher.partition=long", "hydra.launcher.array_parallelism=2")
    result = run(runs, "hydra/launcher=submitit_slurm", *options, f"few_shot_seed={SEEDS[0]},{SEEDS[1]}")
    assert result.returncode == 0, result.stderr
    assert numbers(result.stdout) == (2, 0, 0)
    assert predictions(runs).items() <= undisturbed.items()
    assert list(runs.glob(".*")) == []
    lines = (bin_folder / "script").read_text().splitlines()
    wanted = {
        "array": "0-1%2", "cpus-per-task": "4", "gpus-per-node": "1", "job-name": "tfew", "mem": "48GB", "nodes": "1",
        "ntasks-per-node": "1", "partition": "long", "time": "360", "signal": "USR2@120",
    }  # fmt: skip
    given = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", "\n".join(lines), re.MULTILINE))
    assert wanted.items() <= given.items()
    assert f"{runs}/.sweep/submitit/" in given["output"]
    last = lines[-1]
    assert last.startswith("srun ")
    assert f"{sys.executable} -u -m submitit.core._submit {runs}/.sweep/submitit/" in last


def test_slurm_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    result = run(tmp_path / "runs", "hydra/launcher=submitit_slurm")
    assert result.returncode == 1
    assert "4 left" in result.stderr
    assert 'RuntimeError: Could not detect "srun", are you indeed on a slurm cluster?' in result.stderr
    assert "Traceback" not in result.stderr
    assert not list((tmp_path / "runs").glob("*"))
