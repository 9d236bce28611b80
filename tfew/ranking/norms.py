"""Score norms: what a choice's log-probability is divided by, or what is subtracted, before choices are ranked.

    sum     nothing
    token   its tokens, end-of-text included where it is scored (`score.eos`): T-Few's length normalisation
    char    its characters (lm-evaluation-harness' acc_norm)
    byte    its bytes in UTF-8
    pmi     minus its log-probability after an empty input (pointwise mutual information, Holtzman et al. 2021,
            arXiv 2104.08315): a choice that is likely after any input has no advantage

All follow from the sums, so one pass gives them all.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tfew.ranking.ties import best_of
from tfew.schema import Prediction, Prompt

NORMS = ("token", "sum", "char", "byte", "pmi")


def available(prediction: Prediction) -> tuple[str, ...]:
    """The norms that this prediction can be ranked by; none for combined predictions.

    If choices were left out (`tfew.ranking.shortlist`), only the norm used for that.
    """
    return _known(prediction) if prediction.shortlisted is None else (prediction.shortlisted,)


def _known(prediction: Prediction) -> tuple[str, ...]:
    """The norms whose inputs are all available."""
    if prediction.contexts > 1:
        return ()
    has = {"char": prediction.characters, "byte": prediction.bytes, "pmi": prediction.unconditional}
    return tuple(norm for norm in NORMS if has.get(norm, ()) is not None)


def rescored(prediction: Prediction, norm: str, other: str) -> Prediction:
    """The prediction under another norm than the one that its scores were made with."""
    if norm == other:
        return prediction
    sums = [
        score * divisor + taken
        for score, (divisor, taken) in zip(prediction.scores, _terms(prediction, norm), strict=True)
    ]
    scores = tuple(
        (total - taken) / divisor for total, (divisor, taken) in zip(sums, _terms(prediction, other), strict=True)
    )
    return replace(prediction, scores=scores, predicted=best_of(scores, prediction.label, prediction.same))


def best(scores: Sequence[float]) -> int:
    """The index of the highest score; ties go to the first."""
    return best_of(scores, None, None)


def predicted(prompt: Prompt, scores: tuple[float, ...], **counted: Any) -> Prediction:
    """The prediction that these scores of the prompt's choices make; `counted`: what the norms need."""
    return Prediction(prompt.dataset, prompt.template, prompt.idx, prompt.label, best(scores), scores, **counted)


def _terms(prediction: Prediction, norm: str) -> list[tuple[float, float]]:
    """(divisor, term subtracted before) of each choice; raises ValueError if the norm is not available."""
    if norm not in _known(prediction):
        raise ValueError(f"norm {norm!r} is none of {_known(prediction)}")
    ones, zeros = [1] * len(prediction.scores), [0.0] * len(prediction.scores)
    divisors = {"token": prediction.tokens, "char": prediction.characters, "byte": prediction.bytes}.get(norm) or ones
    taken = (prediction.unconditional if norm == "pmi" else None) or zeros
    return [(max(divisor, 1), off) for divisor, off in zip(divisors, taken, strict=True)]
