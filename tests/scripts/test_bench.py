"""The benchmark's arithmetic, texts and report; times are not tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scripts.bench import compiled, report, service, size, step_profile
from scripts.bench.case import cases
from scripts.bench.contenders import CONTENDERS, batches, prepared, score
from scripts.bench.gpu_wheels import PACKAGE, PRESENT, needed
from scripts.bench.limit import SHAPES, useful_flops
from scripts.bench.measured import Measured
from scripts.bench.workload import Workload, encode, make_encoder, make_model, make_prompts
from tests.commands import run_command
from tfew.data.tokenization import collate
from tfew.scoring.context import Context
from tfew.scoring.prefixes import prefixes
from tfew.scoring.score import scoring_mode, token_logprob

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("shape", "part"), [("tiny", 0.02), ("smollm2_tiny", 0.08)])
@pytest.mark.parametrize("choices", [2, 20])
def test_useful_operations_are_those_that_torch_counts(choices: int, shape: str, part: float) -> None:
    """Of one example there is no padding; what the formula leaves out is a T5 decoder's attention to itself, and a
    decoder's attention to what comes later, which torch counts."""
    prompt_tokenizer = make_encoder()
    batch = collate(
        encode(make_prompts(Workload(choices, 40, True, 1), prompt_tokenizer), prompt_tokenizer),
        prompt_tokenizer.pad_id,
    )
    model = make_model(shape)
    token_logprob(model, batch)  # what is tried out once a model
    # torch does not count the kernel that attention has on a CPU
    with scoring_mode(model), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        token_logprob(model, batch)
    lengths = batch.input_mask.sum(-1).tolist()
    formula = useful_flops(shape, lengths, len(prefixes(batch).depth_M))
    assert counter.get_total_flops() == pytest.approx(formula, rel=part)


def test_a_context_is_useful_once() -> None:
    """The first call computes context and queries, the second its queries alone."""
    prompt_tokenizer = make_encoder("smollm2_tiny")
    items = encode(make_prompts(Workload(2, 40, True, 4, shots=4), prompt_tokenizer), prompt_tokenizer)
    model, context, counted, prefix_count = make_model("smollm2_tiny"), Context(), 0, 0
    for number, batch in enumerate([collate(items[:2], 0), collate(items[:2], 0), collate(items[2:], 0)]):
        with scoring_mode(model), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            token_logprob(model, batch, context=context if number else None)  # what is tried out once a model
        counted += counter.get_total_flops() if number else 0
        prefix_count += len(prefixes(batch).depth_M) if number else 0
    lengths, shared = [item.length for item in items], len(items[0].context_ids)
    assert shared > 150
    assert counted == pytest.approx(useful_flops("smollm2_tiny", lengths, prefix_count, shared), rel=0.1)
    assert useful_flops("smollm2_tiny", lengths, prefix_count) > 1.5 * counted


def test_texts_have_the_lengths_they_should() -> None:
    prompt_tokenizer = make_encoder()
    for choices, longest in {2: 2, 4: 32, 20: 4, 77: 7}.items():
        items = encode(make_prompts(Workload(choices, 64, False, 40), prompt_tokenizer), prompt_tokenizer)
        lengths = [len(item.input_ids) for item in items]
        assert 16 <= min(lengths) < 40 < 90 < max(lengths) <= 112
        assert all(len(item.choice_ids) == choices for item in items)
        assert max(len(ids) for item in items for ids in item.choice_ids) <= longest
        assert len({tuple(ids) for ids in items[0].choice_ids}) == choices
    even = encode(make_prompts(Workload(2, 64, True, 5), prompt_tokenizer), prompt_tokenizer)
    assert {len(item.input_ids) for item in even} == {64}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21.2
