"""The summaries, with baselines, of runs on a user's own tables.

    python -m scripts.drills.own_tables evidence/own_tables.md TABLE ...

Each table is trained on with `+experiment=local_mini` and default settings; if a run is refused, its message is kept.
No row of a table is in the result. Exit code 1 if a command ends with a traceback or a signal.
"""

import os
import sys
import tempfile
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from tqdm import tqdm

from scripts.drills.cases import NOISE
from scripts.drills.forked import import_everything, start

EXPERIMENT = "+experiment=local_mini"
HEADER = """# What runs on small tables print

`python -m scripts.drills.own_tables evidence/own_tables.md TABLE ...`: each table is trained on by
`+experiment=local_mini` (mini-T0, 100 steps, 5 folds), with the settings as they come, and this is the summary. Mini-T0
knows a few hundred words of a world of its own: that a bag of words is ahead of it on texts of other words is expected,
and the summary has to say so.
"""


def walk(table: Path, root: Path) -> tuple[int, str]:
    """The exit code, and what was printed; of a run without a summary its message."""
    out, err = root / "out", root / "err"
    given = [EXPERIMENT, f"data={table}", f"runs={root}/runs", "trainer=cpu"]
    _, status = os.waitpid(start("tfew.train", given, out, err), 0)
    code = os.waitstatus_to_exitcode(status)
    text = out.read_text(encoding="utf-8").strip()
    if code:
        lines = err.read_text(encoding="utf-8").splitlines()
        text = [line for line in lines if line.strip() and not line.startswith(NOISE)][-1]
    return code, text.replace(f"{table.parent}/", "").replace(f"{root}/", "")


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("tables", type=Path, nargs="+")
    options = parser.parse_args()
    import_everything()
    parts, worst = [HEADER], 0
    for table in tqdm(options.tables, unit="table"):
        with tempfile.TemporaryDirectory() as name:
            code, text = walk(table.resolve(), Path(name))
        worst |= code not in (0, 1)
        parts.append(f"## {table.name}\n\nexit code {code}\n\n```\n{text}\n```\n")
    options.output.write_text("\n".join(parts), encoding="utf-8")
    return int(worst)


if __name__ == "__main__":
    sys.exit(main())
