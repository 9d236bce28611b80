"""The measurements as RESULTS.md and results.png."""

import datetime
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import transformers

from scripts.bench.case import SMOLLM2, Case
from scripts.bench.measured import Measured
from tfew.devices.hardware import cpu_name
from tfew.files.atomic import write_atomically

RESULTS, FIGURE = (Path(__file__).with_name(name) for name in ("RESULTS.md", "results.png"))
LENGTHS = {"small": 128, SMOLLM2: 80}  # of the inputs in the panels by number of choices
SHOWN = {"small": "T5-small", SMOLLM2: "SmolLM2-135M"}
SECTIONS = {
    "scoring": "Scoring: seconds, and how many times faster ours is (lowest to highest of the rounds)",
    "training step": "A training step of 8 examples, all three losses",
    "experiment": "A whole experiment: ten training steps, then scoring",
}


def write_report(measured: Measured, rounds: int, path: Path, figure: Path | None = None) -> None:
    """`path`: of the report; with `figure` it has the picture, which needs all cases."""
    cases, starts = measured.cases, measured.starts
    parts = [
        "# Benchmark\n",
        f"`make bench`, {datetime.date.today()}, {measured.seconds / 60:.0f} minutes, {rounds} rounds in which all took"
        " turns."
        f" {cpu_name()}, {torch.get_num_threads()} threads;"
        f" torch {torch.__version__}, transformers {transformers.__version__}, float32.\n",
        "official: the recipe of the authors' code (encoder once, its output repeated for each choice; padded; in the"
        " order of the data) under SDPA. peft: HF peft's (IA)³ and a loop over choices. lm-eval: lm-evaluation-harness"
        " 0.4.13 in its own environment, for its time. ours: `engine=fast`. Scoring begins with tokenising, for all."
        " small, base: T5 v1.1; smollm2_135m: that shape, for which official is plain batching. Weights are random.\n",
        "Lengths are uneven (a quarter to seven quarters of the mean) where it does not say each. Share: useful"
        " operations (no padding, nothing twice) over the rate of a large matrix product in the same round.\n",
    ]
    for what, title in SECTIONS.items():
        if chosen := [case for case in cases if case.what == what]:
            parts += [f"## {title}\n", _table(chosen)]
    if measured.memory:
        parts += ["## Peak memory of a training step above the loaded model, small shape, 128 tokens\n"]
        parts += [_memory(measured.memory)]
    if starts:
        first, imports = (statistics.median(starts[key]) for key in ("first step", "imports"))
        parts += [
            "## Start\n",
            f"`tfew.train` on the embedded default: {first:.1f} s from the command to the end of its first step; the"
            f" bare imports of torch, transformers and Lightning {imports:.1f} s; {first - imports:.1f} s more.\n",
        ]
    if figure is not None:
        parts += [f"![ours against the others]({figure.name})\n"]
        _draw(cases, figure)
    write_atomically(path, "\n".join(parts))


def _table(cases: Sequence[Case]) -> str:
    rivals = list(dict.fromkeys(name for case in cases for name in case.seconds if name != "ours"))
    lines = [
        f"| shape | workload | ours, s | {' | '.join(f'{name}, s | ours is faster' for name in rivals)} | share |",
        f"|---|---|---:|{'---:|---:|' * len(rivals)}---:|",
    ]
    for case in cases:
        cells = []
        for name in rivals:
            if name not in case.seconds:
                cells += ["", ""]
                continue
            low, middle, high = case.ratio(name)
            cells += [f"{case.median(name):.3f}", f"**{middle:.2f}x** ({low:.2f} to {high:.2f})"]
        share = statistics.median(case.share)
        lines.append(
            f"| {case.shape} | {case.workload} | {case.median('ours'):.3f} | {' | '.join(cells)} | {share:.0%} |"
        )
    return "\n".join(lines) + "\n"


def _memory(memory: Mapping[tuple[str, int], int]) -> str:
    names = list(dict.fromkeys(name for name, _ in memory))
    lines = [f"| choices | {' | '.join(f'{name}, MB' for name in names)} | ours / official |",
             f"|---:|{'---:|' * len(names)}---:|"]  # fmt: skip
    for choices in dict.fromkeys(choices for _, choices in memory):
        cells = " | ".join(f"{memory[name, choices] / 1e6:.0f}" if (name, choices) in memory else "" for name in names)
        lines.append(f"| {choices} | {cells} | {memory['ours', choices] / memory['official', choices]:.2f} |")
    return "\n".join(lines) + "\n"


def _draw(cases: Sequence[Case], path: Path) -> None:
    """How many times faster ours is: against the number of choices, for both kinds of model; and against the length."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.2), layout="constrained")
    panels = figure.subplots(1, 4)
    by_shape = {shape: [case for case in cases if case.shape == shape and not case.workload.even] for shape in LENGTHS}
    drawn = [("scoring", "small"), ("scoring", SMOLLM2), ("training step", "small")]
    for panel, (what, shape) in zip(panels[:3], drawn, strict=True):
        length = LENGTHS[shape]
        chosen = [case for case in by_shape[shape] if case.what == what and case.workload.length == length]
        for name in dict.fromkeys(name for case in chosen for name in case.seconds if name != "ours"):
            points = [(case.workload.choices, case.ratio(name)) for case in chosen if name in case.seconds]
            x, ratios = zip(*points, strict=True)
            middle = [ratio[1] for ratio in ratios]
            spread = [[r[1] - r[0] for r in ratios], [r[2] - r[1] for r in ratios]]
            panel.errorbar(x, middle, yerr=spread, marker="o", capsize=3, label=name)
        panel.set(
            xscale="log", yscale="log", xlabel="answer choices", ylabel="times faster",
            title=f"{what}, {SHOWN[shape]}, {length} tokens",
        )  # fmt: skip
        panel.set_xticks([2, 4, 20, 77], ["2", "4", "20", "77"], minor=False)
        panel.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
        panel.set_ylim(0.9, 60)
        panel.minorticks_off()
        panel.axhline(1, color="grey", linewidth=0.8)
        panel.legend(frameon=False)
    scored = [case for case in by_shape["small"] if case.what == "scoring"]
    for choices in dict.fromkeys(case.workload.choices for case in scored):
        chosen = [case for case in scored if case.workload.choices == choices]
        if len(chosen) > 1:
            lengths = [case.workload.length for case in chosen]
            middle = [case.ratio("official")[1] for case in chosen]
            panels[3].plot(lengths, middle, marker="o", label=f"{choices} choices")
    panels[3].set(xlabel="input tokens on average", ylabel="times faster than official", title="scoring, T5-small")
    panels[3].axhline(1, color="grey", linewidth=0.8)
    panels[3].legend(frameon=False)
    figure.savefig(path, dpi=110)
