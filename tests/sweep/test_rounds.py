"""Sweeps: one bad job leaves the others alone, finished runs are skipped, and killed processes cost no run."""

import re
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tfew import train as train_module
from tfew.errors import UserError
from tfew.runs.records import RunRecord, load_record, save_record
from tfew.runs.run_folder import asked_for, run_once
from tfew.runs.run_lock import LOCK_FILE, RunLocked, lock_file
from tfew.sweep import bar, job, rounds
from tfew.sweep.job import run_job
from tfew.sweep.rounds import begin_sweep, run_in_rounds
from tfew.sweep.state import BUSY, FAILED, FOUND, MADE, Outcome, SweepState

QUICK = ("+experiment=demo", "model=tiny", "trainer=cpu", "steps=2", "dataset.generator.eval=4")


@pytest.fixture(autouse=True)
def _one_sweep_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process keeps of the sweep that it has begun."""
    monkeypatch.setattr(rounds, "current_sweep", None)
    monkeypatch.setattr(job, "state", None)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")


def sweep(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """`python -m tfew.train -m ...` in this process; the exit code."""
    monkeypatch.setattr(rounds, "current_sweep", None)
    monkeypatch.setattr(sys, "argv", ["train", "-m", *arguments])
    try:
        train_module.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def record(name: str) -> RunRecord:
    numbers: dict[str, Any] = {"metrics": {}, "counts": {}, "parameters": {}, "flops": {}, "seconds": {}}
    texts = dict.fromkeys(("command", "experiment", "model", "method", "loss", "dataset", "split"), "x")
    return RunRecord(
        name=name, **texts, few_shot_seed=0, seed=0, **numbers, peak_memory_bytes=0, adapter_bytes=0, git_commit=None,
        versions={}, config={},
    )  # fmt: skip


# one job


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepState:
    """This process runs job 3 of a sweep."""
    monkeypatch.setattr(job, "state", SweepState(tmp_path / "state"))
    monkeypatch.setattr(job.HydraConfig, "get", lambda: SimpleNamespace(job=SimpleNamespace(num=3)))
    return SweepState(tmp_path / "state")


def raising(error: BaseException) -> Callable[[], Any]:
    def function() -> None:
        print("Reading.")
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UserError("steps=0 is too few."), Outcome(FAILED, error="steps=0 is too few.")),
        (RuntimeError("CUDA out\n of memory"), Outcome(FAILED, error="RuntimeError: CUDA out of memory")),
        (SystemExit("no licence"), Outcome(FAILED, error="SystemExit: no licence")),
        (RunLocked(Path("runs/x/.lock"), "process 1"), Outcome(BUSY, "runs/x")),
    ],
)
def test_what_a_job_raises_is_written_down(
    error: BaseException, expected: Outcome, state: SweepState, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_job(raising(error)) is None
    assert state.outcome(3) == expected
    assert state.running_jobs() == state.dead_jobs() == []
    assert capsys.readouterr() == ("", ""), "jobs are quiet"
    assert state.log_path(3).is_file() == (expected.status == FAILED)
    if expected.status == FAILED:
        log = state.log_path(3).read_text()
        assert log.startswith("Reading.\n")
        assert ("Traceback" in log) == (not isinstance(error, UserError))


def test_ctrl_c_is_no_failure_of_the_job(state: SweepState) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_job(raising(KeyboardInterrupt()))
    assert state.outcome(3) is None


def test_ctrl_c_that_something_made_an_error_of_is_no_failure(state: SweepState) -> None:
    """As an import does that is interrupted; Lightning, too, makes a SystemExit of it and ignores the next."""

    def interrupted() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            raise ImportError("half of a module") from error

    with pytest.raises(KeyboardInterrupt):
        run_job(interrupted)
    assert state.outcome(3) is None
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_made_found_and_settled(state: SweepState, tmp_path: Path) -> None:
    calls = []

    def make() -> RunRecord:
        calls.append(state.running_jobs())

        def save(folder: Path) -> RunRecord:
            save_record(folder, record("run"))
            return record("run")

        return run_once(tmp_path / "run", {}, overwrite=False, make=save)

    assert run_job(make) == record("run")
    assert calls == [[3]], "marked as running meanwhile"
    assert state.outcome(3) == Outcome(MADE, str(tmp_path / "run"))
    assert run_job(make) is None
    assert len(calls) == 1, "a job is not done again in the next round"
    state.reset(3)

    def find() -> RunRecord:
        asked_for[tmp_path / "run"] = False
        return record("run")

    assert run_job(find) == record("run")
    assert state.outcome(3) == Outcome(FOUND, str(tmp_path / "run"))
    assert not state.log_path(3).exists()


def test_what_makes_no_run_may_speak(state: SweepState, capsys: pytest.CaptureFixture[str]) -> None:
    run_job(lambda: print("a table"))
    assert capsys.readouterr().out == "a table\n"


# rounds


def in_a_round(root: Path, jobs: int, work: Callable[[SweepState, int], None]) -> Callable[[], None]:
    """A start of Hydra: every job that is not settled yet is `work`."""

    def start() -> None:
        state = begin_sweep(root, [["+sweep=x", f"few_shot_seed={number}"] for number in range(jobs)])
        for number in range(jobs):
            outcome = state.outcome(number)
            if outcome is None or not outcome.settled:
                work(state, number)

    return start


def test_a_process_that_dies_costs_another_round_and_one_that_keeps_dying_is_given_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tries: list[int] = []

    def work(state: SweepState, number: int) -> None:
        tries.append(number)
        if number == 1 or (number == 2 and tries.count(2) == 1):
            (state.folder / f"{number}.started").touch()  # nobody holds it
            raise RuntimeError("a worker was terminated")
        state.settle(number, Outcome(MADE))

    with pytest.raises(SystemExit) as end:
        run_in_rounds(in_a_round(tmp_path, 4, work))
    assert end.value.code == 1
    assert tries == [0, *[1] * rounds.MAX_DEATHS, 2, 2, 3]
    out = capsys.readouterr().out
    assert f"Sweep of 4 runs in {tmp_path}/: 3 made, 0 finished before, 1 failed, in 0:00:0" in out
    assert "FAILED: few_shot_seed=1: killed 3 times, or a process beside it was: out of memory?\n" in out
    assert "1 run failed. The same command continues: finished runs are skipped." in out


def test_runs_of_another_process_are_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Job 0's run is finished by its owner, and found in a second round; job 1's is given up, and made there."""
    theirs = [tmp_path / "a", tmp_path / "b"]
    owners = [lock_file(folder / LOCK_FILE) for folder in theirs]
    for owner in owners:
        owner.__enter__()
    tries: list[int] = []

    def work(state: SweepState, number: int) -> None:
        tries.append(number)
        if tries.count(number) > 1 or number == 2:
            state.settle(number, Outcome(FOUND if number == 0 else MADE))
            return
        state.settle(number, Outcome(BUSY, str(theirs[number])))

    def later(_: float) -> None:
        for owner in owners:
            owner.__exit__(None, None, None)
        owners.clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds.time, "sleep", later)
        run_in_rounds(in_a_round(tmp_path, 3, work))
    assert tries == [0, 1, 2, 0, 1]
    assert ": 2 made, 1 finished before, 0 failed, in" in capsys.readouterr().out
    assert not (tmp_path / ".sweep").exists()


