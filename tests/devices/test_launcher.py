"""Runs of several processes on the CPU (gloo) against runs of one; and the end of a run when one of them dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.drills.shard_memory import table
from tests.commands import run_command, start_command
from tests.test_train import metrics, vectors
from tfew.config import compose
from tfew.evaluate import evaluate
from tfew.runs.records import RunRecord
from tfew.runs.run_folder import is_finished
from tfew.train import train

pytestmark = pytest.mark.slow
STEPS = 50
# inputs of very different length, three choices or six, short and long, drawn anew for each row and step
WORDINGS = (
    '{name: a, jinja: "{{ text }} then, what of: {{ claim }}", answer_choices: "true ||| no ||| open"}',
    '{name: b, jinja: "{{ text }} {{ text }}", answer_choices: "y ||| n ||| maybe ||| z ||| who can say ||| x"}',
    '{name: c, jinja: "{{ claim }}", answer_choices: "right ||| quite certainly wrong ||| it is open"}',
)
COMMON = (
    "name=made", "dataset=mini/commits", "few_shot=draw", "model=tiny", "model.arch.dropout_rate=0.0", "trainer=cpu",
    f"steps={STEPS}", "dataset.generator.eval=7", "eval_batch_size=5", "checkpoint_every=10",
    f"dataset.prompts=[{','.join(WORDINGS)}]",
)  # fmt: skip
Run = Callable[..., Path]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def trained(name: str, *overrides: str) -> Path:
        record = train(compose(*COMMON, f"run_dir={tmp_path}/{name}", *overrides))
        assert (record.counts["rows"], record.counts["prompts"]) == (7, 21)
        return tmp_path / name

    return trained


def difference(first: Path, second: Path) -> float:
    """The largest of the final vectors, and of any number in any row of metrics.csv."""
    ours, theirs = vectors(first), vectors(second)
    assert ours.keys() == theirs.keys()
    of_vectors = max((ours[name] - theirs[name]).abs().max().item() for name in ours)
    rows, others = metrics(first), metrics(second)
    assert len(rows) == len(others)
    pairs = [(float(row[key]), float(other[key])) for row, other in zip(rows, others, strict=True) for key in row]
    return max(of_vectors, *(abs(one - other) for one, other in pairs))


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process that several of these are compared with."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    train(compose(*COMMON, f"run_dir={folder}"))
    return folder


@pytest.mark.ci
def test_two_processes_train_as_one(alone: Path, run: Run) -> None:
    """Vectors and losses to 1e-5 after 50 steps; averaging what each process has for its own would not give them."""
    together = run("together", "trainer.devices=2")
    assert len(metrics(alone)) == STEPS
    assert difference(alone, together) < 1e-5
    assert files(alone) == files(together)
    averaged = run("averaged", "micro_batch_size=4", "fidelity.loss_mean=micro_batch")
    assert difference(alone, averaged) > 1e-3


@pytest.mark.drill
def test_the_whole_model_trains_as_in_one_with_the_official_mean_over_micro_batches(run: Run) -> None:
    told = ("method=full", "optimizer=adamw", "fidelity=official", "micro_batch_size=3", "steps=20")
    assert difference(run("alone", *told), run("together", *told, "trainer.devices=2")) < 1e-5


def test_weights_in_parts_train_as_one(run: Run) -> None:
    """FSDP2 from a checkpoint; of seven examples one process takes four, in two passes, and one three, in one.

    Of the 21 prompts in five batches to evaluate one has a batch more, and the predictions are the same.
    """
    told = ("model=mini_t0", "batch_size=7", "micro_batch_size=3", "steps=20")
    alone = run("alone", *told)
    together = run("together", *told, "trainer.devices=2", "trainer.strategy=fsdp", "memory_gb=null")
    assert difference(alone, together) < 1e-5
    assert files(alone) == files(together)
    assert answers(alone) == answers(together)


def answers(folder: Path) -> list[Any]:
    lines = (json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines())
    return [(line["template"], line["idx"], line["predicted"]) for line in lines]


@pytest.mark.drill
def test_evaluation_on_three_gives_the_very_predictions_of_one(tmp_path: Path) -> None:
    """Twenty-one prompts in five batches: the third process has one batch less."""

    def scored(name: str, *overrides: str) -> tuple[RunRecord, bytes]:
        told = ("model=mini_t0", f"run_dir={tmp_path}/{name}", *overrides)
        record = evaluate(compose(*COMMON, *told, config_name="evaluate"))
        return record, (tmp_path / name / "predictions.jsonl").read_bytes()

    record, predictions = scored("one")
    on_three, same = scored("three", "trainer.devices=3")
    assert same == predictions
    assert len(predictions.splitlines()) == 21
    assert (on_three.metrics, on_three.counts, on_three.flops) == (record.metrics, record.counts, record.flops)
    assert on_three.config["trainer"]["devices"] == 3


def command(folder: Path, *overrides: str) -> list[str]:
    return ["tfew.train", *COMMON, f"run_dir={folder}", *overrides]


def started(folder: Path, *overrides: str, **environment: str) -> Any:
    return start_command(*command(folder, *overrides), **environment)


def child_of(process: int) -> int:
    return int(Path(f"/proc/{process}/task/{process}/children").read_text().split()[0])


def is_alive(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(condition: Callable[[], bool], process: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


@pytest.mark.parametrize("who", ["first", pytest.param("other", marks=pytest.mark.drill)])
def test_a_dying_process_ends_the_run_which_continues_on_any_number(
    who: str, alone: Path, run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    process = started(folder, "trainer.devices=2")
    wait_until(lambda: (folder / "metrics.csv").exists() and len(metrics(folder)) > 20, process)
    other = child_of(process.pid)
    os.kill(process.pid if who == "first" else other, signal.SIGKILL)
    killed = time.monotonic()
    said = process.communicate(timeout=60)[1]
    while is_alive(other):
        assert time.monotonic() < killed + 60, "the other process goes on"
        time.sleep(0.05)
    assert process.returncode == (-9 if who == "first" else 1)
    if who == "other":
        assert "Process 1 (the first is 0) ended (signal 9), so the run is not finished" in said
        assert "Traceback" not in said
    assert not is_finished(folder)
    assert list((folder / "checkpoint").glob("step=*.ckpt"))
    devices = {"first": "1", "other": "2"}[who]
    assert difference(alone, run("killed", f"trainer.devices={devices}", "resume=true")) < 1e-5
    assert len(metrics(folder)) == STEPS


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """A folder that, in PYTHONPATH, makes the second process fail in its fourth step."""
    code = """
