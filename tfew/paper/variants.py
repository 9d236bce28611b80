"""Names of variants: the method, and the settings in which runs of one method differ."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfew.paper.table import is_pretrained
from tfew.runs.records import RunRecord

Facet = Callable[[RunRecord], Any]


def setting(*keys: str) -> Facet:
    """A facet that reads a setting of a run's configuration; None if it has no such setting."""

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
    "weight decay": setting("optimizer", "weight_decay"),
}
READING: dict[str, Facet] = {"max_tokens": setting("max_tokens"), "eval_rows": setting("eval_rows")}


def variant_names(records: Sequence[RunRecord], titles: Mapping[str, str] | None = None) -> dict[str, str]:
    """Run name -> variant name; runs that differ only in seeds share one. `titles` renames methods.

    A setting is part of the name only if runs of one method differ in it on the same data set: one that differs between
    data sets anyway, such as the number of shots, does not distinguish variants.
    """
    many_models = len({record.model for record in records}) > 1
    groups = defaultdict(list)
    for record in records:
        groups[record.model, record.command, record.method].append(record)
    names = {}
    for (model, _, method), group in groups.items():
        trained = group[0].command == "train"
        arguments = sorted(
            {key for record in group for key in record.config.get("method") or {}} - {"name", "_target_"}
        )
        own = {key.replace("_", " "): setting("method", key) for key in arguments}
        differing = _differing(group, {**(own | TRAINING if trained else {}), **SCORING, **READING})
        again = " (evaluated again)" if group[0].config.get("adapter") is not None else ""
        stem = f"{model}: " * many_models + (titles or {}).get(method, method) + again
        for record in group:
            names[record.name] = ", ".join(
                [stem, *(_format_setting(name, facet(record)) for name, facet in differing.items())]
            )
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


def _format_setting(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"not {name}"
    return f"{name} {value}"
