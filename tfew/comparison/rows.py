"""A run reduced to what tables need, as one line of `records.jsonl`: tables are functions of these rows only."""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tfew.errors import UserError, shorten_list
from tfew.files.untrusted import parse_own_json, validated
from tfew.runs.records import ZERO_SHOT, RunRecord
from tfew.runs.run_folder import PREDICTIONS_FILE, check_recorded
from tfew.schema import Prediction

NORMS = ("token", "sum")  # score norms in the tables
STAGES = ("train", "evaluate")
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"  # how many templates answered a row right
MAX_TEMPLATES = len(DIGITS) - 1
SETTINGS = ("steps", "batch_size", "shots", "eval_rows")  # of the configuration; and optimizer.lr, score.norm


@dataclass(frozen=True)
class Row:
    """One run. Accuracies are fractions, medians over templates.

    `right`: one character per evaluated row, in order of idx: how many of the `templates` answered it right, 0 to 35 as
    0-9a-z. So two runs can be compared row by row.
    """

    variant: str
    dataset: str
    seed: int
    name: str
    model: str
    method: str
    loss: str
    accuracy: float  # under settings["score_norm"]
    accuracy_by_norm: dict[str, float]
    chance: float
    templates: int
    right: str
    settings: dict[str, float | int | str | None]
    trained_parameters: int
    seconds: dict[str, float]
    git_commit: str | None
    versions: dict[str, str]

    @property
    def is_zero_shot(self) -> bool:
        """Whether this is the model without an adapter, the baseline of the others."""
        return self.method == ZERO_SHOT


def make_row(record: RunRecord, variant: str, folder: Path) -> Row:
    """The row of a finished run on one data set; reads the `predictions.jsonl` in its folder.

    Only numbers of the configuration are copied: the rest holds local paths.
    """
    metrics, config = record.metrics, record.config
    check_recorded(record, folder, PREDICTIONS_FILE)
    return Row(
        variant=variant,
        dataset=record.dataset,
        seed=record.few_shot_seed,
        name=record.name,
        model=record.model,
        method=record.method,
        loss=record.loss,
        accuracy=metrics["accuracy"],
        accuracy_by_norm=metrics["accuracy_by_norm"],
        chance=metrics["chance"],
        templates=len(metrics["templates"]),
        right=right_by_row(folder / PREDICTIONS_FILE),
        settings={
            **{key: config[key] for key in SETTINGS},
            "lr": config["optimizer"]["lr"],
            "score_norm": config["score"]["norm"],
        },
        trained_parameters=record.parameters["trained"],
        seconds=record.seconds,
        git_commit=record.git_commit,
        versions=record.versions,
    )


def right_by_row(predictions: Path) -> str:
    """`Row.right` from a `predictions.jsonl`; raises UserError if it is missing or has too many templates."""
    if not predictions.is_file():
        raise UserError(f"{predictions} is missing, and tables need it: repeat the run with overwrite=true.")
    right: dict[int, int] = defaultdict(int)
    try:
        with predictions.open(encoding="utf-8") as file:
            for prediction in map(Prediction.from_json, file):
                right[prediction.idx] += prediction.predicted == prediction.label
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{predictions} cannot be read: {error}; make the run again with overwrite=true.") from error
    if right and max(right.values()) > MAX_TEMPLATES:
        raise UserError(f"{predictions} has more than {MAX_TEMPLATES} templates: choose fewer with templates=.")
    return "".join(DIGITS[right[idx]] for idx in sorted(right))


def as_json_lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)


def load_rows(path: Path) -> list[Row]:
    """The rows of a `records.jsonl`; raises UserError if it is not such a file."""
    try:
        return [_parse_row(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"records={path} cannot be read as the rows of a comparison: {error}.") from error


def _parse_row(line: str) -> Row:
    row = validated(Row(**parse_own_json(line)))
    needed = {"accuracy_by_norm": NORMS, "seconds": STAGES, "settings": (*SETTINGS, "lr", "score_norm")}
    for name, keys in needed.items():
        if missing := set(keys) - getattr(row, name).keys():
            raise ValueError(f"{name} lacks {shorten_list(missing)}")
    if wrong := set(row.right) - set(DIGITS):
        raise ValueError(f"right holds {shorten_list(wrong)}")
    return row


def as_csv(rows: Sequence[Row]) -> str:
    """One line per run; accuracies in percent."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    settings = (*SETTINGS, "lr", "score_norm")
    header = ("variant", "dataset", "seed", "accuracy", "accuracy_token", "accuracy_sum", "chance", "model", "method")
    writer.writerow([*header, "loss", *settings, "trained_parameters", "train_seconds", "evaluate_seconds", "name"])
    for row in rows:
        accuracies = (row.accuracy, *(row.accuracy_by_norm[norm] for norm in NORMS), row.chance)
        writer.writerow([
            row.variant, row.dataset, row.seed, *(f"{100 * value:.2f}" for value in accuracies), row.model, row.method,
            row.loss, *(row.settings[key] for key in settings), row.trained_parameters,
            *(f"{row.seconds[stage]:.2f}" for stage in STAGES), row.name,
        ])  # fmt: skip
    return text.getvalue()
