"""The report's pictures: first what there is to draw, then each drawn in turn, under one bar."""

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
from tfew.paper.spread import Spread, scores_of, spreads
from tfew.paper.svg import inline_svg
from tfew.runs.records import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True)
class ToDraw:
    """`caption` is also what it shows in words, for who cannot see it."""

    draw: Callable[[], "Drawing"]
    caption: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """`svg` is markup of the project's own making."""

    svg: Markup
    caption: str
    notes: tuple[str, ...]


def draw_all(parts: Mapping[str, Sequence[ToDraw]]) -> dict[str, list[Picture]]:
    """The pictures of each part of the page, by its name."""
    drawn: dict[str, list[Picture]] = {part: [] for part in parts}
    jobs = [(part, job) for part, found in parts.items() for job in found]
    for place, (part, job) in enumerate(tqdm(jobs, desc="Drawing", unit="picture", leave=False, mininterval=0.5)):
        svg = Markup(inline_svg(job.draw(), f"picture{place}", job.caption))
        drawn[part].append(Picture(svg, job.caption, job.notes))
    return drawn


def strips(records: Sequence[RunRecord], names: Mapping[str, str]) -> list[ToDraw]:
    """By data set: the accuracy of every template and run, a line per variant."""
    from tfew.paper.drawing import draw_spreads

    order = list(dict.fromkeys(names.values()))
    found = spreads(scores_of(sorted(records, key=lambda r: (r.dataset, order.index(names[r.name]))), names))
    by_dataset: dict[str, list[Spread]] = {}
    for spread in found:
        by_dataset.setdefault(spread.dataset, []).append(spread)
    return [
        ToDraw(
            partial(draw_spreads, panel, chances(records), groups=order),
            f"Accuracy on {dataset} of every template and run",
        )
        for dataset, panel in by_dataset.items()
    ]


def training(curves: Mapping[str, Mapping[str, Sequence[Curve]]], names: Mapping[str, str]) -> list[ToDraw]:
    """By data set: the loss over training, a line per variant."""
    from tfew.paper.drawing import draw_curves

    order = list(dict.fromkeys(names.values()))
    found = []
    for dataset, by_variant in sorted(curves.items()):
        lines = {variant: median_curve(curves) for variant, curves in by_variant.items()}
        count = sum(map(len, by_variant.values()))
        draw = partial(draw_curves, dataset, lines, "loss of the right answers", order)
        found.append(ToDraw(draw, f"Training loss on {dataset}, {count} runs"))
    return found


def papers_figures(records: Sequence[RunRecord]) -> list[ToDraw]:
    """Figures 2 and 3 of each model that has a point in them."""
    from tfew.paper.drawing import draw_points

    found = []
    for model in sorted({record.model for record in records}):
        for number in ("2", "3"):
            try:
                figure = make_figure(number, records, model)
            except UserError:
                continue  # said among the tables, which it is made of
            if ours := figure.of(True):
                caption = f"Figure {number}: points of {model} ({len(ours)}) and of the paper ({len(figure.of(False))})"
                found.append(ToDraw(partial(draw_points, figure), caption, figure.notes))
    return found


def in_context(found: Sequence[Spread], records: Sequence[RunRecord]) -> list[ToDraw]:
    """One picture, or none where there is nothing to show."""
    from tfew.paper.drawing import draw_spreads

    title = str(specs()["figures"]["icl"]["title"])
    return [ToDraw(partial(draw_spreads, found, chances(records)), title)] if found else []


def chances(records: Sequence[RunRecord]) -> dict[str, float]:
    """Percent by data set."""
    return {record.dataset: 100 * record.metrics["chance"] for record in records if "chance" in record.metrics}
