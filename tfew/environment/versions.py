"""This package's own version, and checks that required libraries are installed in supported versions.

Ranges and extras are defined once, in pyproject.toml: a clone reads that file (its metadata may be older than its code,
or missing), an installed package the metadata generated from it. No library is imported for this.
"""

import tomllib
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from tfew.errors import UserError

PACKAGE = "tfew"
PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"  # in a clone


def own_version() -> str:
    return _declared()[0]


def installed(name: str) -> str | None:
    """The version of a library; None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def misfit(requirement: Requirement) -> str | None:
    """The installed version if it is outside the range. A build or a preview counts as its release."""
    found = installed(requirement.name)
    return found if found and not requirement.specifier.contains(Version(found).base_version) else None


@cache
def check_versions() -> None:
    """Raises UserError for a library in an unsupported version; a missing library is reported when it is used."""
    for requirement in requirements():
        if found := misfit(requirement):
            raise UserError(
                f"{requirement.name} {found} cannot be used: {PACKAGE} {own_version()} needs {requirement.specifier}:"
                f" {pip_install([requirement])} (or make env, for the versions that were tested)."
            )


def require(what: str, extra: str) -> None:
    """Raises UserError if a library of an extra of this package is missing, which `what` needs."""
    missing = [requirement for requirement in requirements(extra) if installed(requirement.name) is None]
    if missing:
        raise UserError(
            f"{what} needs {', '.join(requirement.name for requirement in missing)}, not installed here:"
            f" {pip_install(missing)} (the extra [{extra}] of this package)."
        )


def pip_install(requirements: Iterable[Requirement]) -> str:
    """The command line, quoted since a shell would interpret < and >."""
    return " ".join(["pip install", *(f'"{r}"' if r.specifier else r.name for r in requirements)])


def requirements(extra: str = "") -> list[Requirement]:
    """The requirements of this package, or of one of its extras."""
    return [Requirement(line) for line in _declared()[1][extra]]


@cache
def _declared() -> tuple[str, dict[str, list[str]]]:
    """The version, and the requirements by extra; "": those without one."""
    if PYPROJECT.is_file():
        project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == PACKAGE:
            return project["version"], {"": project["dependencies"], **project["optional-dependencies"]}
    lines = defaultdict(list)
    for line in metadata.requires(PACKAGE) or []:
        requirement, _, extra = line.partition("; extra == ")
        lines[extra.strip("\"'")].append(requirement)
    return metadata.version(PACKAGE), lines
