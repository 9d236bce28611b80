"""The small synthetic world: rows of any family, made in process from a seed, with no data files.

`lexicon` holds the words and what is true of them. `reading` and `knowledge` are the families of pre-training,
`held_out` those that are shaped like the paper's data sets and kept out of it, `validation` those that settings are
chosen on. The wordings of a family are its file in `configs/dataset/mini/`.
"""

from tfew.mini_t0 import held_out, knowledge, reading, validation
from tfew.mini_t0.family import FAMILIES, Rows

MODULES = (reading, knowledge, held_out, validation)  # importing them fills FAMILIES


def generate(split: str, family: str, seed: int, **sizes: int) -> Rows:
    """Rows of one family, each made when it is asked for; `sizes` gives their number in each split."""
    return Rows(FAMILIES.named(family), split, seed, sizes[split])
