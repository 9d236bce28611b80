"""The paper's tables and figures, and the report, from finished runs: `python -m tfew.paper table=4 runs=runs`.

No torch.
"""

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from tfew.cli import command
from tfew.errors import UserError, shorten_list, unknown_value_error
from tfew.files.atomic import write_atomically, write_bytes_atomically
from tfew.paper.figures import Figure, figure_csv, make_figure
from tfew.paper.reference import specs
from tfew.paper.render import as_csv, as_latex, as_markdown
from tfew.paper.runs import load_runs
from tfew.paper.spread import COLUMNS, Spread, in_context_scores, spread_csv, spread_rows, spreads
from tfew.paper.table import Table, make_table
from tfew.runs.records import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

log = logging.getLogger("tfew.paper")  # __name__ is __main__ under python -m

RENDERERS = {"md": as_markdown, "csv": as_csv, "tex": as_latex}
REPORT_FILE = "report.html"


def paper(config: DictConfig) -> Table | Figure | list[Spread] | Path:
    """Prints the table or the figure's points, and writes them to `output=`; or writes the report."""
    wanted = {"table": config.table, "figure": config.figure, "report": config.report or None}
    given = [name for name, value in wanted.items() if value is not None]
    if len(given) != 1:
        listing = " and ".join(f"{name}={wanted[name]}" for name in given) or "nothing"
        raise UserError(f"Set one of table=1 to 11, figure=2, 3 or icl, and report=true; here it is {listing}.")
    for flag in ("report", "texts", "json"):
        if not isinstance(config[flag], bool):
            raise UserError(f"{flag}={config[flag]!r} is neither true nor false.")
    make: dict[str, Callable[[DictConfig], Table | Figure | list[Spread] | Path]] = {
        "table": _table, "figure": _figure, "report": _report
    }  # fmt: skip
    return make[given[0]](config)


def finished_runs(runs: Path) -> list[RunRecord]:
    """The records of all finished runs in a folder; raises UserError if there are none."""
    return [run.record for run in load_runs(runs)]


def _table(config: DictConfig) -> Table:
    if str(config.table) not in specs()["tables"]:
        raise unknown_value_error("table", config.table, specs()["tables"], "table=")
    records = finished_runs(Path(config.runs))
    table = make_table(str(config.table), records, config.of_model)
    models = sorted({record.model for record in records})
    if table.model not in models:
        log.warning(
            f"No run in {config.runs} is of {table.model}, whose table this is: of_model= makes it of another"
            f" model's runs (here: {shorten_list(models, 5)})."
        )
    print(json.dumps(asdict(table), indent=1, ensure_ascii=False) if config.json else as_markdown(table))
    if config.output is not None:
        for ending, render in RENDERERS.items():
            write_atomically(Path(config.output) / f"table_{table.number}.{ending}", render(table))
        _print_written(config, f"table_{table.number}.{{{','.join(RENDERERS)}}}")
    return table


def _figure(config: DictConfig) -> Figure | list[Spread]:
    number = str(config.figure)
    if number not in specs()["figures"]:
        raise unknown_value_error("figure", number, specs()["figures"], "figure=")
    records = finished_runs(Path(config.runs))
    if number == "icl":
        return _spread_figure(config, records)
    figure = make_figure(number, records, config.of_model)
    print(json.dumps(asdict(figure), indent=1, ensure_ascii=False) if config.json else _points_as_text(figure))
    if config.output is not None:
        from tfew.paper.drawing import draw_points

        _write_figure(config, number, draw_points(figure), figure_csv(figure))
    return figure


def _spread_figure(config: DictConfig, records: list[RunRecord]) -> list[Spread]:
    found = spreads(in_context_scores(records, config.of_model))
    if not found:
        methods = ", ".join(specs()["figures"]["icl"]["methods"].values())
        raise UserError(f"runs={config.runs} has no run with templates for figure=icl (methods: {methods}).")
    if config.json:
        print(json.dumps([asdict(spread) for spread in found], indent=1, ensure_ascii=False))
    else:
        print(_align_columns([list(COLUMNS), *spread_rows(found, "–")]))
    if config.output is not None:
        from tfew.paper.drawing import draw_spreads
        from tfew.paper.pictures import chance_by_dataset

        drawing = draw_spreads(found, chance_by_dataset(records), specs()["figures"]["icl"]["title"])
        _write_figure(config, "icl", drawing, spread_csv(found))
    return found


def _write_figure(config: DictConfig, number: str, drawing: "Drawing", points: str) -> None:
    from tfew.comparison.plots import PDF, PNG, figure_bytes

    folder = Path(config.output)
    for form in (PNG, PDF):
        write_bytes_atomically(folder / f"figure_{number}.{form}", figure_bytes(drawing, form))
    write_atomically(folder / f"figure_{number}.csv", points)
    _print_written(config, f"figure_{number}.{{png,pdf,csv}}")


def _print_written(config: DictConfig, files: str) -> None:
    print(f"written: {config.output}/{files}", file=sys.stderr if config.json else sys.stdout)


def _points_as_text(figure: Figure) -> str:
    ours = len(figure.points_of(True))
    lines = [f"Figure {figure.number}: {figure.title}"]
    lines += [f"{len(figure.points) - ours} points of the paper, {ours} of ours ({figure.model})\n"]
    rows = [["", "from", figure.x_label.partition(" (")[0], "accuracy", "runs"]]
    for point in figure.points:
        source, runs = ("ours", str(point.runs)) if point.ours else ("paper", "")
        rows.append([point.name, source, f"{point.x:.4g}", f"{point.accuracy:.1f}", runs])
    return "\n".join([*lines, _align_columns(rows), *(f"Note: {note}" for note in figure.notes)])


def _align_columns(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return "\n".join(lines) + "\n"


def _report(config: DictConfig) -> Path:
    from tfew.paper.report import make_report

    runs = load_runs(Path(config.runs))
    if config.of_model is not None:
        known = {run.record.model for run in runs}
        if config.of_model not in known:
            raise unknown_value_error("model", config.of_model, sorted(known), "of_model=")
        runs = [run for run in runs if run.record.model == config.of_model]
    path = Path(config.output if config.output is not None else config.runs) / REPORT_FILE
    write_atomically(path, make_report(runs, quote=config.texts))
    print(f"{len(runs)} runs; open {path} in a browser.")
    return path


main = command("paper")(paper)

if __name__ == "__main__":
    main()
