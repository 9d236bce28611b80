"""The recorded official trajectory, replayed at every test run; and proof that the replay can fail."""

import json
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


@pytest.mark.slow
def test_the_command_itself() -> None:
    script = ROOT / "scripts" / "check_fidelity.py"
    result = subprocess.run([sys.executable, str(script), str(GOLDEN)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "within 1e-04" in result.stdout


def test_official_trajectory_is_reproduced(run: Run) -> None:
    result = run(GOLDEN)
    assert result.returncode == 0, result.stdout + result.stderr
    for variant in ("tfew", "without_ul", "without_ln", "lm_only"):
        assert f"\n{variant}\n" in "\n" + result.stdout
    assert "within 1e-04" in result.stdout


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


@pytest.mark.parametrize("change", ["epsilon", "length"])
def test_a_recipe_that_differs_is_noticed(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.01 in the unlikelihood term and the end-of-text token in the length both show in the losses."""
    from tfew.scoring import losses
    from tfew.scoring import score as scoring

    if change == "epsilon":
        original = losses.unlikelihood_loss
        monkeypatch.setattr(losses, "unlikelihood_loss", lambda *a: original(*a[:4], 0.0))
    else:
        monkeypatch.setattr(
            losses,
            "rank_scores",
            lambda logprob, mask, norm: scoring.rank_scores(logprob, mask, "sum") / (mask.sum(-1) - 1).clamp(min=1),
        )
    expected = json.loads((GOLDEN / "expected.json").read_text())
    tensors = load_file(GOLDEN / "tensors.safetensors")
    batches = [check_fidelity.make_batch(tensors, step, 0) for step in range(expected["steps"])]
    variant = expected["variants"]["tfew"]
    differences = check_fidelity.replay("tfew", variant, expected, tensors, batches)
    assert differences["final vectors"] > check_fidelity.FIDELITY


def test_usage(run: Run) -> None:
    result = run(ROOT / "tests")
    assert result.returncode not in (0, None)
    assert "usage: python scripts/check_fidelity.py DIR" in result.stderr


def test_the_recorded_clean_losses() -> None:
    """Step 0 of the full loss, as the recording's notes give it without the constant."""
    from tfew.scoring.losses import LossWeights, counts, loss_terms
    from tfew.scoring.score import scoring_mode, token_logprob

    expected = json.loads((GOLDEN / "expected.json").read_text())
    tensors = load_file(GOLDEN / "tensors.safetensors")
    batch = check_fidelity.make_batch(tensors, 0, 0)
    with scoring_mode(model := check_fidelity.make_model(expected["model_config"], tensors)):
        terms = loss_terms(token_logprob(model, batch), batch, LossWeights(1, 1, 1), counts(batch), epsilon=0.01)
    values = torch.stack([terms["lm_loss"], terms["ln_loss"], terms["ul_loss"]])
    torch.testing.assert_close(values, torch.tensor([11.439504, 2.154436, -0.004627]), atol=1e-5, rtol=0)
