"""Labels and probabilities for new rows, by one trained adapter or by those of many tasks on one base model.

    predictor = Predictor.load("runs/NAME")                          or {"spam": "runs/A", "topic": "runs/B"}
    predictor([{"text": "..."}, ...])                                a list of `Labelled`, in order

Rows of different tasks share batches: each is scaled by its own task's vectors. Tasks come and go between two calls.
One predictor is for one thread at a time.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from tfew.config import compose, resolved
from tfew.data.tokenization import PromptTokenizer, TokenizedPrompt, collate
from tfew.errors import UserError, shorten_list
from tfew.methods.base import Method, merge
from tfew.methods.task_bank import TaskBank
from tfew.models.adapters_io import load_weights
from tfew.models.build import (
    attach_saved,
    build_backbone,
    build_device,
    build_tokenizer,
    memory_bytes,
    saved_method,
    uses_autocast,
)
from tfew.prediction.loaded_task import LoadedTask, check_same_model, load_task, settings_of
from tfew.prediction.task_predictor import Labelled, TaskPredictor, WrongTemplatesError
from tfew.ranking.rank_classification import rank_classify, unconditional_sums
from tfew.schema import Batch, Prediction, Prompt
from tfew.scoring.score import BoundedScorer, scoring_mode

Row = Mapping[str, Any] | str


@dataclass(frozen=True)
class Prepared:
    """A row in the words of its task's templates, and their tokens."""

    task: str
    prompts: Sequence[Prompt]
    encoded: Sequence[TokenizedPrompt]


