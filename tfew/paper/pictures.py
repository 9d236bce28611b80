"""The report's pictures: drawing jobs, which `draw_all` runs under one progress bar."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from markupsafe import Markup
from tqdm import tqdm

from tfew.errors import UserError
from tfew.paper.curves import Curve, median_curve
from tfew.paper.figures import make_figure
from tfew.paper.reference import specs
from tfew.paper.spread import Spread, collect_scores, spreads
from tfew.paper.svg import inline_svg
from tfew.runs.records import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True)
class DrawingJob:
    """`caption` is also the alternative text."""

    draw: Callable[[], "Drawing"]
    caption: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """`svg`: markup that is safe to insert unescaped."""

    svg: Markup
    caption: str
    notes: tuple[str, ...]


def draw_all(parts: Mapping[str, Sequence[DrawingJob]]) -> dict[str, list[Picture]]:
    """The pictures of each part of the page, by the part's name."""
    drawn: dict[str, list[Picture]] = {part: [] for part in parts}
    jobs = [(part, job) for part, found in parts.items() for job in found]
    for place, (part, job) in enumerate(tqdm(jobs, desc="Drawing", unit="picture", leave=False, mininterval=0.5)):
        svg = Markup(inline_svg(job.draw(), f"picture{place}", job.caption))
        drawn[part].append(Picture(svg, job.caption, job.notes))
    return drawn


def accuracy_strips(records: Sequence[RunRecord], names: Mapping[str, str]) -> list[DrawingJob]:
    """By data set: the accuracy of every template and run, a line per variant."""
    from tfew.paper.drawing import draw_spreads

    order = list(dict.fromkeys(names.values()))
    found = spreads(collect_scores(sorted(records, key=lambda r: (r.dataset, order.index(names[r.name]))), names))
    by_dataset: dict[str, list[Spread]] = {}
    for spread in found:
        by_dataset.setdefault(spread.dataset, []).append(spread)
    return [
        DrawingJob(
            partial(draw_spreads, panel, chance_by_dataset(records), groups=order),
            f"Accuracy on {dataset} of every template and run",
        )
        for dataset, panel in by_dataset.items()
    ]


def training_curves(curves: Mapping[str, Mapping[str, Sequence[Curve]]], names: Mapping[str, str]) -> list[DrawingJob]:
    """By data set: the loss over training, a line per variant."""
    from tfew.paper.drawing import draw_curves

    order = list(dict.fromkeys(names.values()))
    found = []
    for dataset, by_variant in sorted(curves.items()):
        lines = {variant: median_curve(curves) for variant, curves in by_variant.items()}
        count = sum(map(len, by_variant.values()))
        draw = partial(draw_curves, dataset, lines, "loss of the right answers", order)
        found.append(DrawingJob(draw, f"Training loss on {dataset}, {count} runs"))
    return found


def paper_figures(records: Sequence[RunRecord]) -> list[DrawingJob]:
    """Figures 2 and 3 of each model that has a point in them."""
    from tfew.paper.drawing import draw_points

    found = []
    for model in sorted({record.model for record in records}):
        for number in ("2", "3"):
            try:
                figure = make_figure(number, records, model)
            except UserError:
                continue  # reported with the tables that it is made from
            if ours := figure.points_of(True):
                papers = len(figure.points_of(False))
                caption = f"Figure {number}: points of {model} ({len(ours)}) and of the paper ({papers})"
                found.append(DrawingJob(partial(draw_points, figure), caption, figure.notes))
    return found


def in_context_spread(found: Sequence[Spread], records: Sequence[RunRecord]) -> list[DrawingJob]:
    """One picture, or none without scores."""
    from tfew.paper.drawing import draw_spreads

    title = str(specs()["figures"]["icl"]["title"])
    return [DrawingJob(partial(draw_spreads, found, chance_by_dataset(records)), title)] if found else []


def chance_by_dataset(records: Sequence[RunRecord]) -> dict[str, float]:
    """Percent by data set."""
    return {record.dataset: 100 * record.metrics["chance"] for record in records if "chance" in record.metrics}
