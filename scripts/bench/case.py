"""The benchmark's cases with their contenders, and the results as times and as ratios of times."""

import statistics
from dataclasses import dataclass, field

from scripts.bench.workload import Workload

EXAMPLES = {2: 32, 4: 32, 20: 16, 77: 16}  # by number of choices
TRAINED = 8  # examples of a training step, as in the recipe
HARNESS = "lm-eval"


SMOLLM2 = "smollm2_135m"
OF_SMOLLM2 = {2: 16, 4: 8, 20: 4, 77: 4}  # examples by number of choices: each choice behind its input takes long


@dataclass
class Case:
    """`seconds` of each round by contender; `share`: of the matrix-product rate, ours, by round."""

    what: str
    shape: str
    workload: Workload
    seconds: dict[str, list[float]] = field(default_factory=dict)
    share: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.what}, {self.shape}, {self.workload}"

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, name: str) -> tuple[float, float, float]:
        """Lowest, median and highest of "NAME's seconds / ours" over the rounds."""
        ratios = sorted(other / mine for other, mine in zip(self.seconds[name], self.seconds["ours"], strict=False))
        return ratios[0], statistics.median(ratios), ratios[-1]


Planned = list[tuple[Case, tuple[str, ...]]]  # cases, each with its contenders besides ours
PARTS = ("all", "quick", "shots")


def cases(part: str = "all") -> Planned:
    """What is measured, and by whom; rivals that are slow only at the middle length."""
    return {"quick": _quick, "shots": _of_shots, "all": lambda: [*_of_t5(), *_of_smollm2(), *_of_shots()]}[part]()


def _of_shots() -> Planned:
    """In-context learning: the same solved examples before each query."""
    shown = [Workload(2, 24, False, examples, shots) for examples, shots in ((32, 4), (16, 32))]
    return [(Case("scoring", SMOLLM2, workload), ("official", HARNESS)) for workload in shown]


def _quick() -> Planned:
    small = [Case("scoring", "small", Workload(choices, 128, False, EXAMPLES[choices])) for choices in (2, 20)]
    small += [Case("training step", "small", Workload(choices, 128, False, TRAINED)) for choices in (2, 4)]
    smollm2 = [Case("scoring", SMOLLM2, Workload(choices, 80, False, OF_SMOLLM2[choices])) for choices in (2, 20)]
    smollm2 += [Case("training step", SMOLLM2, Workload(2, 80, False, TRAINED))]
    return [(case, ("official",)) for case in [*small, *smollm2]]


def _of_t5() -> Planned:
    found: Planned = []
    for choices, examples in EXAMPLES.items():
        for length in (64, 128, 256) if choices in (2, 20) else (128,):
            rivals: tuple[str, ...] = ("official", "peft", HARNESS) if length == 128 else ("official",)
            found.append((Case("scoring", "small", Workload(choices, length, False, examples)), rivals))
        if choices < 77:  # the official recipe's 616 rows of a step exceed most machines' memory
            trained = Case("training step", "small", Workload(choices, 128, False, TRAINED))
            # 20 full copies of every input, saved for the backward pass, are more than 15 GB
            found.append((trained, ("official", "peft") if choices < 20 else ("official",)))
    found.append((Case("scoring", "small", Workload(2, 128, True, 32)), ("official",)))
    found.append((Case("scoring", "base", Workload(2, 128, True, 16)), ("official",)))
    for choices in (2, 20):
        found.append((Case("scoring", "base", Workload(choices, 128, False, 16)), ("official",)))
    found.append((Case("training step", "base", Workload(2, 128, False, TRAINED)), ("official",)))
    found.append((Case("experiment", "small", Workload(4, 128, False, 16)), ("official", "peft")))
    return found


def _of_smollm2() -> Planned:
    """Inputs as long as RTE's, and short ones as in tables of one's own."""
    found: Planned = []
    for choices, examples in OF_SMOLLM2.items():
        rivals = ("official", "peft", HARNESS) if choices < 77 else ("official", HARNESS)
        found.append((Case("scoring", SMOLLM2, Workload(choices, 80, False, examples)), rivals))
    found.append((Case("scoring", SMOLLM2, Workload(20, 24, False, 16)), ("official", HARNESS)))
    for choices, length in ((2, 80), (4, 80), (20, 24)):
        trained = Case("training step", SMOLLM2, Workload(choices, length, False, TRAINED))
        found.append((trained, ("official", "peft") if choices < 20 else ("official",)))
    return found
