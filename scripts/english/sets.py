"""Real data sets in the form of users' tables: a few labelled rows to train on, and at most 300 others to test on.

The training rows of the paper's sets are the official few-shot files; the others' are drawn. RAFT's 50 labelled rows
are parted into folds, each tested on after training on the others. All sets have the standard prompt of a user's
table, and labels in words.
"""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tfew.config import compose, local_path
from tfew.data.dataset import DatasetSpec
from tfew.data.fewshot import draw, few_shot_examples
from tfew.data.sources import load_split
from tfew.data.split import normalized, stratified_folds
from tfew.dataset_config import complete
from tfew.files.atomic import write_atomically
from tfew.schema import Example
from tfew.tables.table_reader import read_table
from tfew.task import load_spec

TEST_ROWS = 300
LABEL = "label"


@dataclass(frozen=True)
class EnglishSet:
    """`dataset`: its file in configs/dataset. `text`: the columns that are shown. `words`: label -> the table's.

    `choices`: the columns of each row's own choices, where it has them. `shots`: rows to train on, where no official
    few-shot file says it. `test_is_drawn`: from the one file that there is. `folds`: instead of a test file.
    """

    name: str
    dataset: str
    text: tuple[str, ...]
    words: Mapping[str, str] = field(default_factory=dict)
    choices: tuple[str, ...] = ()
    shots: int | None = None
    test_is_drawn: bool = False
    asked: str = LABEL  # the label's column, named in the prompt
    folds: int | None = None


NLI = ("premise", "hypothesis")
YES_NO = {"false": "no", "true": "yes"}
SETS = (
    EnglishSet("RTE", "rte", NLI, {"not_entailment": "not entailment"}),
    EnglishSet("CB", "cb", NLI),
    EnglishSet("COPA", "copa", ("premise", "question"), choices=("choice1", "choice2")),
    EnglishSet("WiC", "wic", ("word", "sentence1", "sentence2"), YES_NO, asked="same meaning"),
    EnglishSet("WSC", "wsc", ("text", "span1_text", "span2_text"), YES_NO, asked="same"),
    EnglishSet("Winogrande", "winogrande", ("sentence",), choices=("option1", "option2")),
    EnglishSet("ANLI R1", "anli_r1", NLI),
    EnglishSet("AG News", "t0/ag_news", ("text",), {"Sci/Tech": "Technology"}, shots=32, test_is_drawn=True,
               asked="topic"),
    EnglishSet("TREC", "t0/trec", ("text",), {
        "DESC": "description", "ENTY": "entity", "ABBR": "abbreviation", "HUM": "human", "NUM": "number",
        "LOC": "location",
    }, shots=48, asked="asks for"),
    EnglishSet("Rotten Tomatoes", "t0/rotten_tomatoes", ("text",), {"neg": "negative", "pos": "positive"}, shots=32,
               test_is_drawn=True, asked="sentiment"),
    EnglishSet("MRPC", "t0/mrpc", ("sentence1", "sentence2"), {"not_equivalent": "not equivalent"}, shots=32),
)  # fmt: skip
# without systematic_review_inclusion: 49 of its 50 rows have one label, so the fold that tests the other has nothing
# to learn
RAFT = tuple(
    EnglishSet(f"RAFT {task}", f"raft/{task}", columns, asked="Label", folds=5)
    for task, columns in {  # in the order of RAFT's prompts
        "ade_corpus_v2": ("Sentence",),
        "banking_77": ("Query",),
        "terms_of_service": ("Sentence",),
        "tai_safety_research": ("Title", "Abstract_Note", "Publication_Title", "Item_Type", "Publication_Year"),
        "neurips_impact_statement_risks": ("Impact_statement", "Paper_title"),
        "overruling": ("Sentence",),
        "one_stop_english": ("Article",),
        "tweet_eval_hate": ("Tweet",),
        "twitter_complaints": ("Tweet_text",),
        "semiconductor_org_types": ("Organization_name", "Paper_title"),
    }.items()
)
# for choosing settings: none of their test rows are in the comparison
TREC_TRAINING_PART = replace(next(which for which in SETS if which.name == "TREC"), name="TREC, training part",
                             test_is_drawn=True)  # fmt: skip
OWN_TABLES = {"support": "topic", "reviews": "sentiment", "intents": "intent", "quiz": "answer"}  # and their labels


