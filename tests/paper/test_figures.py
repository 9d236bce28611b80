"""Figures 2 and 3 and the spread of in-context learning: points equal the tables' values, and drawing works."""

import csv
import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from tests.paper.test_table import as_runs, in_context, record
from tfew.config import compose
from tfew.paper.__main__ import paper
from tfew.paper.figures import make_figure
from tfew.paper.reference import AVERAGE, printed_accuracies, specs
from tfew.paper.spread import in_context_scores, spreads
from tfew.paper.variants import variant_names
from tfew.runs.records import RunRecord, save_record

# percent of T0-3B's parameters, from the counts that the paper prints; those of Figure 2 written down here again
SHARES = {"Full Model Fine-tuning": 3e9, "LayerNorm": 250e3, "Adapter": 12.9e6, "LoRA": 9.1e6, "(IA)^3": 540e3,
          "BitFit (with LayerNorm)": 1.3e6, "Prompt tuning (10)": 41e3, "Intrinsic SAID 20K": 20e3}  # fmt: skip


def with_costs(run: RunRecord, trained: int = 1, flops: float = 0) -> RunRecord:
    costs = {"parameters": {"trained": trained, "trainable": trained, "total": 1000}, "counts": {"prompts": 10}}
    return RunRecord(**{**vars(run), **costs, "flops": {"evaluation": flops}})


def test_figure_2s_points_are_table_4s() -> None:
    runs = [with_costs(run, trained=5) for run in as_runs("4")]
    figure = make_figure("2", runs)
    papers, ours = ({point.name: point for point in figure.points_of(which)} for which in (False, True))
    assert list(papers) == list(ours) == list(specs()["methods"])
    for name, point in papers.items():
        cells = [a for (number, row, _), (a, _) in printed_accuracies().items() if (number, row) == ("4", name)]
        assert len(cells) == 11
        assert point.accuracy == pytest.approx(mean(cells))
        assert ours[name].accuracy == pytest.approx(point.accuracy)
        assert (ours[name].x, ours[name].runs) == (0.5, 33)
    for name, count in SHARES.items():
        assert papers[name].x == pytest.approx(100 * count / 2_849_757_184, rel=0.06)
    # Table 4's averages are not printed; Table 8 prints (IA)^3's
    assert round(papers["(IA)^3"].accuracy, 1) == printed_accuracies()["8", "(IA)^3 without pre-training", AVERAGE][0]
    assert figure.same_data
    few = make_figure("2", [run for run in runs if run.dataset != "rte" or run.method != "lora"])
    assert "LoRA" not in {point.name for point in few.points_of(True)}
    assert "No point of ours for LoRA: 10 of 11 data sets have runs." in few.notes


def test_figure_3s_points_are_table_1s() -> None:
    flops = {"ia3": 1.1e13, "zero_shot": 1.2e13, "icl_ensemble": 4.5e14}
    runs = [with_costs(run, flops=flops[run.method]) for run in as_runs("9")]
    figure = make_figure("3", runs)
    rows = {"T-Few", "T0", "T5+LM", "GPT-3 6.7B", "GPT-3 13B", "GPT-3 175B"}
    papers, ours = ({point.name: point for point in figure.points_of(which)} for which in (False, True))
    assert papers.keys() == rows
    assert {name: point.accuracy for name, point in papers.items()} == {
        row: printed_accuracies()["1", row, AVERAGE][0] for row in rows
    }
    assert (papers["T-Few"].x, papers["GPT-3 175B"].x) == (1.1e12, 1.4e15)
    assert {name: point.x for name, point in ours.items()} == {"T-Few": 1.1e12, "T0": 1.2e12, "T5+LM": 4.5e13}
    assert ours["T-Few"].accuracy == pytest.approx(72.4, abs=0.05)
    assert ours["T0"].accuracy == pytest.approx(62.51, abs=0.01), "the paper's point is where its Table 1 has it: 66.9"
    assert any("do not follow from Table 9" in note for note in figure.notes)


