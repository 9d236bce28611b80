"""The section `dataset` made whole before a run starts, where it rests on files: a user's table, RAFT's instructions.

What comes out is an ordinary section, complete in itself: a run's config.yaml needs nothing else to word new rows.
"""

import logging
import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tfew.config import resolved
from tfew.data.dataset import DatasetSpec
from tfew.data.hub_sets import hub_table
from tfew.data.local import Wishes, describe
from tfew.data.sources import file_hash, has_split
from tfew.data.table import ENDINGS, Table, read_table
from tfew.errors import UserError

log = logging.getLogger(__name__)

OWN = ("data", "text", "label", "choices", "template")
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def complete(config: DictConfig) -> DictConfig:
    """The configuration (a checked one) with its data set described in full; changed in place and returned."""
    if config.dataset.get("table") is None:
        given = [key for key in OWN if config.get(key) is not None]
        if given:
            raise UserError(f"{given[0]}= is for a table of your own: say +experiment=local (or dataset=local).")
        return config
    if config.dataset.prompts is None:
        _describe_table(config)
    return config


def on_all_rows(config: DictConfig) -> DictConfig:
    """The same; where nothing is held out to evaluate on, the training rows are, for a model not trained on them."""
    spec = DatasetSpec.from_config(resolved(config.dataset))
    if not has_split(spec, "eval"):
        for source in ("files", "hub", "rows"):
            if config.dataset[source] is not None:
                config.dataset[source].eval = config.dataset[source].train
    return config


def on_other_rows(config: DictConfig) -> DictConfig:
    """A finished run's settings with `data=` to evaluate on, whose columns may be called otherwise (`text= label=`)."""
    dataset = config.dataset
    if dataset.get("table") is None:
        raise UserError(f"data= is for a run on a table of one's own; this adapter was trained on {dataset.name}.")
    _, source = _load(config)
    renamed = {**dataset.rename, **_renamed(config)}
    held_out = {**dataset.held_out, "share": None}
    rows = {"train": None, "eval": None}
    for key, value in {**source, "rename": renamed, "held_out": held_out, "rows": rows}.items():
        OmegaConf.update(config, f"dataset.{key}", value, merge=False)
    return on_all_rows(config)


def _renamed(config: DictConfig) -> dict[str, str]:
    """The columns named on the command line -> those that the run's templates know."""
    texts = [column for column in config.dataset.columns if column != config.dataset.label.get("choices")]
    named = _as_columns(config.text) or []
    if len(named) != len(texts):
        raise UserError(f"text={','.join(named)} must name as many columns as the run has texts: {', '.join(texts)}.")
    back = {new: old for old, new in config.dataset.rename.items()}
    pairs = [*zip(named, texts, strict=True), (str(config.label), config.dataset.label.column)]
    return {name: known for name, known in pairs if name != back.get(known, known)}


def _describe_table(config: DictConfig) -> None:
    if config.data is None:
        raise UserError("data= is missing: the file with your rows (.csv, .tsv, .jsonl, .parquet), or a Hub id.")
    table, source = _load(config)
    template = config.template if config.template is None else _read_template(str(config.template))
    wishes = Wishes(_as_columns(config.text), _as_name(config.label), _plain(config.choices), template)
    described = describe(table, wishes)
    name = _name(str(config.data))
    if config.name == config.dataset.name:
        config.name = name
    rows = {"train": len(table.rows), "eval": None}
    for key, value in {**described.section, **source, "name": name, "rows": rows}.items():
        OmegaConf.update(config, f"dataset.{key}", value, merge=False)
    config.text, config.label = described.text, described.label
    if described.single is not None:
        config.templates.use, config.templates.name = "single", described.single
    log.info(f"{table.where}: " + "; ".join(described.notes) + ".")


def _load(config: DictConfig) -> tuple[Table, dict[str, Any]]:
    """The table, and the keys of `dataset` that say where it is."""
    data = str(config.data)
    path = Path(data).expanduser().resolve()
    if path.suffix.lower() in ENDINGS or path.exists() or not HUB_ID.fullmatch(data):
        files = {"train": [str(path)], "eval": []}
        return read_table(path), {"files": files, "hub": None, "table": {"sha256": file_hash(path)}}
    source = {**resolved(config.dataset.hub), "id": data}
    return hub_table(source, "train"), {"hub": source}


def _read_template(template: str) -> str:
    """Jinja that stands in a file, which spares the shell's and Hydra's quotation marks."""
    path = Path(template).expanduser()
    if len(template) > 200 or "{" in template or not path.is_file():
        return template
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"template={template} cannot be read: {error}.") from error


def _name(data: str) -> str:
    return re.sub(r"[^\w.-]+", "_", Path(data).stem if Path(data).suffix.lower() in ENDINGS else data) or "table"


def _as_columns(value: Any) -> list[str] | None:
    value = _plain(value)
    return None if value is None else [str(column) for column in (value if isinstance(value, list) else [value])]


def _as_name(value: Any) -> str | None:
    return None if value is None else str(value)


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
