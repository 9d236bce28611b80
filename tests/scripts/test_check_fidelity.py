"""The recorded official trajectory, replayed at every test run; and proof that the replay can fail."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scripts import check_fidelity
from tfew.schema import Batch

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "official_trajectory"


@dataclass
class Result:
    returncode: int | str | None
    stdout: str
    stderr: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Result]:
    """The script in this process, as the command line calls it."""

    def call(folder: Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["check_fidelity.py", str(folder)])
        code: int | str | None
        try:
            code = check_fidelity.main()
        except SystemExit as error:
            code = error.code
        out = capsys.readouterr()
        return Result(code, out.out, out.err + (code if isinstance(code, str) else ""))

    return call


Run = Callable[[Path], Result]


@pytest.mark.drill
@pytest.mark.slow
def test_the_command_itself_checks_the_checkout_that_it_lies_in(tmp_path: Path) -> None:
    (tmp_path / "tfew").mkdir()
    (tmp_path / "tfew" / "__init__.py").write_text("raise ImportError('of somewhere else')")
    script = ROOT / "scripts" / "check_fidelity.py"
    result = subprocess.run(
        [sys.executable, str(script), str(GOLDEN)], env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[0] == f"tfew of {ROOT / 'tfew'}"
    assert "all within the tolerance" in result.stdout


@pytest.mark.ci
def test_official_trajectory_is_reproduced(run: Run) -> None:
    result = run(GOLDEN)
    assert result.returncode == 0, result.stdout + result.stderr
    for variant in ("tfew", "without_ul", "without_ln", "lm_only"):
        for engine in ("", ", engine=plain"):
            assert f"\n{variant}{engine}\n" in result.stdout
    assert "all within the tolerance" in result.stdout


def copy(tmp_path: Path, variants: list[str], steps: int) -> tuple[Path, dict[str, Any]]:
    """A shorter recording: fewer variants; its own step count would change the schedule, so steps stay."""
    folder = tmp_path / "golden"
    shutil.copytree(GOLDEN, folder)
    expected = json.loads((folder / "expected.json").read_text())
    expected["variants"] = {name: expected["variants"][name] for name in variants}
    assert expected["steps"] == steps
    return folder, expected


def test_another_official_number_is_noticed(run: Run, tmp_path: Path) -> None:
    folder, expected = copy(tmp_path, ["tfew"], steps=20)
    expected["variants"]["tfew"]["log"][7]["unlikely_loss"] += 2e-4
    (folder / "expected.json").write_text(json.dumps(expected))
    result = run(folder)
    assert result.returncode == 1
    assert "BEYOND" in result.stdout


def test_a_number_that_is_none_is_noticed(run: Run, tmp_path: Path) -> None:
    folder, expected = copy(tmp_path, ["lm_only"], steps=20)
    (folder / "expected.json").write_text(json.dumps(expected))
    tensors = load_file(folder / "tensors.safetensors")
    last = sorted(name for name in tensors if name.startswith("lm_only.final."))[3]
    tensors[last][0] = float("nan")
    save_file(tensors, folder / "tensors.safetensors")
    result = run(folder)
    assert result.returncode == 1
    assert "BEYOND" in result.stdout


def test_settings_are_the_recordings_own(run: Run, tmp_path: Path) -> None:
    folder, expected = copy(tmp_path, ["lm_only"], steps=20)
    expected["optimizer"] = expected["optimizer"].replace("lr 3e-3", "lr 2e-3")
    (folder / "expected.json").write_text(json.dumps(expected))
    assert run(folder).returncode == 1
    expected["optimizer"] = "something else"
    (folder / "expected.json").write_text(json.dumps(expected))
    assert "expected.json does not say optimizer.lr" in run(folder).stderr


def test_a_head_that_was_lost_is_noticed(run: Run, tmp_path: Path) -> None:
    folder, expected = copy(tmp_path, ["lm_only"], steps=20)
    (folder / "expected.json").write_text(json.dumps(expected))
    tensors = load_file(folder / "tensors.safetensors")
    tensors["base.lm_head.weight"] = tensors["base.shared.weight"].clone()
    save_file(tensors, folder / "tensors.safetensors")
    assert run(folder).returncode == 1


def replayed(*overrides: str) -> dict[str, list[str]]:
    """By recording: which quantities are beyond their tolerance, with these settings in place of the recorded ones."""
    expected = json.loads((GOLDEN / "expected.json").read_text())
    tensors = load_file(GOLDEN / "tensors.safetensors")
    batches = [check_fidelity.make_batch(tensors, step, 0) for step in range(expected["steps"])]
    recorded = check_fidelity._recorded_settings
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check_fidelity, "_recorded_settings", lambda optimizer: [*recorded(optimizer), *overrides])
        return {
            name: check_fidelity.beyond(check_fidelity.replay(name, variant, expected, tensors, batches))
            for name, variant in expected["variants"].items()
        }


ALL, WITH_UL, WITH_LN = {"tfew", "without_ul", "without_ln", "lm_only"}, {"tfew", "without_ln"}, {"tfew", "without_ul"}


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer.scale_parameter=false"],
        ["optimizer.weight_decay=0.001"],  # 0
        *(
            pytest.param(wrong, marks=pytest.mark.slow)
            for wrong in (["+optimizer.decay_rate=-0.7"], ["optimizer.lr=0.00301"], ["warmup_ratio=0.05"])
        ),  # -0.8, 0.003, 0.06
    ],
    ids=" ".join,
)
def test_another_optimizer_shows_in_the_vectors_of_every_recording(overrides: list[str]) -> None:
    assert {name for name, wrong in replayed(*overrides).items() if "final vectors" in wrong} == ALL


def test_another_clipping_shows_in_every_first_gradient() -> None:
    """Adafactor divides by the gradients' own size, so the vectors may not tell."""
    assert {name for name, wrong in replayed("clip_norm=0.9").items() if "first gradient" in wrong} == ALL