def test_what_trains_more_than_it_keeps_is_said() -> None:
    run = record("page", 0, [50.0], model="mini_t0", method="prefix")
    counts = {"trained": 900, "trainable": 3, "total": 1000}
    figure = make_figure("2", [RunRecord(**{**vars(run), "parameters": counts})], "mini_t0")
    assert [(point.name, point.x) for point in figure.points_of(True)] == [("Prefix tuning", 90)]
    assert "Prefix tuning trains 900 numbers here and keeps 3." in figure.notes
    assert not figure.same_data


def make(tmp_path: Path, records: list[RunRecord], *overrides: str) -> Any:
    for run in records:
        save_record(tmp_path / "runs" / run.name, run)
    return paper(compose(*overrides, f"runs={tmp_path}/runs", f"output={tmp_path}/out", config_name="paper"))


def packing(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def check_pictures(folder: Path, number: str) -> None:
    assert {path.name for path in folder.iterdir()} == {f"figure_{number}.{end}" for end in ("png", "pdf", "csv")}
    assert (folder / f"figure_{number}.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / f"figure_{number}.pdf").read_bytes().startswith(b"%PDF")


def test_a_figure_is_written_and_its_points_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        with_costs(record(f"task_{i}", 0, [50.0 + i], model="mini_t0", method=method), trained=count)
        for i in range(2) for method, count in (("ia3", 3), ("full", 1000), ("lora", 20))
    ]  # fmt: skip
    figure = make(tmp_path, runs, "figure=2", "of_model=mini_t0")
    out = capsys.readouterr().out
    assert "15 points of the paper, 3 of ours (mini_t0)" in out
    check_pictures(tmp_path / "out", "2")
    lines = packing(tmp_path / "out" / "figure_2.csv")
    assert len(lines) == len(figure.points) == 18
    assert [(line["row"], line["x"]) for line in lines if line["source"] == "ours"] == [
        ("Full Model Fine-tuning", "100"), ("LoRA", "2"), ("(IA)^3", "0.3"),
    ]  # fmt: skip
    first = (tmp_path / "out" / "figure_2.png").read_bytes()
    make(tmp_path, [], "figure=2", "of_model=mini_t0", "json=true")
    assert (tmp_path / "out" / "figure_2.png").read_bytes() == first, "the same runs give the same picture"
    assert len(json.loads(capsys.readouterr().out)["points"]) == 18


def test_what_is_drawn_is_what_the_legend_counts() -> None:
    """Figure 2 as matplotlib has it: so many markers, and lines across for what trains everything."""
    from tfew.paper.drawing import draw_points

    figure = make_figure("2", [with_costs(run, trained=1000 if run.method == "full" else 5) for run in as_runs("4")])
    axes = draw_points(figure).axes[0]
    assert [len(markers.get_offsets()) for markers in axes.collections] == [14, 14]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "the paper: 15 points", "ours, t0_3b: 15 points",
    ]  # fmt: skip
    names = [text.get_text() for text in axes.texts]
    assert names.count("Full Model Fine-tuning (all of it)") == 2
    assert len(names) == 2 + 14, "a point of ours that a line joins to the paper's needs no name of its own"
    other = make_figure("2", [with_costs(record("page", 0, [50.0], model="mini_t0"))], "mini_t0")
    axes = draw_points(other).axes[0]
    assert axes.get_legend().get_texts()[0].get_text() == "the paper, other model and data: 15 points"
    assert [text.get_text() for text in axes.texts].count("(IA)³") == 2


def test_swings_by_order_template_and_seed() -> None:
    """accuracy = 50 + 10 order + 3 template + 1 seed number: each swing is what its own factor moves."""
    runs = []
    for order in (0, 1, 2):
        for number, seed in enumerate((0, 1, 32)):
            run = in_context(seed, order, model="tiny")
            scores = {f"t{t}": {"accuracy": (50 + 10 * order + 3 * t + number) / 100} for t in range(4)}
            runs.append(RunRecord(**{**vars(run), "metrics": {"templates": scores, "chance": 0.5}}))
    trained = [record("rte", seed, [70.0, 72.0], model="tiny") for seed in (0, 1)]
    again = RunRecord(**{**vars(trained[0]), "name": "again", "config": {"adapter": "x"}, "command": "evaluate"})
    found = spreads(in_context_scores([*trained, again, *runs, record("rte", 0, [1.0], method="lora")]))
    assert [(spread.group, spread.runs, len(spread.scores)) for spread in found] == [
        ("in context, ensemble", 9, 36), ("(IA)^3", 2, 4),
    ]  # fmt: skip
    assert found[0].swings == (pytest.approx(20), pytest.approx(9), pytest.approx(2))
    assert (min(found[0].scores), max(found[0].scores)) == (pytest.approx(50), pytest.approx(81))
    assert found[0].median == pytest.approx(65.5)
    assert found[1].swings == (None, pytest.approx(2), 0)


