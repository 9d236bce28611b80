"""The paper's tables: its own numbers, as if they were runs, must come out as they are printed."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles
from typing import Any

import numpy as np
import pytest

from tfew.config import CONFIGS, compose
from tfew.cost import cost
from tfew.errors import UserError
from tfew.paper.__main__ import finished_runs, paper
from tfew.paper.reference import AVERAGE, printed_accuracies
from tfew.paper.render import as_csv, as_latex, as_markdown
from tfew.paper.table import make_table, specs
from tfew.paper.table_1 import table_1
from tfew.runs.records import RunRecord, save_record

SEEDS = (0, 1, 32, 42, 1024)
TABLES = sorted((number for number, spec in specs()["tables"].items() if "averages_of" not in spec), key=int)


def record(dataset: str, seed: int, accuracies: Sequence[float], **changes: Any) -> RunRecord:
    """A run with these accuracies of its templates, in percent."""
    told = {"model": "t0_3b", "method": "ia3", "loss": "tfew", "pretrained": False, "command": None, **changes}
    pretrained, command, settings = told.pop("pretrained"), told.pop("command"), told.pop("config", {})
    return RunRecord(
        name="-".join([dataset.replace("/", "_"), *map(str, told.values()), str(pretrained), str(seed)]),
        command=command or ("evaluate" if told["method"] == "zero_shot" else "train"), experiment=dataset,
        dataset=dataset, split="validation", few_shot_seed=seed, seed=seed,
        metrics={"templates": {f"template {i}": {"accuracy": a / 100} for i, a in enumerate(accuracies)}},
        counts={}, parameters={}, flops={}, seconds={}, peak_memory_bytes=0, adapter_bytes=0, git_commit=None,
        versions={}, config={"init_adapter": "vectors" if pretrained else None, **settings}, **told,
    )  # fmt: skip


def as_runs(number: str) -> list[RunRecord]:
    """The printed cells of a table, each as three runs with its median and its interquartile range."""
    spec = specs()["tables"][number]
    rows = spec.get("rows") or {row: {**spec["select"], "method": m} for row, m in spec["methods"].items()}
    runs = []
    for (table, row, column), (accuracy, spread) in printed_accuracies().items():
        if table == number and column != AVERAGE and rows[row] is not None:
            told = {"loss": "none", "model": spec["model"], **rows[row]}
            values = (accuracy - (spread or 0), accuracy, accuracy + (spread or 0))
            runs += [record(column, seed, [value], **told) for seed, value in enumerate(values)]
    return runs


@pytest.mark.parametrize("number", TABLES)
def test_the_papers_numbers_give_the_papers_table(number: str) -> None:
    table = make_table(number, as_runs(number))
    cells = 0
    for row in table.cells.values():
        for column in table.columns:
            cell = row[column]
            if cell.ours is None:
                continue
            cells += 1
            assert cell.ours == pytest.approx(cell.paper, abs=1e-9)
            assert cell.ours_iqr == pytest.approx(cell.paper_iqr or 0, abs=1e-9)
            assert cell.difference == pytest.approx(0, abs=1e-9)
    assert cells >= (11 if number == "11" else 22)
    assert list(table.columns) == list(specs()["raft" if number == "11" else "columns"])


def test_all_printed_averages_are_the_means_of_their_cells() -> None:
    """39 in Tables 5 to 7 to their two digits, and those of Tables 3, 8 and 10; Table 1's are tested below."""
    compared = 0
    for number in ("3", "5", "6", "7", "8", "10"):
        for name, row in make_table(number, as_runs(number)).cells.items():
            average = row[AVERAGE]
            if average.paper is None:
                continue
            assert average.ours is not None, (number, name)
            half_a_digit = 0.005 if number in ("5", "6", "7") else 0.05
            assert average.ours == pytest.approx(average.paper, abs=half_a_digit + 1e-9), (number, name)
            compared += number in ("5", "6", "7")
    assert compared == 39


def test_table_1s_averages_and_its_two_exceptions() -> None:
    by_row: dict[str, list[float]] = {}
    for (number, row, _), (accuracy, _) in printed_accuracies().items():
        if number == "9":
            by_row.setdefault(row, []).append(accuracy)
    off = {
        row
        for row, cells in by_row.items()
        if round(float(np.mean(cells)), 1) != printed_accuracies()["1", row, AVERAGE][0]
    }
    assert off == {"T0", "T5+LM"}
    assert round(float(np.mean(by_row["T0"])), 2) == 62.51
    table = make_table("9", as_runs("9"))
    assert table.cells["T-Few"][AVERAGE].paper == 72.4
    assert round(table.cells["T-Few"][AVERAGE].ours or 0, 1) == 72.4
    assert any("66.9" in note for note in table.notes)


