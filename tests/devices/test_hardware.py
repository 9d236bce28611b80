"""The hardware of a run stands in its record, and on the model card."""

import shutil
import subprocess
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from tfew.devices import hardware as module
from tfew.devices.hardware import cpu_name, hardware
from tfew.runs.card import model_card
from tfew.runs.records import load_record


def test_a_record_names_device_processes_and_threads(train_tiny: Any) -> None:
    record = load_record(train_tiny("dataset.generator.eval=4", "steps=1").folder)
    assert record.hardware == {"device": cpu_name(), "world_size": "1", "threads": str(torch.get_num_threads())}
    card = partial(model_card, in_peft=False, merges=True)
    many = replace(record, hardware={"device": "Some CPU", "world_size": "2", "threads": "8"})
    assert " s on Some CPU, 2 processes, 8 threads |" in card(many)
    assert " s on Some CPU |" in card(replace(record, hardware={"device": "Some CPU", "world_size": "1"}))
    assert " s |" in card(replace(record, hardware={})), "a record of an older version"


def test_the_processor_is_the_one_that_lscpu_names() -> None:
    if shutil.which("lscpu") is None:
        pytest.skip("lscpu is not installed")
    lines = subprocess.run(["lscpu"], check=True, capture_output=True, text=True).stdout.splitlines()
    named = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    assert cpu_name() == named.get("Model name", cpu_name())


def test_a_gpu_is_named_by_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    monkeypatch.setattr(module, "world_size", lambda: 4)
    assert hardware(torch.device("cuda:1")) == {"device": "GPU 1", "world_size": "4"}
