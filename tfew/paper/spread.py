"""How much accuracy varies with the template, the order of shots and the seed: in-context learning and (IA)^3."""

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from tfew.paper.cells import median_and_iqr, order_seed, template_scores
from tfew.paper.reference import specs
from tfew.paper.variants import variant_names
from tfew.runs.records import RunRecord


@dataclass(frozen=True)
class Score:
    """The accuracy, in percent, of one template in one run; `order` None without in-context shots.

    An order is a seed, which also selects the shots if not all few-shot examples are used.
    """

    dataset: str
    group: str
    template: str
    seed: int
    order: int | None
    run: str
    accuracy: float


@dataclass(frozen=True)
class Spread:
    """All scores of one group on one data set, in percent, and how much each factor alone changes them.

    A swing is best minus worst when only this factor changes, averaged over all settings of the other two; None if it
    never changes.
    """

    dataset: str
    group: str
    runs: int
    scores: tuple[float, ...]
    swing_by_order: float | None
    swing_by_template: float | None
    swing_by_seed: float | None

    @property
    def median(self) -> float:
        return median_and_iqr(self.scores)[0]

    @property
    def iqr(self) -> float:
        return median_and_iqr(self.scores)[1]

    @property
    def swings(self) -> tuple[float | None, float | None, float | None]:
        """By order, template and seed."""
        return self.swing_by_order, self.swing_by_template, self.swing_by_seed


def in_context_scores(records: Sequence[RunRecord], model: str | None = None) -> list[Score]:
    """The scores of figure=icl, with groups in its order; of all models, or of one."""
    shown = {method: name for name, method in specs()["figures"]["icl"]["methods"].items()}
    mine = [
        record
        for record in records
        if record.method in shown and record.config.get("adapter") is None and model in (None, record.model)
    ]
    groups, order = variant_names(mine, shown), list(shown)
    return collect_scores(sorted(mine, key=lambda record: (record.dataset, order.index(record.method))), groups)


def collect_scores(records: Sequence[RunRecord], groups: Mapping[str, str]) -> list[Score]:
    return [
        Score(r.dataset, groups[r.name], template, r.few_shot_seed, order_seed(r), r.name, accuracy)
        for r in records
        for template, accuracy in template_scores(r).items()
    ]


def spreads(scores: Sequence[Score]) -> list[Spread]:
    """One per data set and group, in the order of the scores."""
    grouped = defaultdict(list)
    for score in scores:
        grouped[score.dataset, score.group].append(score)
    return [
        Spread(
            dataset=dataset,
            group=group,
            runs=len({score.run for score in found}),
            scores=tuple(score.accuracy for score in found),
            swing_by_order=_swing(found, lambda s: s.order, lambda s: (s.template, s.seed)),
            swing_by_template=_swing(found, lambda s: s.template, lambda s: (s.seed, s.order)),
            swing_by_seed=_swing(found, lambda s: s.seed, lambda s: (s.template, s.order)),
        )
        for (dataset, group), found in grouped.items()
    ]


def _swing(
    scores: Sequence[Score], changes: Callable[[Score], object], stays: Callable[[Score], object]
) -> float | None:
    by_rest: dict[object, dict[object, float]] = defaultdict(dict)
    for score in scores:
        by_rest[stays(score)][changes(score)] = score.accuracy
    ranges = [max(found.values()) - min(found.values()) for found in by_rest.values() if len(found) > 1]
    return mean(ranges) if ranges else None


COLUMNS = (
    "data set", "group", "runs", "scores", "median", "IQR", "lowest", "highest", "swing by order", "swing by template",
    "swing by seed",
)  # fmt: skip


def spread_rows(found: Sequence[Spread], missing: str) -> list[list[str]]:
    """A line per spread under `COLUMNS`."""
    return [
        [
            s.dataset, s.group, str(s.runs), str(len(s.scores)),
            *(
                missing if value is None else f"{value:.1f}"
                for value in (s.median, s.iqr, min(s.scores), max(s.scores), *s.swings)
            ),
        ]
        for s in found
    ]  # fmt: skip


def spread_csv(found: Sequence[Spread]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *spread_rows(found, "")])
    return text.getvalue()
