"""A sweep of small runs whose workers are killed at random, compared with the same sweep uninterrupted.

    python -m scripts.drills.sweep_under_fire                            200 runs, 4 joblib workers, some minutes
    python -m scripts.drills.sweep_under_fire 40 submitit_local 7        40 runs, submitit's local executor, seed 7
    python -m scripts.drills.sweep_under_fire 6 joblib 0 2               6 runs, 2 workers
    python -m scripts.drills.sweep_under_fire 40 ray 0 2                 40 runs on a Ray cluster of this machine

While the sweep runs, one of its worker processes is killed (SIGKILL) after every few runs, sometimes the sweep itself
with all its processes; half-way a second sweep with the same command starts, as if by somebody else. Killed sweeps are
restarted until all runs are done. Finally there must be one record for each run, none written twice, no leftover files,
predictions equal byte for byte to the uninterrupted sweep's, and the same table. POSIX only.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from tfew.runs.records import RECORD_FILE
from tfew.runs.run_folder import PREDICTIONS_FILE

MOST_BETWEEN_KILLS = 36  # finished runs
LATEST_KILL_SECONDS = 3.0  # after the last of them
SHARE_OF_SWEEPS = 0.15  # of the kills: the sweep itself, and all its processes
LATEST_SECONDS = 3600


@dataclass
class Fire:
    """What was done to a sweep, and when each of its records was first seen."""

    workers_killed: int = 0
    sweeps_killed: int = 0
    starts: int = 0
    seconds: float = 0.0
    records: dict[Path, tuple[int, int]] = field(default_factory=dict)  # inode and time, which identify the file
    written_twice: set[Path] = field(default_factory=set)

    def watch(self, runs: Path) -> None:
        for path in runs.glob(f"*/{RECORD_FILE}"):
            status = path.stat()
            seen = (status.st_ino, status.st_mtime_ns)
            if self.records.setdefault(path, seen) != seen:
                self.written_twice.add(path)


def command(runs: Path, count: int, launcher: str, workers: int) -> list[str]:
    seeds = ",".join(map(str, range(count)))
    size = {
        "joblib": f"hydra.launcher.n_jobs={workers}",
        "submitit_local": f"hydra.sweeper.max_batch_size={workers}",
        "ray": f"hydra.launcher.num_cpus={(os.cpu_count() or 1) / workers}",
    }[launcher]
    here = ["hydra.launcher.address=local"] if launcher == "ray" else []
    return [
        sys.executable, "-m", "tfew.train", "-m", "+experiment=demo", "dataset=mini/complaint", "model=tiny",
        "trainer=cpu", "few_shot=draw", "steps=6", "checkpoint_every=2", "dataset.generator.eval=20",
        f"few_shot_seed={seeds}", f"hydra/launcher={launcher}", size, *here, f"runs={runs}",
    ]  # fmt: skip


def start(runs: Path, count: int, launcher: str, workers: int) -> subprocess.Popen[bytes]:
    log = (runs.parent / f"{runs.name}.log").open("ab")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    told = command(runs, count, launcher, workers)
    return subprocess.Popen(told, stdout=log, stderr=log, env=environment, start_new_session=True)


def undisturbed(runs: Path, count: int, launcher: str, workers: int) -> float:
    started = time.monotonic()
    process = start(runs, count, launcher, workers)
    with _bar("Undisturbed", count) as bar:
        while process.poll() is None:
            _show(bar, runs)
    if process.returncode:
        sys.exit(f"The undisturbed sweep failed:\n{(runs.parent / f'{runs.name}.log').read_text()[-3000:]}")
    return time.monotonic() - started


def under_fire(runs: Path, count: int, launcher: str, workers: int, source: random.Random) -> Fire:
    fire, started = Fire(), time.monotonic()
    sweeps: list[subprocess.Popen[bytes] | None] = [None, None]
    done = [False, False]
    next_kill, moment = 1, 0.0
    with _bar("Under fire", count) as bar:
        while not all(done) and time.monotonic() - started < LATEST_SECONDS:
            for number, sweep in enumerate(sweeps):
                if not done[number] and sweep is None and len(fire.records) >= number * count // 2:
                    sweeps[number] = start(runs, count, launcher, workers)
                    fire.starts += 1
                elif sweep is not None and sweep.poll() is not None:
                    done[number], sweeps[number] = sweep.returncode == 0, None
            fire.watch(runs)
            _show(bar, runs)
            if len(fire.records) >= next_kill and not moment:
                moment = time.monotonic() + source.uniform(0, LATEST_KILL_SECONDS)
            if moment and time.monotonic() >= moment:
                _kill_one([sweep for sweep in sweeps if sweep is not None], fire, source)
                next_kill, moment = len(fire.records) + source.randint(1, MOST_BETWEEN_KILLS), 0.0
    fire.watch(runs)
    fire.seconds = time.monotonic() - started
    return fire


def _kill_one(sweeps: list[subprocess.Popen[bytes]], fire: Fire, source: random.Random) -> None:
    if not sweeps:
        return
    sweep = source.choice(sweeps)
    if source.random() < SHARE_OF_SWEEPS:
        for pid in (sweep.pid, *_descendants(sweep.pid)):
            _kill(pid)
        fire.sweeps_killed += 1
    elif workers := [pid for pid in _descendants(sweep.pid) if _is_worker(pid)]:
        fire.workers_killed += _kill(source.choice(workers))


def _is_worker(pid: int) -> bool:
    """Of Ray not what holds the cluster together, without which nothing goes on, nor a worker that waits."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False
    return "/ray/" not in command and (not command.startswith("ray::") or "execute_job" in command)


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _descendants(root: int) -> Iterator[int]:
    listing = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    children: dict[int, list[int]] = {}
    for line in listing.splitlines():
        pid, parent = map(int, line.split())
        children.setdefault(parent, []).append(pid)
    waiting = list(children.get(root, ()))
    while waiting:
        pid = waiting.pop()
        waiting.extend(children.get(pid, ()))
        yield pid


