"""What prediction needs of one task besides the model: its labeller and encoder, from the settings of its run."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from tfew.config import checked, resolved
from tfew.data.tokenization import PromptTokenizer
from tfew.errors import UserError
from tfew.files.checksums import file_sha256
from tfew.models.adapters_io import WEIGHTS_FILE, load_temperature
from tfew.prediction.saved_run import with_run_settings
from tfew.prediction.task_predictor import TaskPredictor
from tfew.runs.identity import differences
from tfew.task import load_mixture_spec, load_spec, train_templates

log = logging.getLogger(__name__)
# what the command line may say beside an adapter; the rest was settled when it was trained
PREDICTION_SETTINGS = (
    "adapter", "adapters", "input", "output", "format", "bad_rows", "task_column", "merge", "dataset", "templates",
    "score", "model", "trainer", "max_tokens", "eval_batch_size", "engine", "memory_gb", "trust_remote_code",
    "resume", "overwrite",
)  # fmt: skip


@dataclass(frozen=True)
class LoadedTask:
    """`place`: the task's in the model's bank; None where the model has one task's adapter, or none."""

    labeller: TaskPredictor
    prompt_tokenizer: PromptTokenizer
    weights_sha256: str | None
    place: int | None = None
    # of the norm pmi: log-probabilities of choices after an empty input, kept as they were needed
    alone: dict[str, float] = field(default_factory=dict)

    def fingerprint(self) -> dict[str, Any]:
        """All of the task that predictions depend on."""
        labeller = self.labeller
        data = json.dumps([labeller.templates, labeller.spec.columns, labeller.labels, dict(labeller.spec.rename)])
        return {
            "weights": self.weights_sha256,
            "norm": labeller.norm,
            "temperature": labeller.temperature,
            "max_tokens": self.prompt_tokenizer.max_tokens,
            "data": hashlib.sha256(data.encode()).hexdigest()[:16],
        }


def load_task(name: str, settings: DictConfig, folder: Path | None, prompt_tokenizer: PromptTokenizer) -> LoadedTask:
    """`folder`: of the adapter, None for the bare model; `prompt_tokenizer`: of the model that it will run on."""
    if load_mixture_spec(settings) is not None:
        raise UserError(f"{settings.dataset.name} is a mixture of data sets: name one of them with dataset=.")
    if settings.score.method != "direct":
        raise UserError(f"score.method={settings.score.method} is for evaluation; new rows are scored with direct.")
    spec, norm = load_spec(settings), str(settings.score.norm)
    temperature = None if folder is None else load_temperature(folder, norm)
    if temperature is None:
        why = "its run had too few held-out rows, or none" if folder is not None else "there is no adapter"
        log.info(f"Note: probabilities of {name} are not calibrated: {why} (score.norm={norm}).")
    templates = train_templates(settings, spec)
    if not templates:
        raise UserError(f"{spec.name} has no template that fits templates.use; try templates=all.")
    labeller = TaskPredictor(name, spec, templates, norm, 1.0 if temperature is None else temperature)
    weights = None if folder is None else file_sha256(folder / WEIGHTS_FILE)
    return LoadedTask(labeller, replace(prompt_tokenizer, max_tokens=settings.max_tokens), weights)


def settings_of(config: DictConfig, overrides: Sequence[str], folder: str | Path | None) -> DictConfig:
    """The settings that the adapter in this folder brings, under those of the command line."""
    if config.trainer.devices != 1:
        raise UserError(
            f"Labels are made on one device: say trainer.devices=1, not {config.trainer.devices}. For several, start"
            " the command once for each, with its part of the rows."
        )
    config = config.copy()
    config.adapter = None if folder is None else str(folder)
    config.resume = config.overwrite = False  # of the output, and no run's affair
    return checked(with_run_settings(config, overrides, PREDICTION_SETTINGS))


def check_same_model(name: str, settings: DictConfig, first: DictConfig) -> None:
    """Raises UserError where two tasks belong to different base models: a batch runs on one."""
    if unlike := differences(resolved(first.model), resolved(settings.model)):
        raise UserError(
            f"Task {name!r} was trained on another model than the first one ({'; '.join(unlike[:3])}; there: {name!r},"
            " here: the first), and a batch runs on one."
        )
