"""Labels and probabilities for new rows, by one trained adapter or by those of many tasks on one base model.

    predictor = Predictor.load("runs/NAME")                          or {"spam": "runs/A", "topic": "runs/B"}
    predictor([{"text": "..."}, ...])                                a list of `Labelled`, in order
    predictor([...], threshold=0.8)                                  `label` is None if it is less probable

Rows of different tasks share batches: each is scaled by its own task's vectors. Tasks can be added and removed between
calls. Threads may share a predictor: their calls wait for each other.
"""

import dataclasses
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tfew.config import as_hydra, compose
from tfew.data.tokenization import TokenizedPrompt, collate
from tfew.decisions.request import DecisionSettings
from tfew.errors import UserError, shorten_list
from tfew.files.hub_adapter import local_adapter
from tfew.methods.base import check_fit
from tfew.methods.base import merge as merge_adapter
from tfew.methods.task_bank import Scaling, TaskBank
from tfew.models.adapters_io import load_shapes, load_weights
from tfew.models.loaded_model import LoadedModel
from tfew.placement.position_table import within_window
from tfew.prediction.loaded_task import LoadedTask, Prepared, Row, load_task, numbered
from tfew.prediction.saved_run import SavedRun, saved_run
from tfew.prediction.task_predictor import Labelled, TaskPredictor, WrongTemplatesError
from tfew.ranking.rank_classification import rank_classify, unconditional_sums
from tfew.ranking.shortlist import Shortlist
from tfew.schema import Batch, Prediction, Prompt
from tfew.scoring.score import BoundedScorer, scoring_mode

Adapters = str | Path | None | Mapping[str, str | Path]  # a folder, None: the bare model; or a folder for each task
FindRun = Callable[[str | Path | None], SavedRun]  # the run of the adapter in a folder; see `saved_run`


