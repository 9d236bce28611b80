"""An untrusted adapter: reading it ends, and takes no more memory than the weights in its file."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tfew.config import compose
from tfew.errors import UserError
from tfew.prediction.predictor import Predictor
from tfew.train import train

METHODS = ("ia3", "lora")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    small = ("+experiment=demo", "dataset=mini/complaint", "model=tiny", "trainer=cpu", "steps=1", "shots=8")
    more = ("dataset.generator.eval=2", f"runs={root}")
    return {
        method: root / train(compose(*small, *([] if method == "ia3" else [f"method={method}"]), *more)).name
        for method in METHODS
    }


Sent = Callable[[str], Path]


@pytest.fixture
def sent(runs: dict[str, Path], tmp_path: Path) -> Sent:
    def make(method: str) -> Path:
        shutil.copytree(runs[method], tmp_path / method)
        return tmp_path / method

    return make


def described(folder: Path, **changed: Any) -> None:
    description = json.loads((folder / "adapter.json").read_text())
    description["method"].update(changed)
    del description["sha256"]
    (folder / "adapter.json").write_text(json.dumps(description))


@pytest.mark.parametrize(
    "name", ["adapter.json", "adapter.safetensors", "temperature.json", "config.yaml", "result.json"]
)
@pytest.mark.parametrize("kind", ["fifo", "zero"])
def test_a_file_that_never_ends_is_refused(sent: Sent, name: str, kind: str) -> None:
    folder = sent("ia3")
    (folder / name).unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to("/dev/zero")
    with pytest.raises(UserError, match="no regular file"):
        Predictor.load({"a": folder} if kind == "fifo" else folder, "trainer=cpu")


def test_a_rank_beyond_the_file_is_given_no_memory(sent: Sent) -> None:
    folder = sent("lora")
    assert Predictor.load(folder, "trainer=cpu")({"text": "the lemon is bad"})
    described(folder, rank=10**12)
    with pytest.raises(UserError, match="does not fit this model and method"):
        Predictor.load(folder, "trainer=cpu")


def test_a_tensor_larger_than_the_model_takes_is_not_read(sent: Sent) -> None:
    """A sparse file: 1 TB that takes no place on the disk."""
    folder = sent("ia3")
    weights = load_file(folder / "adapter.safetensors")
    name, size = next(iter(weights)), 2**40
    header = json.dumps({name: {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    (folder / "adapter.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(folder / "adapter.safetensors", 8 + len(header) + size)
    for adapters in ({"a": folder}, folder):
        with pytest.raises(UserError, match="does not fit this model and method"):
            Predictor.load(adapters, "trainer=cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused(sent: Sent, value: float) -> None:
    folder = sent("ia3")
    weights = load_file(folder / "adapter.safetensors")
    torch.flatten(next(iter(weights.values())))[-1] = value
    save_file(weights, folder / "adapter.safetensors")
    description = json.loads((folder / "adapter.json").read_text())
    del description["sha256"], description["weights_sha256"]
    (folder / "adapter.json").write_text(json.dumps(description))
    for adapters in ({"a": folder}, folder):
        with pytest.raises(UserError, match="NaN or infinite"):
            Predictor.load(adapters, "trainer=cpu")