def test_rafts_averages() -> None:
    """All five methods' cells, as if they were one method's runs: Table 11's cells average to what Table 2 prints."""
    for row in ("T-Few", "Human baseline", "PET", "SetFit", "GPT-3"):
        cells = {c: a for (number, name, c), (a, _) in printed_accuracies().items() if (number, name) == ("11", row)}
        assert len(cells) == 11
        runs = [record(column, 0, [cell], model="t0", pretrained=True) for column, cell in cells.items()]
        eleven, two = (make_table(number, runs).cells for number in ("11", "2"))
        assert list(two) == list(eleven)
        assert two["T-Few"].keys() == {AVERAGE}
        assert two["T-Few"][AVERAGE].ours == eleven["T-Few"][AVERAGE].ours == pytest.approx(np.mean([*cells.values()]))
        # cells and averages are both rounded: T-Few's cells give 75.745, the paper prints 75.8
        assert two["T-Few"][AVERAGE].ours == pytest.approx(two[row][AVERAGE].paper, abs=0.1)
        assert two[row][AVERAGE].paper == printed_accuracies()["2", row, AVERAGE][0]
        assert two["T-Few"][AVERAGE].runs == 11
    assert make_table("2", runs[:-1]).cells["T-Few"][AVERAGE].ours is None, "ten of eleven tasks have no average"


def test_raft_is_f1_where_there_is_one() -> None:
    told = {"model": "t0", "pretrained": True}
    with_f1, whole, without = (record("raft/overruling", seed, [90.0], **told) for seed in (0, 1, 32))
    with_f1.metrics["templates"]["template 0"]["f1_macro"] = 0.70
    whole.metrics["f1_macro"] = 0.72
    table = make_table("11", [with_f1, whole])
    assert table.cells["T-Few"]["raft/overruling"].ours == pytest.approx(71)
    assert table.cells["T-Few"]["raft/overruling"].difference == pytest.approx(71 - 95.0)
    assert sum("cross-validated" in note for note in table.notes) == 1
    assert not any("have no f1_macro" in note for note in table.notes)
    mixed = make_table("11", [with_f1, whole, without])
    assert mixed.cells["T-Few"]["raft/overruling"].ours == pytest.approx(72)
    assert mixed.notes[-1] == "1 of the runs here have no f1_macro: their accuracy stands in its place."
    del whole.metrics["templates"]
    assert make_table("11", [whole]).cells["T-Few"]["raft/overruling"].ours == pytest.approx(72)
    unlabelled = record("raft/overruling", 42, [float("nan")], **told)
    assert make_table("11", [with_f1, unlabelled]).cells["T-Few"]["raft/overruling"].runs == 1
    bare = record("raft/overruling", 0, [50.0], model="t0")
    assert make_table("11", [bare]).cells["T-Few without pre-training"]["raft/overruling"].ours == 50
    own = make_table("4", [record(name, 0, [50.0], model="tiny") for name in ("raft/overruling", "page")], "tiny")
    assert list(own.columns) == ["page"], "a table of the eleven data sets has no place for RAFT's"


def test_table_1_has_averages_and_costs() -> None:
    table = make_table("1", as_runs("9"))
    few, lm = table.cells["T-Few"], table.cells["T5+LM"]
    assert (few[AVERAGE].ours, few[AVERAGE].paper, few[AVERAGE].runs) == (pytest.approx(72.41, abs=0.005), 72.4, 33)
    assert lm[AVERAGE].ours == pytest.approx(49.8, abs=0.05)
    assert lm[AVERAGE].difference == pytest.approx(0.2, abs=0.05)
    assert (few["inference"].paper, few["training"].paper, few["disk"].paper) == (1.1e12, 2.7e16, pytest.approx(4.2e6))
    assert lm["disk"].paper == pytest.approx(16e3)
    markdown = as_markdown(table)
    assert "| T-Few | ours | 1.13e+12 | 2.72e+16 | 4,325.4 kB | 72.4 [33] |" in markdown
    assert "| | difference | +3.0% | +0.7% | +3.0% | +0.0 |" in markdown
    assert r"T-Few & 1.13e+12 & 2.72e+16 & 4,325.4 kB & 72.4 \\" in as_latex(table)
    assert "1,t0,T-Few,inference,0,1.133e+12,,1.1e+12,,3.3e+10\n" in as_csv(table)
    for footnote in ("T0 and T5+LM do not follow", "mean number of shots", "without the 103 tokens"):
        assert footnote in markdown
    assert table.cells["GPT-3 175B"][AVERAGE].ours is None


