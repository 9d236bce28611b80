"""The data side of a run, from the configuration to rendered prompts. No torch: bad data is found in seconds."""

import json
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from tfew.config import resolved
from tfew.data.dataset import DatasetSpec
from tfew.data.fewshot import few_shot_examples
from tfew.data.sources import load_split
from tfew.data.templates import Template, load_templates, select
from tfew.errors import UserError
from tfew.records import write_atomically
from tfew.schema import Example, Prompt

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """Prompts of one data set. `prompts[i]` are all renders of `examples[i]` that are not empty."""

    spec: DatasetSpec
    examples: list[Example]
    prompts: list[list[Prompt]]
    empty_renders: int

    @property
    def rows(self) -> int:
        return len(self.examples)


def load_spec(config: DictConfig) -> DatasetSpec:
    return DatasetSpec.from_config(resolved(config.dataset))


def train_task(config: DictConfig) -> Task:
    """The few-shot examples with every template that training draws from."""
    spec = load_spec(config)
    templates = select(load_templates(spec.prompts), config.templates.use, config.templates.name)
    if config.templates.use == "original" and config.fidelity.limit_train_templates:
        templates = templates[: spec.train_templates_first]
    examples = few_shot_examples(spec, config.few_shot, config.few_shot_seed, config.shots, _data_dir(config))
    if len(examples) < config.batch_size:
        raise UserError(f"batch_size={config.batch_size}, but there are only {len(examples)} training examples.")
    return _render(spec, examples, templates)


def eval_task(config: DictConfig) -> Task:
    """The evaluation split with every template (`templates.eval=each`) or one drawn per example (`random`)."""
    spec = load_spec(config)
    templates = select(load_templates(spec.prompts), config.templates.use, config.templates.name)
    task = _render(spec, load_split(spec, "eval", _data_dir(config)), templates)
    if config.templates.eval == "each":
        return task
    drawn = [
        [random.Random(f"{config.eval_seed}/{example.idx}").choice(prompts)]
        for example, prompts in zip(task.examples, task.prompts, strict=True)
    ]
    return Task(spec, task.examples, drawn, task.empty_renders)


def save_few_shot(task: Task, path: Path) -> None:
    """The drawn rows as JSON lines, each with its row number in the pool."""
    rows = [json.dumps({**e.fields, "idx": e.idx}, ensure_ascii=False) for e in task.examples]
    write_atomically(path, "\n".join(rows) + "\n")


def _render(spec: DatasetSpec, examples: Sequence[Example], templates: Sequence[Template]) -> Task:
    if not templates:
        raise UserError(f"{spec.name} has no template that fits templates.use; try templates=all.")
    renders = [[template.render(spec.name, example) for template in templates] for example in examples]
    prompts = [[prompt for prompt in row if prompt is not None] for row in renders]
    for example, row in zip(examples, prompts, strict=True):
        if not row:
            raise UserError(
                f"Every template of {spec.name} renders row {example.idx} empty; choose others: templates=."
            )
    return Task(spec, list(examples), prompts, sum(prompt is None for row in renders for prompt in row))


def _data_dir(config: DictConfig) -> Path | None:
    return Path(config.data_dir) if config.data_dir is not None else None
