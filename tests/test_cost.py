"""The forecast of a run's cost: lengths, FLOPs by the formula, memory, refusals and advice."""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ByT5Tokenizer, T5Config, T5ForConditionalGeneration

from tests.models import tiny_t5
from tests.scoring.test_fast_decoder_only import make
from tfew.config import checked, compose
from tfew.cost import cost
from tfew.costs import memory_forecast as forecast
from tfew.costs.dry_run import Counted
from tfew.costs.lengths import Spread, assumed_batch, longest_scoring_batch, longest_training_batch, measure
from tfew.data.tokenization import PromptTokenizer
from tfew.devices import memory as device
from tfew.devices.memory import DeviceMemory, memory_of
from tfew.errors import UserError
from tfew.evaluate import evaluate
from tfew.models.blueprint import Blueprint
from tfew.models.build import build_blueprint, build_method, build_shape, build_tokenizer
from tfew.models.shapes import shape_at
from tfew.runs.identity import is_known_checkpoint
from tfew.schema import Prompt
from tfew.train import train

CPU = torch.device("cpu")
BYTES = PromptTokenizer(ByT5Tokenizer(), max_tokens=256)
PLENTY = DeviceMemory(10**15, 10**15)


def prompt(text: str, *choices: str, label: int | None = 0, **other: Any) -> Prompt:
    return Prompt("d", "t", 0, text, choices, label, **other)


def test_lengths_are_tokens_with_all_choices_and_with_the_right_one() -> None:
    """Bytes are tokens here, and each text has an end-of-text token more."""
    rows = [[prompt("four", "a", "bcd", label=1), prompt("fourfour", "a", "bcd")], [prompt("x", "y", label=None)]]
    found = measure(rows, BYTES)
    assert (found.rows, found.prompts, found.cut_prompts) == (2, 3, 0)
    assert found.query == Spread(11.0, (11 + 15 + 4) / 3)
    assert found.shot == Spread((9 + 11) / 2, (9 + 11) / 2)
    assert measure([[prompt("x", "y", label=None)]], BYTES).shot is None
    assert measure([[prompt("x" * 300, "y")]], BYTES).cut_prompts == 1
    lists = prompt("four", "no", "yes", "no", "yes", label=None, questions=("p", "q"), answers=(0, 1))
    assert measure([[lists]], BYTES).shot == Spread(5 + 3 + 4, 5 + 3 + 4)
    many = measure([[prompt("x" * (1 + i % 2), "y")] for i in range(5000)], BYTES)
    assert many.rows == 1000


def test_the_longest_batches() -> None:
    rows = [[prompt("x" * n, "y"), prompt("x" * (20 - n), "y" * 3)] for n in range(1, 9)]
    training = longest_training_batch(rows, BYTES, 3)
    assert training.input_mask.sum(-1).tolist() == [20, 19, 18]  # one wording of a row: those of 19, 18 and 17 bytes
    scoring = longest_scoring_batch([p for row in rows for p in row], BYTES, 4)
    assert (scoring.input_mask.sum(-1) + scoring.choice_mask.sum((1, 2))).tolist() == [24, 23, 22, 21]
    behind = prompt("x", "y", shots=(("a" * 40, "b"),))
    batch = longest_scoring_batch([*rows[0], behind], BYTES, 1)
    assert batch.input_mask.sum() == 40 + 1 + 1 + 2 + 2  # the shot, a space and its answer, two line ends; the input
    assumed = assumed_batch(5, 103)
    assert assumed.input_mask.sum() + assumed.choice_mask.sum() == 5 * 103
    assert len(assumed) == 5


@pytest.mark.parametrize("kind", ["t0", "t5", "gpt2"])
def test_a_shape_needs_no_weights(kind: str, tmp_path: Path) -> None:
    if kind == "t5":
        torch.manual_seed(0)
        model: Any = T5ForConditionalGeneration(
            T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, vocab_size=128)
        )
    else:
        model = tiny_t5() if kind == "t0" else make("gpt2")
    model.config.save_pretrained(tmp_path)  # config.json and nothing else
    shape = shape_at(str(tmp_path), "main")
    sizes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert {name: tuple(p.shape) for name, p in shape.named_parameters()} == sizes
    assert all(p.is_meta for p in shape.parameters())


