"""Every bound of `tfew/bounds.py` at its edge: what just fits is taken, one more is not; and README says the same."""

import ast
import asyncio
import inspect
import math
import re
import socket
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import uvicorn
from omegaconf import OmegaConf

from scripts.bench import service as service_bench
from tests.scoring.test_engines import lively
from tfew import bounds
from tfew.comparison.rows import right_by_row
from tfew.config import CONFIGS, checked, compose
from tfew.data import rendering, sandbox
from tfew.data.infer_columns import label_column
from tfew.data.sandbox import RenderError, SafeTemplate
from tfew.data.stream import StreamPosition, open_stream
from tfew.data.table import Table, read_table
from tfew.devices import launcher as processes
from tfew.errors import UserError
from tfew.files import hub
from tfew.files.untrusted import parse_own_json
from tfew.ranking.label_table import doubts
from tfew.ranking.temperature import calibration, fitted_temperature
from tfew.schema import Prediction
from tfew.scoring import fast_decoder_only as causal
from tfew.scoring.score import scoring_mode
from tfew.service import server
from tfew.service.server import GracefulServer

ROOT = Path(__file__).parent.parent
NAMES = [name for name, value in vars(bounds).items() if name.isupper()]
ELSEWHERE = {  # bounds whose edge another file tests, in these functions
    "ADVISED_MEMORY": ("test_cost.py", "test_advice_by_hand"),
    "SWEEP_DEATHS": (
        "sweep/test_rounds.py",
        "test_a_process_that_dies_costs_another_round_and_one_that_keeps_dying_is_given_up",
    ),
    "FIDELITY": ("scripts/test_check_fidelity.py", "test_a_recipe_that_differs_is_noticed"),
}


def test_each_bound_has_a_test_and_a_line_of_the_readme() -> None:
    for name in NAMES:
        file, test = ELSEWHERE.get(name, (Path(__file__).name, f"test_{name.lower()}"))
        text = (Path(__file__).parent / file).read_text()
        assert test in {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)}, name
        assert name in text
    lines = re.findall(r"^\| .* \| ([\d,.e-]+)[^|]* \| .* \| `([\w.]+=?)` \|$", (ROOT / "README.md").read_text(), re.M)
    said = {name: number.replace(",", "") for number, name in lines}
    for name in NAMES:
        assert _number(said.pop(name)) == _number(getattr(bounds, name)), name
    settings = OmegaConf.merge(*(OmegaConf.load(CONFIGS / f"{file}.yaml") for file in ("train", "serve")))
    for knob, number in said.items():  # those that can be set
        assert _number(number) == settings[knob.removesuffix("=")], knob
    assert {"max_items=", "max_body_mb=", "max_waiting=", "timeout_seconds="} <= said.keys()


def _number(value: Any) -> float:
    return value.total_seconds() / 60 if isinstance(value, timedelta) else float(value)


def refused(source: str, message: str, **fields: Any) -> None:
    with pytest.raises(RenderError, match=message):
        SafeTemplate(source).render(fields)


def test_template_source_characters() -> None:
    assert len(SafeTemplate("x" * bounds.TEMPLATE_SOURCE_CHARACTERS).render({})) == 100_000
    refused("x" * (bounds.TEMPLATE_SOURCE_CHARACTERS + 1), "it has 100,001 characters, and at most 100,000 are read")


def test_template_output_characters() -> None:
    source = "{% for i in range(n) %}x{% endfor %}" * 11
    whole, rest = divmod(bounds.TEMPLATE_OUTPUT_CHARACTERS, 11)
    assert len(SafeTemplate(source + "y" * rest).render({"n": whole})) == bounds.TEMPLATE_OUTPUT_CHARACTERS
    refused(source + "y" * (rest + 1), "it prints more than 1,000,000 characters", n=whole)


def test_template_memory_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "TEMPLATE_SECONDS", 60.0)  # it is not time that is bounded here
    half, twice = bounds.TEMPLATE_MEMORY_BYTES // 2, bounds.TEMPLATE_MEMORY_BYTES
    assert SafeTemplate("{{ ('x' * n) | length }}").render({"n": half}) == str(half)
    refused("{{ ('x' * n) | length }}", "it needs more than 512 MB of memory", n=twice)


