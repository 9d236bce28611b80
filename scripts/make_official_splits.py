"""Writes tfew/data/official_splits/ from the official few-shot files: row numbers and hashes, no text.

python scripts/make_official_splits.py ../shared/data     a folder with few_shot/, as in the authors' repository
"""

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from tfew.config import CONFIGS, compose
from tfew.data.fewshot import OFFICIAL_SPLITS, few_shot_file, row_hash
from tfew.tables.formats import read_rows
from tfew.task import load_spec

OFFICIAL_SEEDS = (0, 1, 32, 42, 1024)


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path)
    data_dir = parser.parse_args().data_dir
    OFFICIAL_SPLITS.mkdir(exist_ok=True)
    for path in sorted((CONFIGS / "dataset").glob("*.yaml")):
        config = compose(f"dataset={path.stem}")
        if config.dataset.get("shots") is None:  # a mixture, or a table of one's own
            continue
        spec = load_spec(config)
        splits = {}
        for seed in OFFICIAL_SEEDS:
            file = few_shot_file(spec, seed, config.shots, data_dir)
            if file.is_file():
                examples = spec.examples(read_rows(file), str(file))
                splits[seed] = [[example.idx, row_hash(spec, example)] for example in examples]
        if splits:
            (OFFICIAL_SPLITS / f"{spec.official_name}.json").write_text(json.dumps(splits) + "\n")
            print(f"{spec.name}: {len(splits)} seeds, {len(next(iter(splits.values())))} shots")


if __name__ == "__main__":
    main()
