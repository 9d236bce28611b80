"""The data side of a run, from the configuration to rendered prompts. No torch: bad data is found in seconds."""

import json
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from tfew.config import resolved
from tfew.data.content_free import content_columns, content_free_example, with_content_free
from tfew.data.dataset import DatasetSpec
from tfew.data.fewshot import few_shot_examples, save_few_shot
from tfew.data.members import load_mixture, local_members
from tfew.data.mixture import MixtureSpec
from tfew.data.sources import find_source, has_split, is_local, load_split
from tfew.data.templates import Template, load_templates, select_templates
from tfew.errors import UserError
from tfew.files.atomic import write_atomically
from tfew.label_sets.questions import has_label_sets, refuse_in_context, render
from tfew.runs.run_folder import MIXTURE_FILE, few_shot_path
from tfew.schema import Example, Prompt

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """Prompts to train on or to rank. `prompts[i]` are the non-empty renders of row i.

    `examples` are those rows, none for training on a mixture, whose rows are read on demand. `mixture`, if there is
    one, has each member's contribution and the members left out. `classes` are the labels as spelt in the data, if they
    mean the same in every row; `several`: a row may have any number of them. `random_template`: each row has one,
    drawn at random (`templates.eval=random`).
    """

    name: str
    examples: Sequence[Example]
    prompts: Sequence[Sequence[Prompt]]
    empty_renders: int
    mixture: dict[str, Any] | None = None
    classes: tuple[str, ...] | None = None
    several: bool = False
    random_template: bool = False

    @property
    def rows(self) -> int:
        return len(self.prompts)

    @property
    def unknown_labels(self) -> dict[int, str]:
        """The labels that are not the task's, by `idx`."""
        return {e.idx: e.unknown_label for e in self.examples if e.unknown_label is not None}

    def only(self, rows: Sequence[int]) -> "Task":
        """The same with these rows only."""
        return replace(self, examples=[self.examples[row] for row in rows], prompts=[self.prompts[row] for row in rows])


def _are(number: int, what: str) -> str:
    return f"is only one {what}" if number == 1 else f"are only {number} {what}s"


def load_spec(config: DictConfig) -> DatasetSpec:
    return DatasetSpec.from_config(resolved(config.dataset))


def load_mixture_spec(config: DictConfig) -> MixtureSpec | None:
    """The data set as a mixture; None if it is a single one."""
    if config.dataset.get("members") is None:
        return None
    if config.templates.use == "single":
        raise UserError("templates=single names one template, but a mixture has many data sets: use original or all.")
    return MixtureSpec.from_config(resolved(config.dataset))


@dataclass(frozen=True)
class InContext:
    """The solved examples of in-context learning, in order, and as (input, answer) by each template."""

    examples: Sequence[Example]
    shots: Mapping[str, tuple[tuple[str, str], ...]]


def train_task(config: DictConfig) -> Task:
    """The few-shot examples with every template that training draws from, or the mixture."""
    mixture = load_mixture_spec(config)
    task = _few_shot_task(config) if mixture is None else _mixture_task(config, mixture)
    if task.rows < config.batch_size:
        raise UserError(
            f"batch_size={config.batch_size}, but there {_are(task.rows, 'training example')}: set"
            f" batch_size={task.rows} or less, or add rows."
        )
    return task


def _few_shot_task(config: DictConfig) -> Task:
    spec = load_spec(config)
    templates = train_templates(config, spec)
    examples = few_shot_examples(spec, config.few_shot, config.few_shot_seed, config.shots, data_folder(config))
    return _render(spec, examples, templates, labelled=True)


def train_templates(config: DictConfig, spec: DatasetSpec) -> list[Template]:
    """The templates that training draws from."""
    templates = select_templates(load_templates(spec.prompts), config.templates.use, config.templates.name)
    limited = config.templates.use == "original" and config.fidelity.limit_train_templates
    return templates[: spec.train_templates_first] if limited else templates