@pytest.fixture
def slow_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A process that answers what it is asked after the seconds that stand in its place."""
    program = tmp_path / "slow.py"
    program.write_text(
        "import json, sys, time\n"
        "for line in sys.stdin:\n"
        "    time.sleep(float(json.loads(line)['source'] or START))\n"
        '    print(\'{"text": "done"}\', flush=True)\n'
    )

    def make(start_seconds: float = 0.0) -> sandbox._Process:
        program.write_text(program.read_text().replace("START", str(start_seconds)))
        monkeypatch.setattr(rendering, "__file__", str(program))
        return sandbox._Process()

    return make


def test_template_seconds(slow_process: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "TEMPLATE_SECONDS", 1.0)
    process = slow_process()
    assert process.ask({"source": "0.2"}) == "done"
    with pytest.raises(RenderError, match="it takes longer than 1 seconds"):
        process.ask({"source": "60"})
    assert process.ask({"source": "0.2"}) == "done"
    process.close()


def test_template_start_seconds(slow_process: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "TEMPLATE_START_SECONDS", 1.0)
    process = slow_process(start_seconds=60)
    with pytest.raises(RenderError, match="it takes longer than 1 seconds"):
        process.ask({"source": "0"})
    process.close()


def lines(path: Path) -> int:
    stream = open_stream(str(path), None, "text")
    try:
        return len(list(stream.rows(StreamPosition())))
    finally:
        stream.close()


def test_line_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * (bounds.LINE_BYTES - 1) + b"\ny")
    assert lines(path) == 2
    path.write_bytes(b"x" * bounds.LINE_BYTES + b"\ny")
    with pytest.raises(UserError, match="line 1 is longer than 16,777,216 bytes"):
        lines(path)


@pytest.mark.parametrize("key", ["data_dir", "runs", "model.path", "init_adapter", "data"])
def test_name_bytes(key: str, tmp_path: Path) -> None:
    def tried(name: str) -> str:
        try:
            checked(compose("dataset=mini/complaint", "model=tiny", f"{key}={tmp_path}/{name}"))
        except UserError as error:
            return str(error)
        return ""

    most = "x" * bounds.NAME_BYTES
    (tmp_path / most).mkdir()
    assert "is no path" not in tried(most)
    assert "is no path: a name in it has a NUL, or more than 255 bytes" in tried(most + "x")
    assert "is no path" in tried("x/" * 100 + most + "x")


def test_cell_characters(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"text,label\n{'x' * bounds.CELL_CHARACTERS},a\n")
    assert len(read_table(path).rows[0]["text"]) == bounds.CELL_CHARACTERS
    path.write_text(f"text,label\n{'x' * (bounds.CELL_CHARACTERS + 1)},a\n")
    with pytest.raises(UserError, match="field larger than field limit"):
        read_table(path)


def test_whole_number() -> None:
    for sign in ("", "-"):
        assert parse_own_json(f"{sign}{bounds.WHOLE_NUMBER}") == int(f"{sign}{bounds.WHOLE_NUMBER}")
        with pytest.raises(ValueError, match="is too large"):
            parse_own_json(f"{sign}{bounds.WHOLE_NUMBER + 1}")


def predictions(rows: int, right: bool, first: int = 0) -> list[Prediction]:
    return [Prediction("d", "t", first + row, 0, 0 if right else 1, (1.0, 0.0), (1, 1)) for row in range(rows)]


def test_compared_templates(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(p.to_json() + "\n" for p in predictions(1, True) * bounds.COMPARED_TEMPLATES))
    assert right_by_row(path) == "z"
    path.write_text(path.read_text() + predictions(1, True)[0].to_json())
    with pytest.raises(UserError, match="has more than 35 templates"):
        right_by_row(path)


def test_label_characters() -> None:
    def guessed(length: int) -> str:
        rows = [{"text": f"row {i}", "kind": "ab"[i % 2] * length} for i in range(12)]
        return label_column(Table("t", ["text", "kind"], rows), ["text", "kind"])

    assert guessed(bounds.LABEL_CHARACTERS) == "kind"
    with pytest.raises(UserError, match="Which column of t is the label"):
        guessed(bounds.LABEL_CHARACTERS + 1)


def test_few_rows() -> None:
    def said(rows: int) -> str:
        score = {"rows": rows, "predicted": 1, "precision": 1.0, "recall": 1.0, "f1": 1.0}
        metrics = {"accuracy": 0.9, "accuracy_interval": [0.8, 1.0], "chance": 0.5, "classes": {"rare": score}}
        return " ".join(doubts(metrics, 100))

    assert "rare" not in said(bounds.FEW_ROWS)
    assert "Too few rows (below 5) for the numbers of: rare (4)" in said(bounds.FEW_ROWS - 1)


def test_calibration_rows() -> None:
    assert calibration(predictions(bounds.CALIBRATION_ROWS, True))["ece_calibrated"] is not None
    few = calibration(predictions(bounds.CALIBRATION_ROWS - 1, True))
    assert (few["temperature"], few["ece_calibrated"]) == (1.0, None)


def fitted(scale: float, right: float) -> float:
    """Of a thousand rows whose two choices score 0 and `scale`, a share of them right: T is scale / log odds."""
    scores_RMC = np.tile(np.array([[0.0, scale]]), (1000, 1, 1))
    return fitted_temperature(scores_RMC, np.array([1] * int(1000 * right) + [0] * int(1000 - 1000 * right)))


def test_lowest_temperature() -> None:
    odds = math.log(0.9 / 0.1)
    assert fitted(odds * bounds.LOWEST_TEMPERATURE * 2, 0.9) == pytest.approx(2 * bounds.LOWEST_TEMPERATURE, rel=0.02)
    assert fitted(odds * bounds.LOWEST_TEMPERATURE / 2, 0.9) == pytest.approx(bounds.LOWEST_TEMPERATURE, rel=0.01)


def test_highest_temperature() -> None:
    odds = math.log(0.9 / 0.1)
    assert fitted(odds * bounds.HIGHEST_TEMPERATURE / 2, 0.9) == pytest.approx(bounds.HIGHEST_TEMPERATURE / 2, rel=0.02)
    assert fitted(odds * bounds.HIGHEST_TEMPERATURE * 2, 0.9) == pytest.approx(bounds.HIGHEST_TEMPERATURE, rel=0.01)


def agrees(share: float, dtype: torch.dtype) -> bool:
    """Whether a way is taken whose largest difference from the plain one is this share of a wrong mask's."""
    model = lively("llama").to(dtype)
    made = torch.zeros(3)

    def way(model: Any, batch: Any, sees: Any) -> torch.Tensor:
        del model, batch
        return made + (share if sees is causal._attention_mask else 1.0)

    with scoring_mode(model):
        return causal._agrees_with_plain(model, lambda model, batch: made, way)


