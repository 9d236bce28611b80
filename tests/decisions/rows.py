"""Generated rows with calibrated probabilities, so that promises can be tested by counting."""

from collections.abc import Callable

import numpy as np

from tfew.decisions.held_out_scores import HeldOutScores


def draw(
    rng: np.random.Generator, rows: int, labels: int = 4, sharpness: float = 2.5, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """scores_R1C under one template, and labels drawn from their softmax at `temperature`."""
    scores_RC = rng.normal(size=(rows, labels)) * sharpness
    weight_RC = np.exp(scores_RC / temperature)
    share_RC = weight_RC.cumsum(1) / weight_RC.sum(1, keepdims=True)
    label_R = (share_RC < rng.random((rows, 1))).sum(1)
    return scores_RC[:, None], np.minimum(label_R, labels - 1)


def softmax(scores_R1C: np.ndarray) -> np.ndarray:
    weight_RC = np.exp(scores_R1C[:, 0])
    return np.asarray(weight_RC / weight_RC.sum(1, keepdims=True))


def held_out(probability_RC: np.ndarray, label_R: np.ndarray, in_folds: bool = False) -> HeldOutScores:
    return HeldOutScores(probability_RC, label_R, np.log(probability_RC.max(1)) - 1, in_folds)


def made(rows: int, seed: int = 0, in_folds: bool = False, **shape: float) -> HeldOutScores:
    scores_R1C, label_R = draw(np.random.default_rng(seed), rows, **shape)  # type: ignore[arg-type]
    return held_out(softmax(scores_R1C), label_R, in_folds)


def counted(times: int, happens: Callable[[np.random.Generator], bool], seed: int = 0) -> float:
    """How often something happens in so many tries."""
    rng = np.random.default_rng(seed)
    return sum(happens(rng) for _ in range(times)) / times