class Predictor:
    """Made by `load`, or by `load_predictor` from a configuration."""

    def __init__(
        self, config: DictConfig, overrides: Sequence[str], settings: DictConfig, model: nn.Module,
        prompt_tokenizer: PromptTokenizer, method: Method | None, bank: TaskBank | None,
    ) -> None:  # fmt: skip
        self._config, self._overrides, self._settings = config, tuple(overrides), settings
        self._encoder, self._bank = prompt_tokenizer, bank
        self.model = model
        self.device = next(model.parameters()).device
        self.batch_size = int(settings.eval_batch_size)
        self._score = BoundedScorer(model, settings.engine, memory_bytes(settings))
        mixed = uses_autocast(settings, self.device, method)
        self._autocast = partial(torch.autocast, self.device.type, torch.bfloat16, enabled=mixed)
        self._tasks: dict[str, LoadedTask] = {}

    @classmethod
    def load(cls, adapters: str | Path | Mapping[str, str | Path], *overrides: str) -> "Predictor":
        """Of a run or adapter folder, or of one for each task; `overrides` as on the command line of tfew.predict."""
        config = compose(*overrides, config_name="predict")
        if isinstance(adapters, Mapping):
            return load_predictor(config, overrides, adapters)
        config.adapter = str(adapters)
        return load_predictor(config, overrides)

    def __call__(self, rows: Iterable[Row], task: str | Sequence[str] | None = None) -> list[Labelled]:
        """What each row is labelled; raises UserError for the first row that cannot be.

        A row maps columns to values, or is a text where the task has one column. `task`: whose the rows are, or whose
        each is; it may be left out where there is one task.
        """
        rows = list(rows)
        tasks = [task] * len(rows) if task is None or isinstance(task, str) else list(task)
        prepared = self.prepare(list(zip(range(1, len(rows) + 1), tasks, rows, strict=True)))
        for row in prepared:
            if isinstance(row, UserError):
                raise row
        return self.answer([row for row in prepared if isinstance(row, Prepared)])

    @property
    def tasks(self) -> dict[str, TaskPredictor]:
        return {name: task.labeller for name, task in self._tasks.items()}

    def add(self, name: str, folder: str | Path) -> None:
        """Takes in one more task; raises UserError, and changes nothing, where its adapter belongs to another model."""
        if self._bank is None:
            raise UserError("This predictor is of one adapter: load it with several (adapters=) to add more.")
        if name in self._tasks:
            raise UserError(f"There is a task named {name!r} already.")
        folder = Path(folder).expanduser()
        settings = settings_of(self._config, self._overrides, folder)
        check_same_model(name, settings, self._settings)
        _, method = saved_method(folder, settings)
        task = load_task(name, settings, folder, self._encoder)
        try:
            scalings = method.scalings(self.model, load_weights(folder))
        except UserError as error:
            raise UserError(f"{folder}: {error}") from error
        # a new dict each time: another thread may be reading `tasks`
        self._tasks = {**self._tasks, name: replace(task, place=self._bank.add(scalings))}

    def remove(self, name: str) -> None:
        task = self._known(name)
        if self._bank is None or task.place is None:
            raise UserError("This predictor is of one adapter, which cannot be taken out of it.")
        self._tasks = {other: found for other, found in self._tasks.items() if other != name}
        self._bank.remove(task.place)

    def prepare(self, rows: Sequence[tuple[int, str | None, Row]]) -> list[Prepared | UserError]:
        """(number from 1, task, row) each, ready for `answer`, or why it cannot be; nothing is computed yet."""
        worded = [self._rendered_prompt(number, task, row) for number, task, row in rows]
        good = [prompts for prompts in worded if not isinstance(prompts, UserError)]
        try:
            encoded = iter(self._encoded(good))
        except UserError:  # one of them does not fit: which?
            return [self._one(prompts) for prompts in worded]
        return [prompts if isinstance(prompts, UserError) else next(encoded) for prompts in worded]

    def answer(self, prepared: Sequence[Prepared]) -> list[Labelled]:
        """Rows of all tasks in batches of like length, longest first."""
        flat = [pair for row in prepared for pair in zip(row.prompts, row.encoded, strict=True)]
        order = sorted(range(len(flat)), key=lambda position: -len(flat[position][1].input_ids))
        batches = [
            [flat[position] for position in order[start : start + self.batch_size]]
            for start in range(0, len(order), self.batch_size)
        ]
        with scoring_mode(self.model), self._autocast():
            ranked = rank_classify(
                self._score,
                map(self._collated, batches),
                [flat[position][0] for position in order],
                "sum",
                self.device,
                self._alone([prompt for prompt, _ in flat]),
            )
            by_position = dict(zip(order, ranked, strict=True))
        predictions = iter(by_position[position] for position in range(len(flat)))
        return [self._labelled(row, [next(predictions) for _ in row.prompts]) for row in prepared]

    def inputs(self, prepared: Prepared) -> list[str]:
        """What the model is shown for a row: its prompts, one for each template, cut where they are too long."""
        decode = self._encoder.tokenizer.decode
        return [
            decode(encoded.input_ids, skip_special_tokens=True) if encoded.cut_tokens else prompt.input
            for prompt, encoded in zip(prepared.prompts, prepared.encoded, strict=True)
        ]

    def fingerprint(self) -> dict[str, Any]:
        """All that the numbers depend on, but for the rows."""
        settings = self._settings
        how = {key: resolved(settings)[key] for key in ("model", "trainer", "engine", "memory_gb", "eval_batch_size")}
        tasks = {name: task.fingerprint() for name, task in self._tasks.items()}
        return {**how, "merge": bool(self._config.merge), "tasks": tasks}

    def _known(self, name: str | None) -> LoadedTask:
        if name is None and len(self._tasks) == 1:
            return next(iter(self._tasks.values()))
        if name is None or name not in self._tasks:
            which = "names no task" if name is None else f"is of task {name!r}, which is not here"
            raise UserError(f"The row {which}; here are: {shorten_list(self._tasks)}.")
        return self._tasks[name]

    def _rendered_prompt(self, number: int, task: str | None, row: Row) -> list[Prompt] | UserError:
        try:
            return self._known(task).labeller.prompts(number, row)
        except WrongTemplatesError:
            raise
        except UserError as error:
            return error

    def _encoded(self, rows: Sequence[Sequence[Prompt]]) -> list[Prepared]:
        """Each task's prompts are tokenised together."""
        of_task: dict[str, list[Prompt]] = {}
        for prompts in rows:
            of_task.setdefault(prompts[0].dataset, []).extend(prompts)
        encoded = {
            name: iter(self._tasks[name].prompt_tokenizer.tokenize(prompts)) for name, prompts in of_task.items()
        }
        return [
            Prepared(prompts[0].dataset, prompts, [next(encoded[prompts[0].dataset]) for _ in prompts])
            for prompts in rows
        ]

    def _one(self, prompts: Sequence[Prompt] | UserError) -> Prepared | UserError:
        if isinstance(prompts, UserError):
            return prompts
        try:
            return self._encoded([prompts])[0]
        except UserError as error:
            return error

    def _collated(self, items: Sequence[tuple[Prompt, TokenizedPrompt]]) -> Batch:
        batch = collate([encoded for _, encoded in items], self._encoder.pad_id)
        return self._placed(batch, [prompt.dataset for prompt, _ in items])

    def _placed(self, batch: Batch, tasks: Sequence[str]) -> Batch:
        if self._bank is None:
            return batch
        return replace(batch, task_id=torch.tensor([self._tasks[task].place for task in tasks]))

    def _alone(self, prompts: Sequence[Prompt]) -> dict[str, dict[str, float]]:
        """Log-probabilities of choices after an empty input, of tasks that are scored with them."""
        needed = {name: task for name, task in self._tasks.items() if task.labeller.norm == "pmi"}
        for name, task in needed.items():
            choices = {choice for prompt in prompts if prompt.dataset == name for choice in prompt.choices}
            if new := sorted(choices - task.alone.keys()):

                def collated(items: list[TokenizedPrompt], name: str = name) -> Batch:
                    return self._placed(collate(items, self._encoder.pad_id), [name] * len(items))

                task.alone.update(
                    unconditional_sums(self._score, task.prompt_tokenizer.tokenize, collated, new, self.device)
                )
        return {name: task.alone for name, task in needed.items()}

    def _labelled(self, row: Prepared, predictions: Sequence[Prediction]) -> Labelled:
        return self._tasks[row.task].labeller.labelled(row.prompts, predictions)


