"""README and docs: all settings in commands exist, marked blocks run, links are valid."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from tests.commands import run_command
from tests.docs.blocks import NOT_RUN, PAGES, ROOT, RUN, Block, all_blocks, blocks, lines, tfew_command
from tfew.__main__ import COMMANDS
from tfew.config import compose

SHELL = [block for block in all_blocks() if block.language == "bash"]
TYPED = sorted({line for block in SHELL for line in lines(block)})
RUN_PAGES = [page for page in PAGES if any(block.runs and block.language == "bash" for block in blocks(page))]
PYTHON_PAGES = [page for page in PAGES if any(block.runs and block.language == "python" for block in blocks(page))]
ROWS = [{"text": text, "message": text, "review": text} for text in ("my hat looks nasty", "my lemon looks lovely")]


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("line", [line for line in TYPED if tfew_command(line)])
def test_settings_of_a_command_are_known(line: str) -> None:
    command, arguments = tfew_command(line) or ("", [])
    assert command in COMMANDS
    if command == "doctor":
        assert not arguments
        return
    multirun = "-m" in arguments
    given = [word.partition(",")[0] if multirun and "=[" not in word else word for word in arguments if word != "-m"]
    compose(*(word for word in given if not word.startswith("hydra")), config_name=command)


@pytest.mark.parametrize("line", [line for line in TYPED if not tfew_command(line)])
def test_other_commands_are_there(line: str) -> None:
    if target := re.match(r"make (\w+)", line):
        names = re.findall(r"^([\w%]+):", (ROOT / "Makefile").read_text(), re.M)
        assert any(re.fullmatch(name.replace("%", r"\w+"), target[1]) for name in names)
    elif script := re.match(r"python (-m )?(scripts[./]\S+)", line):
        path = ROOT / (script[2].replace(".", "/") if script[1] else script[2])
        assert path.is_file() or path.is_dir() or path.with_suffix(".py").is_file()
    else:
        assert line.startswith("source .venv/bin/activate")


def test_each_mark_says_run_or_why_not() -> None:
    marks = [block.mark for block in all_blocks() if block.mark]
    assert all(mark == RUN or mark.startswith((f"{RUN}: ", NOT_RUN)) for mark in marks)
    assert len([mark for mark in marks if mark.startswith(RUN)]) >= 10


@pytest.mark.parametrize("page", RUN_PAGES, ids=named)
def test_marked_commands_run(page: Path, tmp_path: Path, made_data: Path) -> None:
    """In a folder with the files that the page talks of; `runs/NAME` is the run that its commands made last."""
    (tmp_path / "tfew").mkdir()
    (tmp_path / "tfew" / "examples").symlink_to(ROOT / "tfew" / "examples")
    (tmp_path / "DIR").symlink_to(made_data)
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    mixed = [{"task": name, **row} for name, row in zip(("topic", "sentiment"), ROWS, strict=True)]
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mixed))
    (tmp_path / "tasks.json").write_text(json.dumps({"topic": "runs/topic", "sentiment": "runs/sentiment"}))
    run = ""
    for block in [block for block in blocks(page) if block.runs and block.language == "bash"]:
        for line in lines(block):
            command, arguments = tfew_command(line) or ("", [])
            if "adapter=runs/NAME" in arguments and not run:
                run = _table_run(tmp_path)
            given = [word.replace("runs/NAME", run) for word in [*arguments, *block.more]]
            done = run_command(f"tfew.{command}", *given, cwd=tmp_path, check=True)
            if found := re.search(r"record: (\S+)/result.json", done.stdout):
                run = found[1]


def _table_run(folder: Path) -> str:
    """A run on a table, for a page that begins with prediction."""
    table = folder / "table.csv"
    table.write_text(
        "text,label\n" + "".join(f"my hat looks {w} {i},{w}\n" for i in range(6) for w in ("nasty", "lovely"))
    )
    given = ("+experiment=local_mini", f"data={table}", "folds=null", "steps=2", "run_dir=runs/table")
    run_command("tfew.train", *given, cwd=folder, check=True)
    return "runs/table"


@pytest.mark.ci
@pytest.mark.parametrize("page", PYTHON_PAGES, ids=named)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, but with mini-T0 and two steps."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in [block for block in blocks(page) if block.language == "python" and block.runs]:
        exec(_short(block), names)


def _short(block: Block) -> str:
    quick = 'experiment="local_mini", steps=2, settings={"trainer": "cpu"}'
    return block.text.replace("steps=30, batch_size=4, lr=2e-2", quick).replace("steps=100", "steps=2")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target
    for path in re.findall(r"`((?:evidence|configs|tfew|scripts|tests|examples|docs)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


def test_messages_of_troubleshooting_are_messages() -> None:
    sources = " ".join(re.sub(r'"\s+f?"', "", path.read_text()) for path in (ROOT / "tfew").rglob("*.py"))
    quoted = re.findall(r'^### "([^"]+)"', (ROOT / "docs" / "troubleshooting.md").read_text(), re.M)
    assert len(quoted) >= 10
    assert [words for words in quoted if not all(part.strip() in sources for part in words.split("..."))] == []


def test_readme_is_short_and_its_demo_is_recorded() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 150
    table = re.search(r"support: accuracy.*?\n```", readme, re.S)
    assert table
    assert table[0].removesuffix("```").strip() in (ROOT / "evidence/english/demo.txt").read_text(encoding="utf-8")


def test_pages_made_of_the_configurations_are_up_to_date() -> None:
    """`make docs` writes them."""
    spec = importlib.util.spec_from_file_location("generated", ROOT / "docs" / "generated.py")
    assert spec is not None
    assert spec.loader is not None
    generated = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generated)
    for name, text in generated.pages().items():
        assert (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8") == text, f"{name}: make docs"


def test_pages_are_all_in_the_index() -> None:
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    pages = {named(page)[len("docs/") : -len(".md")] for page in PAGES if named(page).startswith("docs/")} - {"index"}
    assert {page for page in pages if f"\n{page}\n" not in index} == set()
