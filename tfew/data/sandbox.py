"""Templates that anybody may have written: no attribute of Python is reachable, time, memory and output are bounded.

A template that only shows columns, with conditions and with filters that make nothing longer, cannot take long, and is
rendered here. Any other one is rendered in a process of its own (`rendering.py`), which is stopped when it takes too
long.
"""

import atexit
import json
import os
import random
import re
import select
import subprocess
import sys
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
# what cannot make a text much longer than the row and the template are
PLAIN_NODES = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Const, nodes.Name, nodes.Getattr, nodes.Getitem,
    nodes.Slice, nodes.List, nodes.Tuple, nodes.If, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or,
    nodes.Not, nodes.Test, nodes.Filter, nodes.Concat,
)  # fmt: skip
PLAIN_FILTERS = {"trim", "lower", "upper", "capitalize", "title", "string", "int", "first", "last", "length", "join"}
MARKS = re.compile(f"([{rendering.START}{rendering.END}])")
MOST_SEPARATOR = 20  # characters between what `join` joins


class RenderError(Exception):
    """Why a template was stopped, or what it did wrong, in words."""


class SafeTemplate:
    """A Jinja template; raises RenderError where it is no valid one."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise RenderError(f"it has {len(source):,} characters, and at most {MAX_SOURCE_CHARACTERS:,} are read")
        self.source = source
        try:
            tree = _environment().parse(source)
            self._template: Template | None = _environment().from_string(source) if is_plain(tree) else None
            # both look at the tree as a compiler does, which computes what is constant: only for plain ones here
            columns = [] if self._template is None else meta.find_undeclared_variables(tree)
        except Exception as error:  # a syntax error, or nested deeper than Python recurses
            raise RenderError(f"it is not valid Jinja: {error}") from error
        if self._template is None:
            columns = json.loads(_process().ask({"source": source}))
        self.columns = frozenset(columns)

    def render(self, fields: Mapping[str, Any], cut: Sequence[str] = ()) -> str:
        """Texts of the columns `cut` stand between START and END; raises RenderError."""
        if self._template is not None:
            return "".join(rendering.chunks(self._template, fields, cut))
        request = {"source": self.source, "fields": fields, "cut": list(cut), "seed": random.random()}
        return _process().ask(request)


def is_plain(tree: nodes.Node) -> bool:
    """Whether rendering is sure to be quick and its output short, read off the template's syntax tree."""
    return _is_plain_node(tree) and all(is_plain(child) for child in tree.iter_child_nodes())


def _is_plain_node(node: nodes.Node) -> bool:
    if not isinstance(node, nodes.Filter):
        return isinstance(node, PLAIN_NODES)
    short = all(
        isinstance(argument, nodes.Const) and len(str(argument.value)) <= MOST_SEPARATOR for argument in node.args
    )
    return node.name in PLAIN_FILTERS and short and not (node.kwargs or node.dyn_args or node.dyn_kwargs)


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    return rendering.environment()


class _Process:
    """The process that renders; started when it is first needed, and again after it was stopped."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        atexit.register(self.close)

    def ask(self, request: Mapping[str, Any]) -> str:
        if self._process is None:
            self._start()
        answer = self._answer(request, RENDER_TIMEOUT_SECONDS)
        if "error" in answer:
            raise RenderError(answer["error"])
        return answer["text"]

    def _start(self) -> None:
        # not -m: the package and all that it imports would take longer to start than to render
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
            with suppress(OSError):  # what was not sent any more cannot be sent now
                pipe.close()  # type: ignore[union-attr]
        process.wait()


@cache
def _process_of(pid: int) -> _Process:
    return _Process()


def _process() -> _Process:
    """One for each process of ours: two must not talk to the same one."""
    return _process_of(os.getpid())


def split_marks(text: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The text without START and END and surrounding space, and where what stood between them now stands."""
    plain, spans, opened = "", [], None
    for piece in MARKS.split(text.strip()):
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
