"""The task of each row of a layer's input: set by the code that runs a model, read by its layers.

A batch may hold examples of several tasks (`Batch.task_id`), but a layer inside the model does not see the batch, only
padded rows of examples or choices, or the packed tokens of all examples. So the code that runs a part of a model sets
the task of each row, or of each packed token, for that part.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_tasks: ContextVar[Tensor | None] = ContextVar("tasks", default=None)


@contextmanager
def task_routing(task_R: Tensor | None) -> Iterator[None]:
    """A context in which layers see R rows with these tasks; None: the batch has no tasks."""
    before = _tasks.set(task_R)
    try:
        yield
    finally:
        _tasks.reset(before)


def tasks_of_rows() -> Tensor | None:
    """`[R]`, the tasks of the rows in the current layer's input."""
    return _tasks.get()