class Predictor:
    """Made by `load`, or by `load_predictor` from a configuration.

    `run`: the one whose settings the model was loaded with; `bank`: None if the model has a single adapter, or none.
    """

    def __init__(
        self, find_run: FindRun, run: SavedRun, loaded: LoadedModel, bank: TaskBank | None = None, merged: bool = False
    ) -> None:
        self._find_run, self._run, self._bank, self._merged = find_run, run, bank, merged
        self._prompt_tokenizer = loaded.prompt_tokenizer
        self.model, self._base_sample = loaded.model, loaded.base_sample
        self.device = next(loaded.model.parameters()).device
        self.batch_size = run.evaluation.eval_batch_size
        self._score = BoundedScorer(loaded.model, loaded.execution.engine, loaded.execution.memory_bytes)
        self._autocast = loaded.execution.autocast
        self._tasks: dict[str, LoadedTask] = {}
        self._lock = threading.Lock()  # the engine changes the model while a batch is in it

    @classmethod
    def load(cls, adapters: str | Path | Mapping[str, str | Path], *overrides: str, **settings: Any) -> "Predictor":
        """Loads a run or adapter folder, or one per task; `overrides` as on the command line of tfew.predict,
        `settings` the same as keywords (`coverage=0.9`)."""
        given = (*overrides, *(f"{key.replace('__', '.')}={as_hydra(value)}" for key, value in settings.items()))
        config = compose(*given, config_name="predict")
        return load_predictor(partial(saved_run, config, given), adapters, config.merge)

    def __call__(
        self, rows: Mapping[str, Any] | Iterable[Row], task: str | Sequence[str] | None = None,
        threshold: float | None = None,
    ) -> list[Labelled]:  # fmt: skip
        """Labels each row; raises UserError for the first row that cannot be labelled.

        A row maps columns to values, or is a text if the task has one column. A single mapping counts as a list of one;
        a single text, whose letters would be rows, is refused.
        `task`: the task of all rows, or one per row; optional if there is only one task. `threshold`: of the label's
        probability, overrides the tasks' own; below it `label` is None.
        """
        triples = numbered(rows, task)
        with self._lock:
            prepared = self.prepare(triples)
            for row in prepared:
                if isinstance(row, UserError):
                    raise row
            DecisionSettings(threshold=threshold).check()
            found = self.answer([row for row in prepared if isinstance(row, Prepared)])
        return found if threshold is None else [row.with_threshold(threshold) for row in found]

    @property
    def tasks(self) -> dict[str, TaskPredictor]:
        return {name: task.task_predictor for name, task in self._tasks.items()}

    @property
    def shortlist(self) -> Shortlist | None:
        """The shortlist for all rows, which share batches; None unless all tasks have the same."""
        common = {task.shortlist for task in self._tasks.values()}
        return next(iter(common)) if len(common) == 1 else None

    def add(self, name: str, folder: str | Path) -> None:
        """Adds a task; raises UserError, and changes nothing, if its adapter belongs to another model."""
        self.put_task(name, self.read_task(name, folder))

    def read_task(
        self, name: str, folder: str | Path, own_base: bool = False, replace: bool = False
    ) -> tuple[LoadedTask, dict[str, Scaling]]:
        """Reads a task for `put_task`. Changes nothing, so another thread may be labelling meanwhile.

        `own_base`: also refuse an adapter that names another base model than it would run on. `replace`: whether a task
        of that name may exist.
        """
        self._check_new(name, replace)
        folder = local_adapter(folder)
        run = self._find_run(folder)
        run.check_same_model(name, self._run)
        if own_base:
            run.check_base()
        run.check_weights(self._base_sample)
        method = run.method()
        assert method is not None  # it has a folder
        try:
            check_fit(method.neutral(self.model), load_shapes(folder))  # before memory is allocated
            scalings = method.scalings(self.model, load_weights(folder))
        except UserError as error:
            raise UserError(f"{folder}: {error}") from error
        return load_task(name, run, self._prompt_tokenizer), scalings

    def put_task(self, name: str, read: tuple[LoadedTask, Mapping[str, Scaling]], replace: bool = False) -> None:
        """Adds a task that was read; `replace`: replaces an existing task of that name."""
        task, scalings = read
        with self._lock:
            bank = self._check_new(name, replace)
            before = self._tasks.get(name)
            # a new dict each time: another thread may be reading `tasks`
            self._tasks = {**self._tasks, name: dataclasses.replace(task, bank_index=bank.add(scalings))}
            if before is not None and before.bank_index is not None:
                bank.remove(before.bank_index)

    def remove(self, name: str) -> None:
        with self._lock:
            task = self._known(name)
            if self._bank is None or task.bank_index is None:
                raise UserError("This predictor has one adapter, which cannot be removed.")
            self._tasks = {other: found for other, found in self._tasks.items() if other != name}
            self._bank.remove(task.bank_index)

    def prepare(self, rows: Sequence[tuple[int, str | None, Row]]) -> list[Prepared | UserError]:
        """Prepares (number from 1, task, row) triples for `answer`; an error for each invalid row. Runs no model."""
        rendered = [self._rendered_prompts(number, task, row) for number, task, row in rows]
        good = [prompts for prompts in rendered if not isinstance(prompts, UserError)]
        try:
            tokenized = iter(self._tokenized(good))
        except UserError:  # find out which of them is invalid
            return [self._tokenized_or_error(prompts) for prompts in rendered]
        return [prompts if isinstance(prompts, UserError) else next(tokenized) for prompts in rendered]

    def answer(self, prepared: Sequence[Prepared]) -> list[Labelled]:
        """Labels prepared rows of all tasks, in batches of similar length, longest first; in one thread at a time."""
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
                self._unconditional([prompt for prompt, _ in flat]),
                self.shortlist,
            )
            by_position = dict(zip(order, ranked, strict=True))
        predictions = iter(by_position[position] for position in range(len(flat)))
        return [self._labelled(row, [next(predictions) for _ in row.prompts]) for row in prepared]

    def inputs(self, prepared: Prepared) -> list[str]:
        """The text shown to the model for a row: one prompt per template, truncated if too long."""
        prompt_tokenizer = self._known(prepared.task).prompt_tokenizer
        decode = partial(prompt_tokenizer.tokenizer.decode, skip_special_tokens=not prompt_tokenizer.chat)
        return [
            decode(encoded.input_ids) if encoded.cut_tokens else prompt_tokenizer.text(prompt)
            for prompt, encoded in zip(prepared.prompts, prepared.encoded, strict=True)
        ]

    def fingerprint(self) -> dict[str, Any]:
        """Everything that results depend on, except the rows."""
        tasks = {name: task.fingerprint() for name, task in self._tasks.items()}
        return {**self._run.computation, "merge": self._merged, "tasks": tasks}

    def _check_new(self, name: str, replace: bool = False) -> TaskBank:
        if self._bank is None:
            raise UserError("This predictor has one adapter: load it with adapters= to add more.")
        if name in self._tasks and not replace:
            raise UserError(f"There is a task named {name!r} already.")
        return self._bank

    def _known(self, name: str | None) -> LoadedTask:
        if name is None and len(self._tasks) == 1:
            return next(iter(self._tasks.values()))
        if name is None or name not in self._tasks:
            which = "names no task" if name is None else f"is of the unknown task {name!r}"
            raise UserError(f"The row {which}; known tasks: {shorten_list(self._tasks)}.")
        return self._tasks[name]

    def _rendered_prompts(self, number: int, task: str | None, row: Row) -> list[Prompt] | UserError:
        try:
            return self._known(task).task_predictor.prompts(number, row)
        except WrongTemplatesError:
            raise
        except UserError as error:
            return error

    def _tokenized(self, rows: Sequence[Sequence[Prompt]]) -> list[Prepared]:
        """Tokenises all prompts of a task at once."""
        of_task: dict[str, list[Prompt]] = {}
        for prompts in rows:
            of_task.setdefault(prompts[0].dataset, []).extend(prompts)
        found = {name: self._tasks[name].prompt_tokenizer.tokenize(prompts) for name, prompts in of_task.items()}
        tokens = {name: iter(within_window(self.model, encoded, self._score.engine)) for name, encoded in found.items()}
        return [
            Prepared(prompts[0].dataset, prompts, [next(tokens[prompts[0].dataset]) for _ in prompts])
            for prompts in rows
        ]

    def _tokenized_or_error(self, prompts: Sequence[Prompt] | UserError) -> Prepared | UserError:
        if isinstance(prompts, UserError):
            return prompts
        try:
            return self._tokenized([prompts])[0]
        except UserError as error:
            return error

    def _collated(self, items: Sequence[tuple[Prompt, TokenizedPrompt]]) -> Batch:
        return self._batch([encoded for _, encoded in items], [prompt.dataset for prompt, _ in items])

    def _batch(self, encoded: Sequence[TokenizedPrompt], task_B: Sequence[str]) -> Batch:
        batch = collate(encoded, self._prompt_tokenizer.pad_id)
        if self._bank is None:
            return batch
        return dataclasses.replace(batch, task_id=torch.tensor([self._tasks[task].bank_index for task in task_B]))

    def _unconditional(self, prompts: Sequence[Prompt]) -> dict[str, dict[str, float]]:
        """Log-probabilities of choices after an empty input, for tasks whose norm needs them."""
        needed = {name: task for name, task in self._tasks.items() if task.task_predictor.norm == "pmi"}
        # choices of a row's own are not kept: there may be any number of them
        known = {name: task.unconditional if task.task_predictor.labels else {} for name, task in needed.items()}
        for name, task in needed.items():
            choices = {choice for prompt in prompts if prompt.dataset == name for choice in prompt.choices}
            if new := sorted(choices - known[name].keys()):

                def collated(encoded: list[TokenizedPrompt], name: str = name) -> Batch:
                    return self._batch(encoded, [name] * len(encoded))

                known[name].update(
                    unconditional_sums(self._score, task.prompt_tokenizer.tokenize, collated, new, self.device)
                )
        return known

    def _labelled(self, row: Prepared, predictions: Sequence[Prediction]) -> Labelled:
        return self._tasks[row.task].task_predictor.labelled(row.prompts, predictions)


