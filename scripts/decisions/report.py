"""evidence/decisions.md, as a function of the records."""

from collections.abc import Sequence

import numpy as np

from scripts.decisions.job import SETS, WAYS
from scripts.decisions.offline import (
    adaptive_sets,
    areas,
    as_held_out,
    by_coverage,
    by_risk,
    drift,
    lowest,
    sets,
    splits,
)
from scripts.decisions.records import Record
from tfew.comparison.tables import as_markdown
from tfew.decisions.held_out_scores import HeldOutScores
from tfew.runs.records import short_commit

SPLITS = 100
COVERAGES, RISKS, SHARES = (0.9, 0.8, 0.5), (0.05, 0.1, 0.15, 0.2), (0.8, 0.9, 0.95)
WORDS = {
    "validation": "144 rows, 48 of them to train on and 96 held out (`validation=`)",
    "folds": "96 rows in three folds, each predicted by an adapter that was trained on the 64 others (`folds=3`)",
}


def page(records: Sequence[Record]) -> str:
    commits = sorted({short_commit(record.git_commit or "unknown") for record in records})
    made = "; ".join(
        f"{way}, {name}: seeds {', '.join(str(r.seed) for r in _of(records, way, name)) or 'none'}"
        for way in WAYS
        for name in SETS
    )
    sections = [
        "# Decisions: promised and found",
        "`python -m scripts.decisions data_dir=DIR` makes this page of `decisions.jsonl`, and goes on with what is"
        f" missing there. SmolLM2-135M-Instruct with the settings of `+experiment=local_english`; {len(records)} runs"
        f" ({made}); commits {', '.join(commits)}. 300 test rows of each set, the same for all seeds. Found is on these"
        " test rows, which neither the adapter nor the decision has seen. 300 rows tell a share of 90 % to 3.4 points"
        " (95 %), and one of 50 % to 5.7.",
    ]
    for way in WAYS:
        found = [record for record in records if record.way == way]
        if found:
            sections += [f"## {WORDS[way][0].upper()}{WORDS[way][1:]}", *_sections(found)]
    return "\n\n".join(sections) + "\n"


def _of(records: Sequence[Record], way: str, name: str) -> list[Record]:
    return [record for record in records if (record.way, record.dataset) == (way, name)]


def _sections(records: Sequence[Record]) -> list[str]:
    parted = {record.key: splits(record, SPLITS) for record in records if record.way == "validation"}
    return [
        "### Fewer answers, more of them right",
        "Area under risk by coverage (0 is best), of the held-out rows and of the test rows; then, for thresholds that"
        " answer a share of the held-out rows, the share of test rows that is answered, and right of these.",
        as_markdown(_coverage(records)),
        "### An error rate with its confidence",
        "`risk=`, confidence 90 %: the error rate among the answered test rows, and the share of test rows that is"
        " answered; - where no threshold can promise it. The lowest that can be promised stands last.",
        as_markdown(_risk(records)),
        *(["Held-out and test rows parted anew, 96 to choose on (temperature included) and 300 to count on,"
           f" {SPLITS} times for each run: how often a threshold was found, how often the error rate among the"
           " answered of the 300 was above the promise (promised: at most 10 % of all times, in truth; counted on 300"
           " rows it is above for chance, too), and the means of both shares where one was found.",
           as_markdown(_risk_in_splits(records, parted))] if parted else []),
        "### Sets of labels",
        "How often the set holds the right label, and how many labels it has, in brackets for adaptive sets (APS"
        " without chance).",
        as_markdown(_sets(records)),
        *([f"The same over {SPLITS} partings of each run: the mean, which is what is promised.",
           as_markdown(_sets_in_splits(records, parted))] if parted else []),
        "### Drift",
        "New texts against the held-out rows: distances of the label's probability, of the probability of all labels"
        " together and of how often labels are given; in bold those that are warned about. AG News' rows are all of one"
        " file; TREC's test rows are of its test file, where labels are distributed otherwise than in the training"
        " file, which its held-out rows are of: a warning about its labels is right.",
        as_markdown(_drift(records)),
    ]  # fmt: skip


def _known_and_new(record: Record) -> tuple[HeldOutScores, HeldOutScores]:
    return as_held_out(record.held_out, record.temperature), as_held_out(record.test, record.temperature)


def _name(record: Record) -> list[str]:
    return [record.dataset, str(record.seed)]


