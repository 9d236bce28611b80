"""The terminal of the front page: `python docs/record.py` runs the commands and writes docs/terminal.txt.

`docs/pictures.py` draws it. Lines are left out where a command prints more than a picture holds; "..." says so.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

TEXT = Path(__file__).with_name("terminal.txt")
EXAMPLES = Path(__file__).parents[1] / "tfew" / "examples"
MOST_LINES, WIDTH = 13, 104  # of a command's output
COMMANDS = (
    "tfew train +experiment=local_english data=support_train.csv text=message label=topic folds=null validation=0.25",
    "tfew predict adapter=runs/{run} input=support_test.csv output=labels.csv",
)


def main() -> None:
    tfew = Path(sys.executable).with_name("tfew")
    shown = []
    with tempfile.TemporaryDirectory() as name:
        for part in ("train", "test"):
            (Path(name) / f"support_{part}.csv").write_bytes((EXAMPLES / f"support_{part}.csv").read_bytes())
        for command in COMMANDS:
            command = command.format(run=next((path.name for path in Path(name, "runs").glob("*")), ""))
            result = subprocess.run(
                command.replace("tfew", str(tfew), 1), shell=True, cwd=name, check=True, text=True,
                capture_output=True, env={**os.environ, "TQDM_DISABLE": "1"},
            )  # fmt: skip
            shown.append(f"$ {command}")
            shown += shortened(result.stdout.rstrip().splitlines())
    TEXT.write_text("\n".join(shown) + "\n", encoding="utf-8")


def shortened(lines: list[str]) -> list[str]:
    lines = [line for line in lines if line.strip()]
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], "..."]
    return [line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..." for line in lines]


if __name__ == "__main__":
    main()