@pytest.mark.parametrize(("shape", "shots"), [("tiny", 0), ("smollm2_tiny", 0), ("smollm2_tiny", 5)])
def test_contenders_compute_the_same_scores(shape: str, shots: int) -> None:
    prompt_tokenizer = make_encoder(shape)
    items = encode(make_prompts(Workload(4, 32, False, 6, shots), prompt_tokenizer), prompt_tokenizer)
    scores = {}
    for name in CONTENDERS:
        model = prepared(name, shape)
        order = [
            batch.input_ids[b, batch.input_mask[b]].tolist() for batch in batches(name, items, 0) for b in range(6)
        ]
        by_text = {tuple(text): row for text, row in zip(order, score(name, model, items, 0), strict=True)}
        scores[name] = torch.tensor([by_text[(*item.context_ids, *item.input_ids)] for item in items])
    torch.testing.assert_close(scores["ours"], scores["official"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores["peft"], scores["official"], atol=1e-5, rtol=1e-5)
    assert scores["ours"].std() > 0.01


def filled(folder: Path, part: str = "all") -> Measured:
    measured = Measured.open("some", folder)
    for case, rivals in cases(part):
        case.seconds = {name: [3.0, 4.0, 4.0] for name in rivals} | {"ours": [1.0, 2.0, 1.0]}
        case.share = [0.5, 0.6, 0.9]
        measured.add(case)
    for name, taken in (("official", 4_000_000), ("ours", 1_000_000)):
        measured.add_memory(name, 20, taken)
    measured.add_starts({"imports": [5.0, 6.0, 7.0], "first step": [7.5, 7.0, 8.0]})
    return measured


def test_the_report(tmp_path: Path) -> None:
    path, figure = tmp_path / "RESULTS.md", tmp_path / "results.png"
    report.write_report(filled(tmp_path), 3, path, figure)
    text = path.read_text()
    assert "| 20 | 4 | 1 | 0.25 |" in text
    assert "**3.00x** (2.00 to 4.00)" in text
    assert "60% |" in text
    assert "1.5 s more" in text
    assert "| smollm2_135m | 77 choices, 80 tokens on average |" in text
    assert "](results.png)" in text
    assert figure.stat().st_size > 10_000


def test_a_report_of_what_is_there_so_far(tmp_path: Path) -> None:
    measured = Measured.open("some", tmp_path)
    (case, _) = cases("quick")[0]
    case.seconds, case.share = {"official": [2.0], "ours": [1.0]}, [0.5]
    measured.add(case)
    report.write_report(measured, 2, tmp_path / "some.md")
    assert "**2.00x**" in (tmp_path / "some.md").read_text()


def test_a_stopped_benchmark_goes_on_and_a_finished_one_begins_anew(tmp_path: Path) -> None:
    measured = filled(tmp_path, "quick")
    again = Measured.open("some", tmp_path)
    assert all(again.has(case) for case, _ in cases("quick"))
    assert not again.has(cases()[-1][0])
    assert (again.memory, again.starts) == (measured.memory, measured.starts)
    assert [vars(case) for case in again.cases] == [vars(case) for case in measured.cases]
    again.finish()
    assert Measured.open("some", tmp_path).cases == []


def test_other_code_or_versions_are_measured_anew(tmp_path: Path) -> None:
    measured = filled(tmp_path, "quick")
    first, *others = measured.path.read_text().splitlines(keepends=True)
    measured.path.write_text("".join([first.replace('"torch": "', '"torch": "9.'), *others]))
    assert Measured.open("some", tmp_path).cases == []


@pytest.mark.ci
@pytest.mark.parametrize("scoring", [False, True])
def test_where_a_steps_time_goes(scoring: bool) -> None:
    lines = step_profile.table("tiny", Workload(2, 16, False, 8), ["official", "ours"], scoring).splitlines()
    assert lines[0].startswith("| scoring, tiny, 2 choices" if scoring else "| training step, tiny, 2 choices")
    numbers = {
        cells[1].strip(): [float(cell) for cell in cells[2:4]] for cells in (line.split("|") for line in lines[2:])
    }
    assert numbers["matrix products"][0] > 0
    assert scoring != (numbers.get("random numbers of dropout", [0, 0])[1] > 0)
    for place in (0, 1):
        parts = [values[place] for name, values in numbers.items() if name not in ("a step", step_profile.SHARE)]
        assert sum(parts) > 0.5 * numbers["a step"][place]


def test_how_far_the_service_may_differ() -> None:
    def passes(difference: float) -> bool:
        load = service.Load()
        load.statuses[200], load.largest_difference = 1, difference
        return load.as_predicted

    assert passes(0.99 * service.TOLERANCE)
    assert not passes(service.TOLERANCE)


@pytest.mark.drill
@pytest.mark.slow
def test_the_gpu_script_runs_on_a_cpu_and_ends_with_its_table() -> None:
    options = ("--shapes", "tiny", "--rounds", "2", "--choices", "2,20")
    table = run_command("scripts.bench.gpu", *options, check=True).stdout.rpartition("\n\n")[2].splitlines()
    assert len(table) == 1 + 2 * 2 * 2
    assert all(line.split()[0] == "tiny" for line in table[1:])
    refused = run_command("scripts.bench.gpu", "--shapes", "t0_99b")
    assert refused.returncode != 0
    assert all(shape in refused.stderr for shape in SHAPES)


@pytest.mark.slow
def test_the_gpu_script_needs_neither_hydra_nor_datasets() -> None:
    code = (
        "import runpy, sys, json; sys.argv = ['gpu.py', '--shapes', 'tiny', '--rounds', '1', '--choices', '2']\n"
        "runpy.run_path('scripts/bench/gpu.py', run_name='__main__')\n"
        "print(json.dumps([m for m in ('hydra', 'omegaconf', 'datasets', 'pytorch_lightning') if m in sys.modules]))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout.splitlines()[-1]) == []


def test_wheels_for_a_gpu_machine_are_what_it_lacks() -> None:
    found = needed((PACKAGE, "pytest", "peft"), "3.12")
    assert {"hydra-core", "omegaconf", "antlr4-python3-runtime", "datasets", "transformers", "peft", "pytest"} <= found
    assert not {name for name in found if name in PRESENT or name.startswith("nvidia")}
    assert not found & {"colorama", "pywin32", "exceptiongroup", "tomli"}  # of other systems and older Pythons


@pytest.mark.parametrize("folder", ["scripts", "scripts/bench", "scripts/drills", "scripts/english"])
def test_no_script_has_the_name_of_a_module_of_pythons(folder: str) -> None:
    """A script that is run by its path puts its folder first, and torch imports cProfile, which imports profile."""
    assert not {path.stem for path in (ROOT / folder).glob("*.py")} & sys.stdlib_module_names - {"__init__", "__main__"}


def test_cost_against_size_is_measured_once_and_has_its_exponent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = tmp_path / "calls"  # a file: each point is measured in a process of its own

    def cost(size: int) -> tuple[float, int]:
        with calls.open("a") as file:
            file.write(f"{size}\n")
        return size**1.5, 1_000_000 * size

    monkeypatch.setattr(size, "SCALES", {"things": ((10, 100, 1000), cost)})
    given = [f"records={tmp_path / 'size.jsonl'}", "most=100"]
    assert size.main(given) == 0
    assert size.main(given) == 0
    assert calls.read_text().split() == ["10", "100"]
    assert "| things | 10, 100 | 31.6, 1e+03 | 1.50 | 10, 100 |" in capsys.readouterr().out
    assert size.main(given[:1]) == 0
    assert calls.read_text().split() == ["10", "100", "1000"]
    assert "1.50" in (tmp_path / "SIZE.md").read_text()


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch 2.13's own
@pytest.mark.parametrize(("shape", "parts"), [("tiny", 2 * 2 + 2 * 3 + 2 + 4), ("smollm2_tiny", 2 * 3 + 1)])
def test_norms_and_feed_forwards_are_compiled(shape: str, parts: int) -> None:
    """Of T5 a norm before each part of a layer and one at the end of each stack; of Llama two a layer and one."""
    model = compiled.with_compiled_parts(prepared("ours", shape))
    assert sum(module._compiled_call_impl is not None for module in model.modules()) == parts
