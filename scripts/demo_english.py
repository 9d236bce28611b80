"""The three commands for a table of one's own, on real English and without a GPU: `make demo_english`.

60 messages to a shop's support, of four topics, are trained on by SmolLM2-135M-Instruct; 104 others are labelled. Then
what the adapter gains over simpler ways, on these 104. `runs=runs/demo_english table=support steps=...`: another
folder, table (support, reviews, intents, quiz) or setting.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scripts.english.classical import bag_of_words, commonest
from scripts.english.contenders import COMMONEST, WORDS, Contender
from scripts.english.job import Job, classifier_row
from scripts.english.sets import OWN_TABLES, own_tables
from tfew.cli import run_script
from tfew.comparison.numbers import Comparison
from tfew.comparison.plots import draw_accuracies
from tfew.comparison.rows import Row, make_row
from tfew.comparison.tables import accuracy_cells, as_text
from tfew.errors import UserError, unknown_value_error
from tfew.runs.records import load_record

EXPERIMENT = "+experiment=local_english"


def main(arguments: Sequence[str]) -> int:
    if "--help" in arguments:
        print(__doc__)
        return 0
    options = {"runs": "runs/demo_english", "table": "support"}
    options |= dict(argument.split("=", 1) for argument in arguments if argument.split("=")[0] in options)
    if options["table"] not in OWN_TABLES:
        raise unknown_value_error("table", options["table"], OWN_TABLES, "table=")
    overrides = [argument for argument in arguments if argument.split("=")[0] not in options]
    started = time.monotonic()
    rows = make_rows(options["table"], Path(options["runs"]), overrides)
    show(options["table"], Path(options["runs"]), rows)
    print(f"  All of it took {time.monotonic() - started:.0f} s.")
    return 0


def make_rows(table: str, folder: Path, overrides: Sequence[str]) -> list[Row]:
    """Runs the commands as a user types them, and then what their numbers are compared with."""
    tables, label = own_tables(table), OWN_TABLES[table]
    train, test = (_as_typed(path) for path in (tables.train, tables.test))
    data, adapter = [EXPERIMENT, f"data={train}", f"label={label}"], folder / "adapter"
    print("1. What the model is shown:", flush=True)
    command("preview", *data, "n=1", *overrides)
    print(
        "\n2. Training. A quarter of the rows is held out (validation=0.25), so that one training is enough;"
        " folds=5 validation=null\n   would predict every row by an adapter trained without it, in about six times the"
        " time:", flush=True,
    )  # fmt: skip
    command("train", *data, f"run_dir={adapter}", "overwrite=true", *overrides)
    print("\n3. Labels for new rows:", flush=True)
    command("predict", f"adapter={adapter}", f"input={test}", f"output={folder / 'labels.csv'}", "overwrite=true")
    print("\nThe same rows have labels, so the adapter can be compared with the bare model:", flush=True)
    zero_shot = [EXPERIMENT, f"label={label}", "validation=null", *overrides]
    evaluated = {"zero-shot": zero_shot, "(IA)³": [f"adapter={adapter}"]}
    rows = [classifier_row(Job(Contender(name), table, 0), tables, how) for name, how in CLASSIFIERS.items()]
    for name, given in evaluated.items():
        run = folder / ("zero_shot" if name == "zero-shot" else "evaluated")
        command("evaluate", *given, f"data={test}", f"run_dir={run}", "overwrite=true")
        rows.append(replace(make_row(load_record(run), name, run), dataset=table))
    return rows


def _as_typed(path: Path) -> Path:
    """As a user in this folder would name it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


CLASSIFIERS = {COMMONEST: commonest, WORDS: bag_of_words}


def command(name: str, *arguments: str) -> None:
    """Runs `python -m tfew.NAME`, and says so."""
    print(f"\n$ python -m tfew.{name} {' '.join(arguments)}", flush=True)
    if subprocess.run([sys.executable, "-m", f"tfew.{name}", *arguments]).returncode:
        raise UserError(f"tfew.{name} failed; its message stands above.")


def show(table: str, folder: Path, rows: Sequence[Row]) -> None:
    comparison = Comparison(rows)
    print(f"\n{table}: accuracy in percent on {len(rows[0].right)} rows that nothing was trained on")
    print(as_text(accuracy_cells(comparison)[:2]))
    draw_accuracies(comparison, folder / "figure.png", f"{table}: {len(rows[0].right)} unseen rows")
    print(f"  figure: {folder / 'figure.png'}; labels: {folder / 'labels.csv'}; adapter: {folder / 'adapter'}")
    print("  Next: your own table, data=FILE text=COLUMN label=COLUMN in place of data= and label= above.", flush=True)


if __name__ == "__main__":
    run_script(main)
