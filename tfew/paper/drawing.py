"""Draws the paper's figures and the report's plots; `figures`, `spread` and `curves` compute their data."""

from collections.abc import Mapping, Sequence
from itertools import product
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from tfew.comparison.plots import (
    COLORS,
    FAINT,
    GRID,
    INK,
    blank_figure,
    draw_chance,
    draw_strip,
    plain_axes,
    plot_style,
)
from tfew.paper.figures import FULL_MODEL_PERCENT, Figure, Point
from tfew.paper.spread import Spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

OUR_COLOR, PAPER_COLOR = COLORS[1], COLORS[0]
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# offsets of a label from its point, in typographic points, nearest first: right, left, above, below, the corners
LABEL_OFFSETS = sorted(
    product((7, -7, 0, 12, -12), (0, 8, -8, 15, -15, 23, -23)), key=lambda o: abs(o[0]) + 2 * abs(o[1])
)
Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def draw_points(figure: Figure) -> "Drawing":
    """Accuracy over x on a log scale: the paper's points hollow, ours filled, a line between the two of a method.

    Methods that train the whole model are horizontal lines, so that the others have room.
    """
    with plot_style():
        drawing, (axes,) = blank_figure(7.2, 4.9)
        axes.set_xscale("log")
        for ours, color in ((False, PAPER_COLOR), (True, OUR_COLOR)):
            across = [point for point in figure.points_of(ours) if _is_across(figure, point)]
            points = [point for point in figure.points_of(ours) if point not in across]
            if points or across:
                papers = "the paper" if figure.same_data else "the paper, other model and data"
                number = "1 point" if len(points) + len(across) == 1 else f"{len(points) + len(across)} points"
                source = f"ours, {_abbreviate(figure.model, 30)}" if ours else papers
                xs, ys = [p.x for p in points], [p.accuracy for p in points]
                axes.scatter(
                    xs, ys, s=44, facecolors=color if ours else "white", edgecolors=color, linewidths=1.5,
                    zorder=4 if ours else 3, label=f"{source}: {number}",
                )  # fmt: skip
            for point in across:
                axes.axhline(point.accuracy, color=color, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
                _write_across(axes, figure, point, color)
        plain_axes(axes, ("bottom", "left"))
        axes.yaxis.grid(True, color=GRID, linewidth=0.8)
        axes.margins(x=0.1, y=0.1)
        axes.xaxis.set_major_formatter(lambda value, _: _format_tick(value))
        axes.xaxis.set_minor_formatter(lambda *_: "")
        axes.set_xlabel(figure.x_label, color=INK)
        axes.set_ylabel("average accuracy (%)", color=INK)
        axes.set_title(figure.title, loc="left", color=INK, fontsize=11, pad=26)
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False, fontsize=9, labelcolor=INK,
            borderaxespad=0.2, handletextpad=0.2,
        )  # fmt: skip
        if figure.same_data:
            _connect_points(axes, figure)
        _label_points(drawing, axes, figure)
    return drawing


def draw_spreads(
    found: Sequence[Spread], chance: Mapping[str, float], title: str | None = None, groups: Sequence[str] | None = None
) -> "Drawing":
    """A panel per data set with a line per group; a stroke through each panel marks chance. In percent.

    `groups` None: those in `found`. Drawings with the same `groups` give each group the same colour.
    """
    datasets = list(dict.fromkeys(spread.dataset for spread in found))
    panels = [[spread for spread in found if spread.dataset == dataset] for dataset in datasets]
    colors = group_colors(groups or [spread.group for spread in found])
    ratios = [0.42 + 0.3 * len(panel) for panel in panels]
    with plot_style():
        drawing, all_axes = blank_figure(5.4, sum(ratios) + (0.85 if title else 0.5), len(panels))
        all_axes[0].get_gridspec().set_height_ratios(ratios)
        for axes, dataset, panel in zip(all_axes, datasets, panels, strict=True):
            for y, spread in enumerate(panel):
                draw_strip(axes, sorted(spread.scores), y, colors[spread.group], scatter=0.24)
            if dataset in chance:
                draw_chance(axes, chance[dataset], (len(panel) - 1) / 2, len(panel) / 2)
            axes.set_yticks(range(len(panel)), [_wrap_label(spread.group) for spread in panel], color=INK, fontsize=8.5)
            axes.set_ylim(len(panel) - 0.5, -0.5)
            axes.set_title(_abbreviate(dataset, 60), loc="left", color=INK, fontsize=10, fontweight="bold", pad=4)
            plain_axes(axes)
        drawing.supxlabel("accuracy (%); dots: every template and run, dashes: chance", color=INK, fontsize=9)
        if title:
            drawing.suptitle(title, x=0.01, ha="left", color=INK, fontsize=11)
    return drawing


