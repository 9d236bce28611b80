"""The report's first part: facts on the runs, and grids of accuracy by data set or template and by variant."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tfew.paper.cells import median_and_iqr, template_scores
from tfew.paper.runs import Run
from tfew.runs.records import RECORD_FILE, RunRecord, short_commit
from tfew.runs.units import duration


@dataclass(frozen=True)
class GridCell:
    """`shade`: 0 to 1 from the lowest to the highest value of the grid, None for no shading."""

    text: str
    shade: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Grid:
    """`rows`: names and cells; `last_is_spread`: the last row is the range of the others."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[GridCell, ...]], ...]
    last_is_spread: bool = False


def run_scores(record: RunRecord) -> list[float]:
    """Percent: each template's accuracy, or for a mixture the run's; empty if nothing was ranked."""
    if scores := list(template_scores(record).values()):
        return scores
    accuracy = record.metrics.get("accuracy")
    return [100 * accuracy] if accuracy is not None and math.isfinite(accuracy) else []


def accuracy_grid(records: Sequence[RunRecord], names: Mapping[str, str]) -> Grid:
    """Chance, then a line per variant: per data set the median (IQR) over seeds and templates, and [runs]."""
    ranked = [record for record in records if run_scores(record)]
    datasets = sorted({record.dataset for record in ranked})
    groups: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for record in ranked:
        groups[names[record.name], record.dataset].append(record)
    numbers = {key: median_and_iqr([v for r in runs for v in run_scores(r)]) for key, runs in groups.items()}
    best = {dataset: max(middle for (_, of), (middle, _) in numbers.items() if of == dataset) for dataset in datasets}
    chance = {record.dataset: 100 * record.metrics["chance"] for record in ranked if "chance" in record.metrics}
    rows = [("chance", tuple(GridCell(f"{chance[d]:.1f}" if d in chance else "–") for d in datasets))]
    shown = list(dict.fromkeys(names[record.name] for record in ranked))
    for group in shown:
        cells = []
        for dataset in datasets:
            middle, iqr = numbers.get((group, dataset), (None, None))
            text = "–" if middle is None else f"{middle:.1f} ({iqr:.1f}) [{len(groups[group, dataset])}]"
            cells.append(GridCell(text, best=len(shown) > 1 and middle == best[dataset]))
        rows.append((group, tuple(cells)))
    return Grid(tuple(datasets), tuple(rows))


def template_grids(records: Sequence[RunRecord], names: Mapping[str, str]) -> dict[str, Grid]:
    """By data set: templates x variants, each cell the median over runs; the last row is the range over templates."""
    found: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for record in records:
        for template, score in template_scores(record).items():
            found[record.dataset][template][names[record.name]].append(score)
    return {dataset: _template_grid(templates) for dataset, templates in sorted(found.items()) if len(templates) > 1}


def _template_grid(templates: Mapping[str, Mapping[str, Sequence[float]]]) -> Grid:
    groups = list(dict.fromkeys(group for by_group in templates.values() for group in by_group))
    medians = {
        name: {group: median_and_iqr(by_group[group])[0] for group in groups if by_group.get(group)}
        for name, by_group in templates.items()
    }
    low, high = _min_max(value for row in medians.values() for value in row.values())
    rows = [
        (
            name,
            tuple(
                GridCell(f"{row[group]:.1f}", shade=(row[group] - low) / max(high - low, 1e-9))
                if group in row
                else GridCell("–")
                for group in groups
            ),
        )
        for name, row in medians.items()
    ]
    ends = [_min_max(row[group] for row in medians.values() if group in row) for group in groups]
    rows.append(("highest minus lowest", tuple(GridCell(f"{top - bottom:.1f}") for bottom, top in ends)))
    return Grid(tuple(groups), tuple(rows), last_is_spread=True)


def facts(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(Name, value) pairs that summarise the runs."""
    records = [run.record for run in runs]
    times = [datetime.fromtimestamp((run.folder / RECORD_FILE).stat().st_mtime, UTC) for run in runs]
    first, last = (f"{time:%Y-%m-%d %H:%M} UTC" for time in (min(times), max(times)))
    trained, ranked = (sum(r.seconds.get(key, 0) for r in records) for key in ("train", "evaluate"))
    libraries = {
        f"{library} {r.versions[library]}"
        for r in records
        for library in ("torch", "transformers")
        if library in r.versions
    }
    return [
        ("models", _distinct(r.model for r in records)),
        ("methods", _distinct(r.method for r in records)),
        ("losses", _distinct(r.loss for r in records if r.command == "train")),
        ("data sets", _distinct(r.dataset for r in records)),
        ("few-shot seeds", ", ".join(map(str, sorted({r.few_shot_seed for r in records})))),
        ("finished", first if first == last else f"{first} to {last} (by the times of the files)"),
        ("time", f"{duration(trained)} of training, {duration(ranked)} of ranking"),
        ("peak memory", f"{max(r.peak_memory_bytes for r in records) / 1e9:.1f} GB"),
        ("code", _distinct(short_commit(r.git_commit or "unknown") for r in records)),
        ("libraries", _distinct(libraries)),
    ]


def _distinct(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values))) or "none"


def _min_max(values: Iterable[float]) -> tuple[float, float]:
    found = list(values)
    return min(found), max(found)
