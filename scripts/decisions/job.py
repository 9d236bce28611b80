"""One run on few rows, and its scores of 300 test rows and of 300 texts of another set."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scripts.decisions.records import Record, Scored, rounded
from scripts.english.sets import SETS as ENGLISH
from scripts.english.sets import Tables, rows_of, tables_of
from tfew.comparison.runs import silence_output
from tfew.config import compose
from tfew.prediction.predictor import Predictor
from tfew.runs.run_folder import is_finished
from tfew.train import train

SETS = ("AG News", "TREC")
OTHER = {"AG News": "TREC", "TREC": "AG News"}
# rows, and how some of them are held out: 48 to train on and 96 held out; 96 in three folds, each trained on 64
WAYS = {"validation": (144, ("folds=null", "validation=0.6667")), "folds": (96, ("folds=3", "validation=null"))}


@dataclass(frozen=True)
class Job:
    way: str
    dataset: str
    other: str
    seed: int

    @property
    def key(self) -> tuple[str, str, int]:
        return self.way, self.dataset, self.seed

    def folder(self, runs: Path) -> Path:
        return runs / f"{self.way}_{self.dataset.lower().replace(' ', '_')}_{self.seed}"


def is_trained(job: Job, own: dict[str, str]) -> bool:
    return is_finished(job.folder(Path(own["runs"])))


def make(job: Job, data_dir: Path, runs: Path, overrides: Sequence[str]) -> Record:
    """Raises what the run raises. A finished run is only read, an unfinished one goes on."""
    rows, ways = WAYS[job.way]
    tables = _tables(job.dataset, job.seed, rows, data_dir, runs)
    options = (f"data={tables.train}", *tables.options, *ways, f"few_shot_seed={job.seed}")
    folder = job.folder(runs)
    with silence_output():
        record = train(compose("+experiment=local_english", *options, f"run_dir={folder}", "resume=true", *overrides))
        predictor = Predictor.load(folder)
        (task,) = predictor.tasks.values()
        assert task.held_out is not None
        assert task.labels is not None
        known = task.held_out()
        held_out = rounded(
            task.temperature * np.log(np.maximum(known.probability_RC, 1e-300)),
            known.log_mass_R,
            known.label_R.tolist(),
        )
        other = _tables(job.other, job.seed, rows, data_dir, runs)
        return Record(
            job.way, job.dataset, job.seed, list(task.labels), task.temperature, held_out,
            test=_scored(predictor, tables), others=_scored(predictor, other),
            trained_rows=rows if job.way == "folds" else rows - known.rows, seconds=record.seconds,
            git_commit=record.git_commit,
        )  # fmt: skip


def _tables(name: str, seed: int, rows: int, data_dir: Path, runs: Path) -> Tables:
    which = next(which for which in ENGLISH if which.name == name)
    (tables,) = tables_of(replace(which, shots=rows), seed, data_dir, runs / f"tables_{rows}")
    return tables


def _scored(predictor: Predictor, tables: Tables) -> Scored:
    """The test rows; their labels, where they are this predictor's."""
    (task,) = predictor.tasks.values()
    labels, rows = list(task.labels or ()), rows_of(tables.test)
    column = next(option for option in tables.options if option.startswith("label=")).partition("=")[2].strip("'")
    found = predictor([{"text": row["text"]} for row in rows])
    probability_RC = np.array([[row.probabilities[label] for label in labels] for row in found])
    right = [labels.index(row[column]) if row[column] in labels else -1 for row in rows]
    scores_RC = task.temperature * np.log(np.maximum(probability_RC, 1e-300))
    return rounded(scores_RC, [row.log_mass for row in found], right)
