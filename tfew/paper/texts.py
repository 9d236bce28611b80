"""Renders single rows with a run's templates, if its data can be loaded without the Hub."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfew.errors import UserError
from tfew.runs.records import RunRecord
from tfew.schema import Prompt

log = logging.getLogger(__name__)


def render_prompts(record: RunRecord, dataset: str, wanted: Sequence[tuple[int, str]]) -> dict[tuple[int, str], Prompt]:
    """(Row number, template) -> prompt, for those that can be rendered; nothing is downloaded.

    The files may have changed since the run: the caller must compare choices and label with what was ranked.
    """
    try:
        return _prompts(record.config, dataset, wanted)
    except (UserError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        log.info(f"Note: no texts of {dataset}: {error}")
        return {}


def _prompts(
    config: Mapping[str, Any], dataset: str, wanted: Sequence[tuple[int, str]]
) -> dict[tuple[int, str], Prompt]:
    from tfew.data.dataset import DatasetSpec
    from tfew.data.sources import is_local, load_split
    from tfew.data.templates import load_templates

    members = config["dataset"].get("members") or {config["dataset"]["name"]: config["dataset"]}
    spec = DatasetSpec.from_config(members[dataset])
    folder = Path(config["data_dir"]) if config.get("data_dir") else None
    if not is_local(spec, "eval", folder):
        return {}
    names = {template for _, template in wanted}
    templates = {template.name: template for template in load_templates(spec.prompts) if template.name in names}
    rows = {idx for idx, _ in wanted}
    examples = {}
    for example in load_split(spec, "eval", folder):
        if example.idx in rows:
            examples[example.idx] = example
        if len(examples) == len(rows):
            break
    rendered = {
        (idx, name): templates[name].render(dataset, examples[idx])
        for idx, name in wanted
        if name in templates and idx in examples
    }
    return {key: prompt for key, prompt in rendered.items() if prompt is not None}
