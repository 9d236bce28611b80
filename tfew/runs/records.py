"""The record of a run: `result.json`, written last and atomically, so that its existence means finished."""

import platform
import subprocess
from dataclasses import asdict, dataclass, field
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from tfew.environment.versions import own_version
from tfew.errors import UserError
from tfew.files.atomic import write_atomically
from tfew.files.checksums import from_checked_json, to_checked_json
from tfew.files.regular import read_text
from tfew.files.untrusted import validated

SCHEMA_VERSION = 2  # 1: without `files` and the checksum
RECORD_FILE = "result.json"
ZERO_SHOT = "zero_shot"  # as a method: the bare model
IN_CONTEXT = "icl"  # followed by an underscore and the mode: the bare model with few-shot examples in the prompt
LIBRARIES = (
    "torch",
    "transformers",
    "datasets",
    "pytorch-lightning",
    "hydra-core",
    "promptsource",
    "sentencepiece",
    "scikit-learn",
)


@dataclass(frozen=True)
class RunRecord:
    """Everything that tables need about a run. Accuracies are fractions; units are in the names."""

    name: str
    command: str  # train | evaluate
    experiment: str
    model: str
    method: str  # or ZERO_SHOT
    loss: str
    dataset: str
    split: str  # eval, or folds: all training rows, each held out in one fold of a cross-validation
    few_shot_seed: int
    seed: int
    # accuracy (median over templates), accuracy_iqr, chance, templates: {name: {...}}; of a mixture, members: {name:
    # {...}}, and accuracy and chance are means over them; final_loss, the mean of the last tenth of training, of a
    # mixture and where nothing was evaluated; of one template accuracy_interval; of data with classes f1_macro and
    # balanced_accuracy, and of one template balanced_accuracy_interval, leading_metric ("accuracy" or
    # "balanced_accuracy"), classes: {name: {precision, recall, f1, rows, predicted}}, confusion, and baselines: {name:
    # {accuracy, balanced_accuracy, f1_macro, gain: {metric, value, low, high}}}; answering: {area, rows, points: [{
    # threshold, answered, right}]}, of the surest rows; folds: accuracies; tuning: what
    # `tfew.ranking.tuning` says of the settings that were tried. Of rows with several labels accuracy is the share of
    # rows whose set of labels is right, leading_metric is f1_micro, and label_sets has what else is known.
    # trained_on: how many of the rows the adapter was trained on, None if its table has changed, so none can tell
    metrics: dict[str, Any]
    counts: dict[str, int]  # evaluated rows, prompts, cut_prompts, empty_renders (of templates); trained_together: runs
    parameters: dict[str, int]  # trainable (in the saved adapter), trained (updated by training), total (base)
    flops: dict[str, float]  # training, evaluation: by the paper's formula (tfew/costs/formulas.py)
    seconds: dict[str, float]  # train, evaluate
    peak_memory_bytes: int  # 0: not counted here
    adapter_bytes: int
    git_commit: str | None
    versions: dict[str, str]
    config: dict[str, Any]  # resolved
    # how choices were scored: eos, include or exclude; chat, whether inputs were turns of the model's chat template
    scoring: dict[str, Any] = field(default_factory=lambda: {"eos": "include", "chat": False})
    mixture: dict[str, Any] | None = None  # members: {name: {templates, available rows, rows, items}}, left_out
    hardware: dict[str, str] = field(default_factory=dict)  # device, world_size, threads; empty: not recorded
    files: dict[str, str] = field(default_factory=dict)  # sha256 of the files beside the record
    schema_version: int = SCHEMA_VERSION

    @property
    def folder(self) -> Path:
        """The run's folder, according to its settings."""
        return Path(self.config.get("run_dir") or Path(self.config.get("runs", "runs")) / self.name)

    @property
    def accuracy_in_words(self) -> str:
        """The leading metric and the accuracy, in percent, with interquartile range and chance."""
        percent = {key: 100 * value for key, value in self.metrics.items() if isinstance(value, float)}
        leading = self.metrics.get("leading_metric", "accuracy")
        titles = {"f1_micro": "micro-F1", "accuracy": "whole sets right"} if leading == "f1_micro" else {}
        names = dict.fromkeys([leading, "accuracy"])
        accuracies = [
            f"{titles.get(name, name.replace('_', ' '))} {percent[name]:.1f} %" for name in names if name in percent
        ]
        known = [
            f"{name} {percent[key]:.1f}"
            for name, key in (("IQR", "accuracy_iqr"), ("chance", "chance"))
            if key in percent and leading != "f1_micro"
        ]
        accuracy = ", ".join(accuracies).removeprefix("accuracy ") or "nothing evaluated"
        return accuracy + (f" ({', '.join(known)})" if known else "")

    def facts(self) -> dict[str, str]:
        """The most important facts, by name."""
        leading = self.metrics.get("leading_metric", "accuracy")
        baselines = [
            f"{name} {100 * scores[leading]:.1f} % (gain {100 * scores['gain']['value']:+.1f} points,"
            f" {100 * scores['gain']['low']:+.1f} to {100 * scores['gain']['high']:+.1f})"
            for name, scores in self.metrics.get("baselines", {}).items()
        ]
        return {
            "accuracy": self.accuracy_in_words,
            **({"baselines": ", ".join(baselines)} if baselines else {}),
            "rows": f"{self.counts.get('rows', 0):,}",
            "adapter": f"{self.parameters['trainable']:,} of {self.parameters['total']:,} parameters",
            "seconds": f"{self.seconds['train']:.0f} training, {self.seconds['evaluate']:.0f} evaluation",
            "folder": str(self.folder),
        }

    @property
    def title(self) -> str:
        return f"{self.dataset}: {self.method} on {self.model}, loss {self.loss}, seed {self.few_shot_seed}"

    def __str__(self) -> str:
        return "\n".join([self.title, *(f"  {name:<9} {fact}" for name, fact in self.facts().items())])

    def _repr_html_(self) -> str:
        """For notebooks."""
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(fact)}</td></tr>" for name, fact in self.facts().items()
        )
        return f"<table><caption>{escape(self.title)}</caption>{rows}</table>"


