"""Libraries in unsupported versions, and missing ones: reported by name, before anything is loaded."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tfew.__main__ import COMMANDS
from tfew.comparison import plots
from tfew.config import compose
from tfew.environment import versions
from tfew.environment.versions import check_versions, own_version, require, requirements
from tfew.errors import UserError
from tfew.models.backbone import load_model
from tfew.serve import serve

ROOT = Path(__file__).parents[2]
REAL = versions.installed


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str | None]]:
    """Versions that are made out to be installed, in place of the real ones; None: missing."""
    found: dict[str, str | None] = {}
    monkeypatch.setattr(versions, "installed", lambda name: found[name] if name in found else REAL(name))
    check_versions.cache_clear()
    yield found
    check_versions.cache_clear()


def test_what_is_installed_here_fits() -> None:
    check_versions.cache_clear()
    check_versions()


@pytest.mark.parametrize(
    ("name", "version", "range_"),
    [
        ("transformers", "4.57.6", "<6,>=5.24"),
        ("transformers", "5.23.0", "<6,>=5.24"),
        ("torch", "2.3.1+cu121", "<3,>=2.11"),
        ("pytorch-lightning", "2.5.6", "<3,>=2.6"),
        ("pytorch-lightning", "3.0.0", "<3,>=2.6"),
    ],
)
def test_a_version_that_cannot_work(name: str, version: str, range_: str, here: dict[str, str | None]) -> None:
    here[name] = version
    with pytest.raises(UserError) as error:
        check_versions()
    assert str(error.value).startswith(
        f"{name} {version} cannot be used: tfew {own_version()} needs {range_}: pip inst"
    )
    with pytest.raises(UserError, match=f"{name} .* cannot be used"):
        load_model("anywhere", "main", "auto")  # in Python, without any command


@pytest.mark.parametrize("version", ["5.24.0", "5.24.0.dev0", "5.24.0rc1", "5.99.1", "5.24.0+local"])
def test_a_preview_or_a_build_counts_as_its_release(version: str, here: dict[str, str | None]) -> None:
    here["transformers"] = version
    check_versions()


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"doctor"}))  # which is asked when versions do not fit
def test_every_command_says_so_before_it_composes_anything(
    name: str, here: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    here["transformers"] = "4.57.6"
    monkeypatch.setattr(sys, "argv", ["tfew", "no_such_setting=1"])
    command = import_module("tfew.paper.__main__" if name == "paper" else f"tfew.{name}")
    with pytest.raises(SystemExit, match=r"^transformers 4.57.6 cannot be used"):
        command.main()


def test_a_real_version_is_found_by_its_metadata_without_an_import(tmp_path: Path) -> None:
    (tmp_path / "transformers-4.57.6.dist-info").mkdir()
    (tmp_path / "transformers-4.57.6.dist-info" / "METADATA").write_text("Name: transformers\nVersion: 4.57.6\n")
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tfew.train", "+experiment=demo"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    *imported, said = result.stderr.splitlines()
    assert result.returncode == 1
    assert said.startswith("transformers 4.57.6 cannot be used: ")
    assert all(line.startswith("import time:") for line in imported)
    assert not any(line.endswith((" torch", " transformers", " pytorch_lightning")) for line in imported)


def test_ranges_and_extras_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away from a clone they are in the metadata, as the wheel has them (tests/test_package.py builds a real one)."""
    (tmp_path / "tfew-9.8.dist-info").mkdir()
    (tmp_path / "tfew-9.8.dist-info" / "METADATA").write_text(
        'Metadata-Version: 2.4\nName: tfew\nVersion: 9.8\nRequires-Dist: torch<3,>=2.11\nProvides-Extra: serve\n'
        'Requires-Dist: fastapi>=0.115; extra == "serve"\n'
    )  # fmt: skip
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(versions, "PYPROJECT", tmp_path / "pyproject.toml")
    versions._declared.cache_clear()
    try:
        assert own_version() == "9.8"
        assert requirements() == [Requirement("torch<3,>=2.11")]
        assert requirements("serve") == [Requirement("fastapi>=0.115")]
    finally:
        versions._declared.cache_clear()


def test_require(here: dict[str, str | None]) -> None:
    here.update({"fastapi": "0.165.0", "uvicorn": None, "prometheus-client": None})
    with pytest.raises(UserError) as error:
        require("tfew.serve", "serve")
    assert str(error.value) == (
        'tfew.serve needs uvicorn, prometheus-client, not installed here: pip install "uvicorn>=0.30"'
        ' "prometheus-client>=0.20" (the extra [serve] of this package).'
    )
    here.update({"uvicorn": "0.54.0", "prometheus-client": "0.26.0"})
    require("tfew.serve", "serve")


def test_what_needs_an_extra_says_so_first(
    here: dict[str, str | None], train_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    here.update(dict.fromkeys(("fastapi", "wandb", "tensorboard", "matplotlib")))
    with pytest.raises(UserError, match=r"^tfew.serve needs fastapi, not installed here: pip install"):
        serve(compose("adapter=runs/NAME", config_name="serve"))
    for logger in ("wandb", "tensorboard"):
        with pytest.raises(UserError, match=rf"^logger={logger} needs {logger}, not installed here: pip install"):
            train_tiny(f"logger={logger}", "data_dir=.")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"^A figure needs matplotlib, .* \(the extra \[plots\]"), plots.plot_style():
        pass
