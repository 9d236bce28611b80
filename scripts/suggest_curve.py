"""Learning curves of suggested and random rows: `python -m scripts.suggest_curve data_dir=DIR`; can be interrupted.

Starting from a few labelled rows, more are labelled in two rounds: those that `suggest=` names, or random ones. Both
begin with the same rows, are trained with the same settings, and are evaluated on the same held-out rows. A line of the
records holds one training: its results and its rows in the pool, never a text. Finished ones are not repeated.

records=evidence/suggest/records.jsonl   curve.png and TABLE.md are written beside it
sets=TREC,requests                       TREC with SmolLM2; requests of mini-T0's own world (36 labels) with mini-T0
seeds=0,1,2,3,4                          one seed is completed before the next
steps=... and other KEY=VALUE            go to every training
"""

import json
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tfew.cli import run_script
from tfew.config import compose
from tfew.data.sources import load_split
from tfew.decisions.suggest import Candidate, Candidates, kept_for, most_useful, uncertainty
from tfew.environment.verbosity import quiet
from tfew.errors import UserError, unknown_value_error
from tfew.estimator.classifier import TfewClassifier
from tfew.files.atomic import write_atomically
from tfew.runs.records import git_commit
from tfew.task import load_spec

ROUNDS = 2
SUGGESTED, RANDOM = "suggested", "random"
OWN = {"data_dir": "", "records": "evidence/suggest/records.jsonl", "sets": "TREC,requests", "seeds": "0,1,2,3,4"}


@dataclass(frozen=True)
class PoolSet:
    """`start` labelled rows, and so many `more` each round; `pool` rows to choose from; `test` rows to try on.

    `words`: label -> the name that it has here. `settings`: over those of the experiment.
    """

    name: str
    dataset: str
    words: Mapping[str, str] | None
    experiment: str
    start: int
    more: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    pool: int = 400
    test: int = 300


SETS = (
    PoolSet("TREC", "t0/trec", {
        "DESC": "description", "ENTY": "entity", "ABBR": "abbreviation", "HUM": "human", "NUM": "number",
        "LOC": "location",
    }, "local_english", start=24, more=24, settings={"steps": 30, "batch_size": 4, "optimizer.lr": 2e-2}),
    PoolSet("requests", "mini/request", None, "local_mini", start=36, more=36),
)  # fmt: skip


@dataclass(frozen=True)
class Record:
    """One training. `rows`: places in the pool; `found`: labels that they show."""

    set: str
    seed: int
    arm: str
    round: int
    rows: tuple[int, ...]
    found: int
    accuracy: float
    macro_f1: float
    seconds: float
    commit: str | None

    @property
    def key(self) -> tuple[str, int, str, int]:
        return self.set, self.seed, self.arm, self.round


@dataclass(frozen=True)
class Rows:
    pool: list[tuple[str, str]]  # text and label
    test: list[tuple[str, str]]
    labels: list[str]


def main(arguments: Sequence[str]) -> int:
    if "--help" in arguments:
        print(__doc__)
        return 0
    pairs = [argument.partition("=") for argument in arguments]
    own = {**OWN, **{key: value for key, _, value in pairs if key in OWN}}
    settings = {key: json.loads(value) for key, _, value in pairs if key not in OWN}
    sets = [_named(name) for name in own["sets"].split(",")]
    path = Path(own["records"])
    records = load_records(path)
    for seed in map(int, own["seeds"].split(",")):
        for which in sets:
            for record in _missing(which, seed, Path(own["data_dir"]), settings, records):
                records[record.key] = record
                write_atomically(path, "".join(json.dumps(asdict(r)) + "\n" for r in records.values()))
                print(
                    f"{record.key}: {100 * record.accuracy:.1f} %, {record.seconds:.0f} s", file=sys.stderr, flush=True
                )
    write_report(path, list(records.values()))
    return 0


def load_records(path: Path) -> dict[tuple[str, int, str, int], Record]:
    lines = path.read_text().splitlines() if path.is_file() else []
    found = [Record(**{**row, "rows": tuple(row["rows"])}) for row in map(json.loads, lines)]
    return {record.key: record for record in found}


