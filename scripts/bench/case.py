"""What is measured, and by whom; and what came of it, as times and as ratios of times."""

import statistics
from dataclasses import dataclass, field

from scripts.bench.workload import Workload

EXAMPLES = {2: 32, 4: 32, 20: 16, 77: 16}  # by number of choices
TRAINED = 8  # examples of a training step, as in the recipe
HARNESS = "lm-eval"


@dataclass
class Case:
    """`seconds` of each round by contender; `share`: of the matrix-product rate, ours, by round."""

    what: str
    shape: str
    workload: Workload
    seconds: dict[str, list[float]] = field(default_factory=dict)
    share: list[float] = field(default_factory=list)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, name: str) -> tuple[float, float, float]:
        """Lowest, median and highest of "NAME's seconds / ours" over the rounds."""
        ratios = sorted(other / mine for other, mine in zip(self.seconds[name], self.seconds["ours"], strict=False))
        return ratios[0], statistics.median(ratios), ratios[-1]


def cases(quick: bool) -> list[tuple[Case, tuple[str, ...]]]:
    """What is measured, and by whom; rivals that are slow only at the middle length."""
    found: list[tuple[Case, tuple[str, ...]]] = []
    for choices, examples in EXAMPLES.items():
        grows = choices in (2, 20) and not quick
        for length in (64, 128, 256) if grows else (128,):
            rivals: tuple[str, ...] = ("official", "peft", HARNESS) if length == 128 else ("official",)
            found.append((Case("scoring", "small", Workload(choices, length, False, examples)), rivals))
        if choices < 77:  # the official recipe's 616 rows of a step take more memory than most machines have
            trained = Case("training step", "small", Workload(choices, 128, False, TRAINED))
            # 20 whole copies of every input, kept for the backward pass, are more than 15 GB
            found.append((trained, ("official", "peft") if choices < 20 else ("official",)))
    found.append((Case("scoring", "small", Workload(2, 128, True, 32)), ("official",)))
    found.append((Case("scoring", "base", Workload(2, 128, True, 16)), ("official",)))
    for choices in (2,) if quick else (2, 20):
        found.append((Case("scoring", "base", Workload(choices, 128, False, 16)), ("official",)))
    if not quick:
        found.append((Case("training step", "base", Workload(2, 128, False, TRAINED)), ("official",)))
        found.append((Case("experiment", "small", Workload(4, 128, False, 16)), ("official", "peft")))
    return found
