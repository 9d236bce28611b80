"""The Python of an environment: the named one, its creator, or the first that is new enough; else an error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def python(path: Path, version: str) -> Path:
    """A program that answers what the script asks, as a Python of this version would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    old = tuple(map(int, version.split("."))) < (3, 11)
    path.write_text(f'#!/bin/sh\ncase "$2" in *exit*) exit {int(old)};; *base*) echo "$0";; *) echo {version};; esac\n')
    path.chmod(0o755)
    return path


def find(venv: Path, *named: str, only: Path | None = None) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PATH": str(only)} if only else None
    script = str(ROOT / "scripts" / "find_python.sh")
    return subprocess.run(["/bin/sh", script, str(venv), *named], capture_output=True, text=True, env=environment)


def refused(venv: Path, *named: str, only: Path | None = None) -> str:
    result = find(venv, *named, only=only)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    return result.stderr.strip()


def test_the_real_one() -> None:
    found = find(ROOT / "nowhere", sys.executable).stdout.strip()
    assert subprocess.check_output([found, "-c", "import sys; print(sys.version)"], text=True).strip() == sys.version


def test_the_first_that_is_new_enough(tmp_path: Path) -> None:
    python(tmp_path / "bin" / "python3", "3.10")
    newer = python(tmp_path / "bin" / "python3.12", "3.12")
    assert find(tmp_path / "venv", only=tmp_path / "bin").stdout.strip() == str(newer)
    made = python(tmp_path / "venv" / "bin" / "python", "3.11")
    assert find(tmp_path / "venv", only=tmp_path / "bin").stdout.strip() == str(made)
    assert find(tmp_path / "venv", str(python(tmp_path / "named", "3.11"))).returncode == 0


def test_too_old_or_not_there(tmp_path: Path) -> None:
    old = python(tmp_path / "bin" / "python3", "3.10")
    assert refused(tmp_path / "venv", only=tmp_path / "bin") == (
        "No Python 3.11 or newer was found: install one, or name it with PYTHON=."
    )
    assert "python3 is Python 3.10, and 3.11 or newer is needed" in refused(tmp_path / "venv", str(old))
    assert refused(tmp_path / "venv", "/no/python").startswith("PYTHON=/no/python cannot be run: name a Python")


@pytest.mark.parametrize("named", [True, False])
def test_an_environment_of_another_version(named: bool, tmp_path: Path) -> None:
    here = python(tmp_path / "bin" / "python3", "3.12")
    python(tmp_path / "venv" / "bin" / "python", "3.10")
    arguments = (str(here),) if named else ()
    sentence = refused(tmp_path / "venv", *arguments, only=tmp_path / "bin")
    assert f"{tmp_path}/venv was made by a Python 3.10, and " in sentence
    assert f"python3 is 3.12: remove it (rm -r {tmp_path}/venv), or name its PYTHON=." in sentence


def test_an_environment_whose_python_is_gone(tmp_path: Path) -> None:
    python(tmp_path / "bin" / "python3", "3.12")
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    assert find(tmp_path / "venv", only=tmp_path / "bin").returncode == 0, "making it was interrupted: it goes on"
    (tmp_path / "venv" / "bin" / "python").symlink_to("/no/python")
    assert "venv was made by a Python that is gone, and python3" in refused(tmp_path / "venv", only=tmp_path / "bin")


def make(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """As at a prompt: what a make that runs these tests hands to its children is left out, its own lines with it."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def test_make_env(tmp_path: Path) -> None:
    """What would be run, in which order; nothing is installed."""
    lines = make("-n", "env", "TORCH=cpu", f"VENV={tmp_path}/venv").stdout.splitlines()
    installs = [line for line in lines if "bin/pip install" in line]
    assert len(installs) == 4
    assert "torch==" in installs[0]
    assert installs[0].endswith(" --extra-index-url https://download.pytorch.org/whl/cpu")
    assert installs[1].endswith("-r requirements.txt")
    assert "--ignore-requires-python promptsource==" in installs[2]
    assert installs[3].endswith("-e .")
    assert lines[-1] == f"touch {tmp_path}/venv/.ready", "after all else, so that an interrupted one is begun again"
    assert (
        len([line for line in make("-n", "env", f"VENV={tmp_path}/venv").stdout.splitlines() if "pip in" in line]) == 3
    )


def test_make_installs_nothing_where_the_python_does_not_fit(tmp_path: Path) -> None:
    result = make("env", f"PYTHON={python(tmp_path / 'python3', '3.10')}", f"VENV={tmp_path}/venv")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"PYTHON={tmp_path}/python3 is Python 3.10, and 3.11 or newer is needed")
    assert not (tmp_path / "venv").exists()