def in_context(seed: int, order: int, accuracy: float = 50.0, **told: Any) -> RunRecord:
    settings = {"icl": {"mode": "ensemble", "shots": 32, "order_seed": order}}
    run = record("rte", seed, [accuracy], **{"method": "icl_ensemble", "command": "evaluate", **told}, config=settings)
    return RunRecord(**{**vars(run), "name": f"{run.name}-o{order}"})


def test_orders_of_shots_are_no_seeds_of_shots() -> None:
    lm = {"model": "t5_lm_adapt_xxl"}
    same = make_table("9", [in_context(0, 7, 40.0, **lm), in_context(1, 7, 60.0, **lm), in_context(32, 7, **lm)])
    assert (same.cells["T5+LM"]["rte"].ours, same.cells["T5+LM"]["rte"].runs) == (50, 3)
    own = make_table("9", [in_context(seed, seed, **lm) for seed in (0, 1, 32)])
    assert own.cells["T5+LM"]["rte"].runs == 3, "an order drawn with the run's own seed is one with it"
    with pytest.raises(UserError, match=r"the few-shot seed 0: rte-.*-o0 and rte-.*-o1"):
        make_table("9", [in_context(0, 0, **lm), in_context(0, 1, **lm)])
    with pytest.raises(
        UserError, match=r"different orders of their shots \(order_seed 0, 5\): rte-.*-o0 and rte-.*-o5"
    ):
        make_table("9", [in_context(0, 0, **lm), in_context(1, 5, **lm)])
    assert make_table("9", [in_context(0, 0, model="t0")]).cells["T5+LM"]["rte"].runs == 0
    told = make_table("9", [in_context(0, 0, model="mini_t0")], "mini_t0")
    assert told.cells["T5+LM"]["rte"].runs == 1


def test_a_cell_is_the_median_over_seeds_and_templates_together() -> None:
    accuracies = np.random.default_rng(0).uniform(40, 90, (5, 7))
    runs = [record("rte", seed, row) for seed, row in zip(SEEDS, accuracies, strict=True)]
    cell = make_table("4", runs).cells["(IA)^3"]["rte"]
    assert cell.runs == 5
    assert cell.ours == pytest.approx(np.median(accuracies))
    low, _, high = quantiles(accuracies.flatten(), n=4, method="inclusive")
    assert cell.ours_iqr == pytest.approx(high - low)
    assert cell.ours != pytest.approx(np.median(np.median(accuracies, axis=1)), abs=1e-6)


def test_runs_go_where_they_belong_and_missing_ones_are_seen() -> None:
    runs = [
        record("rte", 0, [70.0]), record("rte", 0, [60.0], loss="lm"), record("rte", 0, [80.0], pretrained=True),
        record("rte", 0, [50.0], method="lora"), record("rte", 0, [10.0], model="tiny"),
    ]  # fmt: skip
    four, seven, eight = (make_table(number, runs).cells for number in ("4", "7", "8"))
    assert four["(IA)^3"]["rte"].ours == 70
    assert four["LoRA"]["rte"].ours == 50
    assert four["(IA)^3"]["cb"].ours is None
    assert four["(IA)^3"]["cb"].runs == 0
    assert four["(IA)^3"][AVERAGE].ours is None
    assert four["(IA)^3"]["rte"].difference == pytest.approx(-8)
    assert seven["(IA)^3"]["rte"].ours == 60
    assert [row["rte"].ours for row in eight.values()] == [70, 80]


def test_another_model_has_its_own_columns() -> None:
    table = make_table("3", [record("page", 0, [55.0], model="mini_t0", method="full", loss="lm")], "mini_t0")
    assert list(table.columns) == ["page"]
    assert table.cells["FT (L_LM only)"]["page"].ours == pytest.approx(55)
    assert table.cells["FT (L_LM only)"]["page"].paper is None
    assert table.cells["FT (L_LM only)"][AVERAGE].ours == pytest.approx(55)
    assert table.cells["FT (L_LM only)"][AVERAGE].paper is None, "an average of other data sets"
    assert table.cells["+ UL"]["page"].ours is None