def test_a_local_checkpoint_is_counted_by_its_own_shape(tmp_path: Path) -> None:
    tiny_t5().config.save_pretrained(tmp_path)
    config = checked(compose("model=t0_3b", f"model.path={tmp_path}"))
    assert not is_known_checkpoint(config)
    assert sum(p.numel() for p in build_shape(config).parameters()) == sum(p.numel() for p in tiny_t5().parameters())
    assert is_known_checkpoint(checked(compose("model=t0_3b")))
    assert sum(p.numel() for p in build_shape(checked(compose("model=t0_3b"))).parameters()) == 2_849_757_184


def blueprint_of(config: Any) -> Blueprint:
    return build_blueprint(config, build_method(config), CPU)


def plan_of(*overrides: str) -> forecast.Plan:
    return forecast.make_plan(blueprint_of(checked(compose(*overrides))))


def test_bytes_are_parameters_times_their_size() -> None:
    fixed = plan_of("model=t0_3b").fixed
    assert fixed.weight_bytes == 4 * 2_849_757_184
    assert fixed.adapter_bytes == fixed.gradient_bytes == 4 * 540_672
    assert fixed.optimizer_bytes == 4 * 540_672 + 4 * 192  # vectors are not factored; and the size of each of 192
    assert plan_of("model=t0_3b", "model.dtype=bfloat16").fixed.weight_bytes == 2 * 2_849_757_184
    eleven = plan_of("model=t0").fixed
    assert (eleven.weight_bytes, eleven.adapter_bytes) == (4 * 11_135_332_352, 4 * 1_081_344)
    full = plan_of("model=t0_3b", "method=full", "optimizer=adamw").fixed
    assert (full.adapter_bytes, full.gradient_bytes) == (0, full.weight_bytes)
    assert full.optimizer_bytes == pytest.approx(2 * full.weight_bytes, rel=1e-6)


def having(monkeypatch: pytest.MonkeyPatch, total: float, free: float | None = None) -> None:
    monkeypatch.setattr(
        forecast, "memory_of", lambda device: DeviceMemory(int(total), int(total if free is None else free))
    )


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_what_cannot_fit_is_refused_before_it_is_loaded(
    command: str, made_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any) -> None:
        raise AssertionError("was loaded")

    monkeypatch.setattr("tfew.models.build.build_backbone", load)
    overrides = ("+experiment=rte", "model=tiny", "trainer=cpu", f"data_dir={made_data}", "few_shot=draw", "shots=8")
    config = compose(*overrides, f"runs={tmp_path}/runs", config_name=command)
    run = {"train": train, "evaluate": evaluate}[command]
    needed = forecast.make_plan(blueprint_of(config)).fixed
    needed_bytes = needed.total_bytes if command == "train" else needed.weight_bytes
    having(monkeypatch, needed_bytes - 1)
    with pytest.raises(UserError, match=r"tiny does not fit this CPU: .* MB of weights.* Use a smaller model="):
        run(config)
    assert not (tmp_path / "runs").exists()
    having(monkeypatch, needed_bytes)
    with pytest.raises(AssertionError, match="was loaded"):
        run(config)


def check(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, free: float, *overrides: str) -> str:
    """What is said of a run on a device with so much memory free."""
    from tfew.task import tasks_at_hand

    config = checked(
        compose("+experiment=mini_few_shot", "dataset=mini/commits", "eval_rows=4", "trainer=cpu", *overrides)
    )
    having(monkeypatch, 1e15, free)
    caplog.clear()
    caplog.set_level(logging.INFO)
    tasks = tasks_at_hand(config)
    forecast.check_memory(blueprint_of(config), build_tokenizer(config), *tasks)
    return caplog.text