def test_the_spread_is_drawn_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [in_context(0, order, 50 + order, model="$tiny<") for order in range(4)]
    runs += [record("rte", 0, [70.0], model="$tiny<"), record("copa", 0, [60.0], method="zero_shot", model="$tiny<")]
    make(tmp_path, runs, "figure=icl")
    check_pictures(tmp_path / "out", "icl")
    lines = packing(tmp_path / "out" / "figure_icl.csv")
    assert [(line["data set"], line["group"], line["swing by order"]) for line in lines] == [
        ("copa", "zero-shot", ""), ("rte", "in context, ensemble", "3.0"), ("rte", "(IA)^3", ""),
    ]  # fmt: skip
    out = capsys.readouterr().out
    assert "in context, ensemble     4       4    51.5" in out


def test_variants_are_named_by_what_differs_on_one_data_set() -> None:
    runs = [
        record("rte", 0, [70.0], config={"shots": 32}), record("copa", 0, [70.0], config={"shots": 20}),
        record("rte", 0, [70.0], loss="lm", config={"shots": 32}), record("rte", 0, [70.0], pretrained=True),
        record("rte", 0, [70.0], method="lora"), record("rte", 0, [70.0], method="zero_shot", loss="lm"),
        in_context(0, 1, model="t0_3b"), in_context(1, 2, model="t0_3b"),
    ]  # fmt: skip
    names = [variant_names(runs)[run.name] for run in runs]
    assert names[4:] == ["lora", "zero_shot", "icl_ensemble", "icl_ensemble"]
    assert names[2] == "ia3, loss lm, not pre-trained, shots 32"
    assert len(set(names[:4])) == 4
    ranks = [record("rte", seed, [70.0], method="lora", config={"method": {"rank": 1 + 63 * seed}}) for seed in (0, 1)]
    assert list(variant_names(ranks).values()) == ["lora, rank 1", "lora, rank 64"]
    read = [record("rte", seed, [70.0], config={"max_tokens": 64 + seed}) for seed in (0, 1)]
    assert list(variant_names(read).values()) == ["ia3, max_tokens 64", "ia3, max_tokens 65"]
    warm = [record("rte", seed, [70.0], config={"warmup_ratio": 0.5 * (seed > 1)}) for seed in (0, 1, 2)]
    assert list(variant_names(warm).values()) == [*["ia3, warmup_ratio 0.0"] * 2, "ia3, warmup_ratio 0.5"]
    adamw, adafactor = {"_target_": "torch.optim.AdamW", "eps": 0}, {"_target_": "transformers.Adafactor", "decay": 1}
    steps = [record("rte", n, [70.0], config={"optimizer": one}) for n, one in enumerate((adamw, adafactor))]
    assert list(variant_names(steps).values()) == [f"ia3, optimizer {o['_target_']}" for o in (adamw, adafactor)]
    places = {
        "seed": 1,
        "micro_batch_size": 2,
        "data_dir": "b",
        "trainer": {"strategy": "ddp"},
        "dataset": {"name": "rte"},
    }
    same = [record("rte", 0, [70.0]), record("rte", 1, [70.0], config=places)]
    assert set(variant_names(same).values()) == {"ia3"}
    both = [record("rte", 0, [70.0]), record("rte", 0, [70.0], model="t0")]
    assert list(variant_names(both, {"ia3": "(IA)^3"}).values()) == ["t0_3b: (IA)^3", "t0: (IA)^3"]
