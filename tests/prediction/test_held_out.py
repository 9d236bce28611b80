"""Decisions of a real run: held-out rows are scored as new ones are, files survive kills, Python and tables agree."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.estimator.test_classifier import QUICK
from tests.test_predict import KilledError, Killer, read_csv, read_jsonl, run, unlabelled, write_jsonl
from tests.test_train import folder
from tfew.config import compose
from tfew.errors import UserError
from tfew.files import partial_file
from tfew.mini_t0.world import generate
from tfew.prediction import bulk_predict
from tfew.prediction.predictor import Predictor
from tfew.train import train

LABELS = ("bad", "good")


def texts(rows: int, first: int = 0) -> list[dict[str, Any]]:
    found = generate(split="train", family="complaint", seed=0, train=20000, validation=1000, eval=8)
    return [{"text": found[n]["text"], "label": LABELS[1 - int(found[n]["label"])]} for n in range(first, first + rows)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """On a table of 80 rows: half of them held out, in two folds, or none."""
    root = tmp_path_factory.mktemp("runs")
    table = write_jsonl(root / "t.jsonl", texts(80))
    common = (f"data={table}", "text=text", "label=label", "model=mini_t0", "trainer=cpu", f"runs={root}", "steps=6",
              "baselines=false")  # fmt: skip
    ways = {"validation": ("folds=null", "validation=0.5"), "folds": ("folds=2",), "none": ("folds=null",)}
    return {
        name: folder(train(compose("+experiment=local", *common, *given, f"run_dir={root / name}")))
        for name, given in ways.items()
    }


def held_out_rows(run: Path) -> list[dict[str, Any]]:
    """As they stood in the table, in the order of the predictions."""
    idx = [json.loads(line)["idx"] for line in (run / "predictions.jsonl").read_text().splitlines()]
    table = texts(80)
    return [table[place] for place in idx]


def test_held_out_rows_are_scored_as_new_ones_are(runs: dict[str, Path]) -> None:
    """The adapter that held them out gives them the very same probabilities, and the same mass of all labels."""
    predictor = Predictor.load(runs["validation"], "trainer=cpu")
    (task,) = predictor.tasks.values()
    assert task.held_out is not None
    rows = task.held_out()
    assert (rows.rows, rows.in_folds) == (40, False)
    found = predictor([{"text": row["text"]} for row in held_out_rows(runs["validation"])])
    assert np.array([list(row.probabilities.values()) for row in found]) == pytest.approx(rows.probability_RC, abs=1e-5)
    assert [row.log_mass for row in found] == pytest.approx(rows.log_mass_R.tolist(), abs=1e-4)
    given = [LABELS.index(row["label"]) for row in held_out_rows(runs["validation"])]
    assert rows.label_R.tolist() == given


def test_another_norm_changes_both_alike(runs: dict[str, Path]) -> None:
    predictor = Predictor.load(runs["validation"], "trainer=cpu", "score.norm=sum")
    (task,) = predictor.tasks.values()
    assert task.held_out is not None
    found = predictor([{"text": row["text"]} for row in held_out_rows(runs["validation"])])
    assert [row.probability for row in found] == pytest.approx(task.held_out().top_R.tolist(), abs=1e-5)


def test_the_record_has_the_curve(runs: dict[str, Path]) -> None:
    predictor = Predictor.load(runs["validation"], "trainer=cpu")
    (task,) = predictor.tasks.values()
    record = json.loads((runs["validation"] / "result.json").read_text())
    assert record["metrics"]["answering"]["rows"] == 40
    assert task.answering is not None
    assert task.answering["points"][0] == pytest.approx(record["metrics"]["answering"]["points"][0], abs=1e-6)
    assert "Fewer answers, more of them right" in (runs["validation"] / "report.html").read_text()


def test_coverage_answers_that_share_of_the_held_out_rows(runs: dict[str, Path]) -> None:
    predictor = Predictor.load(runs["validation"], "trainer=cpu", coverage=0.75)
    found = predictor([{"text": row["text"]} for row in held_out_rows(runs["validation"])])
    assert 29 <= sum(row.label is not None for row in found) <= 31  # 30, but for rounding
    assert all(row.guess in LABELS for row in found)
    everything = predictor([{"text": "x"}], threshold=0.01)
    assert everything[0].label == everything[0].guess
    with pytest.raises(UserError, match="threshold=2 is not a share"):
        predictor([{"text": "x"}], threshold=2)


@pytest.mark.parametrize(
    ("which", "asked", "message"),
    [
        ("none", "coverage=0.9", "held no rows out: train with folds=5 or validation=0.25, or set threshold="),
        ("none", "sets=0.9", "held no rows out"),
        ("validation", "risk=0.001", "risk=0.001 cannot be guaranteed with 90 % confidence by 40 held-out rows"),
        ("validation", "threshold={other: 0.5}", "threshold= names unknown tasks"),
        ("validation", "threshold=0", "threshold=0 is not a share between 0 and 1"),
    ],
)
def test_what_cannot_be_promised(which: str, asked: str, message: str, runs: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=message):
        Predictor.load(runs[which], "trainer=cpu", asked)


def test_rows_that_were_scored_otherwise_say_nothing(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"scored otherwise \(max_tokens: 256 there, 64 here\)"):
        Predictor.load(runs["validation"], "trainer=cpu", "max_tokens=64", "coverage=0.9")
    for name in ("adapter.json", "adapter.safetensors"):
        (tmp_path / name).write_bytes((runs["validation"] / name).read_bytes())
    alone = (f"data={tmp_path}", "trainer=cpu")
    with pytest.raises(UserError, match="without its run"):
        Predictor.load(tmp_path, *alone[1:], "coverage=0.9")


def test_a_damaged_file_is_named(runs: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(runs["validation"], copy)
    (copy / "predictions.jsonl").write_text("")
    with pytest.raises(UserError, match=r"predictions\.jsonl"):
        Predictor.load(copy, "trainer=cpu", "coverage=0.9")
    assert Predictor.load(copy, "trainer=cpu")([{"text": "x"}])[0].label in LABELS, "they are not needed for this"


def test_folds(runs: dict[str, Path]) -> None:
    predictor = Predictor.load(runs["folds"], "trainer=cpu", sets=0.9)
    (task,) = predictor.tasks.values()
    assert task.held_out is not None
    assert (task.held_out().rows, task.held_out().in_folds) == (80, True)
    (found,) = predictor([{"text": "x"}])
    assert found.labels is not None
    assert found.labels[0] == found.guess
    assert 1 <= len(found.labels) <= 2


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_doubtful_rows_are_listed_and_the_file_survives_kills(
    kind: str, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    rows = [{"text": row["text"], "row": f"own {n}"} for n, row in enumerate(texts(30, first=100))]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    common = (f"adapter={runs['validation']}", f"input={source}", "eval_batch_size=4", "coverage=0.6", "sets=0.9")
    monkeypatch.setattr(bulk_predict, "WINDOW_BATCHES", 1)
    whole = run(*common, f"output={tmp_path}/whole.{kind}")
    printed = capsys.readouterr().out
    write, killer = partial_file.PartialFile.write, Killer(3)

    def dying_write(self: Any, text: str, sides: Sequence[str], state: Any) -> None:
        write(self, text, sides, state)
        if killer():
            raise KilledError

    monkeypatch.setattr(partial_file.PartialFile, "write", dying_write)
    with pytest.raises(KilledError):
        run(*common, f"output={tmp_path}/out.{kind}")
    progress = run(*common, f"output={tmp_path}/out.{kind}")
    assert progress.earlier == 12
    assert (progress.abstained, progress.set_sizes, progress.scores) == (whole.abstained, whole.set_sizes, whole.scores)
    for ending in ("", f".review.{kind}"):
        assert (tmp_path / f"out.{kind}{ending}").read_bytes() == (tmp_path / f"whole.{kind}{ending}").read_bytes()
    read = read_csv if kind == "csv" else read_jsonl
    found, listed = read(tmp_path / f"out.{kind}"), read(tmp_path / f"out.{kind}.review.{kind}")
    (abstained,) = progress.abstained.values()
    assert 0 < abstained < 30
    empty = [number for number, row in enumerate(found, 1) if not row["label"]]
    assert [int(row["row"]) for row in listed] == empty, "in the order of the rows"
    for row in listed:
        same = found[int(row["row"]) - 1]
        assert {**row, "label": same["label"], "row": same["row"]} == {
            **{"input_row": same["row"]}, **same, "guess": row["guess"]
        }  # fmt: skip
        assert row["guess"] in LABELS
    for row in found:
        names = json.loads(row["set"]) if kind == "csv" else row["set"]
        assert len(names) == int(row["set_size"]) >= 1
    assert f"{abstained} of 30 rows" in printed
    assert "sets of labels: 1 label" in printed


def test_without_a_threshold_nothing_is_listed(runs: dict[str, Path], tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": "it broke"}])
    (tmp_path / "out.csv").write_text("")
    (tmp_path / "out.csv.review.csv").write_text("of an output that is replaced")
    run(f"adapter={runs['none']}", f"input={source}", f"output={tmp_path}/out.csv", "overwrite=true")
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out.csv"}
    (row,) = read_csv(tmp_path / "out.csv")
    assert list(row) == ["text", "label", "probability", "p_bad", "p_good"]


def test_the_documentations_examples_run(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "howto" / "doubtful_rows.md").read_text(encoding="utf-8")
    predicting, fitting = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(predicting.replace('"runs/NAME"', f'{str(runs["validation"])!r}, "trainer=cpu"'), {})
    assert len(capsys.readouterr().out.splitlines()) == 2
    rows = texts(24)
    names: dict[str, Any] = {
        "texts": [row["text"] for row in rows],
        "labels": [row["label"] for row in rows],
        "QUICK": QUICK,
    }
    exec(fitting.replace("validation=0.5", "validation=0.5, **QUICK").replace("risk=0.05", ""), names)
    found = names["classifier"].predict(names["texts"], threshold=0.8)
    assert {type(label) for label in found.tolist()} <= {str, type(None)}


def test_texts_of_another_kind_are_warned_about(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alike = write_jsonl(tmp_path / "alike.jsonl", texts(120, first=200))
    run(f"adapter={runs['validation']}", f"input={alike}", f"output={tmp_path}/alike.csv")
    assert "look unlike" not in capsys.readouterr().out
    other = [{"text": f"{n} {row['claim']}"} for n, row in enumerate(unlabelled("commits") * 3)]
    source = write_jsonl(tmp_path / "other.jsonl", other)
    for name, given in {"a": (), "b": ("drift=false",)}.items():
        run(f"adapter={runs['validation']}", f"input={source}", f"output={tmp_path}/{name}.csv", *given)
        printed = capsys.readouterr().out
        assert ("look unlike the 40 held-out rows of its training" in printed) == (name == "a")
