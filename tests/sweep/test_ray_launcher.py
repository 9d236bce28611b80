"""A sweep on a Ray cluster of this machine."""

from pathlib import Path

import pytest

from tests.commands import run_command
from tests.sweep.test_launchers import SEEDS, command, finished, numbers, predictions, undisturbed
from tfew.environment.versions import installed

__all__ = ["undisturbed"]


@pytest.mark.slow
@pytest.mark.skipif(installed("ray") is None, reason="needs Ray: pip install tfew[ray]")
def test_a_sweep_on_ray(tmp_path: Path, undisturbed: dict[int, bytes]) -> None:
    """One job's value cannot be: the other runs; and what is left is made by the next sweep."""
    own = ("hydra/launcher=ray", "hydra.launcher.address=local")
    no_token = {"RAY_AUTH_MODE": "disabled"}  # which Ray else makes in the home folder
    told = command(tmp_path, *own, f"few_shot_seed={SEEDS[0]}", "optimizer.lr=2e-2,0")
    result = run_command(*told, timeout=400, **no_token)
    assert result.returncode == 1, result.stderr
    assert numbers(result.stdout) == (1, 0, 1)
    assert "FAILED: optimizer.lr=0: optimizer.lr=0 is not a number above 0." in result.stdout
    before = finished(tmp_path)
    told = command(tmp_path, *own, f"few_shot_seed={SEEDS[0]},{SEEDS[1]}")
    result = run_command(*told, timeout=400, **no_token)
    assert result.returncode == 0, result.stderr
    assert numbers(result.stdout) == (1, 1, 0)
    assert before.items() <= finished(tmp_path).items()
    assert predictions(tmp_path).items() <= undisturbed.items()


@pytest.mark.skipif(installed("ray") is not None, reason="Ray is installed here")
@pytest.mark.slow
def test_without_ray_a_sentence(tmp_path: Path) -> None:
    result = run_command(*command(tmp_path, "hydra/launcher=ray"), timeout=400)
    assert result.returncode == 1
    assert result.stderr.startswith("hydra/launcher=ray needs ray, not installed here: pip install")
