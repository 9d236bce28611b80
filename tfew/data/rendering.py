"""Jinja's sandbox, and the separate process that renders templates which may take long.

The sandbox blocks access to Python's attributes. It does not stop a template that never ends or fills the memory: only
killing its process does. Run as a program, this file is that process: it answers each line of JSON with one line of
JSON, and imports nothing of the rest of the package, so that it starts in a tenth of a second.
"""

import json
import random
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jinja2 import StrictUndefined, Template, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

START, END = "\ufdd0", "\ufdd1"  # around text that may be truncated; Unicode noncharacters, which no text should hold


class Cuttable(str):
    """Text of a row that may be truncated; so may the results of the operations below."""

    __slots__ = ()


Cuttable.__module__, Cuttable.__name__ = "builtins", "str"  # errors name the type, and a user knows it as a text


def _cuttable_operation(name: str) -> Any:
    def operation(self: Cuttable, *arguments: Any) -> Cuttable:
        return Cuttable(getattr(str, name)(self, *arguments))

    operation.__name__ = name
    return operation


for _name in ("strip", "lower", "upper", "capitalize", "replace", "__getitem__"):
    setattr(Cuttable, _name, _cuttable_operation(_name))


def environment() -> ImmutableSandboxedEnvironment:
    env = ImmutableSandboxedEnvironment(undefined=StrictUndefined, finalize=_mark_cuttable)
    # without cycler, joiner and lipsum, which no prompt needs
    env.globals = {"range": env.globals["range"], "dict": dict, "namespace": Namespace}
    return env


def _mark_cuttable(value: Any) -> Any:
    return f"{START}{value}{END}" if isinstance(value, Cuttable) else value


def render_chunks(template: Template, fields: Mapping[str, Any], cut: Iterable[str]) -> Iterator[str]:
    """The rendered template, piece by piece, with texts of the columns `cut` between START and END."""
    may_mark = not any(mark in str(value) for value in fields.values() for mark in (START, END))
    marked = {name: Cuttable(fields[name]) for name in cut if may_mark and isinstance(fields.get(name), str)}
    return template.generate({**fields, **marked})


class TooLongError(ValueError):
    """A template prints too much."""


def limit_output(pieces: Iterable[str], max_characters: int) -> str:
    """Passes pieces on; raises TooLongError as soon as they exceed the limit."""
    kept: list[str] = []
    size = 0
    for piece in pieces:
        kept.append(piece)
        size += len(piece)
        if size > max_characters:
            raise TooLongError(f"it prints more than {max_characters:,} characters")
    return "".join(kept)


class Server:
    """Answers `{text}` or `{error}`.

    The text is the rendered template for `{source, fields, cut, seed}`, and a JSON list of its columns for `{source}`.
    """

    def __init__(self, max_characters: int, memory_bytes: int) -> None:
        self._max_characters, self._memory_bytes = max_characters, memory_bytes
        self._environment = environment()
        self._templates: dict[str, Template] = {}

    def answer(self, request: Mapping[str, Any]) -> dict[str, str]:
        try:
            source = request["source"]
            if source not in self._templates:
                self._templates[source] = self._environment.from_string(source)
            if "fields" not in request:
                return {"text": json.dumps(sorted(meta.find_undeclared_variables(self._environment.parse(source))))}
            random.seed(request["seed"])  # the filter `random` draws from it
            pieces = render_chunks(self._templates[source], request["fields"], request["cut"])
            return {"text": limit_output(pieces, self._max_characters)}
        except MemoryError:
            return {"error": f"it needs more than {self._memory_bytes // 2**20} MB of memory"}
        except RecursionError:
            return {"error": "it recurses without end"}
        except ValueError as error:
            return {"error": str(error)}
        except Exception as error:  # any kind: a template is a program
            return {"error": f"{type(error).__name__}: {error}"}


def _limit_memory(max_bytes: int) -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):  # no such limit on this system: the time limit remains
        pass


def main() -> None:
    max_characters, memory_bytes = map(int, sys.argv[1:])
    _limit_memory(memory_bytes)
    server = Server(max_characters, memory_bytes)
    for line in sys.stdin:
        print(json.dumps(server.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
