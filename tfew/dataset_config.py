"""Completes the section `dataset` before a run starts, if it depends on files: a user's table, RAFT's instructions.

The result is an ordinary, self-contained section: a run's config.yaml needs nothing else to render new rows.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tfew.config import parsed_texts, resolved
from tfew.data.dataset import DatasetSpec
from tfew.data.describe_table import TableOptions, describe_table
from tfew.data.label_column import format_verbalizer
from tfew.data.layout import humanize, layout_template, template_names
from tfew.data.sources import has_split, load_split
from tfew.data.templates import load_templates, select_templates
from tfew.errors import UserError
from tfew.files.checksums import file_sha256
from tfew.files.regular import read_text
from tfew.label_sets.describe import describe_label_sets
from tfew.label_sets.recognise import SetOptions, recognise, several
from tfew.tables.formats import read_rows
from tfew.tables.hub_rows import load_hub_table
from tfew.tables.label_file import is_label_file, read_labels
from tfew.tables.stream import file_ending, is_table
from tfew.tables.table_reader import Table, read_table

log = logging.getLogger(__name__)

OWN = ("data", "text", "label", "labels", "choices", "template", "list_labels")
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def complete(config: DictConfig) -> DictConfig:
    """Completes the data set of a checked configuration, in place; returns the configuration."""
    dataset = config.dataset
    given = [key for key in OWN if config.get(key) is not None]
    if given and dataset.get("table") is None:
        raise UserError(
            f"{given[0]}= is for a table of your own: use +experiment=local_english, or +experiment=local with a GPU."
        )
    if dataset.get("table") is not None and dataset.prompts is None:
        _describe_table(config)
    if dataset.get("layout") is not None and dataset.prompts is None:
        _lay_out(config)
    return config


def on_all_rows(config: DictConfig) -> DictConfig:
    """`complete`; if nothing is held out, evaluation uses the training rows, for a model not trained on them."""
    if config.dataset.get("members") is not None:  # the members of a mixture define their evaluation rows
        return config
    spec = DatasetSpec.from_config(resolved(config.dataset))
    if not has_split(spec, "eval"):
        for source in ("files", "hub", "rows"):
            if config.dataset[source] is not None:
                config.dataset[source].eval = config.dataset[source].train
    return config


def on_other_rows(config: DictConfig) -> DictConfig:
    """A finished run's settings with `data=` to evaluate on, whose columns may have other names (`text= label=`)."""
    dataset = config.dataset
    if dataset.get("table") is None:
        raise UserError(f"data= is for runs on a table of your own; this adapter was trained on {dataset.name}.")
    table, source = _load(config)
    pairs = _renamed(config)
    renamed = {**{old: new for old, new in dataset.rename.items() if new not in pairs.values()}, **pairs}
    if "idx" in table.columns and "idx" not in renamed:  # any column, though `idx` of an example is its number
        renamed["idx"] = template_names([*renamed.values(), *dataset.columns, *table.columns])["idx"]
    held_out = {**dataset.held_out, "share": None}
    rows = {"train": None, "eval": None}
    _put(config, {**source, "rename": renamed, "held_out": held_out, "rows": rows})
    return on_all_rows(config)


def with_texts_named(config: DictConfig) -> DictConfig:
    """A finished run's settings for rows to label whose texts are in other columns (`text=`)."""
    if config.dataset.get("table") is None:
        raise UserError(
            f"text= is for runs on a table of your own; this one is on {config.dataset.name}, whose columns"
            " '+dataset.rename={NAME: COLUMN}' renames."
        )
    pairs = _renamed_texts(config)
    kept = {old: new for old, new in config.dataset.rename.items() if new not in pairs.values()}
    _put(config, {"rename": {**kept, **pairs}})
    return config


def _renamed(config: DictConfig) -> dict[str, str]:
    """Columns named on the command line -> the names in the run's templates."""
    back = {new: old for old, new in config.dataset.rename.items()}
    label = config.dataset.label
    known = list(label.get("of_each") or [label.column])
    named = _as_columns(config.label) or []
    if len(named) != len(known):
        raise UserError(f"label={','.join(named)} must name as many columns as the run has: {', '.join(known)}.")
    pairs = zip(named, known, strict=True)
    return _renamed_texts(config) | {name: column for name, column in pairs if name != back.get(column, column)}


