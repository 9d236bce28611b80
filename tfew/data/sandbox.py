"""Templates of unknown origin: they reach no attribute of Python, and their time, memory and output are bounded.

A template that only shows columns, with conditions and with filters that lengthen nothing, is rendered in this process.
Any other is rendered in a separate process (`rendering.py`), which is killed if it takes too long.
"""

import atexit
import json
import os
import random
import re
import select
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Template, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tfew.data import rendering

MAX_SOURCE_CHARACTERS = 100_000
MAX_OUTPUT_CHARACTERS = 1_000_000  # of one render: some 200,000 words
RENDER_TIMEOUT_SECONDS = 5.0  # of one render
START_TIMEOUT_SECONDS = 60.0  # of the process that renders, on a busy machine
MAX_MEMORY_BYTES = 512 * 2**20  # of that process
# filters whose output cannot be much longer than the row and the template
PLAIN_NODES = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Const, nodes.Name, nodes.Getattr, nodes.Getitem,
    nodes.Slice, nodes.List, nodes.Tuple, nodes.If, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or,
    nodes.Not, nodes.Test, nodes.Filter, nodes.Concat,
)  # fmt: skip
GROWS = {"join"}  # it may put a separator between all characters: allowed once, not on its own output
PLAIN_WORK = 20_000_000  # characters of the row times nodes of the template that are rendered in this process
PLAIN_FILTERS = {"trim", "lower", "upper", "capitalize", "title", "string", "int", "first", "last", "length", "join"}
MARKER = re.compile(f"([{rendering.START}{rendering.END}])")
MAX_SEPARATOR_CHARACTERS = 20  # of `join`


class RenderError(Exception):
    """Why a template was stopped or failed."""


class SafeTemplate:
    """A Jinja template; raises RenderError if it is invalid."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise RenderError(f"it has {len(source):,} characters, and the limit is {MAX_SOURCE_CHARACTERS:,}")
        self.source = source
        try:
            tree = _environment().parse(source)
            self._nodes = sum(1 for _ in tree.find_all(nodes.Node))
            self._template: Template | None = _environment().from_string(source) if is_plain(tree) else None
            # compiling folds constants, which may never end: only plain templates are compiled here
            columns = [] if self._template is None else meta.find_undeclared_variables(tree)
        except Exception as error:  # a syntax error, or nested deeper than Python recurses
            raise RenderError(f"it is not valid Jinja: {error}") from error
        if self._template is None:
            columns = json.loads(_process().ask({"source": source}))
        self.columns = frozenset(columns)

    def render(self, fields: Mapping[str, Any], cut: Sequence[str] = ()) -> str:
        """The rendered text, with texts of the columns `cut` between START and END; raises RenderError."""
        if self._template is not None and self._nodes * _characters(fields) <= PLAIN_WORK:
            try:
                return rendering.limit_output(
                    rendering.render_chunks(self._template, fields, cut), MAX_OUTPUT_CHARACTERS
                )
            except rendering.TooLongError as error:
                raise RenderError(str(error)) from error
        request = {"source": self.source, "fields": fields, "cut": list(cut), "seed": random.random()}
        return _process().ask(request)


def is_plain(tree: nodes.Node) -> bool:
    """Whether the template's syntax tree guarantees fast rendering and short output."""
    return _is_plain_node(tree) and all(is_plain(child) for child in tree.iter_child_nodes())


def _is_plain_node(node: nodes.Node) -> bool:
    if isinstance(node, nodes.List | nodes.Tuple):  # its repr quotes texts, which would grow with each nesting
        return all(_is_place(item) for item in node.items)
    if not isinstance(node, nodes.Filter):
        return isinstance(node, PLAIN_NODES)
    if node.name in GROWS and any(inner.name in GROWS for inner in node.find_all(nodes.Filter)):
        return False
    short = all(
        isinstance(argument, nodes.Const) and len(str(argument.value)) <= MAX_SEPARATOR_CHARACTERS
        for argument in node.args
    )
    return node.name in PLAIN_FILTERS and short and not (node.kwargs or node.dyn_args or node.dyn_kwargs)


def _characters(fields: Mapping[str, Any]) -> int:
    """The number of characters in all texts of a row, at any depth."""
    waiting, found = list(fields.values()), 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [*value, *value.values()]
        elif isinstance(value, list | tuple):
            waiting += value
        else:
            found += len(value) if isinstance(value, str) else 20
    return found


def _is_place(node: nodes.Node) -> bool:
    """Whether it is a constant, or a value of the row."""
    inner = node.find_all((nodes.Filter, nodes.Concat, nodes.List, nodes.Tuple))
    return isinstance(node, nodes.Const | nodes.Name | nodes.Getattr | nodes.Getitem) and not any(inner)


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    return rendering.environment()


class _RenderProcess:
    """The rendering process; started on first use, and restarted after it was killed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()  # a service reads templates while it renders others
        atexit.register(self.close)

    def ask(self, request: Mapping[str, Any]) -> str:
        with self._lock:
            if self._process is None:
                self._start()
            answer = self._answer(request, RENDER_TIMEOUT_SECONDS)
        if "error" in answer:
            raise RenderError(answer["error"])
        return answer["text"]

    def _start(self) -> None:
        # not -m: importing the package takes longer than rendering
        limits = (MAX_OUTPUT_CHARACTERS, MAX_MEMORY_BYTES)
        command = [sys.executable, "-P", str(Path(rendering.__file__)), *map(str, limits)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._answer({"source": ""}, START_TIMEOUT_SECONDS)

    def _answer(self, request: Mapping[str, Any], seconds: float) -> dict[str, str]:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request, default=str) + "\n")
            self._process.stdin.flush()
            in_time = bool(select.select([self._process.stdout], [], [], seconds)[0])
            line = self._process.stdout.readline() if in_time else ""
        except OSError:
            in_time, line = True, ""
        if line:
            return json.loads(line)
        self.close()
        raise RenderError("its process ended" if in_time else f"it takes longer than {seconds:g} seconds")

    def close(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # unsent data of a dead process
                pipe.close()  # type: ignore[union-attr]
        process.wait()


@cache
def _process_of(pid: int) -> _RenderProcess:
    return _RenderProcess()


def _process() -> _RenderProcess:
    """One per process of ours: processes must not share it."""
    return _process_of(os.getpid())


def extract_spans(text: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The text without START, END and surrounding space, and the (start, end) positions of the texts they enclosed."""
    plain, spans, opened = "", [], None
    for piece in MARKER.split(text.strip()):
        if piece == rendering.START:
            opened = len(plain)
        elif piece == rendering.END:
            spans += [] if opened is None else [(opened, len(plain))]
            opened = None
        else:
            plain += piece
    before = len(plain) - len(plain.lstrip())
    stripped = plain.strip()
    moved = [(max(start - before, 0), min(end - before, len(stripped))) for start, end in spans]
    return stripped, tuple((start, end) for start, end in moved if start < end)
