"""The three commands for a user's own table, on real English and without a GPU: `make demo_english`.

SmolLM2-135M-Instruct is trained on 60 messages to a shop's support, of four topics, and labels 104 others. Then the
adapter is compared with simpler methods on these 104. `runs=runs/demo_english table=support steps=...` sets another
folder, table (support, reviews, intents, quiz) or setting.
"""

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.english.sets import OWN_TABLES, own_tables
from tfew.cli import run_script
from tfew.comparison.plots import COLORS, INK, PNG, blank_figure, draw_chance, figure_bytes, plain_axes, plot_style
from tfew.errors import UserError, unknown_value_error
from tfew.files.atomic import write_bytes_atomically
from tfew.ranking.per_label_metrics import wilson_interval
from tfew.runs.records import load_record

EXPERIMENT = "+experiment=local_english"
ZERO_SHOT, TRAINED = "zero-shot, the bare model", "(IA)³"


def main(arguments: Sequence[str]) -> int:
    if "--help" in arguments:
        print(__doc__)
        return 0
    options = {"runs": "runs/demo_english", "table": "support"}
    options |= dict(argument.split("=", 1) for argument in arguments if argument.split("=")[0] in options)
    if options["table"] not in OWN_TABLES:
        raise unknown_value_error("table", options["table"], OWN_TABLES, "table=")
    overrides = [argument for argument in arguments if argument.split("=")[0] not in options]
    started, folder = time.monotonic(), Path(options["runs"])
    run_commands(options["table"], folder, overrides)
    show(options["table"], folder)
    print(f"  All of it took {time.monotonic() - started:.0f} s.")
    return 0


def run_commands(table: str, folder: Path, overrides: Sequence[str]) -> None:
    """The three commands as a user types them, and the evaluation of the adapter and of the bare model."""
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
    print("\nThese rows have labels of their own, so the adapter can be compared with the bare model:", flush=True)
    zero_shot = [EXPERIMENT, f"label={label}", "validation=null", "baselines=false", *overrides]
    for given, run in ((zero_shot, "zero_shot"), ([f"adapter={adapter}"], "evaluated")):
        command("evaluate", *given, f"data={test}", f"run_dir={folder / run}", "overwrite=true")


def _as_typed(path: Path) -> Path:
    """As a user in this folder would name it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def command(name: str, *arguments: str) -> None:
    """Runs `python -m tfew.NAME`, and says so."""
    print(f"\n$ python -m tfew.{name} {' '.join(arguments)}", flush=True)
    if subprocess.run([sys.executable, "-m", f"tfew.{name}", *arguments]).returncode:
        raise UserError(f"tfew.{name} failed; its message stands above.")


def show(table: str, folder: Path) -> None:
    """The four side by side, as text and as a picture."""
    ours, bare = load_record(folder / "evaluated"), load_record(folder / "zero_shot")
    baselines = ours.metrics.get("baselines", {})  # a table whose rows have choices of their own has none
    accuracy = {name: scores["accuracy"] for name, scores in baselines.items()}
    accuracy |= {ZERO_SHOT: bare.metrics["accuracy"], TRAINED: ours.metrics["accuracy"]}
    rows, chance = ours.counts["rows"], ours.metrics["chance"]
    print(f"\n{table}: accuracy in percent, and its 95 % interval, on {rows} rows that nothing was trained on")
    for name, share in accuracy.items():
        low, high = wilson_interval(round(share * rows), rows)
        print(f"  {name:<26}{100 * share:6.1f}  ({100 * low:.1f} to {100 * high:.1f})")
    draw(accuracy, rows, chance, folder / "figure.png", f"{table}: {rows} unseen rows, 95 % intervals")
    print(f"  picture: {folder / 'figure.png'}; this task's page: {folder / 'evaluated' / 'report.html'}")
    print("  Next: your own table, data=FILE text=COLUMN label=COLUMN in place of data= and label= above.", flush=True)


def draw(accuracy: Mapping[str, float], rows: int, chance: float, path: Path, title: str) -> None:
    with plot_style():
        figure, (axes,) = blank_figure(7.0, 1.1 + 0.42 * len(accuracy))
        for place, share in enumerate(accuracy.values()):
            low, high = wilson_interval(round(share * rows), rows)
            axes.hlines(place, 100 * low, 100 * high, color=COLORS[place], linewidth=4, alpha=0.55)
            axes.scatter([100 * share], [place], s=60, color=COLORS[place], edgecolors="white", zorder=3)
        draw_chance(axes, 100 * chance, (len(accuracy) - 1) / 2, len(accuracy) / 2, "chance")
        axes.set_yticks(range(len(accuracy)), list(accuracy), color=INK)
        axes.set_ylim(len(accuracy) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.set_xlabel("accuracy (%)", color=INK)
        axes.set_title(title, loc="left", color=INK, fontsize=11)
        axes.legend(loc="lower right", frameon=False, fontsize=9)
        plain_axes(axes)
    write_bytes_atomically(path, figure_bytes(figure, PNG))


if __name__ == "__main__":
    run_script(main)
