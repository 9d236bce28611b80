"""Wheels for a GPU machine without a network: `python -m scripts.bench.gpu_wheels wheels`, then there

    pip install --no-index --no-deps wheels/*.whl && make test_gpu

They are this package's dependencies, in the versions that are installed here, except those that such a machine already
has (`PRESENT`: torch and its dependencies). `--python 3.12` is the version of its Python.
"""

import subprocess
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE, PLATFORMS = "tfew", ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "any")
PRESENT = {
    "torch", "triton", "numpy", "setuptools", "pip", "sympy", "networkx", "mpmath", "filelock", "fsspec", "jinja2",
    "markupsafe",
}  # fmt: skip
OF_TESTS = ("pytest", "peft", "accelerate")


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in sorted(needed((PACKAGE, *OF_TESTS), options.python) - {PACKAGE}):
        fetch(f"{name}=={version(name)}", options.folder, options.python)
    wheels = sorted(options.folder.glob("*.whl"), key=lambda path: -path.stat().st_size)
    for path in wheels:
        print(f"{path.stat().st_size / 1e6:8.1f} MB  {path.name}")
    print(f"{sum(path.stat().st_size for path in wheels) / 1e6:8.1f} MB in {len(wheels)} wheels")


def needed(names: Iterable[str], python: str) -> set[str]:
    """These distributions and all that they need there, as far as they are installed here."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux", "extra": ""}
    while waiting:
        name = waiting.pop()
        if name in found | PRESENT or name.startswith("nvidia-"):
            continue
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:  # of an extra, or for another system
            continue
        found.add(name)
        for requirement in map(Requirement, requires):
            if requirement.marker is None or requirement.marker.evaluate(environment):
                waiting.append(canonicalize_name(requirement.name))
    return found


def fetch(pinned: str, folder: Path, python: str) -> None:
    """The wheel for that machine; what has only a source distribution is built here, and must be plain Python."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    download = [*pip, "download", "--no-deps", "--only-binary=:all:", "--python-version", python, *platforms]
    if subprocess.run([*download, "--dest", str(folder), pinned], capture_output=True).returncode:
        subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), pinned], check=True)


if __name__ == "__main__":
    main()
