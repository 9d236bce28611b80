"""The run that an adapter was trained in, with a command's settings: builds the other objects of this package.

No other module of the package uses a configuration.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from tfew.cli import overridden, with_run_settings
from tfew.config import checked, resolved
from tfew.data.dataset import DatasetSpec
from tfew.data.templates import Template
from tfew.data.tokenization import PromptTokenizer
from tfew.dataset_config import with_texts_named
from tfew.decisions.request import DECISION_SETTINGS, DecisionSettings
from tfew.errors import UserError
from tfew.files.hub_adapter import local_adapter
from tfew.methods.base import Method
from tfew.models.adapters_io import WEIGHTS_FILE
from tfew.models.base_check import base_of, check_weights, unlike_base
from tfew.models.build import build_for_scoring, build_tokenizer, saved_method, tokenizer_for
from tfew.models.loaded_model import LoadedModel
from tfew.models.saved_task import saved_task
from tfew.runs.identity import differences
from tfew.runs.noted import OF_MODEL
from tfew.runs.run_folder import finished_settings
from tfew.settings import EvaluationSettings, settings
from tfew.task import load_mixture_spec, load_spec, train_templates

# settings that may be changed for a saved adapter; the others are fixed by its training
PREDICTION_SETTINGS = (
    "adapter", "adapters", "input", "output", "format", "bad_rows", "task_column", "merge", "dataset", "text",
    "templates", "score", "model", "trainer", "max_tokens", "eval_batch_size", "engine", "memory_gb",
    "trust_remote_code", "resume", "overwrite", "base", "suggest", *DECISION_SETTINGS,
    "ray", "ray_actors", "ray_cpus", "ray_gpus", "piece_rows", "parts",
)  # fmt: skip
COMPUTATION = (
    "model",
    "trainer",
    "engine",
    "memory_gb",
    "eval_batch_size",
)  # settings that scores depend on, for all tasks


@dataclass(frozen=True)
class SavedRun:
    """`folder`: of its adapter; None: the bare model."""

    config: DictConfig
    folder: Path | None

    @property
    def dataset(self) -> str:
        return str(self.config.dataset.name)

    @property
    def max_tokens(self) -> int:
        return int(self.config.max_tokens)

    @property
    def evaluation(self) -> EvaluationSettings:
        return settings(EvaluationSettings, self.config)

    @property
    def decisions(self) -> DecisionSettings:
        return settings(DecisionSettings, self.config)

    @property
    def settings(self) -> dict[str, Any]:
        """All settings, resolved."""
        return resolved(self.config)

    def check_same_model(self, name: str, first: "SavedRun") -> None:
        """Raises UserError if this run, of task `name`, has another base model than `first`: batches share one."""
        ours, theirs = first.computation["model"], self.computation["model"]
        noted = {key for key in OF_MODEL if None in (ours.get(key), theirs.get(key))}  # older runs have no notes
        if unlike := differences(*({k: v for k, v in model.items() if k not in noted} for model in (ours, theirs))):
            raise UserError(
                f"Task {name!r} was trained on another model than the first one ({'; '.join(unlike[:3])}; there:"
                f" {name!r}, here: the first), but a batch needs one model."
            )

    @property
    def computation(self) -> dict[str, Any]:
        return {key: resolved(self.config)[key] for key in COMPUTATION}

    def check_base(self) -> None:
        """Raises UserError if the adapter's record names another base model than these settings."""
        if self.folder is not None and (unlike := unlike_base(self.folder, base_of(self.config))) is not None:
            raise UserError(f"{self.folder} was trained on {unlike}.")

    def data(self) -> tuple[DatasetSpec, list[Template]]:
        """Raises UserError where these are not the rows of one data set."""
        if load_mixture_spec(self.config) is not None:
            raise UserError(f"{self.dataset} is a mixture of data sets: name one of them with dataset=.")
        spec = load_spec(self.config)
        templates = train_templates(self.config, spec)
        if not templates:
            raise UserError(f"{spec.name} has no template that fits templates.use; try templates=all.")
        return spec, templates

    def method(self) -> Method | None:
        return None if self.folder is None else saved_method(self.folder, self.config)[1]

    def check_weights(self, sample: str | None) -> None:
        """Raises UserError if this sample of weights differs from the weights that the adapter was trained on."""
        if self.folder is not None and sample is not None:
            check_weights(self.folder, sample, self.config)

    def load_model(self) -> LoadedModel:
        """The base model with the adapter."""
        method = self.method()
        return build_for_scoring(self.config, self._tokenizer(), method, self.folder)

    def load_base(self) -> LoadedModel:
        return build_for_scoring(self.config, self._tokenizer())

    def tokenizer(self, of_model: PromptTokenizer) -> PromptTokenizer:
        """The model's tokenizer with this run's settings."""
        return tokenizer_for(self.config, of_model, self.folder, trains=False)

    def _tokenizer(self) -> PromptTokenizer:
        return build_tokenizer(self.config, adapter=self.folder, trains=False)


def _check_data(overrides: Sequence[str], folder: str | Path | None) -> None:
    """Raises UserError for an adapter without its run if no setting names its rows and labels."""
    path = None if folder is None else local_adapter(folder)
    if path is None or not (path / WEIGHTS_FILE).is_file() or finished_settings(path) is not None:
        return
    named = {key.partition(".")[0] for key in overridden(overrides)}
    if not {"dataset", "experiment"} & named and saved_task(path) is None:
        raise UserError(
            f"{path} is an adapter without its run (config.yaml, result.json), which record the rows and labels it is"
            " for: take the whole run folder, or name the data set it was trained on with +experiment= or dataset=."
        )


def saved_run(config: DictConfig, overrides: Sequence[str], folder: str | Path | None) -> SavedRun:
    """The adapter in this folder, with its run's settings, overridden by those of the command line."""
    if config.trainer.devices != 1:
        raise UserError(
            f"A predictor uses one device: set trainer.devices=1, not {config.trainer.devices}. For several, use the"
            " command tfew predict."
        )
    _check_data(overrides, folder)
    config = config.copy()
    config.adapter = None if folder is None else str(folder)
    config.resume = config.overwrite = False  # they concern the output, not the run
    config = checked(with_run_settings(config, overrides, PREDICTION_SETTINGS))
    settings(DecisionSettings, config).check()
    if "text" in overridden(overrides) and folder is not None:
        config = with_texts_named(config)
    return SavedRun(config, None if folder is None else local_adapter(folder))
