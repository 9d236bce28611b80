"""A command line before anything heavy is imported: `--help`, renamed settings, settings and options that do not exist.

`tfew COMMAND` looks at it before it imports the command, and `python -m tfew.COMMAND` before Hydra composes.
"""

import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tfew.environment.config_folder import CONFIGS
from tfew.environment.help_text import command_settings, groups_with, short_help
from tfew.environment.versions import check_versions
from tfew.errors import UserError, nearest, unknown_value_error

APPENDED = ("experiment", "sweep")  # groups that are in no defaults list
FREE = ("dataset", "hydra")  # groups that also have keys which are not in their files
KEY = re.compile(r"([A-Za-z_]\w*):")  # in YAML
PART = "base"  # an option that others include, and nobody names
OPTION = re.compile(r"[\w./-]+")  # neither null in quotes, nor a function of Hydra's grammar
OTHER_FOLDERS = ("--config-dir", "-cd", "--config-path", "-cp", "hydra.searchpath")  # may have options of their own
# renamed settings: {old: new}. The old name works for one more release, with a warning
RENAMED: dict[str, str] = {"method.layers": "method.targets", "method.linears": "method.targets"}
# settings of older adapters that methods still accept, but that no file of configs/method has
FORMER = (
    "method.keys_values", "method.fused_keys_values", "method.feed_forward_linear_branch", "method.feed_forward_first",
    "method.feed_forward_second",
)  # fmt: skip


def check_command_line(config_name: str) -> None:
    """Ends the process after `--help`, and with one sentence for a setting that does not exist.

    Otherwise `sys.argv` holds the settings under their present names.
    """
    if {"--help", "-h"} & {*sys.argv[1:]}:
        if sys.argv[1:] != ["--help", "all"]:
            print(short_help(config_name))
            sys.exit()
        sys.argv[1:] = ["--help"]  # Hydra's own
        return
    try:
        check_versions()
        sys.argv[1:] = with_new_names(sys.argv[1:])
        check_keys(sys.argv[1:], config_name)
    except UserError as error:
        sys.exit(str(error))


def with_new_names(arguments: Sequence[str]) -> list[str]:
    """The command line with renamed settings under their new names; warns about each."""
    renamed = []
    for argument in arguments:
        marked, equals, value = argument.partition("=")
        key = marked.lstrip("+~")
        if key in RENAMED:
            print(f"{key}= is now called {RENAMED[key]}=; the next release removes the old name.", file=sys.stderr)
            marked = marked.removesuffix(key) + RENAMED[key]
        if key in FORMER and not marked.startswith("++"):
            print(f"{key}= is the setting of before version 0.3; use method.targets= instead.", file=sys.stderr)
            marked = f"++{key}"
        renamed.append(marked + equals + value)
    return renamed


def check_keys(overrides: Sequence[str], config_name: str) -> None:
    """Raises UserError for an unknown setting or an unknown option of a group, and suggests the nearest one."""
    _check_options(overrides)
    known = _keys(config_name)
    for override in overrides:
        key, equals, value = override.partition("=")
        top = key.partition(".")[0]
        if not equals or not top.isidentifier():  # with + or ~, of a package, or a flag
            continue
        if top in APPENDED:
            raise UserError(f"{key}={value} must be appended: use +{key}={value}.")
        names = _keys_below(top) if top in known else known
        leaf = key.rpartition(".")[2] if top in known else key
        if (top not in known) if leaf == key else (names and leaf not in names):
            near = nearest(leaf, names)
            meant = [] if near is None else [f"{key.removesuffix(leaf)}{near}="]
            if leaf == key:  # in a group: optimizer.lr= for lr=
                meant = [f"{group}.{key}=" for group in groups_with(key, but=(*FREE, *APPENDED))] or meant
            question = f" Did you mean {' or '.join(meant)}?" if meant else ""
            raise UserError(f"{key}= is not a setting.{question} --help all lists them.")


def _check_options(overrides: Sequence[str]) -> None:
    """Of `model=NAME`, `+experiment=NAME` and the like; in a sweep, of each name."""
    if any(override.lstrip("+").startswith(OTHER_FOLDERS) for override in overrides):
        return
    for override in overrides:
        group, equals, value = override.partition("=")
        group = group.lstrip("+")
        if not equals or group not in _groups() or not all(map(OPTION.fullmatch, names := value.split(","))):
            continue
        options = option_names(group)
        for name in names:
            if name != "null" and name.removesuffix(".yaml") not in options:
                known = [option for option in options if option.rpartition("/")[2] != PART]
                raise unknown_value_error(group, name, known, f"{'+' * (group in APPENDED)}{group}=")


@cache
def _groups() -> frozenset[str]:
    """Those whose options are all ours: of hydra= others have some."""
    return frozenset(path.name for path in CONFIGS.iterdir() if path.is_dir() and path.name != "hydra")


def option_names(group: str) -> list[str]:
    return sorted(path.relative_to(CONFIGS / group).with_suffix("").as_posix() for path in _files(group))


def _files(group: str) -> list[Path]:
    return list((CONFIGS / group).rglob("*.yaml"))


@cache
def _keys(config_name: str) -> frozenset[str]:
    """Settings and groups at the top level of this configuration."""
    groups = {*_groups(), "hydra"} - {*APPENDED}
    return frozenset({"defaults", *groups, *(name.partition(".")[0] for name in command_settings(config_name))})


@cache
def _keys_below(group: str) -> frozenset[str]:
    """All keys in a group's files, and of that group in the root configurations; empty if any key is allowed."""
    if group in FREE:
        return frozenset()
    files = [*_files(group), *CONFIGS.glob("*.yaml")]
    return frozenset(key for file in files for key in KEY.findall(file.read_text(encoding="utf-8")))
