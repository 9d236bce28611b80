"""Many labels: a table with 150 of them, and two-stage ranking compared with full ranking.

    python -m scripts.bench.many_labels table=FILE.csv
    python -m scripts.bench.many_labels adapter=RUN input=FILE text=COLUMN rows=64 sizes=4,8,16

The table has two rows for each label, a verb and a thing, in plain words. The second command prints a line for the full
ranking and for each size of `score.shortlist=`: CPU seconds, speed-up, the share of rows with the same label, tokens
computed per row (its input once), rounds, and by how much the label's probability is lower. Other KEY=VALUE go to the
predictor; adapter=none uses the bare model.
"""

import csv
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tfew.cli import run_script
from tfew.errors import UserError
from tfew.prediction.loaded_task import Prepared
from tfew.prediction.predictor import Predictor
from tfew.ranking.shortlist import Shortlist
from tfew.schema import Batch
from tfew.scoring.prefixes import prefixes
from tfew.tables.table_reader import read_table

VERBS = (
    "cancel", "renew", "pause", "upgrade", "downgrade", "track", "return", "exchange", "repair", "insure", "gift",
    "rename", "transfer", "delay", "reorder", "review", "unlock", "replace", "activate", "close", "print", "share",
    "verify", "dispute", "schedule",
)  # fmt: skip
THINGS = ("subscription", "order", "card", "booking", "account", "policy")
WORDINGS = ("I would like to {verb} my {thing}.", "How can I {verb} the {thing} that I have with you?")
OWN = {"table": "", "adapter": "", "input": "", "text": "text", "rows": "64", "sizes": "4,8,16"}


def main(arguments: Sequence[str]) -> int:
    if "--help" in arguments:
        print(__doc__)
        return 0
    pairs = [argument.partition("=") for argument in arguments]
    own = {**OWN, **{key: value for key, _, value in pairs if key in OWN}}
    settings = ["".join(pair) for pair in pairs if pair[0] not in OWN]
    if own["table"]:
        write_table(Path(own["table"]))
    if own["input"]:
        compare(own, settings)
    if not own["table"] and not own["input"]:
        raise UserError("Set table=FILE to write the table, or adapter= and input= to compare (--help).")
    return 0


def write_table(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "wants"])
        for verb in VERBS:
            for thing in THINGS:
                writer.writerows([w.format(verb=verb, thing=thing), f"{verb} {thing}"] for w in WORDINGS)


class Counted:
    """Counts the tokens that go through the model: each batch's inputs once, and prefixes behind them each time."""

    def __init__(self, score: Any) -> None:
        self.score, self.tokens, self.rounds = score, 0, 0
        self._inputs: Tensor | None = None

    def __call__(self, batch: Batch, kept: Any = None) -> Tensor:
        if batch.input_ids is not self._inputs:
            self._inputs, self.tokens = batch.input_ids, self.tokens + int(batch.input_mask.sum())
        self.tokens += int((prefixes(batch).depth_M > 0).sum())
        self.rounds += 1
        found: Tensor = self.score(batch) if kept is None else self.score(batch, kept)
        return found


def compare(own: Mapping[str, str], settings: Sequence[str]) -> None:
    rows = read_table(Path(own["input"])).rows[: int(own["rows"])]
    predictor = Predictor.load(own["adapter"], *settings)
    prepared = predictor.prepare([(n, None, str(row[own["text"]])) for n, row in enumerate(rows, start=1)])
    good = [row for row in prepared if isinstance(row, Prepared)]
    ((name, task),) = predictor._tasks.items()
    norm = task.task_predictor.norm
    counted = Counted(predictor._score)
    predictor._score = counted  # type: ignore[assignment]
    for shortlist in (None, Shortlist(1, norm)):  # excludes self-tests that run once per model
        predictor._tasks[name] = replace(task, shortlist=shortlist)
        predictor.answer(good[: 2 if shortlist else predictor.batch_size])
    print(f"{len(good)} rows, {len(good[0].encoded[0].choice_ids)} labels, norm {norm}; input of", end=" ")
    print(f"{np.median([len(row.encoded[0].input_ids) for row in good]):.0f} tokens (median)", flush=True)
    full = None
    for size in [None, *map(int, own["sizes"].split(","))]:
        predictor._tasks[name] = replace(task, shortlist=None if size is None else Shortlist(size, norm))
        counted.tokens = counted.rounds = 0
        started = time.process_time()
        found = predictor.answer(good)
        seconds = time.process_time() - started
        full = full or (found, seconds)
        same = np.mean([a.label == b.label for a, b in zip(full[0], found, strict=True)])
        lower = [a.probability - b.probability for a, b in zip(full[0], found, strict=True)]
        batches = -(-len(good) // predictor.batch_size)
        print(
            f"{'all' if size is None else size:>4}: {seconds:6.1f} s, {full[1] / seconds:4.2f} times as fast,"
            f" same label {100 * same:.1f} %, {counted.tokens / len(good):.0f} tokens a row,"
            f" {counted.rounds / batches:.1f} rounds a batch, probability {np.mean(lower):.3f} lower"
            f" (at most {np.max(lower):.3f}), in full {np.mean([a.probability for a in full[0]]):.3f}",
            flush=True,
        )


if __name__ == "__main__":
    run_script(main)