def test_two_runs_of_one_seed_are_refused() -> None:
    first = record("rte", 0, [70.0])
    other = RunRecord(**{**vars(first), "name": "another"})
    with pytest.raises(UserError, match=r"the few-shot seed 0: rte-.* and another"):
        make_table("4", [first, other])


def test_forms() -> None:
    table = make_table("8", as_runs("8"))
    markdown = as_markdown(table)
    assert "| (IA)^3 without pre-training | ours | 87.0 (3.0) [3] |" in markdown
    assert "| | difference | +0.0 |" in markdown
    rows = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert len(rows) == 2 * 12
    assert {row["difference"] for row in rows} <= {"0.00", "0.03", "0.01"}
    hostile = record("a|b_$&", 0, [50.0], model="mini_t0", method="full", loss="lm")
    assert r"& a|b\_\$\& &" in as_latex(make_table("3", [hostile], "mini_t0"))
    assert "| a/b_$& |" in as_markdown(make_table("3", [hostile], "mini_t0"))
    latex = as_latex(table)
    assert r"(IA)\^{}3 + pre-training (PT) & 89.0 &" in latex
    assert latex.count(r"\\") == 1 + 2 * 2
    empty = as_markdown(make_table("4", [record("rte", 0, [70.0])]))
    assert "| LoRA | ours | – |" in empty


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run in as_runs("8"):
        save_record(tmp_path / "runs" / run.name, run)
    (tmp_path / "runs" / "unfinished").mkdir()
    told = (f"runs={tmp_path}/runs", f"output={tmp_path}/tables")
    table = paper(compose("table=8", *told, config_name="paper"))
    assert "## Table 8: Pre-training of (IA)^3 (t0_3b)" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == [
        "table_8.csv", "table_8.md", "table_8.tex",
    ]  # fmt: skip
    assert (tmp_path / "tables" / "table_8.md").read_text() == as_markdown(table)
    paper(compose("table=8", "json=true", f"runs={tmp_path}/runs", config_name="paper"))
    assert json.loads(capsys.readouterr().out)["cells"]["(IA)^3 + pre-training (PT)"]["rte"]["ours"] == 80.9
    with pytest.raises(UserError, match=r"table=.*10"):
        paper(compose("table=12", *told, config_name="paper"))
    for wrong, message in (
        ((), "here it is nothing"),
        (("table=4", "figure=2"), "here it is table=4 and figure=2"),
        (("figure=4",), "Unknown figure '4' .*Known: '2', '3', 'icl'"),
        (("report=maybe",), "report='maybe' is neither true nor false"),
        (("report=true", "of_model=mini"), "Unknown model 'mini' .*Known: 't0_3b'"),
        (("figure=icl", "of_model=mini"), "no run with templates for figure=icl"),
    ):
        with pytest.raises(UserError, match=message):
            paper(compose(*wrong, *told, config_name="paper"))
    with pytest.raises(UserError, match="has no finished run"):
        finished_runs(tmp_path / "tables")


def test_runs_of_other_models_alone_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = record("rte", 0, [70.0], model="mini_t0")
    save_record(tmp_path / run.name, run)
    paper(compose("table=4", f"runs={tmp_path}", config_name="paper"))
    assert (
        "is of t0_3b, whose table this is: of_model= makes it of another model's runs (here: mini_t0)." in caplog.text
    )
    caplog.clear()
    paper(compose("table=4", f"runs={tmp_path}", "of_model=mini_t0", config_name="paper"))
    assert caplog.text == ""


