"""Small synthetic tasks made in process: no data files, one seed, plain English."""

import random
from typing import Any

from tfew.errors import unknown

THINGS = ("apple", "book", "coin", "cup", "hat", "key", "lamp", "map", "ring", "shoe", "spoon", "stone")


def generate(split: str, family: str, seed: int, **sizes: int) -> list[dict[str, Any]]:
    """Rows of one family; `sizes` gives the number of rows of each split. Splits never share a random stream."""
    if family not in FAMILIES:
        raise unknown("family", family, FAMILIES, "dataset.generator.family=")
    source = random.Random(f"{family}/{split}/{seed}")
    return [FAMILIES[family](source) for _ in range(sizes[split])]


def _boxes(source: random.Random) -> dict[str, Any]:
    inside = source.sample(THINGS, 3)
    label = source.randrange(2)
    asked = source.choice(inside if label else [thing for thing in THINGS if thing not in inside])
    listing = f"a {inside[0]}, a {inside[1]} and a {inside[2]}"
    return {"text": f"In the box there is {listing}.", "question": f"Is there a {asked}?", "label": label}


FAMILIES = {"boxes": _boxes}
