"""A file of predictions for RAFT's leaderboard: ID and Label of every test row, spelt as the task spells it."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from tfew.errors import UserError, shorten_list
from tfew.files.untrusted import parse_json


def predictions_csv(task: str, predicted: Sequence[tuple[int, str]], ids: Sequence[int], names: Sequence[str]) -> str:
    """The file's text; raises UserError unless every id has one label, and every label is one of the names."""
    found = [row for row, _ in predicted]
    if twice := {row for row in found if found.count(row) > 1} if len(set(found)) < len(found) else set():
        raise UserError(f"{task}: ids predicted twice: {shorten_list(map(str, twice))}.")
    if wrong := set(found) ^ set(ids):
        raise UserError(
            f"{task}: ids that are not those of the test rows, or missing: {shorten_list(map(str, wrong))}."
        )
    if unknown_names := {label for _, label in predicted} - set(names):
        raise UserError(f"{task}: labels that the task does not have: {shorten_list(map(repr, unknown_names))}.")
    label_of = dict(predicted)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("ID", "Label"), *((row, label_of[row]) for row in ids)])
    return text.getvalue()


def check_names(task: str, names: Sequence[str], data_dir: Path | None) -> None:
    """Raises UserError unless a run's labels are those of the task's `task.json`, if that file exists."""
    for path in [] if data_dir is None else [data_dir / "raft" / task / "task.json", data_dir / task / "task.json"]:
        if not path.is_file():
            continue
        try:
            official = parse_json(path.read_text(encoding="utf-8"))["label_columns"]["Label"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} does not describe a task: {error!r}.") from error
        if set(official) != set(names):
            raise UserError(
                f"{task}: the run's labels are not those of {path}:"
                f" {shorten_list(map(repr, set(names) ^ set(official)))}."
            )