def test_a_launcher_that_cannot_start_is_no_endless_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(state: SweepState, number: int) -> None:
        raise ValueError("no such partition")

    with pytest.raises(
        SystemExit, match=r"cannot go on: 0 made, .* 2 left, in .*\. ValueError: no such partition \(HYDRA"
    ):
        run_in_rounds(in_a_round(tmp_path, 2, work))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(rounds, "current_sweep", None)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(RuntimeError, match="2 jobs of the sweep were not started"):
        run_in_rounds(in_a_round(tmp_path, 2, lambda *_: None))


def test_ctrl_c_ends_a_sweep_with_a_sentence(tmp_path: Path) -> None:
    def work(state: SweepState, number: int) -> None:
        if number == 1:
            raise KeyboardInterrupt
        state.settle(number, Outcome(MADE))

    with pytest.raises(SystemExit, match=r"Interrupted: 1 made, 0 .* 2 left, in 0:00:0\d. The same command continues"):
        run_in_rounds(in_a_round(tmp_path, 3, work))
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_is_no_sweep_is_left_alone() -> None:
    assert run_in_rounds(lambda: 5) == 5
    with pytest.raises(ValueError, match="mine"):
        run_in_rounds(lambda: int("mine"))


def test_remains_of_killed_sweeps_are_removed_and_living_ones_left(tmp_path: Path) -> None:
    dead, living = (tmp_path / ".sweep" / name for name in ("20260101-000000-1", "20260101-000000-2"))
    dead.mkdir(parents=True)
    (dead / "0.log").touch()
    with lock_file(living / "owner"):
        run_in_rounds(in_a_round(tmp_path, 1, lambda state, number: state.settle(number, Outcome(MADE))))
        assert not dead.exists()
        assert (living / "owner").exists()


