"""`make accept` with the tiny model in T0-3B's place and rows made here: checks, what it says, and the comparison."""

import re
from pathlib import Path

import pytest
import torch

from scripts import accept
from scripts.accept import main
from tfew.errors import UserError
from tfew.paper.table import Cell

TINY = ("model=tiny", "trainer=cpu", "few_shot=draw", "shots=8")


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """(IA)³ vectors of the tiny model, as a run of pre-training leaves them, and `official.pt` with the same."""
    from tfew.config import compose, resolved
    from tfew.methods.base import attach
    from tfew.models.adapters_io import save_adapter
    from tfew.models.backbone import random_model
    from tfew.models.method_builder import make_method

    config = compose("model=tiny")
    model = random_model(resolved(config.model.arch), 384)
    method = make_method(resolved(config.method))
    attach(method, model)
    folder = tmp_path_factory.mktemp("vectors")
    save_adapter(folder, method.stored(model), resolved(config.method), {"path": None})
    torch.save(dict(method.to_official(model)), folder / "official.pt")
    return folder


def options(data: Path, runs: Path, vectors: Path, *more: str) -> list[str]:
    return [f"vectors={vectors}", f"data_dir={data}", f"runs={runs}", *TINY, *more]


@pytest.mark.slow
def test_what_is_not_the_papers_is_refused_before_anything_runs(
    made_data: Path, tmp_path: Path, vectors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="This is not what the paper measured: model tiny has d_model 64 instead of 2048") as error:  # fmt: skip  # noqa: E501
        main(options(made_data, tmp_path / "runs", vectors))
    for words in ("rte has 12 rows instead of 277", "cb has 12 rows instead of 56", "copa has 12 rows instead of 100"):
        assert words in str(error.value)
    assert "templates instead" not in str(error.value), "these are the published ones"
    assert str(error.value).endswith("To go on all the same: anyway=true.")
    assert not (tmp_path / "runs").exists()
    out = capsys.readouterr().out
    assert "Data     cb: 12 rows, 15 templates, 8 shots (draw)" in out


@pytest.mark.slow
def test_mistakes(made_data: Path, tmp_path: Path, vectors: Path) -> None:
    with pytest.raises(UserError, match=r"vectors= is missing: a run folder .* or the authors' t03b_ia3_finish.pt of"):
        main(["model=tiny"])
    anyway = [f"data_dir={made_data}", f"runs={tmp_path}", *TINY, "anyway=true"]
    with pytest.raises(UserError, match=r"nothing.pt does not exist"):
        main([f"vectors={tmp_path}/nothing.pt", *anyway])
    with pytest.raises(UserError, match=r"hold 1,280 numbers, and tiny takes 1,568"):
        main([f"vectors={vectors}", *anyway, "model.arch.d_ff=200"])


@pytest.mark.parametrize(
    ("cell", "within"),
    [
        (Cell(5, 80.0, 1.5, 80.9, 1.4), True),
        (Cell(5, 79.0, 1.5, 80.9, 1.4), False),
        (Cell(5, 82.8, 1.5, 80.9, 1.4), False),
        (Cell(0, None, None, 80.9, 1.4), False),
    ],
)
def test_within_the_spread(cell: Cell, within: bool) -> None:
    assert accept._within(cell) is within


@pytest.mark.drill
@pytest.mark.slow
def test_from_the_authors_file_to_the_comparison(
    made_data: Path, tmp_path: Path, vectors: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = options(made_data, tmp_path, vectors / "official.pt", "anyway=true", "steps=2", "few_shot_seed=0,1")
    code = main(arguments)
    out = capfd.readouterr().out
    assert "Memory   0.0 GB for the weights, and what a step of 8 examples takes beside" in out
    assert "Time     6 runs; T0-3B on the paper's 48 GB A6000: about 6 hours." in out
    assert f"Sweep of 6 runs in {tmp_path}/: 6 made, 0 finished before, 0 failed" in out
    rows = re.findall(r"^  (rte|cb|copa) +([\d.]+) \(([\d.]+)\) +([\d.]+) \(([\d.]+)\) +([+-][\d.]+) +(yes|NO)$", out, re.M)  # fmt: skip  # noqa: E501
    assert [row[0] for row in rows] == ["rte", "cb", "copa"]
    assert [row[3] for row in rows] == ["80.9", "87.5", "89.0"]
    for _, ours, spread, paper, _, difference, verdict in rows:
        assert float(ours) - float(paper) == pytest.approx(float(difference), abs=0.11)
        assert (abs(float(difference)) <= float(spread)) == (verdict == "yes")
    assert code == int(any(row[-1] == "NO" for row in rows))
    main(arguments)
    assert "0 made, 6 finished before, 0 failed" in capfd.readouterr().out