def _bar(what: str, count: int) -> "tqdm[None]":
    return tqdm(total=count, desc=what, unit="run", mininterval=1)


def _show(bar: "tqdm[None]", runs: Path) -> None:
    bar.n = len(list(runs.glob(f"*/{RECORD_FILE}")))
    bar.refresh()
    time.sleep(0.2)


def table(runs: Path, output: Path) -> str:
    subprocess.run(
        [sys.executable, "-m", "tfew.paper", "table=4", "of_model=tiny", f"runs={runs}", f"output={output}"],
        check=True, capture_output=True,
    )  # fmt: skip
    return "".join(path.read_text() for path in sorted(output.glob("*.md")))


def wrong(whole: Path, disturbed: Path, fire: Fire, count: int) -> list[str]:
    """What differs from the undisturbed sweep, in words."""
    found = []
    records = sorted(path.parent.name for path in disturbed.glob(f"*/{RECORD_FILE}"))
    if records != sorted(path.parent.name for path in whole.glob(f"*/{RECORD_FILE}")) or len(records) != count:
        found.append(f"{len(records)} records for {count} runs")
    if fire.written_twice:
        found.append(f"{len(fire.written_twice)} records were written twice")
    for name in records:
        ours, theirs = disturbed / name, whole / name
        if {path.name for path in ours.rglob("*")} != {path.name for path in theirs.rglob("*")}:
            found.append(f"{name} has other files")
        elif (ours / PREDICTIONS_FILE).read_bytes() != (theirs / PREDICTIONS_FILE).read_bytes():
            found.append(f"{name} has other predictions")
    if left := [path.name for path in disturbed.glob(".*") if not path.name.startswith(".sweep")]:
        found.append(f"left over: {', '.join(left)}")
    if table(disturbed, disturbed.parent / "ours") != table(whole, whole.parent / "theirs"):
        found.append("another table")
    return found


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=int, default=200)
    parser.add_argument("launcher", nargs="?", choices=("joblib", "submitit_local", "ray"), default="joblib")
    parser.add_argument("seed", nargs="?", type=int, default=0)
    parser.add_argument("workers", nargs="?", type=int, default=4)
    options = parser.parse_args()
    runs, launcher, workers = options.runs, options.launcher, options.workers
    with tempfile.TemporaryDirectory() as name:
        whole, disturbed = Path(name) / "whole", Path(name) / "disturbed"
        seconds = undisturbed(whole, runs, launcher, workers)
        fire = under_fire(disturbed, runs, launcher, workers, random.Random(options.seed))
        found = wrong(whole, disturbed, fire, runs)
        text = table(disturbed, Path(name) / "ours")
    print(f"\n{text}")
    print(f"{runs} runs, {launcher}, {workers} workers: {seconds:.0f} s undisturbed, {fire.seconds:.0f} s under fire")
    print(
        f"{fire.workers_killed} workers and {fire.sweeps_killed} whole sweeps killed, {fire.starts} starts;"
        f" {len(fire.records)} records, {len(fire.written_twice)} of them written twice"
    )
    print("\n".join(found) or "Files, predictions and table are those of the undisturbed sweep.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
