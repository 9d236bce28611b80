"""Names of variants: the method, and the settings in which runs of one method differ."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from tfew.paper.cells import is_pretrained
from tfew.runs.identity import WEIGHT_HASHES, flatten, identity
from tfew.runs.records import RunRecord

Facet = Callable[[RunRecord], Any]
# sections and settings in which runs of one variant may differ: seeds, where data and weights are, and what changes
# rounding at most
SHARED_BY_A_VARIANT = {
    "name", "dataset", "data", "data_dir", "model", "adapter", "init_adapter", WEIGHT_HASHES, "trainer",
    "few_shot_seed", "seed", "eval_seed", "icl.order_seed", "eval_batch_size", "micro_batch_size", "checkpoint_every",
}  # fmt: skip
ALSO_COMPARED = {"model.dtype", "trainer.autocast"}
CLASS = "._target_"


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
    data sets anyway, such as the number of shots, does not distinguish variants. Settings without a facet are added, by
    their keys, to names that runs with different ones would share.
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
    return _told_apart(records, names)


def _differing(records: Sequence[RunRecord], facets: Mapping[str, Facet]) -> dict[str, Facet]:
    groups = _by_dataset(records)
    return {
        name: facet
        for name, facet in facets.items()
        if any(len({str(facet(record)) for record in group}) > 1 for group in groups)
    }


def _by_dataset(records: Sequence[RunRecord]) -> list[list[RunRecord]]:
    groups = defaultdict(list)
    for record in records:
        groups[record.dataset].append(record)
    return list(groups.values())


def _told_apart(records: Sequence[RunRecord], names: Mapping[str, str]) -> dict[str, str]:
    by_name = defaultdict(list)
    for record in records:
        by_name[names[record.name]].append(record)
    apart = {}
    for name, group in by_name.items():
        keys = sorted(set(chain.from_iterable(map(differing_settings, _by_dataset(group)))))
        facets = {key.removesuffix(CLASS): setting(*key.split(".")) for key in keys}
        for record in group:
            values = [_format_setting(key, facet(record)) for key, facet in facets.items()]
            apart[record.name] = ", ".join([name, *values])
    return apart


def differing_settings(records: Sequence[RunRecord]) -> set[str]:
    """The dotted keys of settings that change results in which these runs differ, without seeds and places.

    Of a section with different classes, the class alone.
    """
    settings = [dict(flatten(identity(record.config))) for record in records]
    keys = {
        key
        for key in chain.from_iterable(settings)
        if key in ALSO_COMPARED or not {key, key.partition(".")[0]} & SHARED_BY_A_VARIANT
    }
    found = {key for key in keys if len({str(one.get(key)) for one in settings}) > 1}
    sections = {key.removesuffix(CLASS) for key in found if key.endswith(CLASS)}
    return {key for key in found if key.endswith(CLASS) or key.rpartition(".")[0] not in sections}


def _format_setting(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"not {name}"
    return f"{name} {value}"
