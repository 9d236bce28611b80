"""The small synthetic world: rows of any family, generated from a seed, without data files.

`lexicon` holds the words and facts. `reading` and `knowledge` are the families of pre-training, `held_out` those that
resemble the paper's data sets and are held out of it, `validation` those for choosing settings. The templates of a
family are its file in `configs/dataset/mini/`.
"""

from tfew.mini_t0 import held_out, knowledge, reading, validation
from tfew.mini_t0.family import FAMILIES, Rows

MODULES = (reading, knowledge, held_out, validation)  # importing them fills FAMILIES


def generate(split: str, family: str, seed: int, **sizes: int) -> Rows:
    """Rows of one family, generated on access; `sizes`: the number of rows in each split."""
    return Rows(FAMILIES.lookup(family), split, seed, sizes[split])