@pytest.mark.slow
def test_a_batch_that_will_not_fit_is_foreseen_and_what_is_advised_helps(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said = check(monkeypatch, caplog, 1.5e7)  # mini_t0 has 7 MB of weights, and its longest batch takes 12 MB
    assert "mini_t0 is expected to take 7.2 MB all the time and" in said
    budget, size = re.search(r"Set memory_gb=(\S+), which .* or micro_batch_size=(\d+), or use", said).groups()  # type: ignore[union-attr]
    assert check(monkeypatch, caplog, 1.5e7, f"memory_gb={budget}") == ""
    assert check(monkeypatch, caplog, 1.5e7, f"micro_batch_size={size}") == ""
    assert "free. Use a smaller model= or model.dtype=bfloat16." in check(monkeypatch, caplog, 5e6)
    assert check(monkeypatch, caplog, 3e6).endswith("free. Use a smaller model=.\n")


def test_small_runs_are_not_looked_at_closely(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(forecast, "dry_runs", lambda *_: pytest.fail("a dry run of what is small"))
    assert check(monkeypatch, caplog, 1e9) == ""


def test_a_model_that_cannot_be_foreseen_runs_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def asks_for_numbers(*_: Any) -> None:
        raise RuntimeError("no numbers here\nand more")

    monkeypatch.setattr(forecast, "dry_runs", asks_for_numbers)
    said = check(monkeypatch, caplog, 1.5e7)
    assert "the memory of this run cannot be forecast (RuntimeError: no numbers here)." in said


def test_advice_by_hand() -> None:
    """100 MB are free beside what stays; what is kept, gradients and optimiser are parts of the peak."""
    plan = plan_of("model=tiny", "trainer=cpu")
    memory = DeviceMemory(10**12, plan.fixed.total_bytes + 10**8)
    step = Counted(
        flops=1, peak_bytes=300_000_000, kept_bytes=190_000_000, gradient_bytes=60_000_000, optimizer_bytes=40_000_000
    )
    said = forecast.advise(plan, memory, {"training": step})
    assert said is not None
    assert "200.0 MB for the longest batch of training" in said
    assert (
        "Set memory_gb=0.07, which splits batches that need more, or micro_batch_size=3, or" in said
    )  # ADVISED_MEMORY is 0.8 of the 100 MB
    for scoring_bytes, at_once in ((1_280_000_000, 1), (1_290_000_000, None)):  # sixteen prompts: one just fits, or not
        said = forecast.advise(plan, memory, {"scoring": Counted(1, scoring_bytes)})
        assert said is not None
        assert (f"eval_batch_size={at_once}" in said) == ("eval_batch_size" in said) == (at_once is not None)
    said = forecast.advise(plan, memory, {"training": step, "scoring": Counted(1, 160_000_000)})
    assert said is not None
    assert "micro_batch_size=3 and eval_batch_size=8" in said
    bounded = plan_of("model=tiny", "trainer=cpu", "memory_gb=0.09")
    assert forecast.advise(bounded, memory, {"training": step}) is None
    assert forecast.advise(plan, DeviceMemory(10**12, 10**12), {"training": step}) is None


def test_memory_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = memory_of(CPU)
    assert 0 < here.free_bytes <= here.total_bytes
    (tmp_path / "meminfo").write_text(
        "MemTotal:  1000 kB\nMemAvailable:  600 kB\nSwapTotal:  50 kB\nHugePages_Total: 0\n"
    )
    monkeypatch.setattr(device, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(device, "CGROUPS", tmp_path)
    assert memory_of(CPU) == DeviceMemory(1050 * 1024, 600 * 1024)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_of(CPU) == DeviceMemory(1050 * 1024, 600 * 1024)
    (tmp_path / "memory.max").write_text("102400\n")
    assert memory_of(CPU) == DeviceMemory(102400 + 50 * 1024, 102400)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5, 7))
    assert memory_of(torch.device("cuda")) == DeviceMemory(7, 5)
    monkeypatch.setattr(device, "MEMINFO", tmp_path / "absent")
    elsewhere = memory_of(CPU)  # not Linux: all that there is, since what is free is not known
    assert 10**8 < elsewhere.free_bytes == elsewhere.total_bytes


def test_the_report_of_a_run(made_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("+experiment=copa", "model=tiny", "trainer=cpu", f"data_dir={made_data}", "few_shot=draw", "shots=8")
    (row,) = cost(compose(*common, "json=true", config_name="cost"))
    assert json.loads(capsys.readouterr().out) == [row]
    assert row["lengths"]["training"]["prompts"] == 8 * 8
    assert row["lengths"]["evaluation"]["rows"] == 12
    assert row["batches"]["scoring"]["prompts"] == 16
    step = row["batches"]["training"]
    formula = row["flops"]["formula"]
    assert formula["training"] == 3 * row["total"] * (step["input_tokens"] + step["choice_tokens"])
    mean = row["lengths"]["training"]["query"]["mean"]
    assert formula["training_run"] == pytest.approx(3 * row["total"] * 1000 * 8 * mean)
    assert 0 < row["flops"]["counted"]["scoring"] < row["flops"]["counted"]["training"] < formula["training"]
    memory = row["memory"]
    assert memory["weight_bytes"] == 4 * row["total"]
    assert memory["kept_bytes"] < memory["training_peak_bytes"]
    assert (row["advice"], row["measured"], row["assumed_tokens"]) == (None, None, None)


def test_the_report_without_data(capsys: pytest.CaptureFixture[str]) -> None:
    cost(compose("model=tiny", "trainer=cpu", "batch_size=2", "eval_batch_size=2", config_name="cost"))
    out = capsys.readouterr().out
    assert "No data are named (data_dir=): texts of 103 tokens with all choices are assumed" in out
    assert re.search(r"a training step, 2 prompts, 206 tokens +\d\.\d{3}e\+\d\d +\d\.\d{3}e\+\d\d\n", out)
    assert re.search(r"kept for the backward pass +\d+\.\d{3}\n", out)
    assert out.endswith("It fits.\n")


def test_a_report_without_what_cannot_be_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def asks_for_numbers(*_: Any) -> None:
        raise RuntimeError("no numbers here")

    monkeypatch.setattr("tfew.costs.cost_report.dry_runs", asks_for_numbers)
    (row,) = cost(compose("model=tiny", "trainer=cpu", config_name="cost"))
    assert row["flops"]["counted"] == {}
    assert row["memory"]["weight_bytes"] == 4 * row["total"]
    assert "The weights fit; what a step takes beside them is not known." in capsys.readouterr().out


def test_the_report_of_a_table_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("text,label\n" + "".join(f"it is {'good' if i % 2 else 'bad'} {i},{i % 2}\n" for i in range(20)))
    common = ("+experiment=local", f"data={path}", "model=tiny", "trainer=cpu", "folds=null", "validation=0.2")
    (row,) = cost(compose(*common, config_name="cost"))
    assert {what: length["rows"] for what, length in row["lengths"].items()} == {"training": 16, "evaluation": 4}


class NeedsNumbers(torch.optim.SGD):
    """An optimiser of somebody else's, which looks at the numbers."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if self.param_groups[0]["params"][0].sum() > 0:
            super().step()


def test_an_optimiser_that_cannot_be_foreseen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fixed = plan_of("model=tiny", "optimizer=adamw", "optimizer._target_=tests.test_cost.NeedsNumbers").fixed
    assert (fixed.optimizer_bytes, fixed.gradient_bytes) == (0, 4 * 1280)
    assert "the state of tests.test_cost.NeedsNumbers cannot be forecast" in caplog.text


@pytest.mark.slow
def test_a_real_step_beside_the_forecast(
    train_tiny: Callable[..., Any], made_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("dataset=mini/commits", "few_shot=draw", "model=tiny", "trainer=cpu", "batch_size=2", "eval_batch_size=4")
    (row,) = cost(compose(*common, "dataset.generator.eval=12", "measure=true", config_name="cost"))
    measured, counted = row["measured"], row["flops"]["counted"]
    assert {what: count["flops"] for what, count in measured["counted"].items()} == counted
    for what in ("training", "scoring"):
        assert measured["seconds"][what] > 0
        assert row["memory"][f"{what}_peak_bytes"] == measured["peak_bytes"][what]
    assert measured["adapter_file_bytes"] == train_tiny().adapter_bytes > row["adapter_bytes"]
    assert f"the adapter's file {measured['adapter_file_bytes']:,} bytes" in capsys.readouterr().out


def test_table_1_with_the_lengths_of_the_data_at_hand(made_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By hand: bytes are tokens, and each text has one more."""
    template = '{name: x, jinja: "{{premise}} {{hypothesis}}", answer_choices: "yes ||| no"}'
    rows = cost(
        compose(
            "table=1", "+experiment=rte", "model=tiny", f"data_dir={made_data}", "few_shot=draw", "shots=8",
            f"dataset.prompts=[{template}]", "templates=all", config_name="cost",
        )
    )  # fmt: skip
    texts = [f"A man bought {n} apples. He has fruit." for n in range(12)]
    query = len(texts[0]) + 1 + 4 + 3  # ten of the twelve numbers have one digit
    own = {row["row"]: row["own"] for row in rows}
    assert own["T-Few"]["query_tokens"] == query
    assert own["T-Few"]["shots"] == 8
    shot = own["T-Few"]["shot_tokens"]
    assert len(texts[0]) + 1 + 3 <= shot <= len(texts[0]) + 1 + 4
    assert own["T-Few"]["inference_flops"] == 11e9 * query
    assert own["T-Few"]["training_flops"] == 3 * 11e9 * 8000 * own["T-Few"]["training_tokens"]
    assert own["GPT-3 175B"]["inference_flops"] == 2 * 175e9 * (8 * shot + query)
    assert own["GPT-3 175B"]["disk_bytes"] == 4 * 8 * shot
    assert {row["row"]: row["inference_flops"] for row in rows}["T-Few"] == 11e9 * 103
    out = capsys.readouterr().out
    assert "With the median lengths of rte, 8 shots:" in out
    assert f"T-Few       {11e9 * query:>12.3e}" in out
    assert "own" not in cost(compose("table=1", config_name="cost"))[0]


def test_table_1_of_a_table_that_is_trained_on_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"some words {n},{'ab'[n % 2]}\n" for n in range(12)))
    rows = cost(compose("table=1", "+experiment=local_mini", f"data={path}", "model=tiny", config_name="cost"))
    assert {row["own"]["shots"] for row in rows} == {12}
    assert "12 shots:" in capsys.readouterr().out


