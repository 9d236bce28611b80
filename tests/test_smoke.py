"""Every public command and every experiment, for two steps, on the tiny model and data made here."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import run_command
from tests.conftest import EXPERIMENTS
from tfew.config import CONFIGS, compose
from tfew.evaluate import evaluate
from tfew.preview import preview
from tfew.train import train

COMMANDS = ("train", "evaluate", "predict", "serve", "preview", "cost", "convert", "paper", "raft_submit")
MINI = ("mini_few_shot", "mini_few_shot_bitfit", "mini_few_shot_full", "mini_few_shot_lora")
TINY = ("model=tiny", "trainer=cpu", "steps=2", "shots=8", "few_shot=draw")


def test_this_file_knows_all_experiments_and_commands() -> None:
    names = {
        path.relative_to(CONFIGS / "experiment").with_suffix("").as_posix()
        for path in CONFIGS.glob("experiment/**/*.yaml")
    }
    raft = {f"raft/{path.stem}" for path in CONFIGS.glob("dataset/raft/*.yaml")}  # tests/test_raft_submit.py runs them
    own = {"local", "local_english", "local_mini"}
    assert names == {*EXPERIMENTS, *MINI, *raft, *own, "demo", "pretrain_ia3", "pretrain_mini_t0"}
    package = CONFIGS.parent / "tfew"
    files = {path.stem for path in package.glob("*.py") if "__main__" in path.read_text()}
    assert files - {"__main__"} | {path.parent.name for path in package.glob("*/__main__.py")} == {*COMMANDS, "doctor"}


@pytest.mark.ci
@pytest.mark.parametrize(
    "experiment", [*EXPERIMENTS, "demo", *(pytest.param(name, marks=pytest.mark.slow) for name in MINI)]
)
def test_experiment(experiment: str, made_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = (f"+experiment={experiment}", f"data_dir={made_data}", f"runs={tmp_path}", *TINY, "eval_rows=60")
    record = train(compose(*common))
    assert record.dataset == (experiment if experiment in EXPERIMENTS else "commits")
    assert 0 <= record.metrics["accuracy"] <= 1
    assert record.counts["rows"] >= 12
    out = capsys.readouterr().out
    assert "median (IQR)" in out
    assert f"record: {tmp_path}/{record.name}/result.json" in out
    bare = evaluate(compose(*common, config_name="evaluate"))
    assert bare.counts == record.counts
    shown = preview(compose(*common, "n=2", "json=true", config_name="preview"))
    lines = capsys.readouterr().out.splitlines()[-len(shown) :]
    assert [json.loads(line) for line in lines] == shown
    assert len({row["idx"] for row in shown}) == 2


def test_pretraining_on_a_mixture(made_mixture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("+experiment=pretrain_ia3", "dataset.missing=skip", f"data_dir={made_mixture}", f"runs={tmp_path}", *TINY)
    record = train(compose(*common))
    assert (record.experiment, record.dataset, record.loss) == ("pretrain_ia3", "t0_mixture", "lm")
    assert record.config["optimizer"]["lr"] == 3e-4
    assert record.config["batch_size"] == 16
    assert record.mixture is not None
    assert set(record.mixture["members"]) == {"mrpc", "trec", "ag_news", "rotten_tomatoes", "cosmos_qa"}
    assert len(record.mixture["left_out"]) == 33
    assert "left out of the mixture: adversarial_qa_dbert" in capsys.readouterr().out


def test_preview_as_text(made_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preview(compose("+experiment=copa", f"data_dir={made_data}", *TINY, "n=1", "max_tokens=60", config_name="preview"))
    out = capsys.readouterr().out
    assert "==== copa train, row" in out
    assert re.search(r"-- template 'best_option': 60 tokens, \d+ TRUNCATED", out)
    assert "'It rained all day.': 19 tokens" in out
    assert len(re.findall(r"^ \* ", out, re.MULTILINE)) == 8  # the right choice of each template
    assert "All 8 rows give a prompt." in out


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", f"tfew.{command}", "--help", "all"], capture_output=True, text=True, check=True
    )
    assert f"python -m tfew.{command}" in result.stdout
    assert ("few_shot: official" in result.stdout) == (command not in ("paper", "raft_submit"))
    assert "runs: runs" in result.stdout


@pytest.mark.ci
@pytest.mark.slow
def test_commands_work_from_any_folder(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tfew.train", "+experiment=demo", "model=tiny", "trainer=cpu", "steps=2",
         "dataset.generator.eval=4"],
        capture_output=True, text=True, cwd=tmp_path, check=True,
    )  # fmt: skip
    path = Path(result.stdout.split("record: ")[1].strip())
    assert path.parts[0] == "runs"
    assert (tmp_path / path).is_file()


@pytest.mark.ci
@pytest.mark.slow
def test_a_sweep_over_seeds(tmp_path: Path) -> None:
    command = ["tfew.train", "-m", "+experiment=demo", "model=tiny", "trainer=cpu", "steps=2"]
    command += ["dataset.generator.eval=4", "few_shot_seed=0,1,32", f"runs={tmp_path}", "logger=wandb"]
    run_command(*command, WANDB_MODE="offline", check=True)
    seeds = [json.loads(path.read_text())["few_shot_seed"] for path in tmp_path.glob("demo_*/result.json")]
    assert sorted(seeds) == [0, 1, 32]
    assert len(list(tmp_path.glob("demo_*/wandb/offline-run-*/*.wandb"))) == 3, "each job logs a run of its own"
    again = run_command(*command, WANDB_MODE="offline", check=True)
    assert f"Sweep of 3 runs in {tmp_path}/: 0 made, 3 finished before, 0 failed" in again.stdout


def test_any_local_seq2seq_checkpoint(made_data: Path, tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    from tests.models import tiny_t5

    tiny_t5("relu", rows=384).save_pretrained(tmp_path / "mine")
    ByT5Tokenizer().save_pretrained(tmp_path / "mine")
    overrides = (f"data_dir={made_data}", f"runs={tmp_path}", *TINY[1:], f"model.path={tmp_path}/mine")
    record = train(compose("+experiment=cb", *overrides))
    assert record.parameters["trainable"] == 2 * (32 * 2 + 48) + 3 * (32 * 4 + 48)
