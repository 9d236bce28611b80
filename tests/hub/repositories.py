"""Contents for the stand-in: tiny models in the forms of real repositories, and tables."""

import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tests.made_tokenizers import make_tokenizer
from tests.models import ARCH
from tfew.models.backbone import random_model

# where two configurations are, as the README of a data set says it
CARD = """---
configs:
- config_name: small
  data_files:
  - {split: train, path: small/train.parquet}
  - {split: test, path: small/test.parquet}
- config_name: large
  data_files:
  - {split: train, path: large/train.parquet}
---
"""


@cache
def tokenizer_files() -> dict[str, bytes]:
    return _saved(make_tokenizer("t5"))


@cache
def t5(form: str = "safetensors", seed: int = 0) -> dict[str, bytes]:
    """A T5 with a head of its own, like T0; `form`: safetensors, sharded, bin or sharded_bin."""
    arch = {**ARCH, "init_seed": seed, "vocab_size": 256, "feed_forward_proj": "gated-gelu"}
    model = random_model(arch, 256)
    sharded = {"max_shard_size": "40KB"} if form.startswith("sharded") else {}
    files = {**tokenizer_files(), **_saved(model, **sharded)}
    return _as_pickles(files, model) if form.endswith("bin") else files


def _as_pickles(files: Mapping[str, bytes], model: Any) -> dict[str, bytes]:
    """As before safetensors: the same weights by torch.save, in as many files."""
    others = {name: data for name, data in files.items() if "safetensors" not in name}
    index = files.get("model.safetensors.index.json")
    if index is None:
        return {**others, "pytorch_model.bin": _pickled(model.state_dict())}
    state, place = model.state_dict(), {}
    parts: dict[str, dict[str, Any]] = {}
    for name, part in json.loads(index)["weight_map"].items():
        place[name] = part.replace("model-", "pytorch_model-").replace("safetensors", "bin")
        parts.setdefault(place[name], {})[name] = state[name]
    listed = json.dumps({"metadata": {}, "weight_map": place}).encode()
    return {**others, "pytorch_model.bin.index.json": listed, **{name: _pickled(part) for name, part in parts.items()}}


def _pickled(state: Mapping[str, torch.Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save(dict(state), file)
    return file.getvalue()


def _saved(saveable: Any, **options: Any) -> dict[str, bytes]:
    with TemporaryDirectory() as folder:
        saveable.save_pretrained(folder, **options)
        return read_folder(Path(folder))


def read_folder(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(number: int = 16, first: int = 0) -> list[dict[str, Any]]:
    return [
        {"text": f"It was {'good' if i % 2 else 'bad'}, no {i}.", "label": i % 2} for i in range(first, first + number)
    ]


def parquet(table: Sequence[Mapping[str, Any]], names: Sequence[str] | None = ("neg", "pos")) -> bytes:
    """`names`: of the labels, which are then a ClassLabel."""
    import datasets

    made = datasets.Dataset.from_list(list(table))
    if names is not None:
        made = made.cast_column("label", datasets.ClassLabel(names=list(names)))
    file = io.BytesIO()
    made.to_parquet(file)
    return file.getvalue()


def two_configurations() -> dict[str, bytes]:
    small = {"small/train.parquet": parquet(rows()), "small/test.parquet": parquet(rows(8, 100))}
    return {"README.md": CARD.encode(), **small, "large/train.parquet": parquet(rows(24))}
