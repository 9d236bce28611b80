"""A classifier from a table in memory, in one call.

    >>> import tfew
    >>> classifier = tfew.fit(frame, labels="topic", text="message")
    >>> classifier.predict(["Where is my parcel?"])
    array(['delivery'], dtype='<U9')
    >>> classifier.save("folder")                  # for `tfew predict adapter=folder`, and tfew.Predictor.load

Mistakes raise `tfew.errors.UserError`, a ValueError.
"""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from tfew import api
from tfew.data.infer_columns import infer_text_column
from tfew.data.layout import humanize
from tfew.environment.verbosity import quiet
from tfew.errors import UserError
from tfew.estimator.classes import as_labels
from tfew.estimator.classifier import EXPERIMENT, TfewClassifier
from tfew.estimator.frame import Frame, as_frame
from tfew.estimator.overrides import held_out

log = logging.getLogger(__name__)


def fit(data: Any, labels: Any, *, text: str | Sequence[str] | None = None, **parameters: Any) -> "TfewClassifier":
    """Trains and evaluates a `TfewClassifier` on labelled rows in memory.

    data: texts, or a data frame (pandas, polars, Arrow, `datasets.Dataset`, a mapping of columns). labels: one per row,
    or several as in `TfewClassifier`; or the name of a column, or the names of yes/no columns, one per label. text: the
    column or columns shown to the model; by default all columns of `data` if the labels are passed separately, else the
    text column is inferred, and reported.

    parameters: those of `TfewClassifier`. Without `folds` and `validation`, rows are held out as `experiment` sets it;
    `report` is about these rows.
    """
    api.show_messages()
    frame = as_frame(data)
    if isinstance(labels, str) or _are_columns(labels, frame):
        columns = [labels] if isinstance(labels, str) else list(labels)
        y = frame.only(columns)
        with nullcontext() if parameters.get("verbose", 1) else quiet():
            names = [text] if isinstance(text, str) else text or _infer_text(frame, columns)
        if shown := set(columns) & set(names):
            raise UserError(f"{min(shown)!r} is the label column: as text= it would leak the answer.")
    else:
        y, names = as_labels(labels), [text] if isinstance(text, str) else text or list(frame.columns)
    if not {"folds", "validation"} & parameters.keys():
        parameters |= held_out(parameters.get("experiment", EXPERIMENT))
    if parameters.get("choices") is None and (words := y.classes.get(next(iter(y.columns)))):
        parameters["choices"] = {number: humanize(word) for number, word in enumerate(words)}
    return TfewClassifier(**parameters).fit(frame.only(names), y)


def _are_columns(labels: Any, frame: Frame) -> bool:
    """Whether these are names of yes/no columns, rather than the labels of the rows."""
    if not isinstance(labels, list | tuple) or len(labels) < 2 or not frame.is_table:
        return False
    return all(isinstance(name, str) and name in frame.columns for name in labels)


def _infer_text(frame: Frame, labels: Sequence[str]) -> list[str]:
    others = [name for name in frame.columns if name not in labels]
    chosen = infer_text_column(frame.table(), others)
    if len(others) > 1:
        log.info(f"text={chosen} (inferred of {', '.join(others)}); text= names another, or several.")
    return [chosen]
