"""Jinja in its sandbox, and the process of its own in which templates that may take long are rendered.

The sandbox keeps a template from Python's attributes. It does not keep one from running for ever or from filling
memory: that takes a process that can be stopped. Run as a program, this file is that process: it answers one line of
JSON with one line of JSON, and knows nothing of the rest of the package, so that it starts in a tenth of a second.
"""

import json
import random
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jinja2 import StrictUndefined, Template, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

START, END = "\ufdd0", "\ufdd1"  # around what may be cut: not characters, so no text should hold them


class Cuttable(str):
    """Text of a row that may be shortened; what these operations make of it may be, too."""

    __slots__ = ()


def _kept(name: str) -> Any:
    def operation(self: Cuttable, *arguments: Any) -> Cuttable:
        return Cuttable(getattr(str, name)(self, *arguments))

    operation.__name__ = name
    return operation


for _name in ("strip", "lower", "upper", "capitalize", "replace", "__getitem__"):
    setattr(Cuttable, _name, _kept(_name))


def environment() -> ImmutableSandboxedEnvironment:
    env = ImmutableSandboxedEnvironment(undefined=StrictUndefined, finalize=_marked)
    # without cycler, joiner and lipsum, which no prompt needs
    env.globals = {"range": env.globals["range"], "dict": dict, "namespace": Namespace}
    return env


def _marked(value: Any) -> Any:
    return f"{START}{value}{END}" if isinstance(value, Cuttable) else value


def chunks(template: Template, fields: Mapping[str, Any], cut: Iterable[str]) -> Iterator[str]:
    """What the template renders, piece by piece; texts of the columns `cut` stand between START and END."""
    may_mark = not any(mark in str(value) for value in fields.values() for mark in (START, END))
    marked = {name: Cuttable(fields[name]) for name in cut if may_mark and isinstance(fields.get(name), str)}
    return template.generate({**fields, **marked})


def bounded(pieces: Iterable[str], most_characters: int) -> str:
    """Raises ValueError as soon as there are too many characters."""
    kept: list[str] = []
    size = 0
    for piece in pieces:
        kept.append(piece)
        size += len(piece)
        if size > most_characters:
            raise ValueError(f"it prints more than {most_characters:,} characters")
    return "".join(kept)


class Server:
    """Answers `{text}` or `{error}`.

    To `{source, fields, cut, seed}` the text is what the template renders, to `{source}` a list of its columns.
    """

    def __init__(self, most_characters: int, memory_bytes: int) -> None:
        self._most_characters, self._memory_bytes = most_characters, memory_bytes
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
            pieces = chunks(self._templates[source], request["fields"], request["cut"])
            return {"text": bounded(pieces, self._most_characters)}
        except MemoryError:
            return {"error": f"it needs more than {self._memory_bytes // 2**20} MB of memory"}
        except RecursionError:
            return {"error": "it calls itself without end"}
        except ValueError as error:
            return {"error": str(error)}
        except Exception as error:  # any kind: a template is a program
            return {"error": f"{type(error).__name__}: {error}"}


def _limit_memory(most_bytes: int) -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):  # no such limit on this system: the time limit remains
        pass


def main() -> None:
    most_characters, memory_bytes = map(int, sys.argv[1:])
    _limit_memory(memory_bytes)
    server = Server(most_characters, memory_bytes)
    for line in sys.stdin:
        print(json.dumps(server.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
