"""`report.html`: one self-contained page on a set of runs, without scripts.

The other modules of this package compute its content; `page.html` is its template. All text from files is escaped: the
template is rendered with autoescape, drawings are parsed as XML.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tqdm import tqdm

from tfew.errors import UserError, shorten_list
from tfew.paper import pictures, render
from tfew.paper.answers import Answers
from tfew.paper.curves import Curve, read_curve
from tfew.paper.mistakes import confusions, hardest_rows
from tfew.paper.overview import accuracy_grid, facts, run_scores, template_grids
from tfew.paper.reference import AVERAGE, specs
from tfew.paper.runs import Run
from tfew.paper.spread import COLUMNS, Spread, in_context_scores, spread_rows, spreads
from tfew.paper.table import Table, make_table
from tfew.paper.variants import variant_names
from tfew.report.page import page_template
from tfew.runs.records import RunRecord
from tfew.runs.run_folder import METRICS_FILE, PREDICTIONS_FILE, check_recorded
from tfew.runs.units import duration

TEMPLATE = "page.html"
OPEN_AT_ONCE = 6  # with more data sets, their confusions and hardest rows are collapsed
Curves = dict[str, dict[str, list[Curve]]]  # by data set and variant


@dataclass(frozen=True)
class ReportTable:
    """A table of the paper; `rows` have runs, `left_out` have none."""

    table: Table
    rows: tuple[str, ...]
    left_out: tuple[str, ...]


def make_report(runs: Sequence[Run], quote: bool = True) -> str:
    """The page as HTML; `quote`: whether it includes texts of the data."""
    records = [run.record for run in runs]
    names = variant_names(records)
    answers, curves = _read_folders(runs, names)
    swings = _in_context(records)
    tables, problems = paper_tables(records)
    drawn = pictures.draw_all({
        "strips": pictures.accuracy_strips(records, names),
        "figures": pictures.paper_figures(records),
        "in_context": pictures.in_context_spread(swings, records),
        "curves": pictures.training_curves(curves, names),
    })  # fmt: skip
    return page_template(TEMPLATE, Path(__file__).parent).render(
        runs=[(run.record, names[run.record.name], run_scores(run.record)) for run in runs],
        facts=facts(runs),
        accuracy=accuracy_grid(records, names),
        tables=tables,
        problems=problems,
        swing_heads=COLUMNS,
        swings=spread_rows(swings, "–"),
        templates=template_grids(records, names),
        confusions=confusions(answers, runs),
        hardest=hardest_rows(answers, runs, quote),
        unreadable=_group_by_reason(answers.unreadable),
        answers=answers,
        quote=quote,
        open_at_once=OPEN_AT_ONCE,
        average=AVERAGE,
        show=render,
        median=median,
        duration=duration,
        **drawn,
    )


def paper_tables(records: Sequence[RunRecord]) -> tuple[list[ReportTable], list[str]]:
    """The paper's tables that have runs, for each model; and the errors of those that could not be made."""
    shown, problems = [], {}
    for model in sorted({record.model for record in records}):
        for number in specs()["tables"]:
            try:
                table = make_table(number, records, model)
            except UserError as error:
                problems[str(error)] = f"Table {number} of {model}: {error}"
                continue
            with_runs = [name for name, row in table.cells.items() if any(cell.runs for cell in row.values())]
            if with_runs:
                left_out = tuple(name for name in table.cells if name not in with_runs)
                shown.append(ReportTable(table, tuple(with_runs), left_out))
    return shown, list(problems.values())


def _read_folders(runs: Sequence[Run], names: Mapping[str, str]) -> tuple[Answers, Curves]:
    answers = Answers()
    curves: Curves = defaultdict(lambda: defaultdict(list))
    for run in tqdm(runs, desc="Predictions", unit="run", leave=False, mininterval=0.5):
        name, predictions = run.record.name, run.folder / PREDICTIONS_FILE
        if run.record.counts or predictions.is_file():  # a run that ranked nothing has no predictions
            try:
                check_recorded(run.record, run.folder, PREDICTIONS_FILE)
            except UserError as error:
                answers.unreadable[name] = str(error)
            else:
                answers.add(names[name], name, predictions)
        if curve := read_curve(run.folder / METRICS_FILE):
            curves[run.record.dataset][names[name]].append(curve)
    return answers, curves


def _in_context(records: Sequence[RunRecord]) -> list[Spread]:
    """The spreads of in-context learning and other methods, if there are runs of in-context learning."""
    scores = in_context_scores(records)
    return spreads(scores) if any(score.order is not None for score in scores) else []


def _group_by_reason(unreadable: Mapping[str, str]) -> list[tuple[str, str]]:
    reasons = defaultdict(list)
    for run, why in unreadable.items():
        reasons[why].append(run)
    return [(why, shorten_list(found)) for why, found in reasons.items()]
