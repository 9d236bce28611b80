"""The names of runs, which are pinned: an existing run is still found when settings are added later."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tfew.config import checked, compose
from tfew.dataset_config import complete
from tfew.runs import identity
from tfew.runs.identity import run_name, settings_hash


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ("+experiment=demo", "demo_commits-mini_t0-ia3-tfew-s0-fa83edaa"),
        ("+experiment=rte", "rte-t0_3b-ia3-tfew-s0-9c990128"),
        ("+experiment=copa method=lora loss=lm", "copa-t0_3b-lora-lm-s0-67f32eec"),
    ],
)
def test_names(overrides: str, name: str) -> None:
    assert run_name(complete(checked(compose(*overrides.split())))) == name


@pytest.mark.real_data
def test_the_name_of_a_raft_run(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`data_dir` is part of the settings, as it was said."""
    monkeypatch.chdir(Path(__file__).parents[2])
    config = complete(checked(compose("+experiment=raft/overruling", "data_dir=../shared/data")))
    assert run_name(config) == "overruling-t0_3b-ia3-tfew-s0-ecb11fc9"


@pytest.mark.parametrize("key", ["new", "optimizer.new", "model.arch.deeper.new"])
@pytest.mark.parametrize("default", [0.5, None, False, [1, 2]])
def test_a_later_setting_leaves_the_name_with_its_default_alone(
    key: str, default: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose("+experiment=demo")

    def with_value(value: Any) -> Any:
        new = config.copy()
        OmegaConf.update(new, key, value, force_add=True)
        return new

    before = settings_hash(config)
    assert settings_hash(with_value(default)) != before, "unless it is named as one"
    monkeypatch.setattr(identity, "INTRODUCED", {**identity.INTRODUCED, key: default})
    assert settings_hash(config) == before
    assert settings_hash(with_value(default)) == before
    others = {settings_hash(with_value(value)) for value in (0.25, "x", True, [2, 1])}
    assert before not in others
    assert len(others) == 4
