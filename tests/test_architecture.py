"""Who may import whom (the drawing in README.md), read off the source, and what start-up must not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tfew"
ENTRY_POINTS = {"train", "evaluate", "preview"}
# what each part may import of the package; every part may import errors and schema
MAY_IMPORT = {
    "errors": set(),
    "schema": set(),
    "hub": set(),
    "config": set(),
    "records": set(),
    "costs": set(),
    "optim": set(),
    "scoring": set(),
    "losses": {"scoring"},
    "methods": {"methods"},
    "mini_t0": {"mini_t0"},
    "data": {"data", "hub", "mini_t0"},
    "ranking": {"ranking", "scoring"},
    "adapters_io": {"records"},
    "backbone": {"hub"},
    "module": {"losses", "methods", "optim", "scoring"},
    "run_folder": {"config", "records"},
    "task": {"config", "data", "records"},
    "build": {"adapters_io", "backbone", "config", "methods"},
    "fit": {"config", "data", "losses", "methods", "module", "run_folder", "task"},
    "evaluation": {"data", "ranking", "records", "run_folder", "scoring", "task"},
    "report": {"config", "costs", "records", "run_folder", "evaluation", "fit", "methods"},
    "cli": {"config"},
}
KNOWS_LIGHTNING = {"module.py", "data/loader.py", "fit.py"}
NAMES = ("rte", "copa", "hellaswag", "winogrande", "storycloze", "anli", "t0_3b", "flan")


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    return found | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_layers(path: Path) -> None:
    own = {name.split(".")[1] for name in imports(path) if name.startswith("tfew.")}
    assert not own & ENTRY_POINTS, "entry points are imported by nobody"
    if part(path) not in ENTRY_POINTS and part(path) != "__init__":
        assert own <= MAY_IMPORT[part(path)] | {"errors", "schema"}
    if path.relative_to(PACKAGE).as_posix() not in KNOWS_LIGHTNING:
        assert not any("lightning" in name for name in imports(path))


def test_the_layers_can_fail() -> None:
    assert "data" not in MAY_IMPORT["methods"]
    assert "torch" in imports(PACKAGE / "scoring.py")
    assert "tfew.scoring" in imports(PACKAGE / "losses.py")


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_dataset_or_model_names_in_shared_code(path: Path) -> None:
    strings = {
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert not strings & set(NAMES)


def test_start_up_loads_nothing_heavy() -> None:
    code = (
        "import sys, tfew.train, tfew.evaluate, tfew.preview\n"
        "print([m for m in ('torch', 'transformers', 'pytorch_lightning', 'datasets', 'pandas') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
