"""A file that another package brings is found without running that package."""

import base64
import hashlib
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tfew.config import checked, compose
from tfew.environment.package_files import package_file, recorded_sha256
from tfew.errors import UserError
from tfew.files import hub
from tfew.models.build import build_tokenizer
from tfew.runs.identity import model_name, settings_hash
from tfew.runs.model_source import model_source
from tfew.train import train

CONTENT = b"GGUF, but for the rest"
SHA256 = hashlib.sha256(CONTENT)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that cannot be imported, with one file of data."""
    module, info = tmp_path / "made_weights", tmp_path / "made_weights-1.0.dist-info"
    module.mkdir()
    info.mkdir()
    (module / "__init__.py").write_text("raise ImportError('this runs code')")
    (module / "small.gguf").write_bytes(CONTENT)
    checksum = base64.urlsafe_b64encode(SHA256.digest()).rstrip(b"=").decode()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-weights\nVersion: 1.0\n")
    (info / "RECORD").write_text(
        f"made_weights/__init__.py,,\nmade_weights/small.gguf,sha256={checksum},{len(CONTENT)}\nmade_weights/gone,,\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return module


def test_a_file_is_found(package: Path) -> None:
    assert package_file("made-weights", "made_weights/small.gguf") == package / "small.gguf"
    assert recorded_sha256("made-weights", "made_weights/small.gguf") == SHA256.hexdigest()
    assert "made_weights" not in sys.modules


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("made-weights", "made_weights/gone"),
        ("made-weights", "small.gguf"),
        ("made-weights", "../made_weights/small.gguf"),  # is there, and is not in its list
        ("no-such-package", "made_weights/small.gguf"),
    ],
)
def test_no_file(package: Path, name: str, file: str) -> None:
    assert package_file(name, file) is None
    assert recorded_sha256(name, file) is None


def test_a_model_comes_from_its_package_and_its_run_says_so(package: Path) -> None:
    """The same settings with the Hub's weights are another run, and one with a path of the user's own, too."""
    config = compose("+experiment=demo", "model=smollm2_360m")
    on_hub = settings_hash(config)
    OmegaConf.update(
        config,
        "model.package",
        {"name": "made-weights", "file": "made_weights/small.gguf", "install": "x"},
        merge=False,
    )
    source = model_source(config)
    assert source.local_gguf == package / "small.gguf"
    assert source.gguf_sha256() == SHA256.hexdigest()
    assert model_name(config) == "smollm2_360m"
    in_package = settings_hash(config)
    assert in_package != on_hub
    config.model.path = "somebody/else"
    assert model_source(config).local_gguf is None
    assert model_name(config) == "else"


def test_a_file_that_is_not_as_it_was_installed(package: Path) -> None:
    (package / "small.gguf").write_bytes(CONTENT[:-1] + b"T")
    config = compose("+experiment=demo", "model=smollm2_360m")
    OmegaConf.update(
        config,
        "model.package",
        {"name": "made-weights", "file": "made_weights/small.gguf", "install": "x"},
        merge=False,
    )
    with pytest.raises(UserError, match=r"small\.gguf is damaged or has been changed: install made-weights again"):
        settings_hash(config)


def test_neither_package_nor_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "reachable", lambda: False)
    config = checked(compose("+experiment=demo", "model=smollm2_135m", "model.package.name=no-such-package"))
    with pytest.raises(UserError, match=r"^model=smollm2_135m is in the Python package no-such-package, which is not .*"
                                        r"cannot be loaded from the Hub: make english .* installs it"):  # fmt: skip
        build_tokenizer(config)


def test_a_package_of_other_keys() -> None:
    config = compose("+experiment=demo", "model=smollm2_135m", "+model.package.color=red")
    with pytest.raises(UserError, match=r"does not have the keys name, file and install"):
        model_source(config)


def test_training_names_what_installs_the_model_before_the_hub_is_blamed(tmp_path: Path) -> None:
    rows = "".join(f"text {number},{number % 2}\n" for number in range(16))
    (tmp_path / "rows.csv").write_text("text,label\n" + rows)
    absent = "model.package.name=no-such-package"
    given = ("+experiment=local_english", f"data={tmp_path}/rows.csv", f"runs={tmp_path}/runs", absent)
    with pytest.raises(UserError, match=r"which is not installed, and cannot be loaded from the Hub: make english"):
        train(compose(*given))
    assert not (tmp_path / "runs").exists()