@pytest.mark.parametrize(("term", "of"), [("unlikelihood", WITH_UL), ("length", WITH_LN), ("language", ALL)])
def test_another_loss_shows_in_every_recording_that_has_its_term(
    term: str, of: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No 0.01 in the unlikelihood term; no end-of-text token in the length; a mean of each example's mean."""
    from tfew.scoring import losses
    from tfew.scoring import score as scoring

    def mean_of_means(logprob: torch.Tensor, batch: Batch, *_: Any) -> torch.Tensor:
        right, _ = losses._right_and_wrong(batch.choice_mask, batch.label)
        return -((logprob * right).sum((1, 2)) / right.sum((1, 2))).mean()

    def without_eos(logprob: torch.Tensor, mask: torch.Tensor, norm: str) -> torch.Tensor:
        return scoring.rank_scores(logprob, mask, "sum") / (mask.sum(-1) - 1).clamp(min=1)

    if term == "length":
        monkeypatch.setattr(losses, "rank_scores", without_eos)
    if term == "language":
        monkeypatch.setitem(losses.TERMS, "lm", mean_of_means)
    wrong = replayed(*["fidelity.unlikely_epsilon=0"] * (term == "unlikelihood"))
    assert {name for name, quantities in wrong.items() if quantities} == of
    assert {name for name, quantities in wrong.items() if {"loss", "final vectors"} <= set(quantities)} == of


def test_usage(run: Run) -> None:
    result = run(ROOT / "tests")
    assert result.returncode not in (0, None)
    assert "tests has no expected.json: give a folder with a recording" in result.stderr


def test_the_recorded_clean_losses() -> None:
    """Step 0 of the full loss, as the recording's notes give it without the constant."""
    from tfew.scoring.losses import T_FEW, counts, loss_terms
    from tfew.scoring.score import scoring_mode, token_logprob

    expected = json.loads((GOLDEN / "expected.json").read_text())
    tensors = load_file(GOLDEN / "tensors.safetensors")
    batch = check_fidelity.make_batch(tensors, 0, 0)
    with scoring_mode(model := check_fidelity.make_model(expected["model_config"], tensors)):
        terms = loss_terms(token_logprob(model, batch), batch, T_FEW, counts(batch))
    values = torch.stack([terms["lm_loss"], terms["ln_loss"], terms["ul_loss"]])
    torch.testing.assert_close(values, torch.tensor([11.439504, 2.154436, -0.004627]), atol=1e-5, rtol=0)
