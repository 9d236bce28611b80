"""Stub predictors: tests of waiting, cancelling and taking turns need no model."""

import threading
from collections.abc import Mapping
from typing import Any

from tfew.decisions.decision import Decision
from tfew.errors import UserError


class Labeller:
    labels, columns, text_column, templates, several = ("a", "b"), ("text",), "text", ("t",), False
    decision, answering = Decision(), None

    def check_columns(self, columns: Any, where: str) -> None:
        return None


class Recorder:
    """In a predictor's place: no row can be labelled, and each batch is noted. It answers nothing until it is let."""

    def __init__(self, go: bool = True) -> None:
        self.go = threading.Event()
        self.batch_size = 1
        self.tasks: Mapping[str, Any] = {"t": Labeller()}
        self.batches: list[list[Any]] = []
        if go:
            self.go.set()

    def prepare(self, rows: Any) -> list[Any]:
        self.batches.append([row for _, _, row in rows])
        self.go.wait()
        return [UserError("no label") for _ in rows]

    def answer(self, prepared: Any) -> list[Any]:
        raise AssertionError
