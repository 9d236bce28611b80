"""`report.html`: one page on a set of runs that needs no network and no script.

What it shows is made in the files beside this one and put together here; `page.html` is what it looks like. Whatever
comes from files is escaped: the page is made with autoescape, drawings are parsed as XML.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from tqdm import tqdm

from tfew.errors import UserError, some
from tfew.paper import render
from tfew.paper.answers import Answers
from tfew.paper.curves import Curve, median_curve, read_curve
from tfew.paper.figures import make_figure
from tfew.paper.mistakes import confusions, hardest_rows
from tfew.paper.overview import accuracy_grid, duration, facts, run_scores, template_grids
from tfew.paper.reference import AVERAGE
from tfew.paper.runs import Run
from tfew.paper.specs import specs
from tfew.paper.spread import COLUMNS, in_context_scores, scores_of, spread_rows, spreads
from tfew.paper.svg import inline_svg
from tfew.paper.table import Table, make_table
from tfew.paper.variants import variants
from tfew.records import RunRecord
from tfew.run_folder import METRICS_FILE, PREDICTIONS_FILE

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

TEMPLATE = "page.html"
OPEN_AT_ONCE = 6  # data sets; of more, their confusions and hardest rows are there to be unfolded


@dataclass(frozen=True)
class Picture:
    """`svg` is markup of the project's own making."""

    svg: Markup
    caption: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShownTable:
    """A table of the paper without the rows that have no run."""

    table: Table
    rows: tuple[str, ...]
    left_out: tuple[str, ...]


def make_report(runs: Sequence[Run], quote: bool = True) -> str:
    """The page as HTML; `quote`: whether rows of the data are shown as text."""
    records = [run.record for run in runs]
    names = variants(records)
    answers, curves = _read_folders(runs, names)
    tables, problems = paper_tables(records)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["raised"] = lambda text: text.replace("^3", "³")
    return environment.get_template(TEMPLATE).render(
        runs=[(run.record, names[run.record.name], run_scores(run.record)) for run in runs],
        median=median,
        facts=facts(runs),
        accuracy=accuracy_grid(records, names),
        strips=_strips(records, names),
        tables=tables,
        problems=problems,
        figures=_figures(records),
        in_context=_in_context(records),
        templates=template_grids(records, names),
        confusions=confusions(answers, runs),
        hardest=hardest_rows(answers, runs, quote),
        unread=_by_reason(answers.unread),
        answers=answers,
        quote=quote,
        curves=curves,
        open_at_once=OPEN_AT_ONCE,
        average=AVERAGE,
        show=render,
        duration=duration,
    )


def paper_tables(records: Sequence[RunRecord]) -> tuple[list[ShownTable], list[str]]:
    """The paper's tables that have a run behind them, of each model; and what kept others from being made."""
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
                shown.append(ShownTable(table, tuple(with_runs), left_out))
    return shown, list(problems.values())


def _read_folders(runs: Sequence[Run], names: Mapping[str, str]) -> tuple[Answers, list[Picture]]:
    answers = Answers()
    found: dict[str, dict[str, list[Curve]]] = defaultdict(lambda: defaultdict(list))
    for run in tqdm(runs, desc="Predictions", unit="run", leave=False, mininterval=0.5):
        name = run.record.name
        if run.record.counts:  # a run that ranked nothing has no predictions to miss
            answers.add(names[name], name, run.folder / PREDICTIONS_FILE)
        if curve := read_curve(run.folder / METRICS_FILE):
            found[run.record.dataset][names[name]].append(curve)
    from tfew.paper.drawing import draw_curves

    pictures = []
    for place, (dataset, by_variant) in enumerate(sorted(found.items())):
        lines = {variant: median_curve(curves) for variant, curves in by_variant.items()}
        count = sum(map(len, by_variant.values()))
        drawing = draw_curves(dataset, lines, "loss of the right answers", list(dict.fromkeys(names.values())))
        pictures.append(_picture(drawing, f"curve{place}", f"Training loss on {dataset}, {count} runs"))
    return answers, pictures


def _by_reason(unread: Mapping[str, str]) -> list[tuple[str, str]]:
    reasons = defaultdict(list)
    for run, why in unread.items():
        reasons[why].append(run)
    return [(why, some(found)) for why, found in reasons.items()]


def _strips(records: Sequence[RunRecord], names: Mapping[str, str]) -> list[Picture]:
    from tfew.paper.drawing import draw_spreads

    chance = {r.dataset: 100 * r.metrics["chance"] for r in records if "chance" in r.metrics}
    order = list(dict.fromkeys(names.values()))
    found = spreads(scores_of(sorted(records, key=lambda r: (r.dataset, order.index(names[r.name]))), names))
    pictures = []
    for place, dataset in enumerate(dict.fromkeys(spread.dataset for spread in found)):
        panel = [spread for spread in found if spread.dataset == dataset]
        drawing = draw_spreads(panel, chance, groups=order)
        pictures.append(_picture(drawing, f"strip{place}", f"Accuracy on {dataset} of every template and run"))
    return pictures


def _figures(records: Sequence[RunRecord]) -> list[Picture]:
    from tfew.paper.drawing import draw_points

    pictures: list[Picture] = []
    for model in sorted({record.model for record in records}):
        for number in ("2", "3"):
            try:
                figure = make_figure(number, records, model)
            except UserError:
                continue  # said among the tables, which it is made of
            if ours := figure.of(True):
                caption = f"Figure {number}: points of {model} ({len(ours)}) and of the paper ({len(figure.of(False))})"
                name = f"figure{number}-{len(pictures)}"
                pictures.append(_picture(draw_points(figure), name, caption, figure.notes))
    return pictures


def _in_context(records: Sequence[RunRecord]) -> tuple[Picture, Sequence[str], list[list[str]]] | None:
    """The spread of in-context learning beside the others', where there is any of it: picture, heads, lines."""
    from tfew.paper.drawing import draw_spreads

    scores = in_context_scores(records)
    if not any(score.order is not None for score in scores):
        return None
    found = spreads(scores)
    chance = {r.dataset: 100 * r.metrics["chance"] for r in records if "chance" in r.metrics}
    return (
        _picture(draw_spreads(found, chance), "icl", specs()["figures"]["icl"]["title"]),
        COLUMNS,
        spread_rows(found, "–"),
    )


def _picture(drawing: "Drawing", name: str, caption: str, notes: Sequence[str] = ()) -> Picture:
    return Picture(Markup(inline_svg(drawing, name, caption)), caption, tuple(notes))
