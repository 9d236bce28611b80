"""Generate the pages of docs/reference from the YAML files: settings by command, groups, models."""

from pathlib import Path

from tfew.__main__ import COMMANDS
from tfew.doctor.named_models import named_models
from tfew.environment.config_folder import CONFIGS
from tfew.environment.help_text import command_settings, file_settings, header, options

GROUPS = {
    "model": "The base model. `model.KEY=` changes one of its keys, which are explained in `configs/model/t0_3b.yaml`.",
    "method": "The fine-tuning method. The values are the official code's.",
    "loss": "Weights of the three loss terms, and the score used for ranking.",
    "optimizer": "",
    "templates": "The prompt templates.",
    "trainer": "Devices.",
    "logger": "Where the curves of a run are logged, in addition to `metrics.csv`.",
    "fidelity": "Switches for known differences between the paper, its code and this project.",
}
NO_HYDRA = ("doctor",)


def pages() -> dict[str, str]:
    """The pages by file name; they are committed, so that they can be read without a build."""
    return {"settings.md": settings_page(), "commands.md": commands_page(), "models.md": models_page()}


def write_pages(folder: Path) -> None:
    for name, text in pages().items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def settings_page() -> str:
    """Settings of `train`, additional settings of other commands, and the keys of each group's default file."""
    train = command_settings("train")
    parts = [
        "# Settings",
        "Settings are given as `KEY=VALUE`, for every command. This page is generated from the files in `configs/`.",
        "## tfew train",
        "`evaluate`, `predict`, `serve`, `preview`, `cost` and `convert` accept these settings as well, if they apply.",
        _table(train.values()),
    ]
    for command in COMMANDS:
        if command in ("train", *NO_HYDRA):
            continue
        own = [setting for name, setting in command_settings(command).items() if train.get(name) != setting]
        parts += [f"## tfew {command}", _table(own)]
    parts.append("## Groups")
    for group, what in GROUPS.items():
        names = options(group)
        parts += [f"### {group}=", what, f"One of {', '.join(f'`{name}`' for name in names)}."]
        if group in ("loss", "templates", "trainer", "fidelity"):
            default = {"loss": "tfew", "templates": "original", "trainer": "auto", "fidelity": "ours"}[group]
            settings = file_settings(CONFIGS / group / f"{default}.yaml")
            parts.append(_table(settings, prefix=f"{group}."))
    return "\n\n".join(part for part in parts if part) + "\n"


def commands_page() -> str:
    parts = ["# Commands", "`tfew COMMAND` is the same as `python -m tfew.COMMAND`."]
    for command, what in COMMANDS.items():
        parts += [f"## tfew {command}", f"{what[0].upper()}{what[1:]}."]
        if command not in NO_HYDRA:
            parts.append(f"```text\n{header(command)}\n```")
    return "\n\n".join(parts) + "\n"


def models_page() -> str:
    lines = [
        "# Models by name",
        "`model=NAME` selects one of these models; `model.path=` loads any other encoder-decoder or decoder-only"
        " checkpoint. The licence and the source of each shape are in the model's file in `configs/model/`.",
        "| `model=` | parameters | description |\n|---|---:|---|",
    ]
    rows = [f"| `{model.name}` | {model.parameters:,} | {_first_sentence(model.name)} |" for model in named_models()]
    return "\n\n".join(lines) + "\n" + "\n".join(rows) + "\n"


def _first_sentence(model: str) -> str:
    comments = []
    for line in (CONFIGS / "model" / f"{model}.yaml").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comments.append(line.removeprefix("#").strip())
    return _cell(" ".join(comments).partition(". ")[0])


def _table(settings: object, prefix: str = "") -> str:
    rows = [f"| `{prefix}{s.name}` | `{s.default}` | {_cell(s.comment)} |" for s in settings]  # type: ignore[attr-defined]
    return "\n".join(["| setting | default | description |", "|---|---|---|", *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("{", "&#123;")
