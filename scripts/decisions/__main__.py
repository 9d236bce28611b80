"""Makes evidence/decisions.md. It can be interrupted and restarted: finished records are not repeated.

records=evidence/decisions.jsonl   a line for each way of holding out, seed and set: scores alone, no texts
runs=runs/decisions                the ordinary runs behind them, and the tables that they read
seeds=0,1,32,42,1024 ways=validation,folds
train=false                        only use finished runs, and write the page
other KEY=VALUE                    go to every run
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.decisions.job import OTHER, SETS, WAYS, Job, is_trained, make
from scripts.decisions.records import load_records, save_records
from scripts.decisions.report import page
from tfew.cli import run_script
from tfew.errors import UserError
from tfew.files.atomic import write_atomically

OWN = {
    "data_dir": "", "records": "evidence/decisions.jsonl", "runs": "runs/decisions", "seeds": "0,1,32,42,1024",
    "ways": ",".join(WAYS), "train": "true",
}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    if "--help" in arguments:
        print(__doc__)
        return 0
    pairs = [argument.partition("=") for argument in arguments]
    own = {**OWN, **{key: value for key, _, value in pairs if key in OWN}}
    overrides = ["".join(pair) for pair in pairs if pair[0] not in OWN]
    if not Path(own["data_dir"] or "?").is_dir():
        raise UserError(
            f"data_dir={own['data_dir']} is no folder: name the one with the data sets (README, data_dir=)."
        )
    path, failures = Path(own["records"]), []
    records = load_records(path) if path.is_file() else []
    for job in planned(own):
        if job.key in {record.key for record in records} or (own["train"] == "false" and not is_trained(job, own)):
            continue
        try:
            records.append(make(job, Path(own["data_dir"]), Path(own["runs"]), overrides))
        except Exception as error:  # the other jobs continue
            failures.append((job, error))
            continue
        save_records(path, records)
    if records:
        write_atomically(path.with_suffix(".md"), page(records))
    for job, why in failures:
        print(f"failed: {', '.join(map(str, job.key))}: {why}", file=sys.stderr)
    return 1 if failures else 0


def planned(own: dict[str, str]) -> list[Job]:
    """Way by way, in each the seeds one after the other, of each all sets."""
    if unknown := set(own["ways"].split(",")) - WAYS.keys():
        raise UserError(f"ways={own['ways']}: {sorted(unknown)} are none of {sorted(WAYS)}.")
    return [
        Job(way, name, OTHER[name], int(seed))
        for way in own["ways"].split(",")
        for seed in own["seeds"].split(",")
        for name in SETS
    ]


if __name__ == "__main__":
    run_script(main)
