"""The task of each row of a layer's input: set by who runs a model, read by its layers.

A batch may hold examples of several tasks (`Batch.task_id`), but a layer inside the model sees no batch: rows of
padded tokens, of examples or of choices, or the packed tokens of all examples. So whoever runs a part of a model
sets for that part the task of each row, or of each packed token.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_tasks: ContextVar[Tensor | None] = ContextVar("tasks", default=None)


@contextmanager
def task_routing(task_R: Tensor | None) -> Iterator[None]:
    """What runs inside sees R rows with these tasks; None: the batch names no tasks."""
    before = _tasks.set(task_R)
    try:
        yield
    finally:
        _tasks.reset(before)


def tasks_of_rows() -> Tensor | None:
    """`[R]`, the tasks of the rows that the layer now running sees."""
    return _tasks.get()