import os
if os.environ.get("RANK") == "1":
    from tfew.errors import UserError
    from tfew.training.module import FewShotModule
    real = FewShotModule.training_step
    def failing(self, *arguments):
        if self.global_step == 3:
            raise UserError("The second device has had enough.")
        return real(self, *arguments)
    FewShotModule.training_step = failing
"""
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return os.pathsep.join([str(folder), str(Path(__file__).parents[2])])


@pytest.mark.drill
def test_an_error_of_another_process_is_said_and_ends_the_run(broken: str, tmp_path: Path) -> None:
    process = started(tmp_path / "run", "trainer.devices=2", PYTHONPATH=broken)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert "Process 1: The second device has had enough." in said
    assert "Process 1 (the first is 0) ended (exit code 1; its output is above)" in said
    assert "Traceback" not in said
    assert not is_finished(tmp_path / "run")


def test_an_error_that_all_have_is_said_once(tmp_path: Path) -> None:
    process = started(tmp_path / "run", "trainer.devices=2", "optimizer.lr=1e30", "clip_norm=1e30")
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert said.count("The loss is not finite at step") == 1
    assert "Process 1" not in said


def test_two_nodes_of_slurm_train_as_one_process_and_only_the_first_writes(alone: Path, tmp_path: Path) -> None:
    """Two tasks with srun's environment, both on this machine. The second may not write a fifth byte to any file.

    With four Python tries its folder for temporary files.
    """
    folder = tmp_path / "together"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    slurm = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_NNODES": "2", "SLURM_LOCALID": "0",
             "SLURM_STEP_NODELIST": "localhost", "MASTER_PORT": str(port)}  # fmt: skip
    first = started(folder, "trainer.devices=auto", **slurm, SLURM_PROCID="0")
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4, 4)); sys.argv.pop(0)"
    code = f"{limited}; from tfew.train import main; main()"
    second = subprocess.run(
        [sys.executable, "-c", code, *command(folder, "trainer.devices=auto")],
        env={**os.environ, **slurm, "SLURM_PROCID": "1"}, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    said = first.communicate(timeout=100)[1]
    assert (first.returncode, second.returncode) == (0, 0), said + second.stderr
    assert second.stdout == ""
    assert "2 devices share the work, on 2 machines." in said
    assert "share the work" not in second.stderr
    assert difference(alone, folder) < 1e-5
    assert files(alone) == files(folder)


@pytest.mark.drill
def test_no_process_holds_a_copy_of_a_model_in_parts(tmp_path: Path) -> None:
    weights, rows = table(400, 2, tmp_path)
    assert weights > 390_000_000
    for own, training in rows["fsdp"]:
        assert own < 0.85 * weights
        assert training < 0.75 * weights
    assert all(training > 0.95 * weights for _, training in rows["ddp"]), "the measure sees a copy where there is one"


def test_deepspeed_moves_the_same_numbers_with_adamw_and_says_that_adafactors_are_others(tmp_path: Path) -> None:
    """Where DeepSpeed is installed; on the CPU, which it finds by this variable, and its operators need a compiler."""
    pytest.importorskip("deepspeed")

    def trained(name: str, *overrides: str) -> tuple[Path, str]:
        told = command(tmp_path / name, "steps=10", "engine=plain", "micro_batch_size=3", *overrides)
        return tmp_path / name, run_command(*told, DS_ACCELERATOR="cpu", check=True).stderr

    for optimizer, least, most in (("adamw", 0.0, 1e-5), ("adafactor", 1e-4, 1.0)):
        alone, _ = trained(f"{optimizer} alone", f"optimizer={optimizer}")
        parts = ("trainer.devices=2", "trainer.strategy=deepspeed_3", f"optimizer={optimizer}")
        together, said = trained(f"{optimizer} together", *parts)
        assert least <= difference(alone, together) < most
        assert ("so its results differ from the recipe's" in said) == (optimizer == "adafactor")
