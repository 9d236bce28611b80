"""Assignment of training rows to folds."""

from tfew.data.split import duplicate_groups, stratified_folds, stratified_parts
from tfew.errors import UserError
from tfew.task import Task


def row_folds(task: Task, folds: int, batch_size: int, seed: int) -> list[int]:
    """The fold of each training row; rows that are identical as model inputs are in the same fold.

    Raises UserError if there are too few rows.
    """
    if task.mixture is not None:
        raise UserError(f"folds={folds} is for one data set, and {task.name} is a mixture: folds=null.")
    if folds > task.rows:
        raise UserError(f"folds={folds}, but there are only {task.rows} rows to train on.")
    groups = duplicate_groups(task.prompts)
    if (different := len(set(groups))) < folds:
        raise UserError(
            f"folds={folds}, but only {different} of the {task.rows} rows are different, and rows that are the same are"
            " kept in one fold: fewer folds, or more rows."
        )
    if task.several:
        label_sets = [example.labels or () for example in task.examples]
        fold_of_row = stratified_parts(label_sets, [1 / folds] * folds, seed, groups)
    else:
        names = [None if task.classes is None else task.classes[example.label or 0] for example in task.examples]
        fold_of_row = stratified_folds(names, folds, seed, groups)
    least = task.rows - max(map(fold_of_row.count, range(folds)))
    if least < batch_size:
        raise UserError(
            f"folds={folds} leaves fewer than batch_size={batch_size} of {task.rows} rows to train on: set"
            f" batch_size={least} or less, or add rows."
        )
    return fold_of_row
