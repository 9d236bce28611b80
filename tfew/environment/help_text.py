"""The text of `--help`: examples, the most used settings, the groups; and the parser of the comments in settings files.

It does not compose a configuration, so it is fast. `--help all` is Hydra's own help, with all settings.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from tfew.environment.config_folder import CONFIGS

WIDTH = 110
NAME_WIDTH = 22
HEADING_WORDS = 3  # a single comment line of at most this many words is a section heading
LINE = re.compile(r"(?P<indent> *)(?P<key>[\w.]+):(?: +(?P<value>[^#\s].*?))?(?: +# (?P<comment>.*))?")
# by command, the settings in its help, except `+experiment` and the groups
FIRST = {
    "train": (
        "data", "text", "label", "choices", "template", "folds", "validation", "data_dir", "few_shot", "few_shot_seed",
        "steps", "batch_size", "max_tokens", "init_adapter", "memory_gb", "runs", "resume", "overwrite",
    ),
    "evaluate": (
        "adapter", "base", "data", "label", "data_dir", "eval_rows", "score.norm", "score.method", "icl.mode",
        "icl.shots", "runs", "overwrite",
    ),
    "predict": (
        "adapter", "adapters", "input", "output", "format", "text", "threshold", "coverage", "risk", "sets", "bad_rows",
        "resume", "overwrite", "base", "eval_batch_size",
    ),
    "serve": (
        "adapter", "adapters", "host", "port", "allowed_hosts", "token", "certificate", "key", "manage", "max_items",
        "timeout_seconds",
    ),
    "preview": ("n", "split", "json", "data", "text", "label", "choices", "template", "data_dir", "max_tokens"),
    "cost": ("methods", "table", "measure", "json", "data_dir", "batch_size", "max_tokens"),
    "convert": ("adapter", "to", "output", "repo", "private", "dry_run", "base", "fused_queries"),
}  # fmt: skip
GROUPS = {
    "train": ("experiment", "model", "method", "dataset", "loss", "optimizer", "templates", "trainer", "logger"),
    "evaluate": ("experiment", "model", "dataset", "templates", "trainer"),
    "predict": ("model", "trainer"),
    "serve": ("model", "trainer"),
    "preview": ("experiment", "model", "dataset", "templates"),
    "cost": ("experiment", "model", "method", "dataset", "trainer"),
    "convert": ("model", "method"),
}
ADDED = ("experiment",)  # groups without a default: +GROUP=OPTION


@dataclass(frozen=True)
class Setting:
    """One key of a YAML file: its dotted name, its default as written, and its comment."""

    name: str
    default: str
    comment: str


def file_settings(path: Path) -> list[Setting]:
    """The settings of a file, in order. A comment follows the key, or is on the lines above it."""
    found: list[Setting] = []
    above: list[str] = []
    parents: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            above.append(stripped.removeprefix("#").strip())
            continue
        match = LINE.fullmatch(line.rstrip())
        if match is None:  # an empty line, or one without a key, ends the comment above
            above = []
            continue
        depth = len(match["indent"])
        parents = [(at, key) for at, key in parents if at < depth]
        name = ".".join([*(key for _, key in parents), match["key"]])
        is_heading = len(above) == 1 and len(above[0].split()) <= HEADING_WORDS
        comment = match["comment"] or ("" if is_heading else " ".join(above))
        above = []
        if match["value"]:
            found.append(Setting(name, match["value"], comment))
        else:
            parents.append((depth, match["key"]))
    return [setting for setting in found if not setting.name.startswith(("hydra.", "defaults"))]


def command_settings(command: str) -> dict[str, Setting]:
    """All settings of a command by name, inherited ones first."""
    path = CONFIGS / f"{command}.yaml"
    inherited = re.search(r"^defaults: \[(\w+), _self_\]", path.read_text(encoding="utf-8"), re.M)
    base = command_settings(inherited[1]) if inherited else {}
    return {**base, **{setting.name: setting for setting in file_settings(path)}}


def options(group: str) -> list[str]:
    """The valid names for GROUP=NAME."""
    return sorted(path.relative_to(CONFIGS / group).with_suffix("").as_posix() for path in _files(group))


def _files(group: str) -> Iterator[Path]:
    return (CONFIGS / group).rglob("*.yaml")


def groups_with(key: str, but: Collection[str]) -> list[str]:
    """The groups and sections that contain this key directly, except those in `but`."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the first is ten times as fast, and not everywhere
    below: dict[str, set[str]] = {}
    for path in CONFIGS.rglob("*.yaml"):
        content = yaml.load(path.read_text(encoding="utf-8"), loader) or {}
        folder = path.relative_to(CONFIGS).parts[0]
        sections = content if path.parent == CONFIGS else {folder: content}
        for name, section in sections.items():
            below.setdefault(name, set()).update(section if isinstance(section, dict) else ())
    return sorted(name for name, keys in below.items() if key in keys and name not in but)


def header(command: str) -> str:
    """The lines of `hydra.help.header`: a description of the command, and examples."""
    text = (CONFIGS / f"{command}.yaml").read_text(encoding="utf-8")
    block = re.search(r"^    header: \|\n((?:      .*\n|\n)+)", text, re.M)
    return "" if block is None else re.sub(r"^ {6}", "", block[1], flags=re.M).rstrip()


def short_help(command: str) -> str:
    """At most two screens of 30 lines."""
    found = command_settings(command)
    names = FIRST.get(command, tuple(found))
    lines = [header(command), "", "Settings (KEY=VALUE; quote values with blanks):"]
    for name in names:
        lines += _entry(f"{name}={_plain(found[name].default)}", found[name].comment)
    if command in GROUPS:
        lines += ["", "Groups (GROUP=NAME; with + if the group has no default):"]
        for group in GROUPS[command]:
            name = f"+{group}=" if group in ADDED else f"{group}="
            lines += _entry(name, _shortened(options(group)))
    lines += ["", f"tfew {command} --help all shows all settings; --cfg job the settings of one command line."]
    return "\n".join(lines)


def _plain(default: str) -> str:
    return "" if default == "null" or default.startswith("${") else default


def _entry(name: str, text: str) -> list[str]:
    first, *rest = wrap(text, WIDTH - NAME_WIDTH - 3) or [""]
    pad = " " * (NAME_WIDTH + 3)
    return [f"  {name:<{NAME_WIDTH}} {first}".rstrip(), *(pad + line for line in rest)]


def _shortened(names: Sequence[str], most: int = 14) -> str:
    """Files in a folder are listed once, as `folder/...`."""
    flat = list(dict.fromkeys(f"{name.split('/')[0]}/..." if "/" in name else name for name in names))
    return " ".join(flat[:most]) + (f" and {len(flat) - most} more" if len(flat) > most else "")
