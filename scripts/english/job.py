"""Runs one contender on one set with one seed, giving a row of records.jsonl."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig

from scripts.english.classical import Classifier, Outcome, classify
from scripts.english.contenders import Contender
from scripts.english.sets import EnglishSet, Tables, own_tables, rows_of, tables_of
from tfew.comparison.rows import Row, make_row
from tfew.config import checked, compose
from tfew.dataset_config import complete
from tfew.errors import UserError
from tfew.evaluate import evaluate
from tfew.runs.records import git_commit, library_versions
from tfew.train import train

EXPERIMENT = "+experiment=local_english"
WHOLE = ("folds=null", "validation=null")


@dataclass(frozen=True)
class Job:
    contender: Contender
    which: EnglishSet | str  # a string: of the tables that ship with the package
    seed: int

    @property
    def set_name(self) -> str:
        return self.which if isinstance(self.which, str) else self.which.name

    @property
    def key(self) -> tuple[str, str, int]:
        return self.contender.name, self.set_name, self.seed


def make(
    job: Job, data_dir: Path | None, runs: Path, classifiers: Mapping[str, Classifier], overrides: Sequence[str]
) -> Row:
    """Raises what the run or the classifier raises. Of a set in folds the row is of all folds' test rows."""
    if isinstance(job.which, str):
        parts = [own_tables(job.which)]
    else:
        assert data_dir is not None
        parts = tables_of(job.which, job.seed, data_dir, runs / "tables")
    if job.contender.command is None:
        return pooled([classifier_row(job, tables, classifiers[job.contender.name]) for tables in parts])
    return pooled([_run_row(job, tables, runs, overrides) for tables in parts])


def pooled(rows: Sequence[Row]) -> Row:
    """One row of several folds: the test rows' results one after the other, costs added up."""
    if len(rows) == 1:
        return rows[0]
    shares = [len(row.right) / sum(len(other.right) for other in rows) for row in rows]

    def weighted(values: Sequence[float]) -> float:
        return sum(share * value for share, value in zip(shares, values, strict=True))

    summed = {
        key: sum(row.settings[key] for row in rows)  # type: ignore[misc]
        for key in rows[0].settings
        if key.endswith("_flops")
    }
    hashes = hashlib.sha256("".join(str(row.settings["rows_sha256"]) for row in rows).encode()).hexdigest()
    return replace(
        rows[0], name="", right="".join(row.right for row in rows), accuracy=weighted([row.accuracy for row in rows]),
        accuracy_by_norm={
            norm: weighted([row.accuracy_by_norm[norm] for row in rows]) for norm in rows[0].accuracy_by_norm
        },
        settings={**rows[0].settings, **summed, "rows_sha256": hashes},
        seconds={stage: sum(row.seconds[stage] for row in rows) for stage in rows[0].seconds},
    )  # fmt: skip


def _run_row(job: Job, tables: Tables, runs: Path, overrides: Sequence[str]) -> Row:
    contender = job.contender
    given = [
        EXPERIMENT, f"data={tables.train}", *tables.options, *WHOLE, f"runs={runs}", f"few_shot_seed={job.seed}",
        *overrides, *contender.overrides,
    ]  # fmt: skip
    config = complete(checked(compose(*given, config_name=contender.command or "")))
    _test_on(config, tables)
    record = (train if contender.command == "train" else evaluate)(config)
    row = make_row(record, contender.name, Path(config.runs) / record.name)
    flops = {f"{stage}_flops": value for stage, value in record.flops.items()}
    precision = "bf16-mixed" if config.trainer.autocast else "32-true"
    settings = {**row.settings, **flops, "precision": precision, "rows_sha256": tables.sha256}
    return replace(row, dataset=job.set_name, settings=settings)


def _test_on(config: DictConfig, tables: Tables) -> None:
    """The test table's rows are evaluated on, as a data set with two files: of a table a share is, or folds are."""
    for key in ("data", "text", "label", "labels", "choices"):
        config[key] = None
    config.data_dir, config.dataset.table = str(tables.train.parent), None
    config.dataset.files = {"train": [tables.train.name], "eval": [tables.test.name]}
    config.dataset.rows, config.dataset.held_out = {"train": None, "eval": None}, None


def classifier_row(job: Job, tables: Tables, classifier: Classifier) -> Row:
    train_rows, test_rows = rows_of(tables.train), rows_of(tables.test)
    which = job.which
    if isinstance(which, str):
        label = tables.options[0].removeprefix("label=")
        columns = [column for column in train_rows[0] if column != label]
        if len(columns) > 1:  # whose label is a letter
            raise UserError(f"{which}: a classifier takes a shipped table of one text and a label, not choices.")
        text, choices = tuple(columns[:1]), tuple(columns[1:])
    else:
        text, choices, label = which.text, which.choices, which.asked
    outcome = classify(classifier, train_rows, test_rows, text, choices, label, job.seed)
    return _row_of(job, tables, outcome)


def _row_of(job: Job, tables: Tables, outcome: Outcome) -> Row:
    accuracy = sum(outcome.right) / len(outcome.right)
    versions = {**library_versions(), **outcome.versions}
    unused = ("steps", "batch_size", "shots", "eval_rows", "lr", "score_norm")
    return Row(
        variant=job.contender.name, dataset=job.set_name, seed=job.seed, name="", model="", loss="",
        method=job.contender.name, accuracy=accuracy, accuracy_by_norm={"token": accuracy, "sum": accuracy},
        chance=outcome.chance, templates=1, right="".join(map(str, outcome.right)),
        settings={**dict.fromkeys(unused), "rows_sha256": tables.sha256}, trained_parameters=0,
        seconds={"train": outcome.seconds, "evaluate": 0.0}, git_commit=git_commit(), versions=versions,
    )  # fmt: skip
