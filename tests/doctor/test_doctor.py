"""`tfew doctor`: its report on this machine against the system's values; and that it reveals no secrets."""

import os
from pathlib import Path

import pytest

from tests.test_named_models import PARAMETERS
from tfew.doctor.__main__ import doctor
from tfew.doctor.named_models import BESIDE_WEIGHTS_BYTES, NamedModel, named_models, training_verdict
from tfew.environment import cores


def test_the_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_token")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:password@proxy:1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    report = "\n".join(doctor(ask_hub=True, count_models=False))
    for line in ("offline mode is on (HF_HUB_OFFLINE)", "Hub token          set", "set by HTTPS_PROXY", ": empty"):
        assert line in report
    assert "secret" not in report
    assert "password" not in report


def test_models_have_the_published_numbers_of_parameters() -> None:
    found = named_models()
    assert {model.name: model.parameters for model in found}.items() >= PARAMETERS.items()
    assert [model.parameters for model in found] == sorted(model.parameters for model in found)


def test_what_fits() -> None:
    model = NamedModel("m", 10**9)
    assert training_verdict(model, 4e9 + BESIDE_WEIGHTS_BYTES, 4, 30) == "30 s"
    assert training_verdict(model, 4e9 + BESIDE_WEIGHTS_BYTES - 1, 4, 30) == "30 s, with model.dtype=bfloat16"
    assert training_verdict(model, 2e9 + BESIDE_WEIGHTS_BYTES - 1, 4, 30) == "no: it needs 3.0 GB free"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")
def test_cores_of_the_affinity_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "CPU_QUOTAS", (Path("none"), Path("none")))
    before = os.sched_getaffinity(0)
    assert cores.usable_cores() == len(before)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("new", "quota", "period", "expected"),
    [
        ("max 100000", None, None, None),
        ("50000 100000", None, None, 0.5),
        (None, "-1", "100000", None),
        (None, "150000", "100000", 1.5),
        (None, None, None, None),
    ],
)
def test_cores_of_a_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, new: str | None, quota: str | None, period: str | None,
    expected: float | None,
) -> None:  # fmt: skip
    for name, text in (("new", new), ("quota", quota), ("period", period)):
        if text is not None:
            (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(cores, "CPU_QUOTAS", (tmp_path / "new", tmp_path / "quota"))
    monkeypatch.setattr(cores, "QUOTA_PERIOD", tmp_path / "period")
    assert cores.quota_cores() == expected