@dataclass(frozen=True)
class Tables:
    """A set for one seed, as two tables on disk. `options`: what a user says of them on the command line."""

    train: Path
    test: Path
    options: tuple[str, ...]
    sha256: str  # of both files


def tables_of(which: EnglishSet, seed: int, data_dir: Path, folder: Path) -> list[Tables]:
    """Writes them below `folder`: one pair, of which the test rows are the same for all seeds, or one for each fold.

    A label that no row to train on happens to have is told besides, as a user would.
    """
    spec = load_spec(complete(compose(f"dataset={which.dataset}", f"data_dir={data_dir}")))
    name = f"{which.name.lower().replace(' ', '_')}_{seed}"
    if which.folds is None:
        return [_written(which, spec, *_split(which, spec, seed, data_dir), folder / name)]
    parts = in_folds(load_split(spec, "train", data_dir), which.text, which.folds, seed)
    return [_written(which, spec, train, test, folder / f"{name}_{fold}") for fold, (train, test) in enumerate(parts)]


def in_folds(
    examples: Sequence[Example], columns: Sequence[str], folds: int, seed: int
) -> list[tuple[Sequence[Example], Sequence[Example]]]:
    """Of each fold the examples to train on and to test on; examples of the same text are in one fold."""
    texts = [normalized(" ".join(str(example.fields[column]) for column in columns)) for example in examples]
    fold_of_row = stratified_folds([example.label for example in examples], folds, seed, texts)
    placed = list(zip(examples, fold_of_row, strict=True))
    return [([e for e, at in placed if at != fold], [e for e, at in placed if at == fold]) for fold in range(folds)]


def _written(
    which: EnglishSet, spec: DatasetSpec, train: Sequence[Example], test: Sequence[Example], where: Path
) -> Tables:
    paths = where / "train.jsonl", where / "test.jsonl"
    rows_of_part = [[_row(which, spec, example) for example in examples] for examples in (train, test)]
    for path, rows in zip(paths, rows_of_part, strict=True):
        write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    choices = (f"choices=[{','.join(which.choices)}]",) if which.choices else ()
    options = (f"text=[{','.join(which.text)}]", f"label='{which.asked}'", *choices)
    if not which.choices and {row[which.asked] for row in rows_of_part[1]} - {
        row[which.asked] for row in rows_of_part[0]
    }:
        options += (f"labels=[{','.join(which.words.get(name, name) for name in spec.label_names or ())}]",)
    return Tables(*paths, options, _sha256(*paths))


def own_tables(name: str) -> Tables:
    """One of the tables that ship with the package."""
    paths = tuple(Path(local_path(f"pkg://examples/{name}_{part}.csv")) for part in ("train", "test"))
    return Tables(paths[0], paths[1], (f"label={OWN_TABLES[name]}",), _sha256(*paths))


def rows_of(path: Path) -> list[dict[str, Any]]:
    return list(read_table(path).rows)


def _split(
    which: EnglishSet, spec: DatasetSpec, seed: int, data_dir: Path
) -> tuple[Sequence[Example], Sequence[Example]]:
    if which.shots is None:
        train = few_shot_examples(spec, "files", seed, spec.shots, data_dir)
        return train, _drawn(load_split(spec, "eval", data_dir))
    pool = list(load_split(spec, "train", data_dir))
    if not which.test_is_drawn:
        return draw(pool, which.shots, seed), _drawn(load_split(spec, "eval", data_dir))
    test = _drawn(pool)
    taken = {example.idx for example in test}
    return draw([example for example in pool if example.idx not in taken], which.shots, seed), test


def _drawn(examples: Sequence[Example]) -> list[Example]:
    order = sorted(random.Random("test rows").sample(range(len(examples)), min(TEST_ROWS, len(examples))))
    return [examples[place] for place in order]


def _row(which: EnglishSet, spec: DatasetSpec, example: Example) -> dict[str, Any]:
    """The columns that are shown, and the label in words, or of choices of its own the right one."""
    shown = {column: example.fields[column] for column in (*which.text, *which.choices)}
    assert example.label is not None
    if which.choices:
        return {**shown, which.asked: example.fields[which.choices[example.label]]}
    name = (spec.label_names or ())[example.label]
    return {**shown, which.asked: which.words.get(name, name)}


def _sha256(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()