def load_predictor(find_run: FindRun, adapters: Adapters, merge: bool = False) -> Predictor:
    """`merge`: fold the adapter into the model, so that it adds no cost."""
    if isinstance(adapters, Mapping):
        return _load_many(find_run, adapters, merge)
    run = find_run(adapters)
    run.decisions.check([run.dataset])
    loaded = run.load_model()
    if merge and loaded.method is None:
        raise UserError("merge=true folds an adapter into the model, but there is none: set adapter=.")
    if merge and loaded.execution.quantization:
        raise UserError(
            f"merge=true changes the model's weights, which model.dtype={loaded.execution.quantization} holds in few"
            " bits: set merge=false, or model.dtype=auto."
        )
    if merge and loaded.method is not None:
        merge_adapter(loaded.method, loaded.model)
    predictor = Predictor(find_run, run, loaded, merged=merge)
    predictor._tasks[run.dataset] = load_task(run.dataset, run, loaded.prompt_tokenizer)
    return predictor


def _load_many(find_run: FindRun, folders: Mapping[str, str | Path], merge: bool) -> Predictor:
    if merge:
        raise UserError("merge=true folds one task's vectors into the model, but adapters= names many: use adapter=.")
    if not folders:
        raise UserError("adapters= names no task.")
    run = find_run(next(iter(folders.values())))
    run.decisions.check(list(folders))
    loaded = run.load_base()
    predictor = Predictor(find_run, run, loaded, TaskBank(loaded.model))
    for name, folder in folders.items():
        predictor.add(name, folder)
    return predictor