def test_what_the_bar_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs that were finished before count neither as done nor as time."""
    monkeypatch.setattr(bar, "tqdm", partial(bar.tqdm, disable=False, mininterval=0))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    state = SweepState(tmp_path)
    for number, status in enumerate((FOUND, MADE, FAILED, BUSY)):
        state.settle(number, Outcome(status))
    shown = bar.SweepBar(state, ["a=1", "a=2", "a=3", "a=4", "a=5", "a=6"])
    with state.job_lock(4):
        state.log_path(4).write_text("Loading.\nTraining:  10%\rTraining:  20%\r")
        assert list(shown.outcomes()) == [0, 1, 2]
    shown.set_note("waiting")
    shown.close()
    lines = re.split(r"[\r\n]+", capsys.readouterr().err)
    assert any(re.search(r"^Runs: .* 2/5 \[00:0.*, 1 failed, 3 left, 1 finished before\]", line) for line in lines)
    assert any("  a=5: Training:  20%" in line for line in lines)
    assert any("1 finished before, waiting]" in line for line in lines)


# whole sweeps


@pytest.mark.slow
def test_one_bad_job_leaves_the_others_running_and_a_second_start_does_only_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = (*QUICK, f"runs={tmp_path}", "few_shot_seed=0,1,2")
    from tfew.training import fit

    real = fit.fit

    def unlucky(config: Any, *arguments: Any) -> Any:
        if config.few_shot_seed == 1:
            raise MemoryError("no more")
        return real(config, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "fit", unlucky)
        assert sweep(monkeypatch, *common) == 1
    captured = capsys.readouterr()
    assert f"Sweep of 3 runs in {tmp_path}/: 2 made, 0 finished before, 1 failed, in" in captured.out
    assert "FAILED: few_shot_seed=1: MemoryError: no more\n" in captured.out
    log = Path(captured.out.split("its log: ")[1].splitlines()[0])
    assert "Traceback" in log.read_text()
    assert "template" not in captured.out, "the summaries of runs are theirs"
    assert "Traceback" not in captured.err
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")}
    assert len(finished) == 2

    assert sweep(monkeypatch, *common) == 0
    assert f"Sweep of 3 runs in {tmp_path}/: 1 made, 2 finished before, 0 failed, in" in (
        out := capsys.readouterr().out
    )
    for seed, record in enumerate(sorted(map(load_record, tmp_path.glob("*/")), key=lambda run: run.few_shot_seed)):
        assert f"  few_shot_seed={seed}: {100 * record.metrics['accuracy']:.1f} % (IQR" in out
    again = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/result.json")}
    assert len(again) == 3
    assert finished.items() <= again.items(), "no run is made twice"
    assert not (tmp_path / ".sweep").exists()


@pytest.mark.slow
def test_values_that_cannot_be_are_failures_of_their_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(monkeypatch, *QUICK, f"runs={tmp_path}", "steps=0,2") == 1
    out = capsys.readouterr().out
    assert "1 made, 0 finished before, 1 failed" in out
    assert "FAILED: steps=0: steps=0 is not a whole number of at least 1.\n" in out
    assert "its log" not in out, "the sentence says all"


@pytest.mark.slow
def test_runs_of_one_job_and_runs_made_again_are_counted_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job of train_together= has several folders; the folder of rerun= is not in the runs= of the command."""
    monkeypatch.chdir(tmp_path)
    together = (*QUICK, "train_together=[0,5]")
    for made, found in ((1, 0), (0, 1)):
        assert sweep(monkeypatch, *together) == 0
        assert f": {made} made, {found} finished before, 0 failed" in capsys.readouterr().out
    run = next(Path("runs").rename("first").glob("*-s5-*"))
    for made, found in ((1, 0), (0, 1)):
        assert sweep(monkeypatch, f"rerun={run}") == 0
        out = capsys.readouterr().out
        assert f": {made} made, {found} finished before, 0 failed" in out
        assert load_record(next(Path("reruns").glob("*"))).accuracy_in_words in out
