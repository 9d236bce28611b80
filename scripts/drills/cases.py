"""Runs preview, train and predict on every table of a folder, as a newcomer would; records output and exit codes.

    python -m scripts.drills.cases ../shared/cases evidence/cases.md

A table whose name begins with n_ holds new rows: it is labelled by an adapter trained on base.csv beside it, and
NAME_new.csv by one trained on NAME.csv. Any other table is previewed, trained on (`+experiment=local_mini`, a few
steps, two folds) and labelled by its own adapter. Files are read in place; the resulting table has their names and no
other path. Exit code 1 if a command ends with a traceback or a signal.
"""

import os
import re
import shutil
import sys
import tempfile
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from scripts.drills.forked import import_everything, start

BASE = "base.csv"
SETTINGS = ("+experiment=local_mini", "steps=4", "folds=2", "batch_size=4", "trainer=cpu")
NOISE = (  # output that does not depend on the table: Hydra's frame, bars, fixed lines of the summary
    "Error executing job", "Epoch ", "Set the environment variable", "Training", "Ranking", "Fold ", "Predicting",
    "  record:", "  model of ", "==== ", "Choices:", "   ids", " * ", "   '", "-- template",
)  # fmt: skip
MOST_CHARACTERS = 2500


@dataclass(frozen=True)
class Said:
    """`text`: the lines that are worth reading."""

    command: str
    code: int
    text: str

    @property
    def is_fault(self) -> bool:
        return self.code < 0 or "Traceback" in self.text


def said(command: str, arguments: Sequence[str], root: Path, hidden: dict[str, str]) -> Said:
    """`hidden`: paths of this machine, and what stands for them."""
    log = root / "log"
    _, status = os.waitpid(start(f"tfew.{command}", list(arguments), log), 0)
    text = log.read_text(encoding="utf-8", errors="replace")
    for path, name in hidden.items():
        text = text.replace(path, name)
    return Said(command, os.waitstatus_to_exitcode(status), "\n".join(_lines(text)))


def _lines(text: str) -> Iterator[str]:
    """Without noise, and each but once."""
    seen: set[str] = set()
    for line in re.split(r"[\n\r]", text):
        if line.strip() and not line.startswith(NOISE) and line not in seen:
            seen.add(line)
            yield re.sub(r"\d+\.\d s, [\d,]+ a second", "... s", line)


def trained_on(table: Path) -> str:
    """The name of the table whose adapter labels this one: its own, but for new rows."""
    if table.name.startswith("n_"):
        return BASE
    older = table.with_name(table.name.replace("_new.", "."))
    return older.name if older.is_file() else table.name


def walk(table: Path, root: Path) -> list[Said]:
    """The three commands on a table, or the last one alone for new rows."""
    hidden = {f"{table.parent}/": "", f"{root}/": ""}
    run = root / "runs" / trained_on(table)
    found = []
    if run.name == table.name:
        found.append(said("preview", (SETTINGS[0], f"data={table}", "n=1"), root, hidden))
        found.append(said("train", (*SETTINGS, f"data={table}", f"run_dir={run}"), root, hidden))
        if not (run / "result.json").is_file():
            return found
    labels = root / "labels" / f"{table.name}.csv"
    given = (f"adapter={run}", f"input={table}", f"output={labels}", "trainer=cpu")
    return [*found, said("predict", given, root, hidden)]


def as_markdown(walks: dict[str, list[Said]]) -> str:
    lines = [
        "# What is said of small tables",
        "",
        "`python -m scripts.drills.cases FOLDER evidence/cases.md`: each table of a folder through preview, train",
        "(mini-T0, 4 steps, 2 folds) and predict. A few steps say nothing about accuracy: what counts is what is",
        "said.",
        "",
        "| file | preview | train | predict |",
        "|---|---|---|---|",
    ]
    for name, found in walks.items():
        codes = {each.command: str(each.code) for each in found}
        lines.append(f"| `{name}` | {' | '.join(codes.get(c, '') for c in ('preview', 'train', 'predict'))} |")
    for name, found in walks.items():
        lines += ["", f"## {name}"]
        for each in found:
            lines += ["", f"{each.command}, exit code {each.code}", "", "```", _shortened(each.text), "```"]
    return "\n".join(lines) + "\n"


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} ..."


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path, nargs="?")
    options = parser.parse_args()
    tables = sorted(path for path in options.folder.resolve().iterdir() if path.is_file() and path.suffix != ".md")
    import_everything()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "labels").mkdir()
        walks = {path.name: walk(path, root) for path in tqdm(tables, unit="table")}  # base.csv comes before n_*
        shutil.rmtree(root / "runs", ignore_errors=True)
    text = as_markdown(walks)
    if options.output is None:
        print(text)
    else:
        options.output.write_text(text, encoding="utf-8")
    return int(any(each.is_fault for found in walks.values() for each in found))


if __name__ == "__main__":
    sys.exit(main())
