"""A folder that is resumed: what is said is what happens."""

import logging
from pathlib import Path

import pytest
import torch

from tfew.runs.run_folder import open_run


@pytest.mark.parametrize(
    ("found", "together", "said"),
    [
        (None, False, "no checkpoint yet, starting over"),
        ("step=5.ckpt", False, "continuing"),
        ("together-step=5.pt", True, "continuing"),
        ("together-step=5.pt", False, "its checkpoint is of runs trained together, starting over"),
        ("step=5.ckpt", True, "its checkpoint is of a run trained alone, starting over"),
    ],
)
def test_a_checkpoint_of_the_other_kind_is_told(
    found: str | None, together: bool, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "config.yaml").write_text("steps: 9\n")
    if found is not None:
        (tmp_path / "checkpoint").mkdir()
        torch.save({}, tmp_path / "checkpoint" / found)
    with caplog.at_level(logging.INFO):
        open_run(tmp_path, {"steps": 9}, resume=True, together=together)
    assert caplog.messages == [f"{tmp_path} is unfinished; {said}."]