def test_rows_are_told_by_what_the_paper_says() -> None:
    """Written down here again: loss, and whether pre-trained, of each row that has runs."""
    losses = {"4": "tfew", "5": "lm_ln", "6": "lm_ul", "7": "lm"}
    for number, loss in losses.items():
        assert specs()["tables"][number]["select"] == {"loss": loss, "pretrained": False}
    rows = {
        (number, row): select and (select["method"], select.get("loss"), select["pretrained"])
        for number in ("3", "8", "9", "10", "11")
        for row, select in specs()["tables"][number]["rows"].items()
    }
    assert rows == {
        ("3", "FT (L_LM only)"): ("full", "lm", False),
        ("3", "+ UL"): ("full", "lm_ul", False),
        ("3", "+ LN"): ("full", "lm_ln", False),
        ("3", "+ UL + LN"): ("full", "tfew", False),
        ("8", "(IA)^3 without pre-training"): ("ia3", "tfew", False),
        ("8", "(IA)^3 + pre-training (PT)"): ("ia3", "tfew", True),
        ("9", "T-Few"): ("ia3", "tfew", True),
        ("9", "T0"): ("zero_shot", None, False),
        ("9", "T5+LM"): ("icl_ensemble", None, False),
        ("9", "GPT-3 175B"): None,
        ("9", "GPT-3 13B"): None,
        ("9", "GPT-3 6.7B"): None,
        ("10", "T-Few"): ("ia3", "tfew", True),
        ("10", "- PT"): ("ia3", "tfew", False),
        ("10", "- UL - LN"): ("ia3", "lm", True),
        ("10", "- PT - UL - LN"): ("ia3", "lm", False),
        ("11", "T-Few"): ("ia3", None, True),
        ("11", "T-Few without pre-training"): ("ia3", None, False),
        ("11", "Human baseline"): None,
        ("11", "PET"): None,
        ("11", "SetFit"): None,
        ("11", "GPT-3"): None,
    }
    assert all((CONFIGS / "loss" / f"{loss}.yaml").is_file() for loss in losses.values())


def test_what_is_not_comparable_stays_out() -> None:
    good = record("rte", 0, [70.0])
    again = RunRecord(**{**vars(record("rte", 1, [90.0])), "command": "evaluate"})
    drawn = RunRecord(**{**vars(record("rte", 2, [90.0])), "config": {"templates": {"eval": "random"}}})
    mixture = RunRecord(**{**vars(record("rte", 3, [])), "metrics": {"members": {}, "accuracy": 0.9}})
    table = make_table("4", [good, again, drawn, mixture])
    assert (table.cells["(IA)^3"]["rte"].runs, table.cells["(IA)^3"]["rte"].ours) == (1, 70)
    assert not any("eval_rows" in note for note in table.notes)
    partly = RunRecord(**{**vars(good), "config": {"eval_rows": 10}})
    assert make_table("4", [partly]).notes[-1].startswith("1 of the runs here were evaluated on their first rows only")
    assert not any("differ" in note for note in table.notes)
    mixed = [record("rte", seed, [80.0], config={"warmup_ratio": 0.1 * seed}) for seed in (0, 1)]
    assert make_table("4", mixed).notes[-1] == "Runs of one cell differ in more than their seed: warmup_ratio."


def test_names_are_those_of_the_configuration() -> None:
    for dataset, shown in specs()["columns"].items():
        assert f"paper_name: {shown}" in (CONFIGS / "dataset" / f"{dataset}.yaml").read_text().replace('"', "")
    for number in ("4", "5", "6", "7"):
        for method in specs()["tables"][number]["methods"].values():
            assert (CONFIGS / "method" / f"{method}.yaml").is_file()


def test_table_1_by_the_papers_formulas(capsys: pytest.CaptureFixture[str]) -> None:
    """To the two digits that are printed; GPT-3's smaller two only without the query's own tokens."""
    rows = table_1()
    for name in ("T-Few", "T0", "T5+LM", "GPT-3 175B"):
        assert f"{rows[name].inference_flops:.1e}" == f"{rows[name].printed[0]:.1e}"
        assert f"{rows[name].training_flops:.1e}" == f"{rows[name].printed[1]:.1e}"
    for name, whole, alone in (("GPT-3 6.7B", 5.522e13, 5.384e13), ("GPT-3 13B", 1.071e14, 1.045e14)):
        assert rows[name].inference_flops == pytest.approx(whole, rel=1e-3)
        assert rows[name].context_flops == pytest.approx(alone, rel=1e-3)
        assert f"{rows[name].inference_flops:.1e}" != f"{rows[name].printed[0]:.1e}"
        assert f"{rows[name].context_flops:.1e}" == f"{rows[name].printed[0]:.1e}"
    assert rows["T-Few"].disk_bytes == 4_325_376
    assert round(rows["T5+LM"].disk_bytes / 1000) == 16
    assert rows["GPT-3 175B"].inference_flops / rows["T-Few"].inference_flops == pytest.approx(1273, rel=1e-3)
    cost(compose("table=1", config_name="cost"))
    printed_table = capsys.readouterr().out
    assert "T-Few          1.133e+12                  1.1e+12  2.719e+16   2.7e+16  4,325.4 kB" in printed_table
    assert "mean number of shots" in printed_table
    with pytest.raises(UserError, match=r"table=.*1"):
        cost(compose("table=2", config_name="cost"))
