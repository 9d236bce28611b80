"""One task of a predictor, besides the model: its rows, templates and labels, and how its choices are scored."""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from tfew.data.cells import plain, shown
from tfew.data.tokenization import PromptTokenizer, TokenizedPrompt
from tfew.decisions.decision import decide
from tfew.errors import UserError
from tfew.files.checksums import file_sha256
from tfew.label_sets.questions import has_label_sets
from tfew.label_sets.thresholds import DEFAULT
from tfew.models.adapters_io import WEIGHTS_FILE, load_temperature, load_thresholds
from tfew.prediction.held_out import held_out_scores
from tfew.prediction.saved_run import SavedRun
from tfew.prediction.task_predictor import TaskPredictor
from tfew.ranking.shortlist import Shortlist, shortlist_of
from tfew.schema import Prompt

log = logging.getLogger(__name__)
Row = Mapping[str, Any] | str


@dataclass(frozen=True)
class Prepared:
    """A row's prompts by its task's templates, and their tokens."""

    task: str
    prompts: Sequence[Prompt]
    encoded: Sequence[TokenizedPrompt]


@dataclass(frozen=True)
class LoadedTask:
    """`bank_index`: the task's index in the model's bank; None if the model has a single adapter, or none."""

    task_predictor: TaskPredictor
    prompt_tokenizer: PromptTokenizer
    weights_sha256: str | None
    bank_index: int | None = None
    shortlist: Shortlist | None = None
    # cache for the norm pmi: log-probabilities of choices after an empty input
    unconditional: dict[str, float] = field(default_factory=dict)

    def fingerprint(self) -> dict[str, Any]:
        """Everything about the task that predictions depend on."""
        task = self.task_predictor
        data = json.dumps([task.templates, task.spec.columns, task.labels, dict(task.spec.rename)])
        return {
            "weights": self.weights_sha256,
            "norm": task.norm,
            "temperature": task.temperature,
            **({"thresholds": list(task.thresholds)} if task.several else {}),
            "max_tokens": self.prompt_tokenizer.max_tokens,
            **({} if self.shortlist is None else {"shortlist": self.shortlist.size}),
            **self.prompt_tokenizer.rule,
            "data": hashlib.sha256(data.encode()).hexdigest()[:16],
            **task.decision.fingerprint(),
        }


def numbered(
    rows: Mapping[str, Any] | Iterable[Row], task: str | Sequence[str] | None
) -> list[tuple[int, str | None, Row]]:
    """Rows with their numbers from 1 and their tasks, for `Predictor.prepare`; raises UserError for other types.

    A data frame or a table of Arrow is its rows.
    """
    if isinstance(rows, str):
        raise UserError(f"A list of rows is needed, but {shown(rows)} is a single text: pass [{shown(rows)}].")
    if hasattr(rows, "iloc") and hasattr(rows, "to_dict") and hasattr(rows, "columns"):  # of pandas
        rows = _with_whole_numbers(rows).to_dict("records")
    elif convert := getattr(rows, "to_dicts", None) or getattr(rows, "to_pylist", None):  # of polars, of Arrow
        rows = convert()
    if not isinstance(rows, Iterable):
        raise UserError(f"A list of rows is needed, but {shown(rows)} is none.")
    rows = [rows] if isinstance(rows, Mapping) else list(rows)
    rows = [{key: plain(value) for key, value in row.items()} if isinstance(row, Mapping) else row for row in rows]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, str | Mapping):
            raise UserError(f"Row {number}, {shown(row)}, is neither a text nor a mapping of columns to values.")
    tasks = [task] * len(rows) if task is None or isinstance(task, str) else list(task)
    if len(tasks) != len(rows):
        raise UserError(f"task= names {len(tasks)} tasks for {len(rows)} rows: give one for all, or one for each.")
    return list(zip(range(1, len(rows) + 1), tasks, rows, strict=True))


def _with_whole_numbers(frame: Any) -> Any:
    """pandas makes floats of a column of whole numbers in which a cell is missing; a file of the same rows has none."""
    floats = [name for name in frame.columns if getattr(frame[name], "dtype", None) == "float64"]
    whole = [name for name in floats if frame[name].hasnans and (frame[name].dropna() % 1 == 0).all()]
    return frame.astype(dict.fromkeys(whole, "Int64"))


def _refuse_decisions(name: str, run: SavedRun) -> None:
    """Raises UserError for settings that need one label per row, if rows may have several."""
    asked = {key: getattr(run.decisions, key) for key in ("threshold", "coverage", "risk", "sets")}
    asked["score.shortlist"] = run.evaluation.score.shortlist
    if given := [f"{key}=" for key, value in asked.items() if value is not None]:
        raise UserError(
            f"{' and '.join(given)} need{'s' * (len(given) == 1)} one label per row, but rows of {name} may have"
            " several, each with a threshold of its own: leave it out."
        )


def load_task(name: str, run: SavedRun, prompt_tokenizer: PromptTokenizer) -> LoadedTask:
    """`prompt_tokenizer`: of the model that it will run on."""
    spec, templates = run.data()
    score = run.evaluation.score
    if score.method != "direct":
        raise UserError(f"score.method={score.method} is for evaluation; new rows are scored with direct.")
    prompt_tokenizer = run.tokenizer(prompt_tokenizer)
    eos = prompt_tokenizer.rule["eos"]
    temperature = None if run.folder is None else load_temperature(run.folder, score.norm, eos)
    if temperature is None:
        why = "its run had too few held-out rows, or none" if run.folder is not None else "there is no adapter"
        log.info(f"Note: probabilities of {name} are not calibrated: {why} (score.norm={score.norm}, score.eos={eos}).")
    if (shortlist := shortlist_of(score)) is not None and len(templates) > 1:
        raise UserError(
            f"score.shortlist= finds the best label of one template, but {name} has {len(templates)}, whose"
            " probabilities are averaged: choose one with templates=single templates.name=."
        )
    if shortlist is not None:
        promised = [key for key in ("coverage", "risk", "sets") if getattr(run.decisions, key) is not None]
        if promised:
            raise UserError(
                f"{promised[0]}= needs exact probabilities, of rows scored in full, but score.shortlist= has only"
                " bounds: leave one of them out, or set threshold=."
            )
        log.info(
            f"Note: score.shortlist={shortlist.size} leaves out labels of {name} that cannot be the best: the"
            " label's probability is then a lower bound, and theirs are upper bounds (column bounds)."
        )
    thresholds = None if run.folder is None else load_thresholds(run.folder, score.norm, eos)
    if has_label_sets(spec) and thresholds is None:
        log.info(f"Note: {name} gives labels at a probability of {DEFAULT:g} or more: no held-out rows to choose by.")
    task = TaskPredictor(name, spec, templates, score.norm, 1.0 if temperature is None else temperature, thresholds)
    if task.several:
        _refuse_decisions(name, run)
    else:
        scored = (task.templates, task.labels, score.norm, eos, task.temperature)
        task.held_out = cache(partial(held_out_scores, run, *scored))
        task.decision = decide(run.decisions, name, task.held_out)
    for sentence in task.decision.sentences:
        log.info(f"{name}: {sentence}.")
    weights = None if run.folder is None else file_sha256(run.folder / WEIGHTS_FILE)
    return LoadedTask(task, prompt_tokenizer, weights, shortlist=shortlist)