def in_context(config: DictConfig) -> InContext | None:
    """`icl.shots` of the few-shot examples in an order drawn by `icl.order_seed`; None without in-context learning."""
    if config.icl.mode == "none":
        return None
    if load_mixture_spec(config) is not None:
        raise UserError(
            f"icl.mode={config.icl.mode}: {config.dataset.name} is a mixture; name one data set (dataset=)."
        )
    spec = load_spec(config)
    refuse_in_context(spec)
    pool = few_shot_examples(spec, config.few_shot, config.few_shot_seed, config.shots, data_folder(config))
    wanted = config.icl.shots or len(pool)
    if wanted > len(pool):
        raise UserError(f"icl.shots={wanted}, but there are {len(pool)} few-shot examples (shots=).")
    examples = random.Random(f"{config.few_shot_seed}/order {config.icl.order_seed}").sample(list(pool), wanted)
    templates = select_templates(load_templates(spec.prompts), config.templates.use, config.templates.name)
    shots = {}
    for template in templates:
        rendered = [template.render(spec.name, example, spec.row_number(example)) for example in examples]
        shots[template.name] = tuple((p.input, p.choices[p.label]) for p in rendered if p and p.label is not None)
        if not shots[template.name]:
            raise UserError(
                f"Template {template.name!r} of {spec.name} renders none of the {wanted} shots: choose others"
                f" ({'templates=' if spec.table is None else 'template='}) or more shots (icl.shots=)."
            )
    return InContext(examples, shots)


def _mixture_task(config: DictConfig, spec: MixtureSpec) -> Task:
    loaded = load_mixture(spec, config.templates.use, data_folder(config))
    probed, empty = loaded.mixture.probe()
    if empty:
        log.info(
            f"Note: {empty} of {probed} renders of first rows are empty; the next template or row is used instead."
        )
    return Task(spec.name, (), loaded.mixture, empty, loaded.describe())


def local_task(config: DictConfig, spec: MixtureSpec) -> Task | None:
    """The mixture of the members available without the Hub; None if there are none."""
    local = local_members(spec, data_folder(config))
    return None if local is None else _mixture_task(config, local)


def tasks_at_hand(config: DictConfig) -> tuple[Task | None, Task | None]:
    """The training and evaluation tasks available locally: from `data_dir=`, `data=`, or generated.

    (None, None) if no data are named; raises UserError if they are and there is nothing to train on.
    """
    data_dir, mixture = data_folder(config), load_mixture_spec(config)
    if mixture is not None:
        return local_task(config, mixture), None
    spec = load_spec(config)
    if data_dir is None and spec.generator is None and spec.table is None:
        return None, None
    at_hand = spec.table is not None or is_local(spec, "eval", data_dir)
    return train_task(config), eval_task(config) if at_hand else None


def eval_task(config: DictConfig) -> Task | None:
    """The evaluation split with every template (`templates.eval=each`) or one drawn per example (`random`).

    For a mixture, the splits of all members that have one and can be ranked. None if there is nothing to evaluate.
    """
    mixture = load_mixture_spec(config)
    if mixture is None:
        spec = load_spec(config)
        return _eval_single(config, spec, data_folder(config)) if has_split(spec, "eval") else None
    if not mixture.evaluate:
        return None
    data_dir = data_folder(config)
    tasks, without = [], []
    for name, member in mixture.members.items():
        place = data_dir if is_local(member, "train", data_dir) else None  # both splits come from the same place
        rankable = any(template.has_choices for template in load_templates(member.prompts))
        if rankable and find_source(member, "eval", place, or_hub=place is None):
            tasks.append(_eval_single(config, member, place))
        else:
            without.append(name)
    if not tasks:
        raise UserError(f"No member of {mixture.name} has an evaluation split here: set dataset.evaluate=false.")
    if without:
        log.info(f"Note: not evaluated, without an evaluation split or answer choices: {', '.join(without)}.")
    return Task(
        mixture.name,
        [example for task in tasks for example in task.examples],
        [prompts for task in tasks for prompts in task.prompts],
        sum(task.empty_renders for task in tasks),
        {"members": {task.name: {"rows": task.rows} for task in tasks}, "left_out": without},
        random_template=any(task.random_template for task in tasks),
    )


