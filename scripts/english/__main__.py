"""Makes evidence/english: `python -m scripts.english data_dir=DIR`. It can be interrupted and restarted.

records=evidence/english/records.jsonl   a line for each contender, set and seed; finished ones are not repeated
runs=runs/english                        the ordinary runs behind them, and the tables that they read
setfit=.venv-setfit                      the environment of `make setfit`; without it two contenders are left out
seeds=0,1,32 sets=RTE,CB only="(IA)³"    a part of it; in this order: seeds, contenders, sets
part=settings                            the settings of +experiment=local_english, on sets of their own
steps=... and other KEY=VALUE            go to every run
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from scripts.english.classical import classifiers
from scripts.english.contenders import CANDIDATES, CONTENDERS, EMBEDDINGS, SETFIT, SETFIT_BALANCED
from scripts.english.job import Job, make
from scripts.english.report import write_report
from scripts.english.sets import RAFT, SETS, TREC_TRAINING_PART, EnglishSet
from tfew.cli import run_script
from tfew.comparison.rows import as_json_lines, load_rows
from tfew.comparison.runs import silence_output
from tfew.errors import UserError, unknown_value_error
from tfew.files.atomic import write_atomically

CHOICE_SEED, FIRST_SEED = 100, 0
OWN = {
    "data_dir": "", "records": "evidence/english/records.jsonl", "runs": "runs/english", "setfit": ".venv-setfit",
    "seeds": "0,1,32", "sets": "", "only": "", "part": "comparison",
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
    python = Path(own["setfit"]) / "bin" / "python"
    failures = make_all(planned(own, python.exists()), own, python, overrides)
    if own["part"] == "comparison" and Path(own["records"]).is_file():
        print(write_report(Path(own["records"])))
    for job, error in failures:
        print(f"failed: {', '.join(map(str, job.key))}: {error}", file=sys.stderr)
    return 1 if failures else 0


def planned(own: dict[str, str], with_sentence_models: bool) -> list[Job]:
    """The seeds one after the other, of each all contenders in their order, each on all sets. Sets in folds, which use
    all their rows, have seed 0 alone, and so have contenders without seeds."""
    if own["part"] == "settings":
        chosen_on: list[EnglishSet | str] = ["reviews", "intents", TREC_TRAINING_PART]
        jobs = [Job(contender, which, CHOICE_SEED) for contender in CANDIDATES for which in chosen_on]
        return [job for job in jobs if own["only"] in ("", job.contender.name)]
    _check_names(own)
    sets = [which for which in (*SETS, *RAFT) if not own["sets"] or which.name in own["sets"].split(",")]
    left_out = () if with_sentence_models else (EMBEDDINGS, SETFIT, SETFIT_BALANCED)
    contenders = [c for c in CONTENDERS if c.name not in left_out and own["only"] in ("", c.name)]
    seeds = [int(seed) for seed in own["seeds"].split(",")]
    return [
        Job(contender, which, seed)
        for seed in seeds
        for contender in contenders
        if contender.seeded or seed == FIRST_SEED
        for which in sets
        if contender.sets is None or which.name in contender.sets
        if which.folds is None or (contender.in_folds and seed == FIRST_SEED)
    ]


def _check_names(own: dict[str, str]) -> None:
    for key, known in (("sets", (*SETS, *RAFT)), ("only", CONTENDERS)):
        names = [one.name for one in known]
        for name in own[key].split(",") if key == "sets" else [own[key]]:
            if name and name not in names:
                raise unknown_value_error("name", name, names, f"{key}=")


def make_all(
    jobs: Sequence[Job], own: dict[str, str], python: Path, overrides: Sequence[str]
) -> list[tuple[Job, Exception]]:
    """Writes the records after each job; failures are collected, the others continue."""
    path, failures = Path(own["records"]), []
    rows = load_rows(path) if path.is_file() else []
    made = {(row.variant, row.dataset, row.seed) for row in rows}
    missing = [job for job in jobs if job.key not in made]
    known = classifiers(python)
    with tqdm(missing, desc="English", unit="job", file=sys.stderr) as bar:
        for job in bar:
            bar.set_postfix_str(", ".join(map(str, job.key)))
            try:
                with silence_output():
                    rows.append(make(job, Path(own["data_dir"]), Path(own["runs"]), known, overrides))
            except Exception as error:  # the other jobs continue
                failures.append((job, error))
                continue
            write_atomically(path, as_json_lines(rows))
    return failures


if __name__ == "__main__":
    run_script(main)