@pytest.mark.parametrize(
    ("edge", "dtype"),
    [(bounds.ENGINE_AGREEMENT, torch.float32), (bounds.ENGINE_AGREEMENT_16_BIT, torch.bfloat16)],
)
def test_engine_agreement(edge: float, dtype: torch.dtype) -> None:
    assert agrees(0.99 * edge, dtype)
    assert not agrees(1.01 * edge, dtype)


def test_engine_agreement_16_bit() -> None:
    assert bounds.ENGINE_AGREEMENT < bounds.ENGINE_AGREEMENT_16_BIT
    assert not agrees(bounds.ENGINE_AGREEMENT_16_BIT, torch.float32)


@pytest.mark.parametrize(("more", "answers"), [(-0.1, True), (0.1, False)])
def test_hub_seconds(more: float, answers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hub that takes so long to answer is there, or is not."""

    def connect(address: Any, timeout: float) -> Any:
        if bounds.HUB_SECONDS + more > timeout:
            raise TimeoutError("timed out")
        return SimpleNamespace(close=lambda: None)

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(hub, "_go_offline", lambda: None)
    assert inspect.unwrap(hub.reachable)() is answers


def test_process_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch is told, whose business the waiting is."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **options: told.update(options))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    place = processes.LaunchEnv(0, 2, 0, 2, "127.0.0.1", 1, "a test")
    with monkeypatch.context() as patch:
        for name in place.environment():
            patch.setenv(name, "")
        processes._connect(OmegaConf.create({"trainer": {"accelerator": "cpu"}}), place, object())
    assert told["timeout"] == bounds.PROCESS_WAIT == timedelta(minutes=30)


def test_last_words_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = SimpleNamespace(ended=True, closing=True)
    graceful = GracefulServer(uvicorn.Config(lambda: None), queue)  # type: ignore[arg-type]
    now = 100.0
    monkeypatch.setattr("tfew.service.server.time.monotonic", lambda: now)

    async def ends(later: float) -> bool:
        nonlocal now
        now = 100.0 + later
        return await graceful.on_tick(1)

    assert not asyncio.run(ends(0))
    assert not asyncio.run(ends(bounds.LAST_WORDS_SECONDS))
    assert asyncio.run(ends(bounds.LAST_WORDS_SECONDS + 0.01))


def test_cut_off_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What uvicorn is told, whose business the cutting off is."""
    told: dict[str, Any] = {}

    class Told(GracefulServer):
        def __init__(self, config: Any, queue: Any) -> None:
            told["seconds"] = config.timeout_graceful_shutdown

        async def serve(self, sockets: Any = None) -> None:
            return None

    monkeypatch.setattr(server, "GracefulServer", Told)
    server.serve(SimpleNamespace(), SimpleNamespace(join=lambda: None), "127.0.0.1", 0)  # type: ignore[arg-type]
    assert told == {"seconds": bounds.CUT_OFF_SECONDS}


def test_service(monkeypatch: pytest.MonkeyPatch) -> None:
    def passes(difference: float) -> bool:
        load = service_bench.Load()
        load.statuses[200], load.largest_difference = 1, difference
        return load.as_predicted

    assert passes(0.99 * bounds.SERVICE)
    assert not passes(bounds.SERVICE)
