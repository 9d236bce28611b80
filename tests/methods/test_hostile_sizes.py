"""A saved adapter with settings or tensors of wrong sizes: every method rejects it before allocating memory."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.methods.test_base import METHODS, configured, ready
from tests.models import tiny_t5
from tfew.config import resolved
from tfew.errors import UserError
from tfew.models.adapters_io import save_adapter
from tfew.models.build import attach_saved
from tfew.models.method_builder import make_method

MOST_BYTES = 10**7  # the model has 100,000 numbers
HUGE = (3 * 10**8, 10**13, 10**30)


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that any operation gives."""

    bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(given):
            if isinstance(tensor, Tensor) and not tensor.is_meta:
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return given


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("adapters")

    def folder(name: str) -> Path:
        if not (root / name).exists():
            model = tiny_t5()
            weights = ready(name, model).stored(model)
            save_adapter(root / name, weights, resolved(configured(name).method), {"name": "t", "path": None})
        return root / name

    return folder


def copied(source: Path, target: Path, **changed: Any) -> Path:
    """With other settings of the method."""
    target.mkdir()
    description = json.loads((source / "adapter.json").read_text())
    del description["sha256"], description["weights_sha256"]
    description["method"].update(changed)
    (target / "adapter.json").write_text(json.dumps(description))
    (target / "adapter.safetensors").write_bytes((source / "adapter.safetensors").read_bytes())
    return target


def attached(folder: Path) -> int:
    """The bytes of the largest tensor on the way."""
    description = json.loads((folder / "adapter.json").read_text())["method"]
    model = tiny_t5()
    with Largest() as largest:
        attach_saved(folder, make_method(description), model)
    return largest.bytes


def sizes(name: str) -> list[str]:
    """The method's arguments that are whole numbers."""
    description = resolved(configured(name).method)
    return [key for key, value in description.items() if type(value) is int and key not in ("steps", "scale_parameter")]


@pytest.mark.parametrize("name", METHODS)
def test_sizes_of_the_settings_are_compared_before_memory_is_given(saved: Any, name: str, tmp_path: Path) -> None:
    assert attached(saved(name)) < MOST_BYTES
    for key in sizes(name):
        for value in HUGE:
            folder = copied(saved(name), tmp_path / f"{key}{value}", **{key: value})
            with Largest() as largest:
                try:
                    attached(folder)
                except UserError:
                    pass
                else:  # of no consequence to what is saved
                    assert key in ("hidden", "fit_steps", "first_row", "last_row", "seed")
            assert largest.bytes < MOST_BYTES, f"{key}={value}"


def test_the_sizes_are_found() -> None:
    assert sizes("lora") == ["rank"]
    assert sizes("said_20k") == ["dimensions", "seed"]
    assert {"length", "hidden"} <= set(sizes("prefix"))
    assert {"n", "rank", "reduction"} <= set(sizes("compacter"))
    assert "length" in sizes("prompt_10")


@pytest.mark.parametrize("name", METHODS)
def test_a_tensor_larger_than_the_methods_is_not_read(saved: Any, name: str, tmp_path: Path) -> None:
    folder = copied(saved(name), tmp_path / "sent")
    weights = load_file(folder / "adapter.safetensors")
    first = next(iter(weights))
    save_file({**weights, first: torch.zeros(MOST_BYTES, dtype=torch.float64)}, folder / "adapter.safetensors")
    with Largest() as largest, pytest.raises(UserError, match=r"does not fit|entries"):
        attached(folder)
    assert largest.bytes < MOST_BYTES