def _coverage(records: Sequence[Record]) -> list[list[str]]:
    cells = [["set", "seed", "right of all test rows", "area, held out", "area, test",
              *(f"{share:.0%}: answered, right" for share in COVERAGES)]]  # fmt: skip
    for record in _sorted(records):
        known, new = _known_and_new(record)
        held, test = areas(record)
        answered = [by_coverage(known, new, share) for share in COVERAGES]
        shares = [f"{_percent(a.coverage)}, {_percent(None if a.risk is None else 1 - a.risk)}" for a in answered]
        cells.append([*_name(record), _percent(new.is_right_R.mean()), f"{held:.3f}", f"{test:.3f}", *shares])
    return cells


def _risk(records: Sequence[Record]) -> list[list[str]]:
    cells = [["set", "seed", *(f"risk={risk}: found, answered" for risk in RISKS), "lowest"]]
    for record in _sorted(records):
        known, new = _known_and_new(record)
        found = [by_risk(known, new, risk) for risk in RISKS]
        shown = ["-" if a.threshold is None else f"{_percent(a.risk)}, {_percent(a.coverage)}" for a in found]
        least = lowest(known)
        cells.append([*_name(record), *shown, "-" if least is None else f"{least:.3f}"])
    return cells


def _risk_in_splits(
    records: Sequence[Record], parted: dict[tuple[str, str, int], Sequence[tuple[HeldOutScores, HeldOutScores]]]
) -> list[list[str]]:
    cells = [["set", "risk", "runs", "a threshold was found", "error rate above it", "error rate", "answered"]]
    for name in SETS:
        of_set = [pair for record in records if record.dataset == name for pair in parted[record.key]]
        if not of_set:
            continue
        for risk in RISKS:
            every = [by_risk(known, new, risk) for known, new in of_set]
            found = [answered for answered in every if answered.risk is not None]
            above = sum(answered.risk is not None and answered.risk > risk for answered in every)
            mean = (
                [float(np.mean([a.risk for a in found])), float(np.mean([a.coverage for a in found]))] if found else []
            )
            cells.append([name, str(risk), str(len(of_set) // SPLITS), _percent(len(found) / len(every)),
                          _percent(above / len(every)), *(map(_percent, mean) if mean else ("-", "-"))])  # fmt: skip
    return cells


def _sets(records: Sequence[Record]) -> list[list[str]]:
    cells = [["set", "seed", *(f"{share:.0%}: held, size" for share in SHARES)]]
    for record in _sorted(records):
        known, new = _known_and_new(record)
        cells.append([*_name(record), *(_both(known, new, share) for share in SHARES)])
    return cells


def _both(known: HeldOutScores, new: HeldOutScores, share: float) -> str:
    ours, adaptive = sets(known, new, share), adaptive_sets(known, new, share)
    return f"{_percent(ours.held)}, {ours.size:.2f} ({_percent(adaptive.held)}, {adaptive.size:.2f})"


def _sets_in_splits(
    records: Sequence[Record], parted: dict[tuple[str, str, int], Sequence[tuple[HeldOutScores, HeldOutScores]]]
) -> list[list[str]]:
    cells = [["set", "runs", *(f"{share:.0%}: held, size" for share in SHARES)]]
    for name in SETS:
        of_set = [pair for record in records if record.dataset == name for pair in parted[record.key]]
        if not of_set:
            continue
        shown = []
        for share in SHARES:
            ours = [sets(known, new, share) for known, new in of_set]
            adaptive = [adaptive_sets(known, new, share) for known, new in of_set]
            numbers = [
                (float(np.mean([s.held for s in some])), float(np.mean([s.size for s in some])))
                for some in (ours, adaptive)
            ]
            (held, size), (other_held, other_size) = numbers
            shown.append(f"{_percent(held)}, {size:.2f} ({_percent(other_held)}, {other_size:.2f})")
        cells.append([name, str(len(of_set) // SPLITS), *shown])
    return cells


def _drift(records: Sequence[Record]) -> list[list[str]]:
    cells = [["trained on", "seed", "its own test rows", "the other set's texts"]]
    for record in _sorted(records):
        shown = []
        for new in (record.test, record.others):
            findings, raised = drift(record, new)
            shown.append(", ".join(f"**{f.distance:.2f}**" if f in raised else f"{f.distance:.2f}" for f in findings))
        cells.append([*_name(record), *shown])
    return cells


def _sorted(records: Sequence[Record]) -> list[Record]:
    return sorted(records, key=lambda record: SETS.index(record.dataset))  # stable: seeds as they were made


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
