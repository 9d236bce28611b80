"""One task of a predictor, besides the model: its rows, templates and labels, and how its choices are scored."""

import hashlib
import json
import logging
from dataclasses import dataclass, field
from typing import Any

from tfew.data.tokenization import PromptTokenizer
from tfew.errors import UserError
from tfew.files.checksums import file_sha256
from tfew.label_sets.questions import has_label_sets
from tfew.label_sets.thresholds import DEFAULT
from tfew.models.adapters_io import WEIGHTS_FILE, load_temperature, load_thresholds
from tfew.prediction.saved_run import SavedRun
from tfew.prediction.task_predictor import TaskPredictor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedTask:
    """`bank_index`: the task's in the model's bank; None where the model has one task's adapter, or none."""

    task_predictor: TaskPredictor
    prompt_tokenizer: PromptTokenizer
    weights_sha256: str | None
    bank_index: int | None = None
    # of the norm pmi: log-probabilities of choices after an empty input, kept as they were needed
    unconditional: dict[str, float] = field(default_factory=dict)

    def fingerprint(self) -> dict[str, Any]:
        """All of the task that predictions depend on."""
        task = self.task_predictor
        data = json.dumps([task.templates, task.spec.columns, task.labels, dict(task.spec.rename)])
        return {
            "weights": self.weights_sha256,
            "norm": task.norm,
            "temperature": task.temperature,
            **({"thresholds": list(task.thresholds)} if task.several else {}),
            "max_tokens": self.prompt_tokenizer.max_tokens,
            **self.prompt_tokenizer.rule,
            "data": hashlib.sha256(data.encode()).hexdigest()[:16],
        }


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
    thresholds = None if run.folder is None else load_thresholds(run.folder, score.norm, eos)
    if has_label_sets(spec) and thresholds is None:
        log.info(
            f"Note: {name} gives a label from a probability of {DEFAULT:g} on: no rows were held out to choose by."
        )
    task = TaskPredictor(name, spec, templates, score.norm, 1.0 if temperature is None else temperature, thresholds)
    weights = None if run.folder is None else file_sha256(run.folder / WEIGHTS_FILE)
    return LoadedTask(task, prompt_tokenizer, weights)
