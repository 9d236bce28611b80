"""The few-shot training sets: the official ones, the rows of a file, or a draw by the paper's procedure.

Official (paper section 3.1): five subsets per data set, shipped with the authors' code as files of rows. This package
has only their row numbers and a hash of each row (`official_splits/`, made by `scripts/make_official_splits.py`): the
rows come from the loaded training pool, and a row whose hash differs is refused.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from tfew.data.dataset import DatasetSpec
from tfew.data.sources import find_files, load_split
from tfew.errors import UserError
from tfew.files.atomic import write_atomically
from tfew.schema import Example
from tfew.tables.formats import read_rows

log = logging.getLogger(__name__)
MANY_ROWS = 10_000  # a search through so many is logged, since it takes seconds
OFFICIAL_SPLITS = Path(__file__).parent / "official_splits"


def few_shot_examples(
    spec: DatasetSpec, mode: str, seed: int, shots: int | None, data_dir: Path | None
) -> Sequence[Example]:
    """The `shots` training examples of this seed; None (all of them) goes with the mode "all" only.

    "official": rows of the pool by the official row numbers, each checked by its hash; if `data_dir` holds no pool
    but the official file of rows, that file, checked the same way. "files": the rows of the few-shot file. "draw":
    the first `shots` rows of a seeded shuffle of the pool, which is how the official subsets were made.
    """
    if mode == "all":
        if shots is not None:
            raise UserError(f"shots={shots}, but few_shot=all uses all rows: to draw some, set few_shot=draw.")
        return list(load_split(spec, "train", data_dir))
    if shots is None:
        raise UserError(f"shots=null: few_shot={mode} needs their number; few_shot=all uses all rows.")
    if mode == "files":
        return _check_enough(_file_examples(spec, seed, shots, data_dir), shots, f"the few-shot file of seed {seed}")
    if mode == "draw":
        pool = load_split(spec, "train", data_dir)
        return draw(_check_enough(pool, shots, f"the training pool of {spec.name}"), shots, seed)
    split = official_split(spec, seed, shots)
    if data_dir is not None and not find_files(spec, "train", data_dir):
        path = few_shot_file(spec, seed, shots, data_dir)
        if not path.is_file():
            raise UserError(
                f"No training pool of {spec.name} under {data_dir} (looked for {' or '.join(spec.files['train'])}), nor"
                f" its official few-shot file {path.relative_to(data_dir)}."
            )
        pool = spec.examples(read_rows(path), str(path))
    else:
        pool = load_split(spec, "train", data_dir)
    return pick_official(spec, pool, split)


def official_split(spec: DatasetSpec, seed: int, shots: int) -> list[tuple[int, str]]:
    """(row number in the training pool, hash) of each official shot."""
    path = OFFICIAL_SPLITS / f"{spec.official_name}.json"
    if not path.is_file():
        raise UserError(f"{spec.name} has no official few-shot splits: use few_shot=draw.")
    splits = json.loads(path.read_text())
    if str(seed) not in splits:
        raise UserError(
            f"few_shot_seed={seed} is not an official seed of {spec.name} ({', '.join(splits)}):"
            f" for other seeds use few_shot=draw."
        )
    split = [(int(idx), digest) for idx, digest in splits[str(seed)]]
    if len(split) != shots:
        raise UserError(
            f"shots={shots}, but the official splits of {spec.name} have {len(split)}:"
            " for other numbers use few_shot=draw."
        )
    return split


def pick_official(spec: DatasetSpec, pool: Sequence[Example], split: Sequence[tuple[int, str]]) -> list[Example]:
    picked = _by_number(spec, pool, [idx for idx, _ in split])
    for example, (idx, digest) in zip(picked, split, strict=True):
        if row_hash(spec, example) != digest:
            raise UserError(
                f"Row {idx} of the {spec.name} training pool is not the official one (its hash differs):"
                f" {_shortened(example.fields[spec.columns[0]])}. This pool is another version of the data;"
                " few_shot=draw works with it."
            )
    return picked


def _by_number(spec: DatasetSpec, pool: Sequence[Example], numbers: Sequence[int]) -> list[Example]:
    """Examples of these row numbers. If rows are numbered from 0, as usual, only these are read: reading all 100,459
    rows of ANLI's third round takes 15 seconds."""
    at_once = [pool[number] for number in numbers if number < len(pool)]
    if [example.idx for example in at_once] == list(numbers):
        return at_once
    if len(pool) > MANY_ROWS:
        log.info(f"Looking for the official rows among the {len(pool):,} of {spec.name} ...")
    by_idx = {example.idx: example for example in pool}
    for number in numbers:
        if number not in by_idx:
            raise UserError(f"Official row {number} of {spec.name} is not in the training pool ({len(pool)} rows).")
    return [by_idx[number] for number in numbers]


def row_hash(spec: DatasetSpec, example: Example) -> str:
    """Hash of the declared columns and the label's index; independent of how a file spells the label."""
    content = [example.fields[column] for column in spec.columns] + [example.label]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:16]


def draw(pool: Sequence[Example], shots: int, seed: int) -> list[Example]:
    """The first `shots` of a seeded shuffle; numpy's legacy generator, which made the official subsets."""
    import numpy as np  # takes a tenth of a second, and a mistake in the settings is said before

    order = list(range(len(pool)))
    np.random.RandomState(seed).shuffle(order)
    return [pool[position] for position in order[:shots]]


def few_shot_file(spec: DatasetSpec, seed: int, shots: int, data_dir: Path) -> Path:
    return data_dir / "few_shot" / spec.official_name / f"{shots}_shot" / f"{seed}_seed.jsonl"


def save_few_shot(examples: Sequence[Example], path: Path) -> None:
    """The drawn rows as JSON lines in their order, each with its row number in the pool."""
    rows = [json.dumps({**e.fields, "idx": e.idx}, ensure_ascii=False, default=str) for e in examples]
    write_atomically(path, "\n".join(rows) + "\n")


def _file_examples(spec: DatasetSpec, seed: int, shots: int, data_dir: Path | None) -> Sequence[Example]:
    if data_dir is None:
        raise UserError("few_shot=files needs data_dir=, the folder that holds few_shot/.")
    path = few_shot_file(spec, seed, shots, data_dir)
    if not path.is_file():
        present = sorted(str(p.relative_to(data_dir)) for p in path.parents[1].glob("*_shot/*_seed.jsonl"))
        raise UserError(f"{path} does not exist. Few-shot files of {spec.name} there: {', '.join(present) or 'none'}.")
    return spec.examples(read_rows(path), str(path))


def _check_enough(examples: Sequence[Example], shots: int, where: str) -> Sequence[Example]:
    if len(examples) < shots:
        raise UserError(f"shots={shots}, but {where} has only {len(examples)} rows.")
    return examples


def _shortened(value: object) -> str:
    text = str(value)
    return repr(text if len(text) <= 60 else text[:57] + "...")
