"""One task's request, answered by its held-out rows: a threshold, and a level for sets of labels.

The guarantees for the threshold and the sets hold for new rows from the same distribution as the held-out ones. If
these were scored in folds, each by an adapter of its own, they hold for the saved adapter only as far as it is as good
as those: it was trained on more rows, so it is usually better, but no theorem guarantees that. The sentences say so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tfew.decisions.conformal import label_level, label_set, rows_needed
from tfew.decisions.curve import coverage_threshold
from tfew.decisions.held_out_scores import HeldOutScores
from tfew.decisions.request import DecisionSettings
from tfew.decisions.risk import lowest_risk, risk_threshold
from tfew.decisions.risk import rows_needed as rows_needed_for_risk
from tfew.errors import UserError


@dataclass(frozen=True)
class Decision:
    """`threshold`: below it a row gets no label; None: each gets one. `share`: coverage of sets; None: no sets.
    `level`: the lowest probability in a set; None: sets have all labels. `sentences`: the guarantees, and their basis.
    """

    threshold: float | None = None
    share: float | None = None
    level: float | None = None
    sentences: tuple[str, ...] = ()

    def answers(self, probability: float) -> bool:
        """Whether a row whose likeliest label has this probability gets it."""
        return self.threshold is None or probability >= self.threshold

    def fingerprint(self) -> dict[str, float | None]:
        """What answers depend on; empty if every row just gets its label."""
        threshold = {} if self.threshold is None else {"threshold": self.threshold}
        return {**threshold, **({} if self.share is None else {"sets": self.share, "level": self.level})}

    def label_set(self, probabilities: Mapping[str, float]) -> tuple[str, ...] | None:
        return None if self.share is None else label_set(probabilities, self.level)


def decide(request: DecisionSettings, task: str, held_out: Callable[[], HeldOutScores]) -> Decision:
    """`held_out` is called only if the request needs it. Raises UserError for a risk that no threshold guarantees."""
    threshold, sentences = request.threshold_of(task), list[str]()
    if request.coverage is not None:
        threshold, sentence = _by_coverage(held_out(), request.coverage)
        sentences.append(sentence)
    elif request.risk is not None:
        threshold, sentence = _by_risk(held_out(), request.risk, request.risk_confidence)
        sentences.append(sentence)
    level = None
    if request.sets is not None:
        level = label_level(held_out().right_R, request.sets)
        sentences.append(_about_sets(held_out(), request.sets))
    return Decision(threshold, request.sets, level, tuple(sentences))


def _by_coverage(rows: HeldOutScores, share: float) -> tuple[float, str]:
    threshold = coverage_threshold(rows.top_R, share)
    answered = int((rows.top_R >= threshold).sum())
    right = int(rows.is_right_R[rows.top_R >= threshold].sum())
    return threshold, (
        f"threshold {threshold:g}: {answered} of {rows.rows} held-out rows are answered, {right} of them correctly"
        f"{_in_folds(rows)}"
    )


def _by_risk(rows: HeldOutScores, risk: float, confidence: float) -> tuple[float, str]:
    kept = risk_threshold(rows.top_R, rows.is_right_R, risk, confidence)
    if kept is None:
        raise UserError(_no_threshold(rows, risk, confidence))
    return kept.threshold, (
        f"threshold {kept.threshold:g}: it answers {kept.answered} held-out rows, {kept.wrong} of them wrongly, so with"
        f" {_percent(confidence)} confidence at most {_percent(risk)} of new rows it answers are wrong{_in_folds(rows)}"
    )


def _no_threshold(rows: HeldOutScores, risk: float, confidence: float) -> str:
    lowest = lowest_risk(rows.top_R, rows.is_right_R, confidence)
    needed = rows_needed_for_risk(rows.top_R, rows.is_right_R, risk, confidence)
    best = "no risk can be guaranteed" if lowest is None else f"the lowest possible is risk={lowest:g}"
    more = (
        "and more rows like these would not help, since even the most confident of them are wrong too often"
        if needed is None
        else f"and risk={risk:g} needs about {needed:,} held-out rows like these"
    )
    return (
        f"risk={risk:g} cannot be guaranteed with {_percent(confidence)} confidence by {rows.rows} held-out rows:"
        f" {best}, {more}; or set threshold=, a probability."
    )


def _about_sets(rows: HeldOutScores, share: float) -> str:
    needed = rows_needed(share)
    if rows.rows < needed:
        return (
            f"sets of labels: always all labels, since {rows.rows} held-out rows are too few for sets that cover"
            f" {_percent(share)} (this needs {needed})"
        )
    if rows.in_folds:
        return (
            f"sets of labels intended to hold the right one for {_percent(share)} of rows like the {rows.rows} held-out"
            " ones; these were scored in folds by adapters trained on fewer rows than the one that is used, so this is"
            " no guarantee (validation= gives one)"
        )
    return (
        f"sets of labels: they hold the right one for at least {_percent(share)} of rows like the {rows.rows} held-out"
        " ones, on average over all rows, not for each label or kind of text"
    )


def _in_folds(rows: HeldOutScores) -> str:
    return " (scored in folds, by adapters trained on fewer rows)" if rows.in_folds else ""


def _percent(share: float) -> str:
    return f"{100 * share:g} %"
