"""The tables of a comparison as text: one for the terminal, several in Markdown. In percent and percentage points."""

from collections.abc import Iterable

from tfew.comparison.numbers import Comparison, Interval
from tfew.runs.records import short_commit

MISSING = "-"
ROUNDING = 1e-9  # a zero gain, summed in floating point over data sets, stays zero
Cells = list[list[str]]


def accuracy_cells(comparison: Comparison) -> Cells:
    """Header, one line per data set (chance, each variant's median over seeds and IQR), and the means."""
    cells = [["", "chance", *comparison.variants]]
    for dataset in comparison.datasets:
        values = [comparison.accuracy(variant, dataset) for variant in comparison.variants]
        seeded = [len(comparison.rows_of(variant, dataset)) > 1 for variant in comparison.variants]
        texts = [_median(pair, many) for pair, many in zip(values, seeded, strict=True)]
        cells.append([dataset, _percent(comparison.chance(dataset)), *texts])
    chance = sum(map(comparison.chance, comparison.datasets)) / max(1, len(comparison.datasets))
    means = [_percent(comparison.mean_accuracy(variant)) for variant in comparison.variants]
    return [*cells, ["mean", _percent(chance), *means]]


def seed_cells(comparison: Comparison) -> Cells:
    """One line per variant: the mean gain of each seed, and how many of these are above zero."""
    cells = [["", *(f"seed {seed}" for seed in comparison.seeds), "above zero"]]
    for variant in comparison.tuned_variants:
        gains = [comparison.seed_gain(variant, seed) for seed in comparison.seeds]
        known = [gain for gain in gains if gain is not None]
        above = f"{sum(gain > ROUNDING for gain in known)} of {len(known)}"
        cells.append([variant, *(_percent_points(gain) for gain in gains), above])
    return cells


def paired_cells(comparison: Comparison) -> Cells:
    cells = [["", *comparison.tuned_variants]]
    for dataset in comparison.datasets:
        cells.append([dataset, *(_interval(comparison.paired_gain(v, dataset)) for v in comparison.tuned_variants)])
    return [*cells, ["mean", *(_interval(comparison.mean_paired_gain(v)) for v in comparison.tuned_variants)]]


def norm_cells(comparison: Comparison) -> Cells:
    """Each cell: the median over seeds under the score norms token (mean over tokens) and sum."""
    cells = [["", *comparison.variants]]
    for dataset in comparison.datasets:
        pairs = [
            [_percent((comparison.accuracy(v, dataset, norm) or [None])[0]) for norm in ("token", "sum")]
            for v in comparison.variants
        ]
        cells.append([dataset, *map(" / ".join, pairs)])
    means = [[_percent(comparison.mean_accuracy(v, norm)) for norm in ("token", "sum")] for v in comparison.variants]
    return [*cells, ["mean", *map(" / ".join, means)]]


def as_text(cells: Cells) -> str:
    """Aligned columns, numbers to the right."""
    widths = [max(len(line[place]) for line in cells) for place in range(len(cells[0]))]
    lines = [
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in cells
    ]
    return "".join("  " + "  ".join(line).rstrip() + "\n" for line in lines)


def as_markdown(cells: Cells) -> str:
    header, *lines = cells
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in (header, rule, *lines)
    )


def report(title: str, comparison: Comparison) -> str:
    """The Markdown page: all tables, how to read them, settings and versions; a function of the rows only."""
    seeds = ", ".join(map(str, comparison.seeds)) or "none"
    sections = [
        f"# {title}",
        f"Made from {len(comparison.rows)} runs by {_code(comparison)}. Few-shot seeds: {seeds}.",
        "## Accuracy",
        "Percent: the median over seeds, and (IQR), of each run's median over templates. Each variant is ranked with"
        " the score norm that goes with its loss. `mean`: of the medians.",
        as_markdown(accuracy_cells(comparison)),
        "## Gain over zero-shot, seed by seed",
        "Percentage points: a seed's accuracy minus zero-shot, mean over data sets.",
        as_markdown(seed_cells(comparison)),
        "## Gain over zero-shot on the same rows",
        "Percentage points, all templates and seeds together, with the 95 % interval of a paired comparison, by normal"
        " approximation over test rows.",
        as_markdown(paired_cells(comparison)),
        "## Ranking by mean over tokens / by sum",
        "The same runs, accuracy in percent under both score norms: the median over seeds.",
        as_markdown(norm_cells(comparison)),
        "## Settings",
        as_markdown(_setting_cells(comparison)),
    ]
    return "\n\n".join(sections) + "\n"


def _setting_cells(comparison: Comparison) -> Cells:
    cells = [["", "method", "loss", "trained", "steps", "batch", "learning rate", "shots", "test rows"]]
    for variant in comparison.variants:
        rows = [row for row in comparison.rows if row.variant == variant]
        first, trains = rows[0], not rows[0].is_zero_shot
        training = [f"{first.trained_parameters:,}", *(str(first.settings[k]) for k in ("steps", "batch_size", "lr"))]
        shots = _distinct(row.settings["shots"] for row in rows) if trains else MISSING
        training = training if trains else [MISSING] * 4
        loss = first.loss if trains else MISSING
        cells.append([variant, first.method, loss, *training, shots, _distinct(len(row.right) for row in rows)])
    return cells


def _code(comparison: Comparison) -> str:
    commits = _distinct(short_commit(row.git_commit or "unknown") for row in comparison.rows)
    versions = [
        f"{library} {_distinct(row.versions.get(library, 'unknown') for row in comparison.rows)}"
        for library in ("torch", "transformers")
    ]
    return f"commit {commits}, {', '.join(versions)}"


def _distinct(values: Iterable[object]) -> str:
    return ", ".join(sorted({str(value) for value in values}))


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.1f}"


def _percent_points(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:+.1f}"


def _median(pair: tuple[float, float] | None, many: bool) -> str:
    if pair is None:
        return MISSING
    return _percent(pair[0]) + (f" ({100 * pair[1]:.1f})" if many else "")


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return MISSING
    return f"{_percent_points(interval.mean)} [{_percent_points(interval.low)}, {_percent_points(interval.high)}]"