def draw_curves(title: str, curves: Curves, y_label: str, groups: Sequence[str]) -> "Drawing":
    """A line per variant over training steps, on a log scale; `groups` as in `draw_spreads`."""
    colors, columns = group_colors(groups), 4 if max(map(len, curves)) <= 12 else 2
    with plot_style():
        drawing, (axes,) = blank_figure(5.4, 2.7 + 0.16 * -(-len(curves) // columns))
        for place, (name, (steps, values)) in enumerate(curves.items()):
            dashes = ("-", "--", ":")[place // len(COLORS) % 3]
            axes.plot(steps, values, color=colors[name], linewidth=1.7, linestyle=dashes, label=_abbreviate(name, 34))
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
        axes.yaxis.grid(True, color=GRID, linewidth=0.8)
        plain_axes(axes, ("bottom", "left"))
        axes.tick_params(labelsize=9, which="both")
        axes.set_xlabel("training step", color=INK, fontsize=9)
        axes.set_ylabel(y_label, color=INK, fontsize=9)
        axes.set_title(_abbreviate(title, 60), loc="left", color=INK, fontsize=10, fontweight="bold")
        drawing.legend(loc="outside lower left", ncols=columns, frameon=False, fontsize=8.5, labelcolor=INK)
    return drawing


def group_colors(groups: Sequence[str]) -> dict[str, str]:
    """Colours by position, without grey, which is the paper's."""
    return {group: COLORS[1 + place % (len(COLORS) - 1)] for place, group in enumerate(dict.fromkeys(groups))}


def _connect_points(axes: Any, figure: Figure) -> None:
    papers = {point.name: point for point in figure.points_of(False)}
    for point in figure.points_of(True):
        other = papers.get(point.name)
        if other and not (_is_across(figure, point) or _is_across(figure, other)):
            axes.plot([other.x, point.x], [other.accuracy, point.accuracy], color=FAINT, linewidth=1, zorder=2)


def _is_across(figure: Figure, point: Point) -> bool:
    return figure.number == "2" and point.x >= FULL_MODEL_PERCENT


def _write_across(axes: Any, figure: Figure, point: Point, color: str) -> None:
    """The paper's name on the left, ours on the right; the lower line's name below it, since they may be close."""
    lower = any(_is_across(figure, other) and other.accuracy > point.accuracy for other in figure.points)
    axes.annotate(
        f"{_abbreviate(point.name, 40)} (all of it)", (point.ours, point.accuracy), xycoords=("axes fraction", "data"),
        xytext=(-4 if point.ours else 4, -3 if lower else 3), textcoords="offset points", fontsize=8,
        ha="right" if point.ours else "left", va="top" if lower else "bottom",
        color=color if point.ours else INK,
    ).set_in_layout(False)  # fmt: skip


def _label_points(drawing: "Drawing", axes: Any, figure: Figure) -> None:
    """Puts each name beside its point, at the offset with the least overlap with points, names and the outside."""
    from matplotlib.transforms import Bbox

    drawing.draw_without_rendering()  # fixes the layout that the names are fitted into
    inside = axes.get_window_extent()
    shown = [point for point in figure.points if not _is_across(figure, point)]
    places = axes.transData.transform([(p.x, p.accuracy) for p in shown]) if shown else []
    taken = [Bbox.from_bounds(x - 11, y - 11, 22, 22) for x, y in places]
    taken += [child.get_window_extent() for child in axes.texts]
    for point in figure.points:
        if _is_across(figure, point):
            y = axes.transData.transform((point.x, point.accuracy))[1]
            taken.append(Bbox.from_extents(inside.x0, y - 2, inside.x1, y + 2))
    papers = {point.name for point in figure.points_of(False)} if figure.same_data else set()
    for point in sorted(shown, key=lambda p: (p.x, p.accuracy)):
        if point.ours and point.name in papers:
            continue  # its line leads to the paper's point of that name
        text = axes.annotate(
            _abbreviate(point.name, 30), (point.x, point.accuracy), xytext=(0, 0), textcoords="offset points",
            fontsize=8, color=OUR_COLOR if point.ours else INK, va="center",
        )  # fmt: skip
        text.set_in_layout(False)
        covered: dict[int, float] = {}
        for place in range(len(LABEL_OFFSETS)):
            covered[place] = _overlap_cost(_move_label(text, place), taken, inside)
            if not covered[place]:
                break
        taken.append(_move_label(text, min(covered, key=lambda place: covered[place])))


def _move_label(text: Any, place: int) -> Any:
    x, y = LABEL_OFFSETS[place]
    text.xyann = (x, y)
    text.set_horizontalalignment("left" if x > 0 else "right" if x < 0 else "center")
    return text.get_window_extent()


def _overlap_cost(box: Any, taken: Sequence[Any], inside: Any) -> float:
    """Overlap in pixels; area outside the axes counts three times."""
    return sum(_overlap_area(box, other) for other in taken) + 3 * (box.width * box.height - _overlap_area(box, inside))


def _overlap_area(box: Any, other: Any) -> float:
    width = min(box.x1, other.x1) - max(box.x0, other.x0)
    height = min(box.y1, other.y1) - max(box.y0, other.y0)
    return max(0.0, width) * max(0.0, height)


def _format_tick(value: float) -> str:
    """0.0001 to 9999 as they are, others as powers of ten."""
    if 1e-4 <= value < 1e4:
        return f"{value:g}"
    return "10" + str(int(f"{value:e}".split("e")[1])).translate(SUPERSCRIPTS)


def _wrap_label(text: str) -> str:
    return "\n".join(_abbreviate(line, 30) for line in wrap(text, 26, max_lines=2, placeholder=" …"))


def _abbreviate(text: str, max_characters: int) -> str:
    """With ³ as in the paper, and truncated to `max_characters`."""
    text = text.replace("^3", "³")
    return text if len(text) <= max_characters else text[: max_characters - 1] + "…"
