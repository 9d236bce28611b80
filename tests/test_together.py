"""Runs trained in one process against the same runs one after another."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands import run_command
from tests.test_train import folder, predictions, vectors
from tfew import summary
from tfew.config import compose
from tfew.errors import UserError
from tfew.runs.records import RunRecord
from tfew.together import settings_of_each, train_together
from tfew.train import train
from tfew.training import joint_training

COMMON = (
    "+experiment=mini_few_shot", "model=tiny", "model.arch.dropout_rate=0",
    "model.arch.num_layers=1", "model.arch.num_decoder_layers=1",
    "model.tokenizer=pkg://mini_t0/checkpoint", "trainer=cpu", "shots=16", "steps=50", "dataset.generator.eval=6",
)  # fmt: skip
TOLERANCE = {"atol": 1e-5, "rtol": 0}


def together(runs: Path, each: Any, *overrides: str) -> list[RunRecord]:
    return train_together(settings_of_each([*COMMON, *overrides, f"runs={runs}"], each))


def apart(runs: Path, each: Any, *overrides: str) -> list[RunRecord]:
    return [train(config) for config in settings_of_each([*COMMON, *overrides, f"runs={runs}"], each)]


def losses(path: Path) -> list[dict[str, float]]:
    with (path / "metrics.csv").open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def assert_same_runs(ours: list[RunRecord], theirs: list[RunRecord]) -> None:
    """The same vectors, but for rounding, and the same folders, records, steps and predictions."""
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.name == other.name
        assert mine.counts.pop("trained_together") == len(ours)
        assert "trained_together" not in other.counts
        here, there = folder(mine), folder(other)
        assert {p.relative_to(here) for p in here.rglob("*")} == {p.relative_to(there) for p in there.rglob("*")}
        found, expected = vectors(here), vectors(there)
        assert found.keys() == expected.keys()
        for name, vector in expected.items():
            torch.testing.assert_close(found[name], vector, **TOLERANCE)
        assert max((vector - 1).abs().max() for vector in expected.values()) > 0.01, "training moved something"
        for key in ("method", "model", "dataset", "few_shot_seed", "seed", "counts", "parameters", "flops", "config"):
            ignored = ("runs", "resume")
            a, b = (
                {k: v for k, v in value.items() if k not in ignored} if key == "config" else value
                for value in (getattr(mine, key), getattr(other, key))
            )
            assert a == b, key
        for row, same in zip(losses(here), losses(there), strict=True):
            assert row == pytest.approx(same, abs=1e-4, rel=1e-4)
        for one, same in zip(predictions(here), predictions(there), strict=True):
            assert one.scores == pytest.approx(same.scores, abs=1e-4)
        config = "config.yaml"
        assert (here / config).read_text().replace(str(here.parent), str(there.parent)) == (there / config).read_text()


@pytest.mark.parametrize("optimizer", [pytest.param("adamw", marks=pytest.mark.slow), "adafactor"])
def test_seeds_together_are_the_seeds_apart_after_50_steps(optimizer: str, tmp_path: Path) -> None:
    options = ("dataset=mini/complaint", f"optimizer={optimizer}", "optimizer.lr=3e-3")
    ours = together(tmp_path / "a", 2, *options)
    assert [record.few_shot_seed for record in ours] == [0, 1]
    assert_same_runs(ours, apart(tmp_path / "b", 2, *options))
    first, second = (vectors(folder(record)) for record in ours)
    assert any((first[name] - second[name]).abs().max() > 1e-2 for name in first), "each has its own"


DIFFERENT = [
    "dataset=mini/complaint few_shot_seed=7",
    "dataset=mini/commits steps=6 batch_size=4 clip_norm=0.1 optimizer.lr=1e-2",
    "dataset=mini/blank micro_batch_size=3 loss=lm warmup_ratio=0.2 max_tokens=40",
    "dataset=mini/request shots=36 templates=single templates.name='\"wording 2\"' fidelity.loss_mean=micro_batch"
    " micro_batch_size=4",
]


@pytest.mark.parametrize("engine", ["fast", pytest.param("plain", marks=pytest.mark.slow)])
def test_different_tasks_with_settings_of_their_own(engine: str, tmp_path: Path) -> None:
    """Data, steps, batch size, micro-batches, clipping, learning rate, schedule, loss, lengths: all differ."""
    options = ("steps=10", f"engine={engine}")
    ours = together(tmp_path / "a", DIFFERENT, *options)
    assert [len(losses(folder(record))) for record in ours] == [10, 6, 10, 10]
    assert_same_runs(ours, apart(tmp_path / "b", DIFFERENT, *options))


@pytest.mark.slow
def test_memory_that_does_not_suffice_makes_smaller_pieces(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = ("dataset=mini/complaint", "steps=6")
    ours = together(tmp_path / "a", [0, 1], *options, "memory_gb=0.003", "engine=plain")
    assert_same_runs(ours, apart(tmp_path / "b", [0, 1], *options, "memory_gb=0.003", "engine=plain"))
    with pytest.raises(UserError, match=r"memory_gb=1e-05 is too little memory for one example of each of 2 runs"):
        together(tmp_path / "c", [0, 1], *options, "memory_gb=0.00001")


@pytest.mark.slow
def test_they_start_from_the_same_adapter(tmp_path: Path) -> None:
    (start,) = apart(tmp_path / "start", [5], "dataset=mini/commits", "steps=10")
    options = ("dataset=mini/complaint", "steps=6", f"init_adapter={folder(start)}")
    assert_same_runs(together(tmp_path / "a", [0, 1], *options), apart(tmp_path / "b", [0, 1], *options))
    with pytest.raises(UserError, match="was made with other settings of method="):
        together(tmp_path / "c", [0, 1], *options, "method.partial=true")


def test_finished_ones_are_left_alone(tmp_path: Path) -> None:
    options = ("dataset=mini/complaint", "steps=4")
    (alone,) = apart(tmp_path, [1], *options)
    before = (folder(alone) / "result.json").stat().st_mtime_ns
    first, second, third = together(tmp_path, [0, 1, 2], *options)
    assert second == alone
    assert (folder(alone) / "result.json").stat().st_mtime_ns == before
    assert [first, third] == apart(tmp_path, [0, 2], *options), "whoever asks for them finds them finished"
    assert together(tmp_path, [0, 1, 2], *options) == [first, second, third]


class KilledError(BaseException):
    """In place of a signal that cannot be caught."""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["between two saves", "while saving", "one is finished"])
def test_killed_and_continued_bit_for_bit(moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("dataset=mini/complaint", "steps=10", "checkpoint_every=3", "model.arch.dropout_rate=0.1")
    whole = together(tmp_path / "whole", [0, "few_shot_seed=1 steps=5"], *options)
    with monkeypatch.context() as patch:
        step, save = joint_training.JointTraining._step, joint_training.write_bytes_atomically

        def dying_step(self: Any, number: int, batches: Any) -> Any:
            if number == 7 and moment != "one is finished":
                raise KilledError
            return step(self, number, batches)

        def dying_save(path: Path, data: bytes) -> None:
            save(path, data)
            if path.name == "together-step=6.pt":
                raise KilledError

        def dying_end(run: Path, *arguments: Any) -> None:
            finish(run, *arguments)
            raise KilledError

        finish = summary.finish
        patch.setattr(joint_training.JointTraining, "_step", dying_step)
        if moment == "one is finished":
            patch.setattr(summary, "finish", dying_end)
        if moment == "while saving":
            patch.setattr(joint_training, "write_bytes_atomically", dying_save)
        with pytest.raises(KilledError):
            together(tmp_path / "cut", [0, "few_shot_seed=1 steps=5"], *options)
    started: list[int] = []
    run = joint_training.JointTraining.run
    monkeypatch.setattr(
        joint_training.JointTraining, "run", lambda self, start, every: (started.append(start), run(self, start, every))
    )
    cut = together(tmp_path / "cut", [0, "few_shot_seed=1 steps=5"], *options, "resume=true")
    assert started == [{"between two saves": 6, "while saving": 3, "one is finished": 10}[moment]]
    assert [record.counts["trained_together"] for record in cut] == [2, 2]
    for ours, theirs in zip(cut, whole, strict=True):
        found, expected = vectors(folder(ours)), vectors(folder(theirs))
        assert all(found[name].equal(expected[name]) for name in expected)
        assert (folder(ours) / "metrics.csv").read_bytes() == (folder(theirs) / "metrics.csv").read_bytes()
        assert not (folder(ours) / "checkpoint").exists()


@pytest.mark.parametrize(
    ("each", "seeds"),
    [(2, [0, 1]), (5, [0, 1, 32, 42, 1024]), ([7, 3], [7, 3]), (["few_shot_seed=4 shots=8", 9], [4, 9])],
)
def test_what_each_run_is_told(each: Any, seeds: list[int]) -> None:
    said = ["+experiment=demo", "few_shot_seed=99", "train_together=2", "dataset=mini/blank"]
    configs = settings_of_each(said, each)
    assert [config.few_shot_seed for config in configs] == [config.seed for config in configs] == seeds
    assert {config.dataset.name for config in configs} == {"blank"}
    assert {config.train_together for config in configs} == {None}
    (own,) = settings_of_each(said, ["dataset=mini/request +note=x"])
    assert (own.dataset.name, own.note, own.few_shot_seed) == ("request", "x", 99)


@pytest.mark.parametrize(
    ("each", "overrides", "message"),
    [
        (0, (), "train_together=0 is neither a number from 1 to 5, nor a list of seeds"),
        (6, (), "train_together=6 is neither a number from 1 to 5"),
        ([], (), r"train_together=\[\] is neither"),
        ("x", (), "train_together=x is neither"),
        (["cb"], (), "holds 'cb', which is neither a seed nor a setting"),
        ([0, 0], (), "names the same run twice"),
        ([0, 1], ("run_dir=x",), "run_dir=x is the folder of one run"),
        ([0, 1], ("logger=tensorboard",), "supports no other logger: use logger=csv"),
        (["model=tiny", "model=mini_t0"], (), r"share model, method .*model.arch.d_ff"),
        ([0, 1], ("method=lora",), "The method LoRA cannot share a batch with other tasks"),
        ([0, "steps=0"], (), "steps=0 is not a whole number"),
        ([0, 1], ("batch_size=99",), "batch_size=99, but there are only 16 training examples"),
    ],
)
def test_what_cannot_work(each: Any, overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        together(tmp_path / "runs", each, "dataset=mini/complaint", *overrides)
    assert not (tmp_path / "runs").exists()


def test_one_run_is_not_several(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"in Python call tfew.together.train_together"):
        train(compose(*COMMON, "train_together=2"))


@pytest.mark.slow
def test_from_the_command_line(tmp_path: Path) -> None:
    options = (*COMMON, "dataset=mini/complaint", "steps=3", f"runs={tmp_path}", "train_together=[0,5]")
    result = run_command("tfew.train", *options, check=True)
    seeds = [json.loads(path.read_text())["few_shot_seed"] for path in tmp_path.glob("*/result.json")]
    assert sorted(seeds) == [0, 5]
    assert "2 runs are trained together" in result.stderr
    assert result.stdout.count("record: ") == 2


def test_a_single_step_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    together(tmp_path, [0], "dataset=mini/complaint", "steps=1")
    assert "steps=1 trains nothing" in caplog.text
