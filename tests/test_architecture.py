"""Who may import whom (the drawing in README.md), read off the source, and what start-up must not load."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tfew.config import CONFIGS

PACKAGE = Path(__file__).parents[1] / "tfew"
ENTRY_POINTS = {"train", "evaluate", "predict", "serve", "preview", "cost", "convert", "raft_submit"}
# what each part may import of the package; every part may import errors, schema and untrusted
MAY_IMPORT = {
    "bounds": set(),
    "errors": set(),
    "schema": set(),
    "untrusted": set(),
    "hub": set(),
    "ranks": set(),
    "place": set(),
    "processes": {"place", "ranks"},
    "sharding": {"ranks"},
    "partitioned": {"methods", "module", "ranks"},
    "checkpoints": {"records"},
    "strategy": {"checkpoints", "partitioned", "ranks"},
    "sealed": set(),
    "config": {"sealed"},
    "records": {"ranks", "sealed"},
    "costs": set(),
    "optim": set(),
    "routing": set(),
    "engine": {"engine", "routing"},
    "memory": {"engine"},
    "scoring": {"engine", "memory", "routing"},
    "losses": {"scoring"},
    "methods": {"methods", "routing"},
    "mini_t0": {"mini_t0"},
    "data": {"data", "hub", "mini_t0", "ranks", "sealed"},
    "ranking": {"ranking", "scoring"},
    "adapters_io": {"records", "sealed"},
    "backbone": {"config", "hub"},
    "module": {"losses", "memory", "methods", "optim", "ranks", "scoring"},
    "claim": {"records"},
    "run_folder": {"card", "claim", "config", "ranks", "records", "sealed"},
    "task": {"config", "data", "records"},
    "build": {"adapters_io", "backbone", "card", "config", "data", "methods", "partitioned", "ranks", "sharding"},
    "fit": {
        "build",
        "config",
        "data",
        "losses",
        "methods",
        "metrics_file",
        "module",
        "partitioned",
        "ranks",
        "records",
        "run_folder",
        "strategy",
        "task",
    },
    "evaluation": {
        "backbone",
        "build",
        "data",
        "methods",
        "ranking",
        "ranks",
        "records",
        "run_folder",
        "scoring",
        "task",
    },
    "metrics_file": set(),
    "joint_training": {
        "data",
        "losses",
        "memory",
        "methods",
        "metrics_file",
        "module",
        "optim",
        "records",
        "run_folder",
        "scoring",
        "sealed",
    },
    "together": {
        "adapters_io",
        "build",
        "claim",
        "config",
        "data",
        "evaluation",
        "fit",
        "forecast",
        "joint_training",
        "losses",
        "methods",
        "metrics_file",
        "optim",
        "records",
        "report",
        "run_folder",
        "section",
        "task",
    },
    "folds": {"build", "data", "evaluation", "fit", "ranking", "ranks", "records", "run_folder", "sealed", "task"},
    "section": {"config", "data", "sealed"},
    "label_table": set(),
    "submission": set(),
    "device": set(),
    "lengths": {"data"},
    "dry_run": {"losses", "memory", "methods", "optim", "scoring"},
    "forecast": {
        "build",
        "config",
        "data",
        "device",
        "dry_run",
        "lengths",
        "losses",
        "memory",
        "methods",
        "ranking",
        "ranks",
        "task",
    },
    "measure": {"build", "data", "dry_run", "forecast", "methods"},
    "account": {"build", "config", "costs", "data", "device", "dry_run", "forecast", "lengths", "measure", "task"},
    "report": {
        "adapters_io",
        "config",
        "costs",
        "evaluation",
        "fit",
        "label_table",
        "methods",
        "ranks",
        "records",
        "run_folder",
    },
    "saved_run": {"cli", "config", "run_folder", "section"},
    "labeller": {"data", "ranking"},
    "loaded_task": {"adapters_io", "config", "data", "labeller", "saved_run", "sealed", "task"},
    "predictor": {
        "adapters_io",
        "build",
        "config",
        "data",
        "labeller",
        "loaded_task",
        "methods",
        "ranking",
        "scoring",
    },
    "result_rows": {"labeller"},
    "tasks_file": set(),
    "service": {"labeller", "predictor", "service"},
    "partial_file": {"records"},
    "labelling": {"data", "labeller", "partial_file", "predictor", "result_rows"},
    "sweep": {"claim", "config", "records", "sweep"},
    "cli": {"config", "ranks", "sweep"},
    "card": {"records"},
    "output": set(),
    "exchange": {"methods"},
    "comparison": {"comparison", "config", "ranking", "records", "run_folder"},
    "plots": {"comparison", "records"},
    "paper": {"cli", "costs", "data", "paper", "plots", "records", "run_folder"},
}
PLAIN_WORDS = {"tiny", "t0", "full", "prefix", "adapter", "base", "local"}
KNOWS_LIGHTNING = {
    "checkpoints.py",
    "module.py",
    "data/loader.py",
    "fit.py",
    "partitioned.py",
    "place.py",
    "strategy.py",
}


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
        assert own <= MAY_IMPORT[part(path)] | {"bounds", "errors", "schema", "untrusted"}
    if path.relative_to(PACKAGE).as_posix() not in KNOWS_LIGHTNING:
        assert not any("lightning" in name for name in imports(path))


def words(path: Path) -> set[str]:
    """Every word of the code that is not documentation: identifiers and the words of strings, docstrings left out."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and _opens(node)}
    strings = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]
    identifiers = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return {word.lower() for text in strings + identifiers for word in re.findall(r"\w+", text)}


def _opens(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> bool:
    first = node.body[0] if node.body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_dataset_method_or_model_names_in_shared_code(path: Path) -> None:
    """The names are the files of configs/; `tiny` and `t0` stand in error messages, the others are plain words.

    So are the names of the synthetic families: the project makes them itself.
    """
    groups = ("dataset", "model") if part(path) in ("methods", "mini_t0") else ("dataset", "model", "method")
    files = [file for group in groups for file in (CONFIGS / group).rglob("*.yaml") if file.parent.name != "mini"]
    assert not words(path) & ({file.stem for file in files} - PLAIN_WORDS)


def test_the_checks_can_fail(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text('"""wic is fine here."""\nimport tfew.train\nif name == "rte":\n    method = "ia3"\n')
    assert words(bad) == {"name", "rte", "method", "ia3"}
    assert imports(bad) == {"tfew.train"}


def test_start_up_loads_nothing_heavy() -> None:
    code = (
        "import sys, tfew.train, tfew.evaluate, tfew.predict, tfew.preview, tfew.cost, tfew.convert\n"
        "import tfew.comparison.tables, tfew.comparison.runs, tfew.paper.__main__, tfew.plots, tfew.sweep.callback\n"
        "print([m for m in ('torch', 'transformers', 'pytorch_lightning', 'datasets', 'pandas', 'matplotlib')"
        " if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
