"""The estimate of a run before it starts: against hand calculation, the memory forecast, and in the commands."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.test_own_tables import ROWS, delimited
from tfew.config import checked, compose
from tfew.costs import run_estimate
from tfew.costs.dry_run import training_step
from tfew.costs.lengths import longest_training_batch
from tfew.costs.memory_forecast import make_plan
from tfew.costs.run_estimate import RunEstimate, estimate
from tfew.costs.speed_forecast import Speed
from tfew.dataset_config import complete
from tfew.errors import UserError
from tfew.models.build import build_blueprint, build_method, build_tokenizer
from tfew.models.checkpoint_path import is_at_hand
from tfew.preview import preview
from tfew.runs.model_source import model_source
from tfew.task import train_task
from tfew.train import train
from tfew.training import time_left

FLOPS_ALONE = Speed(1e9, float("inf"), 0.0)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text(delimited(ROWS, ",", quote='"'))
    return path


def composed(table: Path, *more: str, command: str = "train") -> Any:
    given = (f"data={table}", "text=text", "label=label", "trainer=cpu", f"runs={table.parent}/runs")
    return compose("+experiment=local_mini", *given, *more, config_name=command)


def test_steps_are_those_of_the_dry_run_at_the_mean_length(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_estimate, "measure_speed", lambda *_: FLOPS_ALONE)
    config = complete(checked(composed(table)))
    task, tokenizer = train_task(config), build_tokenizer(config)
    blueprint = build_blueprint(config, build_method(config), torch.device("cpu"), len(tokenizer.tokenizer))
    found = estimate(blueprint, task, task, [10, 10, 20], tokenizer, config.max_tokens)
    plan = make_plan(blueprint)
    batch = longest_training_batch(task.prompts, tokenizer, config.batch_size)
    counted = training_step(plan.model, batch, plan.optimizer, plan.recipe)
    encoded = [tokenizer(row[0]) for row in task.prompts]
    lengths = sorted((item.length + sum(map(len, item.choice_ids)) for item in encoded), reverse=True)
    share = (sum(lengths) / len(lengths)) / (sum(lengths[: config.batch_size]) / config.batch_size)
    assert found.step_seconds == pytest.approx(share * counted.flops / 1e9)
    assert (found.trainings, found.steps, found.parameters) == (3, 40, plan.parameters)
    assert found.memory_bytes == plan.fixed.weight_bytes + plan.fixed.adapter_bytes + counted.peak_bytes
    assert 0 < found.scoring_seconds < len(task.prompts) / config.batch_size * found.step_seconds
    guessed = estimate(blueprint, task, None, [10], None, config.max_tokens)
    assert guessed.scoring_seconds == 0
    assert guessed.step_seconds == pytest.approx(found.step_seconds, rel=0.5), "four characters are about a token"


def test_the_line() -> None:
    found = RunEstimate("big", 3_000_000, (6_000_000, 12_000_000), 2e9, 6, 600, 30.0, 60.0, "CPU")
    assert str(found) == (
        "What it takes: big, 3,000,000 parameters, to be downloaded, 6.0 MB or 12.0 MB (2 or 4 bytes each); about 2.0"
        " GB of memory; 6 trainings, 600 steps in all: about 5.0 h on this CPU, estimated from its speed."
    )


def test_what_is_at_hand(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_at_hand(model_source(composed(table)))
    assert is_at_hand(model_source(composed(table, "model=tiny")))
    absent = model_source(composed(table, "model=flan_t5_small"))
    assert not is_at_hand(absent)
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda path, name, revision: name.endswith(".bin") and "x"
    )
    assert is_at_hand(absent)


@pytest.mark.parametrize("command", ["train", "preview"])
def test_a_model_that_would_take_long_is_named_before_anything_is_downloaded(
    command: str, table: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def offline(*_: Any) -> Any:
        raise UserError("asked the Hub")

    monkeypatch.setattr("tfew.models.build.checkpoint_path", offline)
    monkeypatch.setattr("tfew.runs.noted.commit_of", offline)
    monkeypatch.setattr(logging.getLogger("tfew"), "propagate", True)
    caplog.set_level(logging.INFO)
    config = composed(table, "model=flan_t5_small", "steps=1000000", command=command)
    with pytest.raises(UserError, match="asked the Hub"):
        (train if command == "train" else preview)(config)
    assert "What it takes: flan_t5_small, 76,961,152 parameters, to be downloaded, 153.9 MB or 307.8 MB" in caplog.text
    assert "6 trainings, 6,000,000 steps in all" in caplog.text
    assert "Without a GPU this takes long: use +experiment=local_english" in caplog.text
    assert not (table.parent / "runs").exists()


def test_a_quick_run_is_told_what_it_takes_and_no_more(
    table: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("tfew"), "propagate", True)
    monkeypatch.setattr(time_left, "QUIET_SECONDS", 0.0)
    caplog.set_level(logging.INFO)
    train(composed(table, "folds=2", "steps=6"))
    assert "What it takes: mini_t0, 1,788,160 parameters, at hand; about" in caplog.text
    assert "3 trainings, 18 steps in all: about" in caplog.text
    assert "Without a GPU" not in caplog.text
    left = [record.message for record in caplog.records if record.message.startswith("Time left")]
    assert [message.partition(", for ")[2].partition(", at ")[0] for message in left] == [
        "2 steps of this training and 12 of the trainings after it",
        "2 steps of this training and 6 of the trainings after it",
        "2 steps of this training",
    ]


def test_the_time_left_is_that_of_the_counted_steps(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter([100.0, 106.0])  # the first step has ended; three more have
    monkeypatch.setattr(time_left.time, "monotonic", partial(next, clock))
    monkeypatch.setattr(logging.getLogger("tfew"), "propagate", True)
    caplog.set_level(logging.INFO)
    callback = time_left.TimeLeft(100, 500)
    for step in range(1, 10):
        callback.on_train_batch_end(type("Trainer", (), {"global_step": step}))  # type: ignore[arg-type]
    assert "about 20 min, for 96 steps of this training and 500 of the trainings after it, at 2 s a step" in caplog.text


@pytest.mark.parametrize(("estimated", "warned"), [(0.3, True), (0.9, False), (None, False)])
def test_steps_that_take_three_times_as_long_as_estimated_are_warned_of(
    estimated: float | None, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter([100.0, 106.0])  # three steps of two seconds
    monkeypatch.setattr(time_left.time, "monotonic", partial(next, clock))
    monkeypatch.setattr(time_left, "estimated_step_seconds", estimated)
    monkeypatch.setattr(logging.getLogger("tfew"), "propagate", True)
    callback = time_left.TimeLeft(100, 0)
    for step in range(1, 10):
        callback.on_train_batch_end(type("Trainer", (), {"global_step": step}))  # type: ignore[arg-type]
    assert ("A step takes 7 times as long as estimated (0.3 s)" in caplog.text) == warned
    assert ("as long as estimated" in caplog.text) == warned


@pytest.mark.ci
def test_the_estimate_of_a_run_is_what_its_steps_are_compared_with(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_left, "estimated_step_seconds", None)
    train(composed(table, "steps=1"))
    assert time_left.estimated_step_seconds is not None
    assert time_left.estimated_step_seconds > 0
    train(compose("+experiment=demo", "model=tiny", "steps=1", "eval_rows=2", "trainer=cpu", f"runs={table.parent}"))
    assert time_left.estimated_step_seconds is None, "published data are not estimated"
