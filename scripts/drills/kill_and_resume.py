"""Kills runs (SIGKILL) at random moments and resumes them; each must end like an uninterrupted run.

    python -m scripts.drills.kill_and_resume             100 trials, some minutes on two cores
    python -m scripts.drills.kill_and_resume 20 7        20 trials, drawn with seed 7

A trial starts one of JOBS, kills it up to three times, lets it finish, and compares all files of its folder with those
of an uninterrupted run: vectors, predictions and metrics byte for byte, records except times and memory. Half of the
kills are at random times, half within milliseconds of an operation on the folder's files (opening for writing, renaming
or removing), where a file could be left incomplete. Each attempt is its own process, forked after the imports, with the
arguments that a user types. Not on Windows.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from scripts.drills.forked import import_everything, start
from tfew.mini_t0.world import generate
from tfew.runs.run_folder import SPEED_FILE

FEW_SHOT = ("+experiment=demo", "dataset=mini/complaint", "model=tiny", "trainer=cpu", "shots=8", "resume=true")
JOBS = {
    "train": (*FEW_SHOT, "steps=40", "checkpoint_every=4", "dataset.generator.eval=200", "run_dir={folder}/run"),
    "train, folds": (*FEW_SHOT, "steps=8", "checkpoint_every=3", "folds=3", "batch_size=4", "run_dir={folder}/run"),
    "train, two together": (
        *FEW_SHOT, "steps=12", "checkpoint_every=3", "train_together=2", "dataset.generator.eval=8", "runs={folder}",
    ),
    "train, mixture": (
        "+experiment=pretrain_mini_t0", "model=tiny", "trainer=cpu", "batch_size=8", "steps=20", "checkpoint_every=3",
        "dataset.evaluate=false", "resume=true", "run_dir={folder}/run",
    ),
    "evaluate": ("adapter={adapter}", "trainer=cpu", "eval_batch_size=2", "resume=true", "run_dir={folder}/run"),
    "predict": (
        "adapter={adapter}", "trainer=cpu", "eval_batch_size=4", "input={rows}", "output={folder}/labels.jsonl",
    ),
}  # fmt: skip
ROWS = 800  # to predict
MOST_KILLS = 3
LATEST_SECONDS = 0.004  # after an operation
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
# between two runs; the last two are checksums: of the record itself, and of the report, which names seconds
UNLIKE = {"seconds", "peak_memory_bytes", "sha256", "report.html"}


@dataclass(frozen=True)
class Undisturbed:
    seconds: float
    operations: int  # on files of its folder
    files: dict[str, object]


@dataclass(frozen=True)
class Moment:
    """So many seconds after an operation, counted from 1; after the start where it is 0."""

    operation: int
    seconds: float


class Jobs:
    """The jobs, in a folder of this harness; all attempts of all trials work in the same place, since runs note it."""

    def __init__(self, root: Path) -> None:
        self._folder, self._log = root / "work", root / "log"
        self._names = {"folder": self._folder, "adapter": root / "adapter", "rows": root / "rows.jsonl"}
        complaints = generate("eval", "complaint", 0, eval=ROWS)
        self._names["rows"].write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in complaints))

    def undisturbed(self, job: str) -> Undisturbed:
        """Done twice, since what differs between these two is no fault of a kill."""
        found = []
        for _ in range(2):
            self.clear()
            started, (_, operations) = time.monotonic(), self.attempt(job)
            found.append(Undisturbed(time.monotonic() - started, operations, self.files()))
        if found[0].files != found[1].files:
            sys.exit(f"{job}: two undisturbed runs differ in {_different(found[0].files, found[1].files)}.")
        if job == "train":  # the others label with its adapter
            shutil.copytree(self._folder / "run", self._names["adapter"])
        return found[1]

    def attempt(self, job: str, moment: Moment | None = None) -> tuple[bool, int]:
        """Starts or continues the job; whether it was killed, and the operations it came to by then."""
        module, arguments = job.split(",")[0], [argument.format(**self._names) for argument in JOBS[job]]
        reader, writer = os.pipe()

        def report() -> None:
            os.close(reader)
            sys.addaudithook(_reporter(self._folder, writer))
            os.write(writer, b".")

        child = start(f"tfew.{module}", arguments, self._log, prepare=report)
        os.close(writer)
        with open(reader, "rb", buffering=0) as operations:
            count = 0
            while moment is None or count <= moment.operation:
                if not operations.read(1):
                    break
                count += 1
            else:
                time.sleep(moment.seconds)
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        if moment is not None and os.WIFSIGNALED(status):
            return True, count
        if status:
            sys.exit(f"{job} failed where it should have gone on ({status}):\n{self._log.read_text()}")
        return False, count - 1

    def files(self) -> dict[str, object]:
        """By its path, what each file says, without what no two runs have alike."""
        return {
            str(path.relative_to(self._folder)): _content(path)
            for path in sorted(self._folder.rglob("*"))
            if path.is_file()
        }

    def clear(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()


def _reporter(folder: Path, writer: int) -> Callable[[str, tuple[Any, ...]], None]:
    inside = str(folder)

    def report(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event in CHANGES or (event == "open" and arguments[2] & WRITING)
        if writes and isinstance(arguments[0], str | Path) and str(arguments[0]).startswith(inside):
            os.write(writer, b".")

    return report


def _content(path: Path) -> object:
    if path.suffix == ".json":
        return _alike(json.loads(path.read_text()))
    if path.suffix == ".html":
        return [line for line in path.read_text().splitlines() if not line.startswith("<dt>time</dt>")]
    if path.name == SPEED_FILE:  # seconds differ each time, steps do not
        return [line.partition(",")[0] for line in path.read_text().splitlines()]
    return yaml.safe_load(path.read_text()) if path.suffix == ".yaml" else path.read_bytes()


def _alike(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _alike(part) for key, part in value.items() if key not in UNLIKE}
    return [_alike(part) for part in value] if isinstance(value, list) else value


def _different(ours: dict[str, object], theirs: dict[str, object]) -> str:
    return ", ".join(sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)))


def _moment(undisturbed: Undisturbed, source: random.Random) -> Moment:
    if source.random() < 0.5:
        return Moment(0, source.uniform(0, undisturbed.seconds))
    return Moment(source.randint(1, undisturbed.operations), source.uniform(0, LATEST_SECONDS))


def trial(jobs: Jobs, job: str, undisturbed: Undisturbed, source: random.Random) -> tuple[int, int, str]:
    """Kills at any time, kills at an operation, and which files differ in the end."""
    kills: Counter[bool] = Counter()
    jobs.clear()
    while not kills.total():  # an attempt that ended before its kill does not count
        for _ in range(source.randint(1, MOST_KILLS)):
            moment = _moment(undisturbed, source)
            killed, _ = jobs.attempt(job, moment)
            if not killed:
                break
            kills[moment.operation > 0] += 1
            if jobs.files() == undisturbed.files:  # killed after its last output: it is finished, and reports so
                break
        if not kills.total():
            jobs.clear()
    if jobs.files() != undisturbed.files:  # a run killed after its last output is finished
        jobs.attempt(job)
    return kills[False], kills[True], _different(jobs.files(), undisturbed.files)


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("trials", nargs="?", type=int, default=100)
    parser.add_argument("seed", nargs="?", type=int, default=0)
    options = parser.parse_args()
    import_everything()
    source = random.Random(options.seed)
    numbers: dict[str, list[int]] = {job: [0, 0, 0, 0] for job in JOBS}
    with tempfile.TemporaryDirectory() as name:
        jobs = Jobs(Path(name))
        undisturbed = {job: jobs.undisturbed(job) for job in JOBS}
        for number in tqdm(range(options.trials), desc="Trials", unit="trial"):
            job = list(JOBS)[number % len(JOBS)]
            at_a_time, at_an_operation, different = trial(jobs, job, undisturbed[job], source)
            counted = (1, at_a_time, at_an_operation, int(not different))
            numbers[job] = [old + new for old, new in zip(numbers[job], counted, strict=True)]
            if different:
                tqdm.write(f"Trial {number}, {job}: {different} differ from an undisturbed run's.")
    print(f"\n{'job':<20} {'trials':>7} {'kills: any time':>16} {'at a file':>10} {'same in the end':>16}")
    for job, row in numbers.items():
        print("{:<20} {:>7} {:>16} {:>10} {:>16}".format(job, *row))
    total = [sum(column) for column in zip(*numbers.values(), strict=True)]
    print("{:<20} {:>7} {:>16} {:>10} {:>16}".format("all", *total))
    return int(total[0] != total[3])


if __name__ == "__main__":
    sys.exit(main())
