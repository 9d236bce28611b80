"""Comparisons: statistics against numbers worked out by hand, runs that are skipped or fail, files, the figure."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts.demo import FILES, composed, main
from tfew.comparison.numbers import Comparison
from tfew.comparison.plots import blank_figure, draw_accuracies
from tfew.comparison.rows import MAX_TEMPLATES, Row, as_csv, as_json_lines, load_rows, right_by_row
from tfew.comparison.runs import Variant, plan_runs, run_all
from tfew.comparison.tables import accuracy_cells, as_text, norm_cells, paired_cells, report, seed_cells
from tfew.errors import UserError
from tfew.evaluate import evaluate
from tfew.schema import Prediction
from tfew.train import train

QUICK = ("model=tiny", "trainer=cpu", "steps=2", "eval_rows=8", "shots=8")


def row(variant: str, dataset: str, seed: int, accuracy: float, right: str, **others: Any) -> Row:
    settings = {"steps": 4, "batch_size": 8, "shots": 32, "eval_rows": None, "lr": 0.01, "score_norm": "token"}
    plain = Row(
        variant=variant, dataset=dataset, seed=seed, name=f"{variant}-{dataset}-{seed}", model="m", method="some",
        loss="l", accuracy=accuracy, accuracy_by_norm={"token": accuracy, "sum": accuracy - 0.1}, chance=0.25,
        templates=2, right=right, settings=settings, trained_parameters=10, seconds={"train": 1.0, "evaluate": 2.0},
        git_commit="c" * 40 + "+changes", versions={"torch": "2", "transformers": "5"},
    )  # fmt: skip
    return replace(plain, **others)


ROWS = [
    row("bare", "a", 0, 0.5, "2101", method="zero_shot"),
    row("tuned", "a", 0, 0.6, "2211"),
    row("tuned", "a", 1, 0.5, "1211"),
    row("tuned", "a", 2, 0.9, "2221"),
    row("bare", "b", 0, 0.3, "0000", method="zero_shot"),
    row("tuned", "b", 0, 0.2, "2000"),
    row("tuned", "b", 1, 0.4, "0200"),
    row("tuned", "b", 2, 0.4, "0020"),
]


def test_medians_and_quartiles() -> None:
    comparison = Comparison(ROWS)
    assert comparison.accuracy("tuned", "a") == pytest.approx((0.6, 0.75 - 0.55))
    assert comparison.accuracy("tuned", "b", "sum") == pytest.approx((0.3, 0.1))
    assert comparison.mean_accuracy("tuned") == pytest.approx((0.6 + 0.4) / 2)
    assert accuracy_cells(comparison) == [
        ["", "chance", "bare", "tuned"],
        ["a", "25.0", "50.0", "60.0 (20.0)"],
        ["b", "25.0", "30.0", "40.0 (10.0)"],
        ["mean", "25.0", "40.0", "50.0"],
    ]
    assert norm_cells(comparison)[1:] == [
        ["a", "50.0 / 40.0", "60.0 / 50.0"],
        ["b", "30.0 / 20.0", "40.0 / 30.0"],
        ["mean", "40.0 / 30.0", "50.0 / 40.0"],
    ]


def test_gains_seed_by_seed() -> None:
    """Seed 0: (0.1 - 0.1) / 2, which floating point makes a little more or less than nothing."""
    assert seed_cells(Comparison(ROWS))[1] == ["tuned", "+0.0", "+5.0", "+25.0", "2 of 3"]


def test_paired_interval() -> None:
    """a: rows gain 2/2 + 1/2 + 2/2 over seeds, thirds; less the bare model's 2/2, 1/2, 0/2, 1/2."""
    gains = [5 / 6 - 1, 1 - 1 / 2, 4 / 6 - 0, 3 / 6 - 1 / 2]
    mean = sum(gains) / 4
    error = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / 3 / 4)
    found = Comparison(ROWS).paired_gain("tuned", "a")
    assert found is not None
    assert (found.mean, found.standard_error) == pytest.approx((mean, error))
    assert (found.mean, found.low, found.high) == pytest.approx((0.25, -0.1388, 0.6388), abs=2e-4)
    gains_b = [1 / 3, 1 / 3, 1 / 3, 0]
    error_b = math.sqrt(sum((gain - 0.25) ** 2 for gain in gains_b) / 3 / 4)
    both = Comparison(ROWS).mean_paired_gain("tuned")
    assert both is not None
    assert (both.mean, both.standard_error) == pytest.approx((0.25, math.sqrt(error**2 + error_b**2) / 2))
    assert paired_cells(Comparison(ROWS))[1] == ["a", "+25.0 [-13.9, +63.9]"]


