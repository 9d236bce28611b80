"""Tests a wheel as its first user would: in a new environment, outside the clone, with a run and a prediction.

    python -m scripts.check_wheel dist/tfew-VERSION.whl               with the wheel's declared dependencies
    python -m scripts.check_wheel dist/tfew-VERSION.whl torch=cpu     ... and torch without CUDA
    python -m scripts.check_wheel dist/tfew-VERSION.whl needs=here    with the libraries installed here: no download

It exits with 1 at the first command that fails. The environment is in a temporary folder, which is removed at the end.
"""

import json
import os
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tfew.cli import run_script
from tfew.environment.versions import requirements
from tfew.errors import UserError

CPU_TORCH = ("--index-url", "https://download.pytorch.org/whl/cpu")
ROW = {"text": "the cat is in the garden .", "claim": "the cat is in the house ."}
RUN = "run"


def main(arguments: Sequence[str]) -> int:
    wheel, *options = arguments or [""]
    if unknown := set(options) - {"torch=cpu", "needs=here"}:
        raise UserError(f"Unknown option {min(unknown)!r}: torch=cpu and needs=here are known.")
    if not Path(wheel).is_file():
        raise UserError(f"{wheel or 'Nothing'} is no wheel: make release puts one into dist/.")
    with TemporaryDirectory(prefix="tfew-wheel-") as folder:
        try_wheel(
            Path(wheel).resolve(), Path(folder), cpu_torch="torch=cpu" in options, needs_here="needs=here" in options
        )
    return 0


def try_wheel(wheel: Path, folder: Path, cpu_torch: bool = False, needs_here: bool = False) -> None:
    """Raises UserError at the first command that fails; `folder` gets the environment and the run."""
    venv.create(folder / "venv", with_pip=True)
    pip: list[str | Path] = [folder / "venv" / "bin" / "pip", "install", "--disable-pip-version-check", "--quiet"]
    if cpu_torch:
        torch = next(str(requirement) for requirement in requirements() if requirement.name == "torch")
        run([*pip, torch, *CPU_TORCH], folder)
    run([*pip, *(["--no-deps"] if needs_here else []), wheel], folder)
    if needs_here:
        packages = next((folder / "venv").glob("lib/*/site-packages"))
        (packages / "needs.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")

    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "rows.jsonl").write_text(json.dumps(ROW) + "\n", encoding="utf-8")
    tfew = folder / "venv" / "bin" / "tfew"
    versions = dict(line.split(maxsplit=1) for line in run([tfew, "--version"], elsewhere).splitlines())
    if not Path(where := versions["configs"]).is_relative_to(folder):
        raise UserError(f"The configurations are read from {where}, not from the wheel.")
    run([tfew, "train", "+experiment=demo", "steps=2", "eval_rows=20", "trainer=cpu", f"run_dir={RUN}"], elsewhere)
    run([tfew, "evaluate", f"adapter={RUN}", "eval_rows=20", "trainer=cpu"], elsewhere)
    run([tfew, "predict", f"adapter={RUN}", "input=rows.jsonl", "output=labels.jsonl", "trainer=cpu"], elsewhere)
    label = json.loads((elsewhere / "labels.jsonl").read_text(encoding="utf-8"))["label"]
    print(f"{wheel.name} works: a run, its evaluation, and a label ({label!r}).")


def run(command: Sequence[str | Path], folder: Path) -> str:
    """Standard output; says what is run, and how long it took."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    shown = " ".join([Path(command[0]).name, *map(str, command[1:])])
    started = time.monotonic()
    done = subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)
    print(f"{time.monotonic() - started:6.1f} s  {shown}", flush=True)
    if done.returncode != 0:
        print(done.stdout + done.stderr, file=sys.stderr)
        raise UserError(f"{shown} ends with {done.returncode}.")
    return done.stdout


if __name__ == "__main__":
    run_script(main)