def _renamed_texts(config: DictConfig) -> dict[str, str]:
    texts = [column for column in config.dataset.columns if column != config.dataset.label.get("choices")]
    named = _as_columns(config.text) or []
    if len(named) != len(texts):
        raise UserError(f"text={','.join(named)} must name as many columns as the run has texts: {', '.join(texts)}.")
    back = {new: old for old, new in config.dataset.rename.items()}
    return {name: known for name, known in zip(named, texts, strict=True) if name != back.get(known, known)}


def _describe_table(config: DictConfig) -> None:
    if config.data is None:
        raise UserError("data= is missing: the file with your rows (.csv, .tsv, .jsonl, .parquet), or a Hub id.")
    table, source = _load(config)
    template = config.template if config.template is None else _read_template(str(config.template))
    text, label, labels = _as_columns(config.text), _as_columns(config.label), _labels(config)
    if template is not None and config.get("list_labels") is not None:
        raise UserError("list_labels= is for the built-in prompt: with template= the template decides.")
    choices = _choices(config, table)
    options = TableOptions(text, label[0] if label else None, choices, template, labels, config.get("list_labels"))
    # words given by label also name all labels
    known = labels or (list(options.choices) if isinstance(options.choices, Mapping) else None)
    said = several(config.get("multi_label", "auto"))
    sets = recognise(table, SetOptions(label, text, known, said, config.get("separator")))
    described = describe_table(table, options) if sets is None else describe_label_sets(table, options, sets)
    name = _name(str(config.data))
    if config.name == config.dataset.name:
        config.name = name
    rows = {"train": len(table.rows), "eval": None}
    _put(config, {**described.section, **source, "name": name, "rows": rows})
    config.text, config.label = described.text, described.label
    if described.single is not None:
        config.templates.use, config.templates.name = "single", described.single
    notes = [*table.notes, *described.notes, *_answers_of_a_collection(config, table)]
    log.info(f"{table.where}: " + "; ".join(notes) + ".")


def _answers_of_a_collection(config: DictConfig, table: Table) -> list[str]:
    """A note on the first promptsource template's answer for each label: promptsource has its own order."""
    spec = DatasetSpec.from_config(resolved(config.dataset))
    if not isinstance(spec.prompts, str) or spec.label_names is None:
        return []
    template = select_templates(load_templates(spec.prompts), config.templates.use, config.templates.name)[0]
    prompt = template.render(spec.name, spec.example(0, table.rows[0], table.where))
    if prompt is None or len(prompt.choices) != len(spec.label_names):
        return []
    return [f"template {template.name!r} says {format_verbalizer(spec.label_names, prompt.choices)}"]


def _lay_out(config: DictConfig) -> None:
    """`dataset.layout` as a template: instruction and fields come from the settings file, a line each."""
    dataset, layout = config.dataset, config.dataset.layout
    fields, instruction = _settings(config)
    rename = {**template_names(fields), **dataset.rename}
    if config.get("fidelity") is not None and config.fidelity.get("field_order") == "table":
        unworded = {**resolved(dataset), "columns": [], "prompts": [], "rename": {}}
        place = {name: place for place, name in enumerate(_first_fields(DatasetSpec.from_config(unworded), config))}
        fields = sorted(fields, key=lambda name: place.get(name, len(place)))
    columns = {name: rename.get(name, name) for name in fields}
    words = [humanize(name) for name in DatasetSpec.from_config({**resolved(dataset), "columns": []}).label_names or ()]
    jinja = layout_template(columns, layout.question, instruction, layout.labels if layout.list_labels else None)
    prompt = {"name": "layout", "jinja": jinja, "answer_choices": words, "cut": list(columns.values())}
    known = {"columns": list(columns.values()), "rename": rename, "may_be_empty": list(columns.values())}
    _put(config, {**known, "prompts": [prompt]})


