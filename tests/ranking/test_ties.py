"""Choices with the same tokens: no prediction among them counts as right, under any norm."""

import json
from pathlib import Path

import pytest

from tests.test_train import folder
from tfew.config import compose
from tfew.evaluate import evaluate
from tfew.ranking.icl import Answer
from tfew.ranking.metrics import accuracy
from tfew.ranking.norms import rescored
from tfew.ranking.temperature import calibration
from tfew.ranking.ties import best_of, same_choices, without_lucky_guess
from tfew.schema import Prediction
from tfew.train import train


def prediction(scores: tuple[float, ...], label: int | None, **more: object) -> Prediction:
    tokens = (2,) * len(scores)
    return Prediction("d", "t", 0, label, best_of(scores, None, None), scores, tokens, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scores", "label", "same", "expected"),
    [
        ((-1.0, -1.0, -2.0), 0, (0, 0, 2), 1),  # the right one comes first, and does not count
        ((-1.0, -1.0, -2.0), 1, (0, 0, 2), 0),
        ((-1.0, -1.0, -0.5), 0, (0, 0, 2), 2),  # a third is better
        ((-1.0, -1.0 - 1e-9, -2.0), 0, (0, 0, 2), 1),  # but for rounding
        ((-1.0, -1.0, -2.0), 0, None, 0),  # a tie of choices that are not the same
        ((-1.0, -1.0, -2.0), None, (0, 0, 2), 0),
        ((-1.0, -2.0, -2.0), 0, (0, 1, 1), 0),  # the others are the same
        ((-1.0, -3.0), 0, (0, 0), 0),  # a norm tells them apart by their length
    ],
)
def test_which_is_predicted(
    scores: tuple[float, ...], label: int | None, same: tuple[int, ...] | None, expected: int
) -> None:
    assert best_of(scores, label, same) == expected


def test_no_way_to_look_at_it_makes_it_right(tmp_path: Path) -> None:
    choices = ("good", "Good", "bad")
    found = without_lucky_guess(prediction((-2.0, -2.0, -6.0), 0), choices, {choices: (0, 0, 2)})
    assert (found.predicted, found.same) == (1, (0, 0, 2))
    again = Prediction.from_json(found.to_json())
    assert again == found
    for norm in ("sum", "token"):
        assert rescored(rescored(again, "token", norm), norm, "token").predicted == 1
        assert Answer.of(again, "token").under(norm).predicted == 1
    assert accuracy([again]) == 0
    many = [Prediction.from_json(json.dumps({**json.loads(found.to_json()), "idx": n})) for n in range(40)]
    assert calibration(many)["ece"] > 0.45, "each of the two has half of the probability, and none is right"
    untied = without_lucky_guess(prediction((-2.0, -2.5), 0), ("a", "b"), {})
    assert "same" not in untied.to_json()


def test_what_is_the_same_to_a_tokenizer() -> None:
    from tfew.models.build import build_tokenizer

    mini = build_tokenizer(compose("model=mini_t0"))  # upper case is lower case to it
    rows = [("good", "Good", "bad"), ("good", "bad"), ("Bad", "x", "bad", "X")]
    assert same_choices(mini, rows) == {rows[0]: (0, 0, 2), rows[2]: (0, 1, 0, 1)}
    short = build_tokenizer(compose("model=mini_t0", "max_tokens=4"))
    beginnings = ("the lemon by the beach is good", "the lemon by the farm is bad")
    assert same_choices(short, [beginnings]) == {beginnings: (0, 0)}
    assert same_choices(mini, [beginnings]) == {}
    assert same_choices(mini, []) == {}


@pytest.mark.parametrize("method", ["direct", "channel"])
def test_a_run_on_choices_that_are_the_same_has_no_right_answer(method: str, tmp_path: Path) -> None:
    rows = [{"text": f"my hat {i}", "o": ["good", "Good"], "label": ("good", "Good")[i % 2]} for i in range(8)]
    rows += [{"text": f"my hat {i}", "o": ["good", "bad"], "label": "good"} for i in range(8)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = (
        "model=mini_t0",
        "trainer=cpu",
        f"runs={tmp_path}",
        f"data={tmp_path}/t.jsonl",
        "text=text",
        "label=label",
    )
    given = ("+experiment=local", *common, "choices=o", f"score.method={method}")
    record = evaluate(compose(*given, config_name="evaluate"))
    found = [
        Prediction.from_json(line) for line in (tmp_path / record.name / "predictions.jsonl").read_text().splitlines()
    ]
    assert [p.predicted == p.label for p in found[:8]] == [False] * 8
    assert {p.same for p in found} == {(0, 0), None}
    assert record.metrics["accuracy"] == sum(p.predicted == p.label for p in found[8:]) / 16
    if method == "direct":
        trained = train(compose("+experiment=local_mini", *common, "choices=o", "steps=1", "folds=2", "batch_size=4"))
        assert trained.metrics["accuracy"] <= 0.5
        assert folder(trained).is_dir()
