"""TABLE.md and the figures of evidence/english, as functions of records.jsonl."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from scripts.english.contenders import COMMONEST, CONTENDERS, EMBEDDINGS, SETFIT, TRAINED, WORDS, Contender
from scripts.english.sets import RAFT
from tfew.comparison.numbers import Comparison, Interval
from tfew.comparison.plots import COLORS, INK, PNG, blank_figure, draw_accuracies, figure_bytes, plain_axes, plot_style
from tfew.comparison.rows import Row, load_rows
from tfew.comparison.tables import accuracy_cells, as_markdown, as_text
from tfew.files.atomic import write_atomically, write_bytes_atomically
from tfew.runs.records import short_commit

ZERO_SHOT, IN_CONTEXT = "zero-shot", "in context"
DRAWN = (COMMONEST, WORDS, ZERO_SHOT, TRAINED, EMBEDDINGS, SETFIT, "in context, 4")  # the others are in the table


def write_report(records: Path) -> str:
    """Also returns the table of accuracies as text."""
    rows, folder = _in_order(load_rows(records)), records.parent
    in_folds = {which.name for which in RAFT}
    raft = Comparison([row for row in rows if row.dataset in in_folds])
    comparison = Comparison([row for row in rows if row.dataset not in in_folds])
    write_atomically(folder / "TABLE.md", _page(comparison, raft))
    if drawn := [row for row in comparison.rows if row.variant in DRAWN]:
        title = "SmolLM2-135M-Instruct, few labelled rows: what is right"
        draw_accuracies(Comparison(drawn), folder / "accuracy.png", title)
    _draw_costs(comparison, folder / "costs.png")
    return "\n\n".join(as_text(accuracy_cells(part)) for part in (comparison, raft) if part.rows)


def _in_order(rows: Sequence[Row]) -> list[Row]:
    """In the contenders' order; chance is that of whoever knows most labels, since classifiers know those they saw."""
    places = {contender.name: place for place, contender in enumerate(CONTENDERS)}
    chance: dict[str, float] = {}
    for row in rows:
        chance[row.dataset] = min(row.chance, chance.get(row.dataset, 1.0))
    return [replace(row, chance=chance[row.dataset]) for row in sorted(rows, key=lambda row: places[row.variant])]


def _page(comparison: Comparison, raft: Comparison) -> str:
    rows = [*comparison.rows, *raft.rows]
    commits = sorted({short_commit(row.git_commit or "unknown") for row in rows})
    sections = [
        "# SmolLM2-135M-Instruct on real English, a few labelled rows",
        "`make english_table DATA=DIR` makes this page and the figures from `records.jsonl`, and goes on with what is"
        f" missing there. {len(rows)} records; seeds {', '.join(map(str, comparison.seeds))}; commits"
        f" {', '.join(commits)}.",
        "## Accuracy",
        "Percent, median over seeds (interquartile range). At most 300 test rows of each set, the same for all seeds"
        " and contenders; training rows are the official few-shot files, or drawn (AG News, Rotten Tomatoes, MRPC 32,"
        " TREC 48). `mean` only where a contender was run on all sets.",
        as_markdown(accuracy_cells(comparison)),
        "## What was run on the same sets",
        "Both on the sets and seeds that both have; (IA)³ less the contender in points of percent. The 95 % interval is"
        " paired and over test rows: it leaves out that other training rows, and other data sets, would give other"
        " numbers. The last column is the difference without the set that adds most to it.",
        as_markdown(_against(comparison)),
        "## FLOPs and seconds for one prediction",
        "FLOPs by the formula of the paper (2 N for a token, 6 N in training), where in-context learning passes its"
        " shots again for every query; seconds are measured on two shared cores, where the shots are computed once for"
        " all queries. Pays after: predictions from which training and predicting take fewer FLOPs than predicting in"
        " context.",
        as_markdown(_costs(comparison)),
        "![accuracy](accuracy.png)",
        "![accuracy against FLOPs](costs.png)",
    ]
    if raft.rows:
        sections += [
            "## RAFT, in five folds",
            "Percent of each task's 50 labelled rows, each predicted by a run that was trained on the other four folds;"
            " labels are spread evenly over the folds, which are the same for all contenders (seed 0). With 50 rows an"
            " accuracy has a standard error of up to 7 points. RAFT's own score is a macro-F1 of hidden labels.",
            as_markdown(accuracy_cells(raft)),
            as_markdown(_against(raft)),
        ]
    return "\n\n".join(sections) + "\n"


@dataclass(frozen=True)
class Difference:
    """(IA)³ less another contender on the rows of one set, and the accuracies of the two."""

    interval: Interval
    ours: float
    theirs: float


def _difference(comparison: Comparison, other: str, dataset: str) -> Difference | None:
    """Means over the seeds that both have (a contender without: all)."""
    ours = {row.seed: row for row in comparison.rows_of(TRAINED, dataset)}
    theirs = {row.seed: row for row in comparison.rows_of(other, dataset)}
    if len(theirs) == 1 and _contender(other) and not _contender(other).seeded:  # type: ignore[union-attr]
        theirs = dict.fromkeys(ours, next(iter(theirs.values())))
    seeds = ours.keys() & theirs.keys()
    if not seeds:
        return None
    per_row = [
        mean(int(ours[seed].right[place]) - int(theirs[seed].right[place]) for seed in seeds)
        for place in range(len(ours[next(iter(seeds))].right))
    ]
    centre = mean(per_row)
    variance = sum((value - centre) ** 2 for value in per_row) / (len(per_row) - 1)
    interval = Interval(centre, math.sqrt(variance / len(per_row)))
    return Difference(interval, *(mean(of[seed].accuracy for seed in seeds) for of in (ours, theirs)))