def test_what_cannot_be_counted_is_said(made_mixture: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="table=1 covers one data set, but t0_mixture is a mixture"):
        cost(compose("table=1", "dataset=t0_mixture", f"data_dir={made_mixture}", config_name="cost"))
    with pytest.raises(UserError, match="measure=true runs the steps of one run: leave table= and methods= out"):
        cost(compose("table=1", "measure=true", config_name="cost"))
    with pytest.raises(UserError, match="measure='maybe' is neither true nor false"):
        cost(compose("measure=maybe", config_name="cost"))
    with pytest.raises(UserError, match=r"No training pool of rte under .*, nor its official few-shot file"):
        cost(compose("+experiment=rte", "model=tiny", f"data_dir={tmp_path}", config_name="cost"))
    with pytest.raises(UserError, match=r"has neither model\.path nor model\.arch"):
        cost(compose("model=gpt2", "model.path=null", config_name="cost"))


def test_measuring_does_not_load_what_cannot_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfew.costs.cost_report.memory_of", lambda device: DeviceMemory(1000, 1000))
    with pytest.raises(UserError, match="tiny does not fit this CPU"):
        cost(compose("model=tiny", "trainer=cpu", "measure=true", config_name="cost"))


@pytest.mark.parametrize("loss", ["lm", "tfew"])
def test_a_loss_of_the_right_choice_alone_costs_its_tokens_alone(loss: str, train_tiny: Callable[..., Any]) -> None:
    """Every step sees all rows, in their one wording: the forecast is what the run counted."""
    common = (
        "dataset=mini/commits",
        "few_shot=draw",
        "model=tiny",
        "steps=4",
        "trainer=cpu",
        "shots=8",
        "batch_size=8",
    )
    given = (*common, "templates=single", "templates.name=wording 1", f"loss={loss}", "dataset.generator.eval=12")
    (row,) = cost(compose(*given, config_name="cost"))
    assert row["flops"]["formula"]["training_run"] == pytest.approx(train_tiny(*given).flops["training"], rel=1e-6)