def test_what_is_missing_is_a_gap_and_what_cannot_be_compared_an_error() -> None:
    comparison = Comparison([r for r in ROWS if r.name not in ("bare-b-0", "tuned-a-1")])
    assert comparison.paired_gain("tuned", "b") is None
    assert comparison.mean_paired_gain("tuned") is None
    assert accuracy_cells(comparison)[2] == ["b", "25.0", "-", "40.0 (10.0)"]
    assert seed_cells(comparison)[1] == ["tuned", "-", "-", "-", "0 of 0"]
    with pytest.raises(UserError, match=r"runs on a were evaluated on unequal numbers of rows \(eval_rows=\)"):
        Comparison([*ROWS[:3], replace(ROWS[3], right="22")]).paired_gain("tuned", "a")
    with pytest.raises(UserError, match="two zero-shot rows for one data set"):
        Comparison([*ROWS, ROWS[0]])


def test_files_hold_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(as_json_lines(ROWS))
    assert load_rows(path) == ROWS
    assert report("T", Comparison(load_rows(path))) == report("T", Comparison(ROWS))
    lines = list(csv.DictReader(as_csv(ROWS).splitlines()))
    assert len(lines) == len(ROWS)
    expected = {"variant": "tuned", "dataset": "a", "seed": "2", "accuracy": "90.00", "accuracy_sum": "80.00"}
    assert expected.items() <= lines[3].items()
    assert {"lr": "0.01", "steps": "4", "train_seconds": "1.00", "eval_rows": ""}.items() <= lines[3].items()
    path.write_text("{}")
    with pytest.raises(UserError, match=r"records\.jsonl cannot be read as the rows of a comparison"):
        load_rows(path)


