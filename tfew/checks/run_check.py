"""Checks a run's rows and settings before training; see `tfew.checks.task_check`."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from tfew.checks.finding import Finding
from tfew.checks.task_check import check_task
from tfew.task import Task

if TYPE_CHECKING:
    from tfew.data.tokenization import PromptTokenizer


def is_checked(dataset: Mapping[str, object], task: Task) -> bool:
    """Whether the task is a user's own table; published data sets are not checked."""
    return task.mixture is None and (dataset.get("table") is not None or task.classes is not None)


def check_run(
    task: Task, prompt_tokenizer: "PromptTokenizer", folds: int | None, labels_are_named: bool, steps: int | None,
    batch_size: int,
) -> list[Finding]:  # fmt: skip
    """Errors first; `steps`: None if the run does not train on these rows. Others as in `check_task`."""
    found = check_task(task, prompt_tokenizer, folds, labels_are_named)
    return found if steps is None else [*found, *_rows_left_out(task.rows, steps, batch_size)]


def _rows_left_out(rows: int, steps: int, batch_size: int) -> Iterator[Finding]:
    """A training that ends before its first pass over the rows, which has full batches only (`StepSampler`)."""
    if steps < (one_pass := rows // batch_size):
        yield Finding(
            False,
            f"steps={steps} of batch_size={batch_size} train on {steps * batch_size:,} of {rows:,} rows",
            f"steps={one_pass} is one pass over the rows, and takes {one_pass / max(steps, 1):.1f} times as long",
        )
