"""Figures. matplotlib is imported when one is drawn: nothing else needs it."""

from pathlib import Path
from typing import Any

from tfew.comparison.numbers import Comparison

INK, FAINT, GRID = "#2b2b2b", "#8a8a8a", "#e6e6e6"
COLORS = ("#7a7a7a", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#5e4fa2")  # Okabe and Ito's


def draw_accuracies(comparison: Comparison, path: Path, title: str) -> Path:
    """PNG: per data set one band with a line per variant; a dot at the median, a bar over the quartiles, seeds faint.

    Accuracy in percent; a vertical stroke through each band is chance.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bands, variants = len(comparison.datasets), len(comparison.variants)
    height = 1.5 + bands * (0.35 + 0.17 * variants)
    figure = Figure(figsize=(8.0, height), dpi=150, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    for band, dataset in enumerate(comparison.datasets):
        _chance(axes, comparison.chance(dataset), band)
        for place, variant in enumerate(comparison.variants):
            y = band + (place - (variants - 1) / 2) * 0.72 / max(1, variants)
            accuracies = sorted(100 * row.accuracy for row in comparison.of(variant, dataset))
            _line(axes, accuracies, y, COLORS[place % len(COLORS)], variant if band == 0 else None)
    _frame(axes, comparison, title)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))
    return path


def _chance(axes: Any, chance: float, band: int) -> None:
    label = "chance" if band == 0 else None
    axes.vlines(100 * chance, band - 0.44, band + 0.44, color=INK, linewidth=1.2, linestyle=(0, (3, 2)), label=label)


def _line(axes: Any, accuracies: list[float], y: float, color: str, label: str | None) -> None:
    import numpy as np

    if not accuracies:
        return
    low, median, high = np.percentile(accuracies, [25, 50, 75])
    axes.scatter(accuracies, [y] * len(accuracies), s=14, color=color, alpha=0.35, linewidths=0, zorder=2)
    axes.hlines(y, low, high, color=color, linewidth=4, alpha=0.55, zorder=3)
    axes.scatter([median], [y], s=44, color=color, edgecolors="white", linewidths=0.9, zorder=4, label=label)


def _frame(axes: Any, comparison: Comparison, title: str) -> None:
    bands = len(comparison.datasets)
    for edge in range(1, bands):
        axes.axhline(edge - 0.5, color=GRID, linewidth=1, zorder=0)
    axes.set_yticks(range(bands), comparison.datasets, color=INK)
    axes.set_ylim(bands - 0.5, -0.5)  # the first data set on top
    axes.set_xlabel("accuracy (%): dot at the median over seeds, bar over the quartiles", color=INK)
    axes.xaxis.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    columns = min(4, len(comparison.variants) + 1)
    lines = -(-(len(comparison.variants) + 1) // columns)
    axes.set_title(title, loc="left", color=INK, fontsize=11, pad=10 + 16 * lines)  # points; the legend lies between
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, frameon=False, fontsize=9, borderaxespad=0.2,
        handletextpad=0.4, columnspacing=1.4, labelcolor=INK,
    )  # fmt: skip