def _eval_single(config: DictConfig, spec: DatasetSpec, data_dir: Path | None) -> Task:
    templates = select_templates(load_templates(spec.prompts), config.templates.use, config.templates.name)
    if spec.table is not None and config.get("labels") != "strict":  # old runs lack some settings
        spec = replace(spec, takes_unknown_labels=True)
    examples = list(islice(load_split(spec, "eval", data_dir), config.get("eval_rows")))
    task = _render(spec, examples, templates)
    if config.score.get("method") == "calibrated":
        task = _with_content_free(spec, task, templates)
    if config.templates.eval == "each":
        return task
    drawn = [
        [random.Random(f"{config.eval_seed}/{example.idx}").choice(prompts)]
        for example, prompts in zip(task.examples, task.prompts, strict=True)
    ]
    return replace(task, prompts=drawn, random_template=True)


def unlabelled_task(config: DictConfig) -> Task:
    """The rows of the split "test", which have no labels, each in the first template."""
    spec = load_spec(config)
    templates = select_templates(load_templates(spec.prompts), config.templates.use, config.templates.name)
    return _render(spec, load_split(spec, "test", data_folder(config), labelled=False), templates[:1])


def _with_content_free(spec: DatasetSpec, task: Task, templates: Sequence[Template]) -> Task:
    by_name = {template.name: template for template in templates}
    columns = content_columns(task.examples, spec.columns)
    prompts = []
    for example, row in zip(task.examples, task.prompts, strict=True):
        free = content_free_example(example, columns)
        prompts.append([with_content_free(p, by_name[p.template].render(spec.name, free)) for p in row])
    return replace(task, prompts=prompts)


def save_training_rows(config: DictConfig, task: Task, folder: Path) -> None:
    """Saves the drawn shots, or the mixture's description; if all rows are used, they are in the data itself."""
    if task.mixture is not None:
        save_mixture(task, folder / MIXTURE_FILE)
    elif config.few_shot != "all":
        save_shots(config, task.examples, folder)


def save_shots(config: DictConfig, examples: Sequence[Example], folder: Path) -> None:
    save_few_shot(examples, few_shot_path(folder, config.dataset.official_name, config.shots, config.few_shot_seed))


def save_mixture(task: Task, path: Path) -> None:
    """Saves the description of the mixture; raises UserError if the run to resume had another one."""
    text = json.dumps(task.mixture, indent=1) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise UserError(
            f"{path}: the run so far was on another mixture (members or rows were added or removed): restore the"
            " data, or start over with resume=false."
        )
    write_atomically(path, text)


def _render(
    spec: DatasetSpec, examples: Sequence[Example], templates: Sequence[Template], labelled: bool = False
) -> Task:
    """`labelled`: leave out renders without a known right choice, as if empty."""
    if not templates:
        raise UserError(f"{spec.name} has no template that fits templates.use; try templates=all.")
    renders = [
        [render(spec, template, example, spec.row_number(example)) for template in templates] for example in examples
    ]
    prompts = [
        [prompt for prompt in row if prompt is not None and (prompt.has_label or not labelled)] for row in renders
    ]
    for example, row in zip(examples, prompts, strict=True):
        if not row:
            remedy = "choose others: templates=" if spec.table is None else "fill in its columns, or change template="
            raise UserError(f"Every template of {spec.name} renders row {spec.row_number(example)} empty; {remedy}.")
        if spec.classes and not row[0].questions:
            _check_order(spec, example, row)
    empty = sum(map(len, renders)) - sum(map(len, prompts))
    classes = spec.label_names if spec.classes else None
    return Task(spec.name, list(examples), prompts, empty, classes=classes, several=has_label_sets(spec))


def _check_order(spec: DatasetSpec, example: Example, prompts: Sequence[Prompt]) -> None:
    """Raises UserError unless a template's answers are in the order of the labels, which counts and names rely on."""
    names = spec.label_names or ()
    for prompt in prompts:
        if len(prompt.choices) != len(names) or (example.label is not None and prompt.label != example.label):
            raise UserError(
                f"Template {prompt.template!r} answers with {', '.join(prompt.choices)}, in this order; the labels of"
                f" {spec.name} are {', '.join(names)}: put them in the same order with choices=[...]."
            )


def data_folder(config: DictConfig) -> Path | None:
    return Path(config.data_dir) if config.data_dir is not None else None
