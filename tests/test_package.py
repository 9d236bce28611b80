"""The package: the wheel's contents and metadata, and that it works outside the clone."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from scripts import check_wheel
from tfew.errors import UserError

ROOT = Path(__file__).parents[1]
SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "configs", "tfew")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
UNPINNED = {"deepspeed", "ray", "torchao"}  # not part of what is tested


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves its traces where it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    clone = folder / "clone"
    clone.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, clone / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", folder, clone]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (found,) = folder.glob("*.whl")
    return found


def declared() -> list[Requirement]:
    """What the package needs, and what its extras bring."""
    return [
        Requirement(line)
        for lines in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
        for line in lines
    ]


def files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_has_the_package_and_the_configurations(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert found == {f"tfew/{name}" for name in files(ROOT / "tfew")} | {
        f"tfew/configs/{name}" for name in files(ROOT / "configs")
    }
    assert {"tfew/configs/train.yaml", "tfew/configs/dataset/mini/commits.yaml"} < found
    assert {"tfew/mini_t0/checkpoint/model.safetensors", "tfew/data/official_splits/rte.json"} < found


@pytest.mark.ci
def test_what_the_wheel_says_of_itself(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (folder,) = {name.partition("/")[0] for name in archive.namelist()} - {"tfew"}
        metadata = Parser().parsestr(archive.read(f"{folder}/METADATA").decode())
        assert archive.read(f"{folder}/entry_points.txt").decode().split() == [
            "[console_scripts]", "tfew", "=", "tfew.__main__:main"
        ]  # fmt: skip
        assert f"{folder}/licenses/LICENSE" in archive.namelist()
    assert metadata["Version"] == PROJECT["version"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra")) == {
        "paper", "plots", "serve", "excel", "gguf", "wandb", "tensorboard", "deepspeed", "ray", "docs", "dev",
        "quantized",
    }  # fmt: skip
    assert not [line for line in metadata.get_all("Requires-Dist") if "promptsource" in line]


def test_what_was_tested_lies_in_the_ranges() -> None:
    """requirements.txt, which CI installs, pins everything that the package and its extras need."""
    pinned = dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    for requirement in declared():
        if requirement.name not in UNPINNED:
            assert requirement.specifier.contains(pinned[requirement.name]), requirement


def test_every_import_is_a_dependency() -> None:
    """Of the package, at any depth; what an import is called, where its distribution has another name."""
    names = {"yaml": "pyyaml", "hydra": "hydra-core", "pytorch_lightning": "pytorch-lightning", "prometheus_client": "prometheus-client", "sklearn": "scikit-learn"}  # fmt: skip  # noqa: E501
    brought = {
        "pyarrow": "datasets",
        "fsspec": "datasets",
        "tokenizers": "transformers",
        "huggingface_hub": "transformers",
        "starlette": "fastapi",
        "markupsafe": "jinja2",
    }
    text = "\n".join(path.read_text() for path in (ROOT / "tfew").rglob("*.py"))
    imported = set(re.findall(r"^ *(?:import|from) ([a-z_]+)[ .\n]", text, re.MULTILINE))
    foreign = {name for name in imported if name not in sys.stdlib_module_names} - {"tfew", "promptsource"}
    assert {names.get(name) or brought.get(name) or name for name in foreign} <= {r.name for r in declared()}


@pytest.mark.ci
@pytest.mark.slow
def test_a_wheel_away_from_the_clone(wheel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_wheel.main([str(wheel), "needs=here"]) == 0
    out = capsys.readouterr().out
    assert "tfew train +experiment=demo" in out
    assert re.search(r"tfew-.*\.whl works: a run, its evaluation, and a label \('\w+'\)\.", out)


def test_a_wheel_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.whl is no wheel: make release"):
        check_wheel.main(["nowhere.whl"])
    with pytest.raises(UserError, match=r"Unknown option 'torch=gpu': torch=cpu and needs=here are known."):
        check_wheel.main(["nowhere.whl", "torch=gpu"])


def test_the_changelogs_table_of_modules() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert len(rows) > 50
    for before, now in rows:
        assert (ROOT / "tfew" / f"{now.replace('.', '/')}.py").is_file(), now
        assert not (ROOT / "tfew" / f"{before.replace('.', '/')}.py").is_file(), before


def test_the_workflow_runs_what_there_is() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    targets = re.findall(r"^([a-z_]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    made = [step["run"].split()[1] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert made == ["env", "check", "test", "env", "release"]
    assert set(made) <= set(targets)
    tested = {
        f"Programming Language :: Python :: {version}" for version in jobs["tests"]["strategy"]["matrix"]["python"]
    }
    assert tested == {line for line in PROJECT["classifiers"] if "Python :: 3." in line}
