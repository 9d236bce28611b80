"""The notebook of five lines: its code runs, with a model that ships with the package, and its outputs are small."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "five_lines.ipynb"
CHEAP = 'SETTINGS = {"experiment": "local_mini", "steps": 2, "settings": {"trainer": "cpu"}}'


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cell of settings is replaced; all else is as it is read."""
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    tagged = [cell["metadata"].get("tags") == ["settings"] for cell in cells]
    assert tagged.count(True) == 1
    names: dict[str, Any] = {}
    for cell, is_settings in zip(cells, tagged, strict=True):
        exec(CHEAP if is_settings else "".join(cell["source"]), names)
    classifier = names["classifier"]
    assert classifier.classes_.tolist() == ["account", "billing", "delivery", "fault"]
    assert set(classifier.predict(names["new"])) <= set(classifier.classes_)
    assert (tmp_path / "support" / "adapter.safetensors").is_file()
    np.testing.assert_allclose(classifier.predict_proba(names["new"]).sum(axis=1), 1)


def test_the_outputs_are_there_and_small() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    silent = [cell for cell in cells if not cell["outputs"]]
    assert len(silent) <= 2, "settings and save() alone print nothing"
    assert NOTEBOOK.stat().st_size < 50_000
