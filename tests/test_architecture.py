"""Allowed imports between layers, checked in the source, and modules that start-up must not load."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tfew.config import CONFIGS

PACKAGE = Path(__file__).parents[1] / "tfew"
# from the ground up; each may import those above it in this list, and a package its own modules
LAYERS = """
errors
environment
devices
files examples
schema settings
decisions
config
mini_t0
tokens tables
data
label_sets
kernels
scoring
placement
methods
runs
models
task dataset_config
ranking
checks
training
costs
report
summary
together
sweep
cli
comparison
prediction
pieces
paper service
train evaluate predict serve preview cost convert raft_submit doctor
"""
ABOVE_ALL = {"__init__", "__main__", "api", "estimator"}
PLAIN_WORDS = {"tiny", "t0", "full", "prefix", "adapter", "base", "local"}
# commands, builders, and what handles settings as such; everything else takes plain arguments and dataclasses
KNOWS_CONFIGURATION = """
config settings cli task dataset_config summary together train evaluate predict serve preview cost convert raft_submit
models.build models.execution training.fit training.folds_at_once prediction.saved_run runs.identity
runs.model_source runs.noted runs.rerun models.base_check sweep.callback sweep.ray_launcher paper.__main__
"""
KNOWS_LIGHTNING = {"data/loader.py", "devices/launch_env.py"}  # and all of training/


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    return found


def module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def layer(name: str) -> int:
    return next(number for number, names in enumerate(LAYERS.strip().splitlines()) if name in names.split())


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_layers(path: Path) -> None:
    own = {name.split(".")[1] for name in imports(path) if name.startswith("tfew.")} - {part(path)}
    if part(path) not in ABOVE_ALL:
        assert all(layer(name) < layer(part(path)) for name in own), sorted(own)
    if part(path) != "training" and path.relative_to(PACKAGE).as_posix() not in KNOWS_LIGHTNING:
        assert not any("lightning" in name for name in imports(path))


def test_the_configuration_reaches_commands_and_builders() -> None:
    knowing = {module(path).removeprefix("tfew.") for path in sources() if "omegaconf.DictConfig" in imports(path)}
    assert knowing == set(KNOWS_CONFIGURATION.split())


def test_no_module_imports_itself_by_way_of_others() -> None:
    importing = {module(path): imports(path) for path in sources()}
    for start in importing:
        seen: set[str] = set()
        queue = [start]
        while queue:
            new = (importing[queue.pop()] & importing.keys()) - seen
            assert start not in new, f"{start} imports itself by way of {sorted(seen)}"
            seen |= new
            queue += new


@pytest.mark.parametrize("package", sorted(path.parent for path in PACKAGE.glob("*/__init__.py")), ids=lambda p: p.name)
def test_a_package_says_what_each_of_its_files_is_for(package: Path) -> None:
    listed = re.findall(r"^\* ([a-z_0-9, ]+): \S", (package / "__init__.py").read_text(), re.M)
    names = [name for line in listed for name in line.split(", ")]
    assert sorted(names) == sorted({path.stem for path in package.glob("*.py")} - {"__init__", "__main__"})
    assert len(list(package.glob("*.py"))) <= 20


def test_the_top_is_small_and_no_file_is_long() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 20
    assert [path for path in sources() if len(path.read_text().splitlines()) > 300] == []


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
    assert layer("files") < layer("models") < layer("training")


def test_start_up_loads_nothing_heavy() -> None:
    code = (
        "import sys, tfew.train, tfew.evaluate, tfew.predict, tfew.preview, tfew.cost, tfew.convert\n"
        "import tfew.comparison.tables, tfew.comparison.plots, tfew.paper.__main__, tfew.sweep.callback\n"
        "print([m for m in ('torch', 'transformers', 'pytorch_lightning', 'datasets', 'pandas', 'matplotlib',"
        " 'sklearn', 'scipy')"
        " if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
