"""A request answered by held-out rows: the threshold, the level, and the sentences that say what is promised."""

import re
from typing import Any

import numpy as np
import pytest

from tests.decisions.rows import held_out, made
from tfew.decisions.conformal import label_level
from tfew.decisions.curve import coverage_threshold
from tfew.decisions.decision import Decision, decide
from tfew.decisions.held_out_scores import HeldOutScores
from tfew.decisions.request import DecisionSettings
from tfew.errors import UserError


def decided(rows: HeldOutScores, **asked: Any) -> Decision:
    request = DecisionSettings(**asked)
    request.check(["t"])
    return decide(request, "t", lambda: rows)


def refused() -> HeldOutScores:
    raise UserError("no held-out rows")


def test_a_probability_needs_no_held_out_rows() -> None:
    assert decide(DecisionSettings(), "t", refused) == Decision()
    found = decide(DecisionSettings(threshold=0.8), "t", refused)
    assert (found.answers(0.8), found.answers(0.79), found.label_set({"a": 1.0})) == (True, False, None)
    by_task = DecisionSettings(threshold={"t": 0.6})
    assert decide(by_task, "t", refused).threshold == 0.6
    assert decide(by_task, "u", refused).threshold is None
    for asked in ({"coverage": 0.9}, {"risk": 0.1}, {"sets": 0.9}):
        with pytest.raises(UserError, match="no held-out rows"):
            decide(DecisionSettings(**asked), "t", refused)


def test_coverage() -> None:
    rows = made(96)
    found = decided(rows, coverage=0.8)
    assert found.threshold == coverage_threshold(rows.top_R, 0.8)
    answered = rows.top_R >= found.threshold
    right = rows.is_right_R[answered].sum()
    assert found.sentences[0].endswith(f"{answered.sum()} of 96 held-out rows are answered, {right} of them correctly")


def test_risk() -> None:
    rows = made(300, sharpness=12)
    found = decided(rows, risk=0.05)
    assert found.threshold is not None
    said = re.findall(r"it answers (\d+) held-out rows, (\d+) of them wrongly", found.sentences[0])
    answered, wrong = map(int, said[0])
    assert answered == (rows.top_R >= found.threshold).sum()
    assert wrong == (~rows.is_right_R[rows.top_R >= found.threshold]).sum()
    assert "with 90 % confidence at most 5 % of new rows" in found.sentences[0]
    stricter = decided(rows, risk=0.05, risk_confidence=0.99)
    assert stricter.threshold is not None
    assert stricter.threshold >= found.threshold


def test_a_risk_that_cannot_be_promised() -> None:
    with pytest.raises(UserError) as raised:
        decided(made(96, sharpness=4), risk=0.01)
    message = str(raised.value)
    assert message.startswith("risk=0.01 cannot be guaranteed with 90 % confidence by 96 held-out rows: the lowest")
    said = re.findall(r"possible is risk=(0\.\d+), and risk=0.01 needs about ([\d,]+) held-out rows", message)
    lowest, rows = said[0]
    assert 0.01 < float(lowest) < 0.2
    assert int(rows.replace(",", "")) > 96
    assert message.count(". ") == 0, "one sentence"
    nothing = held_out(np.full((40, 2), 0.5), np.ones(40, np.int64))  # all wrong
    with pytest.raises(UserError, match="no risk can be guaranteed, and more rows like these would not help"):
        decided(nothing, risk=0.1)


def test_sets() -> None:
    rows = made(96)
    found = decided(rows, sets=0.9, threshold=0.5)
    assert (found.share, found.level, found.threshold) == (0.9, label_level(rows.right_R, 0.9), 0.5)
    assert "at least 90 % of rows like the 96 held-out ones, on average over all rows" in found.sentences[0]
    in_folds = decided(made(96, in_folds=True), sets=0.9)
    assert in_folds.level == found.level
    assert "so this is no guarantee (validation= gives one)" in in_folds.sentences[0]
    few = decided(made(8), sets=0.9)
    assert few.label_set({"a": 0.9, "b": 0.1}) == ("a", "b")
    assert few.sentences[0].endswith("8 held-out rows are too few for sets that cover 90 % (this needs 9)")


def test_a_fingerprint_is_of_what_answers_depend_on() -> None:
    assert Decision().fingerprint() == {}
    assert Decision(0.8, sentences=("x",)).fingerprint() == {"threshold": 0.8}
    assert Decision(0.8, 0.9, None).fingerprint() == {"threshold": 0.8, "sets": 0.9, "level": None}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"threshold": 0.8, "risk": 0.1}, "threshold= and risk= each set the threshold .* give one of them"),
        ({"coverage": 0.8, "risk": 0.1, "threshold": 0.1}, "threshold= and coverage= and risk= each"),
        ({"threshold": 80}, "threshold=80 is not a share between 0 and 1"),
        ({"threshold": "high"}, "threshold=high is not a share between 0 and 1"),
        ({"threshold": {"t": 0}}, "threshold.t=0 is not a share between 0 and 1"),
        ({"threshold": {"u": 0.5}}, r"threshold= names unknown tasks \(u\); known are t"),
        ({"coverage": 90}, "coverage=90 is not a share"),
        ({"risk": 0}, "risk=0 is not a share"),
        ({"risk_confidence": 1}, "risk_confidence=1 is not a share"),
        ({"sets": True}, "sets=True is not a share"),
    ],
)
def test_requests_that_cannot_work(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DecisionSettings(**asked).check(["t"])
