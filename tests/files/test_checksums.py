"""Files that were cut off, changed by a bit, or written by an older version: named, and never half-used."""

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tfew.errors import UserError
from tfew.files.checksums import check_checkpoint, file_sha256, from_checked_json, to_checked_json
from tfew.models.adapters_io import adapter_description, load_temperature, load_weights, save_adapter, save_temperature
from tfew.runs.records import RunRecord, load_record, save_record
from tfew.runs.run_folder import PREDICTIONS_FILE, check_recorded

DRAWS = 60


def record(**changes: Any) -> RunRecord:
    texts = dict.fromkeys(("name", "command", "experiment", "model", "method", "loss", "dataset", "split"), "x")
    numbers: dict[str, Any] = {"counts": {}, "parameters": {}, "flops": {}, "seconds": {"train": 1e-7}}
    rest: dict[str, Any] = {"git_commit": None, "versions": {}, "config": {"déjà": [1, None]}, **changes}
    return RunRecord(
        **texts, few_shot_seed=0, seed=0, peak_memory_bytes=0, adapter_bytes=0,
        **{"metrics": {"accuracy": 0.1 + 0.2}, **numbers, **rest},
    )  # fmt: skip


def damaged(data: bytes, source: random.Random) -> bytes:
    """One bit changed, or the end missing."""
    place = source.randrange(len(data))
    if source.random() < 0.5:
        return data[:place]
    return data[:place] + bytes([data[place] ^ 1 << source.randrange(8)]) + data[place + 1 :]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter, its temperature, a record with predictions, and a checkpoint."""
    save_adapter(tmp_path, {"a": torch.arange(64.0), "b": torch.ones(3, 5)}, {"name": "ia3"}, {"model": "m"})
    save_temperature(tmp_path, {"temperature": 0.1, "ece_calibrated": 0.02}, "token")
    (tmp_path / PREDICTIONS_FILE).write_text('{"scores": [1, 2]}\n' * 9)
    save_record(tmp_path, record(files={PREDICTIONS_FILE: file_sha256(tmp_path / PREDICTIONS_FILE)}))
    torch.save({"step": 3, "state": torch.arange(1000.0)}, tmp_path / "last.ckpt")
    return tmp_path


READERS: dict[str, Callable[[Path], object]] = {
    "adapter.safetensors": lambda folder: {name: t.tolist() for name, t in load_weights(folder).items()},
    "adapter.json": lambda folder: {key: adapter_description(folder)[key] for key in ("method", "base")},
    "temperature.json": lambda folder: load_temperature(folder, "token"),
    "result.json": load_record,
    PREDICTIONS_FILE: lambda folder: check_recorded(load_record(folder), folder, PREDICTIONS_FILE),
    "last.ckpt": lambda folder: (
        check_checkpoint(folder / "last.ckpt"),
        torch.load(folder / "last.ckpt", weights_only=True)["state"].tolist(),
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_damage_is_named_or_does_not_matter(name: str, folder: Path) -> None:
    """What can be read after damage is what was written: a bit of white space, or of a zip file's dates."""
    path, source = folder / name, random.Random(0)
    whole, meant = path.read_bytes(), READERS[name](folder)
    refused = 0
    for _ in range(DRAWS):
        path.write_bytes(damaged(whole, source))
        try:
            found, sentence = READERS[name](folder), ""
        except UserError as error:
            found, sentence = meant, str(error)
        assert found == meant, f"{path} was read as something else"
        assert not sentence or (str(path) in sentence and "\n" not in sentence)
        refused += bool(sentence)
    assert refused > 0.6 * DRAWS
    path.write_bytes(whole)
    assert READERS[name](folder) == meant


@pytest.mark.parametrize("value", [0.1 + 0.2, 1e-320, float("inf"), "é\u2028", [1, {"b": 2, "a": None}], True])
def test_what_is_sealed_comes_back(value: object) -> None:
    text = to_checked_json({"z": value, "a": 1})
    assert from_checked_json(text) == {"z": value, "a": 1}
    assert list(json.loads(text)) == ["z", "a", "sha256"]
    with pytest.raises(ValueError, match="its checksum does not match"):
        from_checked_json(text.replace('"a": 1', '"a": 2'))


def test_records_of_the_first_schema_still_load_and_later_ones_say_what_they_are(tmp_path: Path) -> None:
    save_record(tmp_path, record())
    path = tmp_path / "result.json"
    fields = json.loads(path.read_text())
    old = {key: value for key, value in fields.items() if key not in ("files", "sha256")} | {"schema_version": 1}
    path.write_text(json.dumps(old))
    assert load_record(tmp_path) == record(schema_version=1)
    check_recorded(load_record(tmp_path), tmp_path, PREDICTIONS_FILE)
    path.write_text(json.dumps({**old, "schema_version": 3}))
    with pytest.raises(UserError, match=r"has schema 3, and this version reads 1 to 2: a newer version"):
        load_record(tmp_path)


def test_an_adapter_without_a_checksum_still_loads(folder: Path) -> None:
    path = folder / "adapter.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({key: fields[key] for key in ("format_version", "method", "base")}))
    assert load_weights(folder)["b"].shape == (3, 5)


def test_another_adapters_weights_are_noticed(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    save_adapter(other, {"a": torch.zeros(64), "b": torch.ones(3, 5)}, {"name": "ia3"}, {"model": "m"})
    shutil.copy(other / "adapter.safetensors", folder)
    with pytest.raises(UserError, match=re.escape(f"{folder / 'adapter.safetensors'} is damaged or has been changed")):
        load_weights(folder)