def load_predictor(
    config: DictConfig, overrides: Sequence[str], folders: Mapping[str, str | Path] | None = None
) -> Predictor:
    """Of `config.adapter` (None: the bare model), or of the adapters in `folders` by task."""
    if folders is not None:
        return _load_many(config, overrides, folders)
    settings = settings_of(config, overrides, config.adapter)
    folder = None if config.adapter is None else Path(str(config.adapter)).expanduser()
    method = None if folder is None else saved_method(folder, settings)[1]
    prompt_tokenizer = build_tokenizer(settings)
    model = build_backbone(settings, prompt_tokenizer.tokenizer, build_device(settings), method)
    if folder is not None and method is not None:
        attach_saved(folder, method, model)
        if config.merge:
            merge(method, model)
    elif config.merge:
        raise UserError("merge=true folds an adapter into the model, and there is none: say adapter=.")
    predictor = Predictor(config, overrides, settings, model, prompt_tokenizer, method, None)
    name = str(settings.dataset.name)
    predictor._tasks[name] = load_task(name, settings, folder, prompt_tokenizer)
    return predictor


def _load_many(config: DictConfig, overrides: Sequence[str], folders: Mapping[str, str | Path]) -> Predictor:
    if config.merge:
        raise UserError("merge=true folds one task's vectors into the model, and adapters= names many: use adapter=.")
    if not folders:
        raise UserError("adapters= names no task.")
    settings = settings_of(config, overrides, next(iter(folders.values())))
    prompt_tokenizer = build_tokenizer(settings)
    model = build_backbone(settings, prompt_tokenizer.tokenizer, build_device(settings))
    predictor = Predictor(config, overrides, settings, model, prompt_tokenizer, None, TaskBank(model))
    for name, folder in folders.items():
        predictor.add(name, folder)
    return predictor