def _named(name: str) -> PoolSet:
    for which in SETS:
        if which.name == name:
            return which
    raise unknown_value_error("set", name, [which.name for which in SETS], "sets=")


def _missing(
    which: PoolSet, seed: int, data_dir: Path, settings: Mapping[str, Any], records: Mapping[Any, Record]
) -> Iterator[Record]:
    """The trainings of this set and seed that are not there yet, each made when it is asked for."""
    keys = [(which.name, seed, arm, number) for number in range(1, ROUNDS + 1) for arm in (SUGGESTED, RANDOM)]
    if all(key in records for key in keys):
        return
    rows = rows_of(which, seed, data_dir)
    order = random.Random(f"{seed}/start").sample(range(len(rows.pool)), len(rows.pool))
    first = order[: which.start]
    classifier = None  # trained on the rows of the last suggested round
    start = (which.name, seed, "start", 0)
    if start not in records:
        record, classifier = trained(start, first, rows, which, settings)
        yield record
    labelled = {SUGGESTED: list(first), RANDOM: list(first)}
    for number in range(1, ROUNDS + 1):
        key = (which.name, seed, SUGGESTED, number)
        if key in records:
            labelled[SUGGESTED], classifier = list(records[key].rows), None
        else:
            if classifier is None:
                _, classifier = trained(start, labelled[SUGGESTED], rows, which, settings, tried=False)
            labelled[SUGGESTED] += suggested(classifier, labelled[SUGGESTED], rows, which.more)
            record, classifier = trained(key, labelled[SUGGESTED], rows, which, settings)
            yield record
        labelled[RANDOM] = order[: which.start + number * which.more]
        if (key := (which.name, seed, RANDOM, number)) not in records:
            yield trained(key, labelled[RANDOM], rows, which, settings)[0]


def suggested(classifier: TfewClassifier, labelled: Sequence[int], rows: Rows, count: int) -> list[int]:
    """As `tfew predict suggest=` does it, with the pool for a table."""
    texts = [rows.pool[row][0] for row in labelled]
    candidates = Candidates(kept_for(count), texts)
    for number, probability_C in enumerate(classifier.predict_proba([text for text, _ in rows.pool])):
        candidates.add(Candidate(number, rows.pool[number][0], uncertainty(probability_C.tolist())))
    return [found.number for found in most_useful(candidates.in_order(), count, texts)]


def trained(
    key: tuple[str, int, str, int], chosen: Sequence[int], rows: Rows, which: PoolSet, settings: Mapping[str, Any],
    tried: bool = True,
) -> tuple[Record, TfewClassifier]:  # fmt: skip
    started = time.monotonic()
    texts, labels = zip(*(rows.pool[row] for row in chosen), strict=True)
    classifier = TfewClassifier(
        experiment=which.experiment, random_state=key[1], verbose=0,
        settings={"labels": rows.labels, "eval_batch_size": 32, **which.settings, **settings},
    )  # fmt: skip
    with quiet():
        classifier.fit(list(texts), list(labels))
        found = classifier.predict([text for text, _ in rows.test]) if tried else []
    right = [guess == label for guess, (_, label) in zip(found, rows.test, strict=False)]
    accuracy = float(np.mean(right)) if tried else float("nan")
    f1 = macro_f1([label for _, label in rows.test], list(found)) if tried else float("nan")
    seconds = time.monotonic() - started
    return Record(*key, tuple(chosen), len(set(labels)), accuracy, f1, seconds, git_commit()), classifier


def macro_f1(labels: Sequence[str], found: Sequence[str]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, found, average="macro", labels=sorted(set(labels)), zero_division=0.0))


def rows_of(which: PoolSet, seed: int, data_dir: Path) -> Rows:
    """A pool drawn from the training rows for this seed, and test rows that are the same for all seeds."""
    spec = load_spec(compose(f"dataset={which.dataset}", f"data_dir={data_dir}"))
    if spec.generator is None and not data_dir.is_dir():
        raise UserError(f"data_dir={data_dir} is no folder: name the one with the data sets (README, data_dir=).")
    names = [(which.words or {}).get(name, name) for name in spec.label_names or ()]
    splits = {}
    for split, count, draw in (("train", which.pool, f"{seed}/pool"), ("eval", which.test, "test")):
        examples = list(load_split(spec, split, data_dir))
        kept = random.Random(draw).sample(examples, min(count, len(examples)))
        splits[split] = [(str(row.fields["text"]), names[row.label]) for row in kept if row.label is not None]
    return Rows(splits["train"], splits["eval"], names)


