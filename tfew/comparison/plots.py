"""The style of all figures, and the figure of a comparison. matplotlib is imported on first use."""

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfew.comparison.numbers import Comparison
from tfew.environment.versions import require
from tfew.files.atomic import write_bytes_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#2b2b2b", "#8a8a8a", "#e6e6e6"
COLORS = ("#7a7a7a", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#5e4fa2")  # Okabe and Ito's
# a dollar sign in a name does not start a formula; text stays text in SVG and PDF
STYLE = {"text.parse_math": False, "svg.fonttype": "none", "pdf.fonttype": 42}
PNG, PDF, SVG = "png", "pdf", "svg"


@contextmanager
def plot_style() -> Iterator[None]:
    """Context for drawing and saving: matplotlib reads some of these settings only when it makes the ticks."""
    require("A figure", "plots")
    import matplotlib

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "tfew"}):
        yield


def blank_figure(width: float, height: float, panels: int = 1, columns: int = 1) -> tuple["Figure", list[Any]]:
    """A white figure of this size in inches, with `panels` axes in so many columns, and invisible ones beyond them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(-(-panels // columns), columns, sharex=True, squeeze=False).flat)
    for place in range(panels, len(axes)):
        axes[place].set_visible(False)
        axes[place - columns].tick_params(labelbottom=True)  # now the last of its column
    return figure, axes[:panels]


def figure_bytes(figure: "Figure", form: str) -> bytes:
    """The figure as PNG, PDF or SVG, reproducible to the byte."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it logs every font table that it subsets
    undated = {PNG: {}, PDF: {"CreationDate": None}, SVG: {"Date": None}}
    data = io.BytesIO()
    with plot_style():
        figure.savefig(data, format=form, metadata=undated[form])
    return data.getvalue()


def draw_accuracies(comparison: Comparison, path: Path, title: str) -> Path:
    """A PNG with a band per data set and a line per variant: median (dot), quartiles (bar), seeds (faint dots).

    Accuracy in percent; a vertical stroke through each band marks chance.
    """
    bands, variants = len(comparison.datasets), len(comparison.variants)
    with plot_style():
        figure, (axes,) = blank_figure(8.0, 1.5 + bands * (0.35 + 0.17 * variants))
        for band, dataset in enumerate(comparison.datasets):
            draw_chance(axes, 100 * comparison.chance(dataset), band, 0.44, "chance" if band == 0 else None)
            for place, variant in enumerate(comparison.variants):
                y = band + (place - (variants - 1) / 2) * 0.72 / max(1, variants)
                accuracies = sorted(100 * row.accuracy for row in comparison.rows_of(variant, dataset))
                draw_strip(axes, accuracies, y, COLORS[place % len(COLORS)], variant if band == 0 else None)
        _frame(axes, comparison, title)
    write_bytes_atomically(path, figure_bytes(figure, PNG))
    return path


def draw_chance(axes: Any, chance: float, y: float, half: float, label: str | None = None) -> None:
    axes.vlines(chance, y - half, y + half, color=INK, linewidth=1.2, linestyle=(0, (3, 2)), label=label)


def draw_strip(
    axes: Any, values: Sequence[float], y: float, color: str, label: str | None = None, scatter: float = 0
) -> None:
    """Each value a faint dot, at most `scatter` off the line; a bar over the quartiles, a dot at the median."""
    import numpy as np

    if not len(values):
        return
    low, median, high = np.percentile(values, [25, 50, 75])
    places = y + scatter * (2 * (np.arange(len(values)) * 0.618034 % 1) - 1)  # evenly spread, and reproducible
    axes.scatter(values, places, s=14, color=color, alpha=0.35, linewidths=0, zorder=2)
    axes.hlines(y, low, high, color=color, linewidth=4, alpha=0.55, zorder=3)
    axes.scatter([median], [y], s=44, color=color, edgecolors="white", linewidths=0.9, zorder=4, label=label)


def plain_axes(axes: Any, sides: Sequence[str] = ("bottom",)) -> None:
    """No frame but these sides, a faint grid along x, no tick marks."""
    axes.xaxis.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, colors=INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in sides)
        spine.set_color(FAINT)


def _frame(axes: Any, comparison: Comparison, title: str) -> None:
    bands = len(comparison.datasets)
    for edge in range(1, bands):
        axes.axhline(edge - 0.5, color=GRID, linewidth=1, zorder=0)
    axes.set_yticks(range(bands), comparison.datasets, color=INK)
    axes.set_ylim(bands - 0.5, -0.5)  # the first data set on top
    axes.set_xlabel("accuracy (%): dot at the median over seeds, bar over the quartiles", color=INK)
    plain_axes(axes)
    columns = min(4, len(comparison.variants) + 1)
    lines = -(-(len(comparison.variants) + 1) // columns)
    axes.set_title(title, loc="left", color=INK, fontsize=11, pad=10 + 16 * lines)  # in points; the legend lies between
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, frameon=False, fontsize=9, borderaxespad=0.2,
        handletextpad=0.4, columnspacing=1.4, labelcolor=INK,
    )  # fmt: skip