def _settings(config: DictConfig) -> tuple[list[str], str]:
    """The fields and the instruction of this task."""
    name, root = config.dataset.name, Path(config.data_dir or ".")
    path = next((root / file for file in config.dataset.layout.settings if (root / file).is_file()), None)
    if path is None:
        raise UserError(
            f"{name} takes its prompt from {' or '.join(config.dataset.layout.settings)} under"
            f" data_dir={config.data_dir}, which is missing. Take src/data/raft_prompt_construction_settings.jsonl of"
            " github.com/r-three/t-few, and put it there under that name, or set 'dataset.layout.settings=[FILE]',"
            " with which the rows may come from the Hub."
        )
    rows = read_rows(path)
    if len(rows) < 2 or not all(name in row for row in rows[:2]):
        raise UserError(f"{path} must have two lines, fields and instruction of each task, with {name!r} in both.")
    return [str(field) for field in rows[0][name]], str(rows[1][name])


def _first_fields(spec: DatasetSpec, config: DictConfig) -> dict[str, Any]:
    """The first training row, with its columns in the table's order."""
    data_dir = None if config.data_dir is None else Path(config.data_dir)
    return load_split(spec, "train", data_dir)[0].fields


def _put(config: DictConfig, keys: dict[str, Any]) -> None:
    """Sets these keys of `dataset`; raises UserError for text with a special meaning there."""
    for key, value in keys.items():
        if bad := next((text for text in _texts(value) if "${" in text or text == "???"), None):
            raise UserError(f"{bad!r} (dataset.{key}) has a special meaning in a configuration: rename it.")
        OmegaConf.update(config, f"dataset.{key}", value, merge=False)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for item in value.items() for part in item for text in _texts(part))
    elif isinstance(value, list):
        yield from (text for part in value for text in _texts(part))


def _load(config: DictConfig) -> tuple[Table, dict[str, Any]]:
    """The table, and the keys of `dataset` that locate it."""
    data = str(config.data)
    path = Path(data).expanduser().resolve()
    if is_table(path.name) or path.exists() or not HUB_ID.fullmatch(data):
        files = {"train": [str(path)], "eval": []}
        table = read_table(path)
        described = {"formats": table.formats, "table": {"sha256": file_sha256(path)}}
        return table, {"files": files, "hub": None, **described}
    usual = {"config": None, "revision": "main", "train": "train", "eval": None}
    source = {**(usual if config.dataset.hub is None else resolved(config.dataset.hub)), "id": data}
    return load_hub_table(source, "train"), {
        "files": {"train": [], "eval": []},
        "hub": source,
        "table": {"sha256": None},
    }


def _read_template(template: str) -> str:
    """Reads Jinja from a file, which avoids quoting for the shell and Hydra."""
    path = Path(template).expanduser()
    if len(template) > 200 or "{" in template or not path.is_file():
        return template
    try:
        return read_text(path)
    except (OSError, ValueError) as error:
        raise UserError(f"template={template} cannot be read: {error}.") from error


def _name(data: str) -> str:
    if is_table(data):
        name = Path(data).name
        data = name[: name.lower().rindex(file_ending(data))]
    return re.sub(r"[^\w.-]+", "_", data) or "table"


def _as_columns(value: Any) -> list[str] | None:
    value = _plain(value)
    return None if value is None else [str(column) for column in (value if isinstance(value, list) else [value])]


def _choices(config: DictConfig, table: Table) -> Any:
    """`choices=` as given, or the contents of the file it names, which then are in the configuration."""
    choices = parsed_texts(_plain(config.choices))
    if isinstance(choices, str) and choices not in table.columns and is_label_file(choices):
        choices = config.choices = read_labels(Path(choices).expanduser())
    return choices


def _labels(config: DictConfig) -> list[Any] | None:
    """All labels, if the user lists them or names a file that does."""
    labels = parsed_texts(_plain(config.get("labels")))
    if isinstance(labels, str) and is_label_file(labels):
        labels = config.labels = list(read_labels(Path(labels).expanduser()))
    if labels is not None and not isinstance(labels, list):
        raise UserError(f"labels={labels} is not a list of labels, as in labels=[spam,ham].")
    return labels


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
