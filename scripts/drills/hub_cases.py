"""Makes a table of the messages in each case of tests/hub: runs the tests, and records what commands and calls log.

    python -m scripts.drills.hub_cases evidence/hub.md                    replaces the table of that page
    python -m scripts.drills.hub_cases evidence/hub.md models data        its parts for test_models.py and test_data.py

The text around the table is kept. Exit code 1 if a test fails; the page is then not changed.
"""

import logging
import re
import sys
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from tfew.errors import UserError
from tfew.files.atomic import write_atomically

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- made by scripts/drills/hub_cases.py -->", "<!-- end of what it made -->"
FEWEST_KINDS, FEWEST_COMMANDS = 25, 10  # fewer would mean an incomplete table
MOST_CHARACTERS = 230
# functions that tests call; the rest of the package calls its own
CALLS = (
    "tfew.train.train", "tfew.train.rerun", "tfew.evaluate.evaluate", "tfew.convert.convert",
    "tfew.together.train_together",
    "tfew.models.backbone.load_model", "tfew.models.backbone.load_tokenizer", "tfew.tables.hub_rows.load_from_hub",
    "tfew.tables.hub_rows.load_hub_table", "tfew.task.train_task", "tfew.dataset_config.complete",
    "tfew.files.hub_adapter.local_adapter",  "tfew.prediction.predictor.load_predictor",
    "tfew.data.fewshot.pick_official", "tfew.models.weights_sample.weights_sample_sha256",
    "tfew.files.hub_xet.or_over_http", "tfew.runs.rerun.settings_again", "tfew.models.saved_task.task_of",
)  # fmt: skip
NOISE = (
    "Error executing job",
    "Set the environment variable",
    "  record:",
    "Training",
    "Ranking",
    "Making ",
    "Hub says",
)
TELLING = re.compile(
    r"Hub|hub:|Xet|commit|Download|cached|accuracy|upload|Upload|model\.|dataset\.|base=|revision|the same bytes"
)


@dataclass
class Case:
    """What happened in one test, in order: calls and commands, and what they said."""

    group: str
    name: str
    done: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    is_command: bool = False
    seconds: float = 0.0

    @property
    def row(self) -> str:
        whole = list(dict.fromkeys(" ".join(text.split()) for text in self.said))
        said = [_shown(text) for text in whole if not any(text in other for other in whole if other != text)]
        done = " ; ".join(dict.fromkeys(self.done)) or "the functions themselves"
        return f"| {self.name} | {_cell(done)} | {_cell(' / '.join(said[-2:])) or 'nothing'} | {self.seconds:.1f} |"


