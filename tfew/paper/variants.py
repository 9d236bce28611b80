"""What the runs of a comparison are called: the method, and whatever else tells them apart on some data set."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfew.paper.table import is_pretrained
from tfew.runs.records import RunRecord

Facet = Callable[[RunRecord], Any]


def setting(*keys: str) -> Facet:
    """A setting of a run's configuration; None where it has none of this name."""

    def read(record: RunRecord) -> Any:
        value: Any = record.config
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    return read


SCORING: dict[str, Facet] = {
    "norm": setting("score", "norm"),
    "scores": setting("score", "method"),
    "shots in context": setting("icl", "shots"),
    "combined by": setting("icl", "combine"),
    "templates": setting("templates", "use"),
}
TRAINING: dict[str, Facet] = {
    "loss": lambda record: record.loss,
    "pre-trained": is_pretrained,
    "shots": setting("shots"),
    "steps": setting("steps"),
    "learning rate": setting("optimizer", "lr"),
    "batch": setting("batch_size"),
}


def variants(records: Sequence[RunRecord], shown: Mapping[str, str] | None = None) -> dict[str, str]:
    """A run's name to its variant's, by which runs that differ in their seeds alone are one; `shown` renames methods.

    A setting is named only where runs of one method differ in it on one data set: what differs from data set to data
    set anyway, such as the number of shots, tells no variants apart.
    """
    many_models = len({record.model for record in records}) > 1
    groups = defaultdict(list)
    for record in records:
        groups[record.model, record.command, record.method].append(record)
    names = {}
    for (model, _, method), group in groups.items():
        trained = group[0].command == "train"
        differing = _differing(group, {**(TRAINING if trained else {}), **SCORING})
        again = " (evaluated again)" if group[0].config.get("adapter") is not None else ""
        stem = f"{model}: " * many_models + (shown or {}).get(method, method) + again
        for record in group:
            names[record.name] = ", ".join([stem, *(_said(name, facet(record)) for name, facet in differing.items())])
    return names


def _differing(records: Sequence[RunRecord], facets: Mapping[str, Facet]) -> dict[str, Facet]:
    by_dataset = defaultdict(list)
    for record in records:
        by_dataset[record.dataset].append(record)
    return {
        name: facet
        for name, facet in facets.items()
        if any(len({str(facet(record)) for record in group}) > 1 for group in by_dataset.values())
    }


def _said(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"not {name}"
    return f"{name} {value}"