def test_right_answers_by_row(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    rows = [(7, "x", 1), (7, "y", 1), (3, "x", 0), (3, "y", 1)]
    path.write_text("".join(Prediction("d", t, i, 1, p, (0.0, 0.0), (1, 1)).to_json() + "\n" for i, t, p in rows))
    assert right_by_row(path) == "12", "in the order of the rows' numbers"
    with pytest.raises(UserError, match=r"is missing, and tables need it: repeat the run with overwrite=true"):
        right_by_row(tmp_path / "none.jsonl")


def test_most_templates(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    line = Prediction("d", "t", 0, 0, 0, (1.0, 0.0), (1, 1)).to_json() + "\n"
    path.write_text(line * MAX_TEMPLATES)
    assert right_by_row(path) == "z"
    path.write_text(line * (MAX_TEMPLATES + 1))
    with pytest.raises(UserError, match="has more than 35 templates"):
        right_by_row(path)


def test_text_and_markdown() -> None:
    lines = as_text(accuracy_cells(Comparison(ROWS))).splitlines()
    assert lines[1] == "  a       25.0  50.0  60.0 (20.0)"
    page = report("Title", Comparison(ROWS))
    assert page.startswith("# Title\n\nMade from 8 runs by commit cccccccccccc+changes, torch 2, transformers 5.")
    assert "| tuned | some | l | 10 | 4 | 8 | 0.01 | 32 | 4 |" in page


def test_the_plan() -> None:
    variants = [Variant("bare", command="evaluate", seeded=False), Variant("x", ("steps=3",))]
    runs = plan_runs(variants, ["d", "e"], [5, 6], ["few_shot=draw"])
    assert [(run.variant, run.dataset, run.seed) for run in runs] == [
        ("bare", "d", 5), ("x", "d", 5), ("x", "d", 6), ("bare", "e", 5), ("x", "e", 5), ("x", "e", 6),
    ]  # fmt: skip
    assert runs[2].overrides == ("few_shot=draw", "dataset=d", "steps=3", "few_shot_seed=6")


def test_the_figure_shows_something(tmp_path: Path) -> None:
    from PIL import Image

    path = draw_accuracies(Comparison(ROWS), tmp_path / "new" / "figure.png", "title")
    with Image.open(path) as image:
        extremes = image.convert("L").getextrema()
        colors = image.convert("RGB").getcolors(maxcolors=1 << 24)
    assert extremes[0] < 80 < 250 < extremes[1]
    assert len(colors) > 50


def test_a_failing_run_is_listed_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def sometimes(config: Any) -> Any:
        if config.few_shot_seed == 1:
            raise RuntimeError("no\nluck")
        return train(config)

    common = ("+experiment=demo", f"runs={tmp_path}", *QUICK)
    runs = plan_runs([Variant("x")], ["mini/commits"], [0, 1, 2], common)
    outcome = run_all(runs, {"train": composed(sometimes, "train")})
    assert [row.seed for row in outcome.rows] == [0, 2]
    assert [(f.run.seed, f.error) for f in outcome.failures] == [(1, "RuntimeError: no luck")]
    assert capsys.readouterr().out == "", "runs are quiet"


@pytest.mark.slow
def test_the_command_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["demo", *QUICK, "families=commits,complaint", f"runs={tmp_path}/runs"]
    common += ["seeds=0,1", f"output={tmp_path}/out"]
    assert main(common) == 0
    out = capsys.readouterr().out
    assert "10 runs made in" in out
    for text in ("chance", "zero-shot", "full fine-tuning", "commits", "complaint", f"{tmp_path}/out"):
        assert text in out
    rows = load_rows(tmp_path / "out" / "records.jsonl")
    assert len(rows) == 10
    assert all(len(row.right) == 8 and row.templates == 3 for row in rows)
    assert {row.name for row in rows} == {path.name for path in (tmp_path / "runs").iterdir()}
    for row in rows:
        record = json.loads((tmp_path / "runs" / row.name / "result.json").read_text())
        assert row.accuracy == record["metrics"]["accuracy"]
        wordings = record["metrics"]["templates"].values()
        assert sum(map(int, row.right)) == round(8 * sum(wording["accuracy"] for wording in wordings))
    assert str(tmp_path) not in (tmp_path / "out" / "records.jsonl").read_text()
    table = (tmp_path / "out" / "TABLE.md").read_text()

    _without_training(monkeypatch)
    assert main(common) == 0, "finished runs are read, not made"
    assert "0 runs made in" in capsys.readouterr().out
    assert main(["demo", f"records={tmp_path}/out/records.jsonl", f"output={tmp_path}/again"]) == 0
    assert (tmp_path / "again" / "TABLE.md").read_text() == table
    assert (tmp_path / "again" / "figure.png").read_bytes() == (tmp_path / "out" / "figure.png").read_bytes()

    capsys.readouterr()
    assert main([*common, "seeds=0,1,2"]) == 1, "seed 2 would have to be trained"
    out = capsys.readouterr().out
    assert "FAILED: (IA)³, mini/commits, seed 2: RuntimeError: not to be trained" in out
    assert "4 runs failed; the same command tries them again." in out
    assert "commits" in out.split("FAILED")[0]


def _without_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*_: object) -> None:
        raise RuntimeError("not to be trained")

    monkeypatch.setattr("tfew.training.fit.fit", fit)


def test_a_run_among_others_is_the_run_alone(tmp_path: Path) -> None:
    """Nothing of one run leaks into the next: not its random numbers, modes or settings."""
    common = ("+experiment=demo", f"runs={tmp_path}/many", *QUICK)
    outcome = run_all(
        plan_runs([Variant("bare", command="evaluate", seeded=False), Variant("x")], ["mini/commits"], [3, 4], common),
        {"train": composed(train, "train"), "evaluate": composed(evaluate, "evaluate")},
    )
    from tfew.config import compose

    alone = train(compose("+experiment=demo", f"runs={tmp_path}/alone", *QUICK, "few_shot_seed=4"))
    assert alone.name == outcome.rows[-1].name
    files = [tmp_path / place / alone.name / "predictions.jsonl" for place in ("many", "alone")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_a_comparison_in_part_leaves_the_shipped_tables_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _without_training(monkeypatch)
    assert main(["table", *QUICK, "families=commits", "seeds=0"]) == 1
    assert {path.name for path in (tmp_path / "runs" / "table_part").iterdir()} == set(FILES)
    assert "5 runs failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demmo"], "Unknown comparison 'demmo' .* Did you mean 'demo'"),
        ([], "Unknown comparison ''"),
        (["demo", "families=comits"], "Unknown family 'comits' .*Did you mean 'commits'"),
        (["demo", "seeds=a"], "seeds=a are not whole numbers"),
        (["demo", "steps=0", "model=tiny"], "steps=0 is not a whole number of at least 1"),
        (["table", "records=/nowhere"], "records=/nowhere cannot be read"),
    ],
)
def test_mistakes_are_said_before_anything_runs(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(arguments)


def test_a_grid_has_ticks_under_the_last_panel_of_each_column() -> None:
    figure, panels = blank_figure(6, 4, panels=5, columns=3)
    figure.canvas.draw()
    assert [axes.get_visible() for axes in figure.axes] == [True] * 5 + [False]
    assert [axes.xaxis.get_tick_params()["labelbottom"] for axes in panels] == [False, False, True, True, True]