class Recorder(logging.Handler):
    """A plugin of pytest, and where messages of tfew go."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.cases: list[Case] = []
        self.failed: list[str] = []
        self.case = Case("", "")
        self.began = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        self.case.said.append(record.getMessage())

    def pytest_runtest_logstart(self) -> None:
        self.case = Case("", "")  # messages of fixtures belong to no case

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Any:
        group = Path(item.path).stem.removeprefix("test_")
        self.case = Case(group, item.name.removeprefix("test_").replace("_", " "))
        logging.getLogger("tfew").setLevel(logging.INFO)
        self.began = time.perf_counter()
        try:
            return (yield)
        finally:
            self.case.seconds = time.perf_counter() - self.began
            self.cases.append(self.case)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_configure(self) -> None:
        """Listens before the tests are imported, which take functions by their names."""
        logging.getLogger("tfew").addHandler(self)
        recorder, made = self, UserError.__init__

        def note(error: UserError, *words: str) -> None:
            recorder.case.said.append(" ".join(map(str, words)))
            made(error, *words)

        UserError.__init__ = note  # type: ignore[assignment, method-assign]
        for name in CALLS:
            module, _, function = name.rpartition(".")
            found = getattr(sys.modules.get(module) or __import__(module, fromlist=[function]), function)
            setattr(sys.modules[module], function, self._noted(found, function))
        from tests.hub.shell import Shell

        Shell.python = self._noted_command(Shell.python)  # type: ignore[method-assign]

    def _noted(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        @wraps(call)
        def wrapper(*arguments: Any, **options: Any) -> Any:
            self.case.done.append(f"{name}()")
            return call(*arguments, **options)

        return wrapper

    def _noted_command(self, run: Callable[..., str]) -> Callable[..., str]:
        @wraps(run)
        def wrapper(shell: Any, *arguments: str, **options: Any) -> str:
            self.case.is_command = True
            words = [word for word in arguments[1:] if word not in _usual()] if arguments[0] == "-m" else ["peft alone"]
            named = [f"{key}={value}" for key, value in options.items() if key.isupper() and "TOKEN" not in key]
            self.case.done.append(f"`{' '.join([*named, *words])}`")
            written = run(shell, *arguments, **options)
            lines = [line.strip() for line in re.split(r"[\n\r]", written) if line.strip()]
            self.case.said += [line for line in lines if TELLING.search(line) and not line.startswith(NOISE)]
            return written

        return wrapper


def _usual() -> set[str]:
    """Settings of a command that say nothing of its case."""
    from tests.hub.conftest import SMALL

    return {*SMALL, "dataset.generator.eval=8", "dataset.generator.eval=4", "optimizer.lr=0.1", "max_tokens=40"}


def _shown(text: str) -> str:
    """Without paths and ports of this machine, and with short commits."""
    text = re.sub(r"(/[\w.-]+)*/(pytest-[\w-]+|popen-gw\d+)/(pytest-\d+/)?[\w\[\]-]*?\d+/", "", text)
    text = re.sub(r"(/(tmp|root|home|work|usr|var)\b)(/[\w.@-]+)*/", ".../", text)
    text = re.sub(r"(127\.0\.0\.1|localhost):\d{4,5}", "HOST", text)
    text = re.sub(r"\b([0-9a-f]{8})[0-9a-f]{8,}\b", r"\1...", text)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} ..."


def _cell(text: str) -> str:
    return _shown_path(text).replace("|", "/").replace("<", "&lt;")


def _shown_path(text: str) -> str:
    text = re.sub(r"=(/[\w.@\[\]-]+)+/([\w.-]+)", r"=.../\2", text)
    return text.replace(str(ROOT), ".")


def parts_of(table: str) -> dict[str, list[str]]:
    """The rows that a page has already, by their group."""
    found: dict[str, list[str]] = {}
    for section in table.split("\n### ")[1:]:
        group, *lines = section.splitlines()
        found[group] = [line for line in lines if line.startswith("| ") and not line.startswith("| case ")]
    return found


def as_markdown(parts: Mapping[str, Sequence[str]]) -> str:
    rows = [row for part in parts.values() for row in part]
    commands = sum(row.split(" | ")[1].startswith("`") for row in rows)
    seconds = sum(float(row.split(" | ")[-1].rstrip(" |")) for row in rows)
    if len(rows) < FEWEST_KINDS or commands < FEWEST_COMMANDS:
        print(f"Note: {len(rows)} cases and {commands} commands are fewer than there should be.")
    lines = [
        BEGIN,
        "",
        f"{len(rows)} cases, {commands} of them commands in processes of their own, {seconds:.0f} seconds in all on a",
        "busy machine. Named are the calls that a test makes and, of what was said, the last two sentences.",
    ]
    for group, part in sorted(parts.items()):
        lines += ["", f"### {group}", "", "| case | call or command | what was said | seconds |", "|---|---|---|---:|"]
        lines += part
    return "\n".join([*lines, "", END])


def split_page(page: str) -> tuple[str, str, str]:
    """What stands before the table, the table, and what follows."""
    before, _, rest = page.partition(BEGIN)
    table, end, after = rest.partition(END)
    if not end:
        sys.exit(f"The page has no place for the table: {BEGIN} and {END}.")
    return before, table, after


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("groups", nargs="*", help="test_GROUP.py of tests/hub; all without")
    options = parser.parse_args()
    split_page(options.page.read_text(encoding="utf-8"))  # before minutes are spent
    folder, recorder = ROOT / "tests" / "hub", Recorder()
    files = [str(folder / f"test_{group}.py") for group in options.groups] or [str(folder)]
    code = pytest.main(["-p", "no:cacheprovider", "-n", "0", "-q", *files], plugins=[recorder])
    if code or recorder.failed:
        print(f"{options.page} is left as it was; failed:", *recorder.failed)
        return 1
    before, table, after = split_page(options.page.read_text(encoding="utf-8"))
    made: dict[str, list[str]] = {}
    for case in recorder.cases:
        made.setdefault(case.group, []).append(case.row)
    write_atomically(options.page, before + as_markdown({**parts_of(table), **made}) + after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