class _Scores(TypedDict, total=False):
    accuracy: float | None
    accuracy_iqr: float
    chance: float
    f1_macro: float


class _OfTemplate(TypedDict):
    accuracy: float | None


class _Gain(TypedDict):
    metric: str
    value: float
    low: float
    high: float


class _Baseline(TypedDict):
    accuracy: float
    balanced_accuracy: NotRequired[float]  # not of rows with several labels
    f1_macro: float
    gain: _Gain


class _Metrics(_Scores, total=False):
    leading_metric: Literal["accuracy", "balanced_accuracy", "f1_micro"]
    baselines: dict[str, _Baseline]
    templates: dict[str, _OfTemplate]
    members: dict[str, _Scores]
    accuracy_by_norm: dict[str, float]
    final_loss: float


class _Config(TypedDict, total=False):
    icl: dict[str, Any] | None
    templates: dict[str, Any] | None
    dataset: dict[str, Any] | None
    optimizer: dict[str, Any]
    score: dict[str, Any]
    model: dict[str, Any]


class _Read(TypedDict, total=False):
    """The part of `metrics` and `config` that tables, reports and cards rely on."""

    metrics: _Metrics
    config: _Config


def save_record(folder: Path, record: RunRecord) -> Path:
    path = folder / RECORD_FILE
    write_atomically(path, to_checked_json(asdict(record)))
    return path


def load_record(folder: Path) -> RunRecord:
    path = folder / RECORD_FILE
    try:
        fields = from_checked_json(read_text(path))
        if fields["schema_version"] not in range(1, SCHEMA_VERSION + 1):
            raise UserError(
                f"{path} has schema {fields['schema_version']}, and this version reads 1 to {SCHEMA_VERSION}: a newer"
                " version of this project wrote it."
            )
        return validated(RunRecord(**validated(fields, _Read)))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: the run did not finish; finish it with resume=true.") from error
    except UserError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not a record of this project: {error}.") from error


def library_versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "tfew": own_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_commit() -> str | None:
    """Commit of this code, "+changes" where the working tree differs; None outside a checkout."""
    folder = Path(__file__).parent
    try:
        _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)  # else an install inside some other checkout
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def short_commit(commit: str) -> str:
    """The first twelve digits, and "+changes" if the working tree was not clean."""
    digits, plus, changes = commit.partition("+")
    return digits[:12] + plus + changes


def _git(folder: Path, *arguments: str) -> str:
    result = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return result.stdout.strip()