def write_report(path: Path, records: Sequence[Record]) -> None:
    """A table and a figure: means and standard deviations over seeds, of seeds that are whole."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sets = [which for which in SETS if whole_seeds(records, which.name)]
    if not sets:
        print("No seed has all its trainings yet.")
        return
    figure, axes = pyplot.subplots(1, len(sets), figsize=(5 * len(sets), 3.6), squeeze=False)
    lines = ["# Suggested against random rows", "", *TABLE_HEAD]
    for which, axis in zip(sets, axes[0], strict=True):
        seeds = whole_seeds(records, which.name)
        by_key = {record.key: record for record in records}
        for arm, color in ((SUGGESTED, "tab:blue"), (RANDOM, "tab:orange")):
            points = [_points(by_key, which, seeds, arm, number) for number in range(ROUNDS + 1)]
            mean = [float(np.mean(values)) for values in points]
            spread = [float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for values in points]
            counts = [which.start + number * which.more for number in range(ROUNDS + 1)]
            axis.errorbar(counts, mean, spread, label=arm, color=color, marker="o", capsize=3)
        axis.set(title=f"{which.name}, {len(seeds)} seeds", xlabel="labelled rows", ylabel="accuracy in percent")
        axis.legend()
        lines += _table(by_key, which, seeds)
    figure.tight_layout()
    figure.savefig(path.with_name("curve.png"), dpi=110)
    write_atomically(path.with_name("TABLE.md"), "\n".join(lines) + "\n")
    print("\n".join(lines))


TABLE_HEAD = (
    "Accuracy in percent on the same held-out rows, mean (standard deviation) over seeds; the gain is the mean of the",
    "differences of the same seed, with its 95 % interval by Student's t.",
    "",
    "| set | labelled rows | suggested | random | gain | labels seen, suggested | random |",
    "|---|---:|---:|---:|---:|---:|---:|",
)


def whole_seeds(records: Sequence[Record], name: str) -> list[int]:
    """The seeds of which both arms are there in every round."""
    keys = {record.key for record in records}
    seeds = sorted({record.seed for record in records if record.set == name})
    wanted = [("start", 0), *((arm, number) for arm in (SUGGESTED, RANDOM) for number in range(1, ROUNDS + 1))]
    return [seed for seed in seeds if all((name, seed, *rest) in keys for rest in wanted)]


def _points(by_key: Mapping[Any, Record], which: PoolSet, seeds: Sequence[int], arm: str, number: int) -> list[float]:
    return [100 * by_key[(which.name, seed, arm if number else "start", number)].accuracy for seed in seeds]


def _table(by_key: Mapping[Any, Record], which: PoolSet, seeds: Sequence[int]) -> list[str]:
    lines = []
    for number in range(ROUNDS + 1):
        ours, theirs = (_points(by_key, which, seeds, arm, number) for arm in (SUGGESTED, RANDOM))
        shown = [f"{np.mean(v):.1f}" + (f" ({np.std(v, ddof=1):.1f})" if len(v) > 1 else "") for v in (ours, theirs)]
        gain = _gain(np.subtract(ours, theirs)) if number and len(seeds) > 1 else "-"
        seen = [
            f"{np.mean([by_key[(which.name, s, arm if number else 'start', number)].found for s in seeds] or [0]):.1f}"
            for arm in (SUGGESTED, RANDOM)
        ]
        count = which.start + number * which.more
        lines.append(f"| {which.name} | {count} | {' | '.join(shown)} | {gain} | {' | '.join(seen)} |")
    return lines


def _gain(difference_S: np.ndarray) -> str:
    from scipy.stats import t

    mean, seeds = float(difference_S.mean()), len(difference_S)
    half = float(t.ppf(0.975, seeds - 1) * difference_S.std(ddof=1) / np.sqrt(seeds))
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


if __name__ == "__main__":
    run_script(main)