def _contender(name: str) -> Contender | None:
    return next((contender for contender in CONTENDERS if contender.name == name), None)


def _against(comparison: Comparison) -> list[list[str]]:
    cells = [["contender", "sets", "(IA)³", "contender", "difference [95 % interval]", "(IA)³ ahead on",
              "difference without the largest"]]  # fmt: skip
    for other in comparison.variants:
        if other == TRAINED:
            continue
        found = {d: one for d in comparison.datasets if (one := _difference(comparison, other, d))}
        if not found:
            continue
        gaps = {dataset: one.interval.mean for dataset, one in found.items()}
        error = math.sqrt(sum(one.interval.standard_error**2 for one in found.values())) / len(found)
        whole, largest = Interval(mean(gaps.values()), error), max(gaps, key=lambda name: abs(gaps[name]))
        others = [gap for dataset, gap in gaps.items() if dataset != largest]
        ours, theirs = (
            mean(values) for values in zip(*((one.ours, one.theirs) for one in found.values()), strict=True)
        )
        cells.append([
            other, str(len(found)), f"{100 * ours:.1f}", f"{100 * theirs:.1f}",
            f"{100 * whole.mean:+.1f} [{100 * whole.low:+.1f}, {100 * whole.high:+.1f}]",
            f"{sum(gap > 0 for gap in gaps.values())} of {len(found)}",
            f"{100 * mean(others):+.1f} ({largest})" if others else "-",
        ])  # fmt: skip
    return cells


def _prediction_flops(rows: Sequence[Row]) -> float:
    return mean(float(row.settings["evaluation_flops"] or 0) / len(row.right) for row in rows)


def _runs(comparison: Comparison, dataset: str) -> dict[str, list[Row]]:
    """By variant, the rows of one set that are runs of the language model."""
    rows = {
        v: [r for r in comparison.rows_of(v, dataset) if r.settings.get("evaluation_flops")]
        for v in comparison.variants
    }
    return {variant: found for variant, found in rows.items() if found}


def _costs(comparison: Comparison) -> list[list[str]]:
    cells = [["set", "contender", "accuracy", "FLOPs a prediction", "seconds a prediction", "training FLOPs",
              "training seconds", "pays after"]]  # fmt: skip
    for dataset in comparison.datasets:
        runs = _runs(comparison, dataset)
        if TRAINED not in runs or not any(name.startswith(IN_CONTEXT) for name in runs):
            continue
        ours = runs[TRAINED]
        trained = mean(float(row.settings["training_flops"] or 0) for row in ours)
        for variant, rows in runs.items():
            if not (variant.startswith(IN_CONTEXT) or variant in (TRAINED, ZERO_SHOT)):
                continue
            flops, training = _prediction_flops(rows), mean(float(r.settings["training_flops"] or 0) for r in rows)
            saved = flops - _prediction_flops(ours)
            pays = f"{math.ceil(trained / saved):,}" if variant.startswith(IN_CONTEXT) and saved > 0 else "-"
            seconds = mean(row.seconds["evaluate"] / len(row.right) for row in rows)
            cells.append([
                dataset, variant, f"{100 * mean(row.accuracy for row in rows):.1f}", f"{flops:.2e}", f"{seconds:.3f}",
                *([f"{training:.1e}", f"{mean(r.seconds['train'] for r in rows):.0f}"] if training else ["-", "-"]),
                pays,
            ])  # fmt: skip
    return cells


def _draw_costs(comparison: Comparison, path: Path) -> None:
    """Accuracy against FLOPs of a prediction, a panel for each set with several numbers of shots in context."""
    names = [v for v in comparison.variants if v.startswith(IN_CONTEXT) and v.split()[-1].isdigit()]
    names.sort(key=lambda name: int(name.split()[-1]))
    sets = [d for d in comparison.datasets if len(_runs(comparison, d).keys() & {*names}) > 1]
    if not sets:
        return
    shown, columns = [ZERO_SHOT, *names, TRAINED], min(3, len(sets))
    with plot_style():
        figure, panels = blank_figure(0.6 + 3 * columns, 0.9 + 1.9 * -(-len(sets) // columns), len(sets), columns)
        for axes, dataset in zip(panels, sets, strict=True):
            runs = _runs(comparison, dataset)
            for place, variant in enumerate(shown):
                if rows := runs.get(variant):
                    x, y = _prediction_flops(rows), 100 * mean(row.accuracy for row in rows)
                    axes.scatter([x], [y], s=60, color=COLORS[place % len(COLORS)], label=variant, zorder=3)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda flops, _: f"{flops:.0e}")
            axes.set_ylim(0, 100)
            axes.axhline(100 * comparison.chance(dataset), color=INK, linewidth=1, linestyle=(0, (3, 2)))
            axes.set_title(dataset, loc="left", fontsize=10, color=INK)
            plain_axes(axes, ("bottom", "left"))
        figure.supxlabel("FLOPs of one prediction, by the paper's formula", color=INK, fontsize=10)
        figure.supylabel("accuracy (%); dashed: chance", color=INK, fontsize=10)
        handles = {
            label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        listed = [variant for variant in shown if variant in handles]
        figure.legend(
            [handles[variant] for variant in listed],
            listed,
            loc="outside upper center",
            ncols=5,
            frameon=False,
            fontsize=9,
        )
    write_bytes_atomically(path, figure_bytes(figure, PNG))
