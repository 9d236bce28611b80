"""Short forms of the harnesses in scripts/ that break things; their long forms are run by hand (slow)."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.commands import run_command

pytestmark = pytest.mark.slow


def run(module: str, *arguments: str) -> str:
    return run_command(f"scripts.drills.{module}", *arguments, check=True, timeout=900).stdout


@pytest.mark.drill
def test_killed_runs_end_as_undisturbed_ones_do() -> None:
    trials, at_any_time, at_a_file, same = map(int, run("kill_and_resume", "6", "3").splitlines()[-1].split()[1:])
    assert trials == same == 6
    assert at_any_time + at_a_file >= 6


@pytest.mark.drill
def test_broken_files_are_told_in_a_sentence() -> None:
    refused, listed, _, faults = map(int, run("malformed", "1", "1").splitlines()[-1].split()[1:])
    assert refused + listed > 9
    assert not faults


@pytest.mark.drill
def test_a_sweep_under_fire_ends_as_an_undisturbed_one_does() -> None:
    said = run("sweep_under_fire", "6", "joblib", "0", "2")
    assert "Files, predictions and table are those of the undisturbed sweep." in said
    assert "6 records, 0 of them written twice" in said


@pytest.mark.parametrize(
    ("module", "bad"),
    [
        ("drills.kill_and_resume", ("1", "x")),
        ("drills.malformed", ("many",)),
        ("drills.sweep_under_fire", ("1", "slurm")),
        ("drills.shard_memory", ("400", "two")),
        ("bench.steady", ("1.5",)),
    ],
)
def test_what_is_no_number_is_told(
    module: str, bad: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [module, *bad])
    with pytest.raises(SystemExit) as stopped:
        import_module(f"scripts.{module}").main()
    assert stopped.value.code == 2
    assert bad[-1] in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.drill
def test_a_rolling_restart_behind_nginx_loses_nothing() -> None:
    said = run("rolling_restart", "--requests", "400", "--clients", "8")
    if said.startswith("Skipped"):
        pytest.skip(said)
    assert "lost 0, wrong 0 (statuses: {200: 400})" in said


@pytest.mark.drill
def test_tables_of_a_folder_are_walked_through_and_what_is_said_is_listed(tmp_path: Path) -> None:
    """A good table, one that is refused, and new rows; no path of this machine."""
    (tmp_path / "cases").mkdir()
    rows = "".join(f"my hat {number} is here,{('good', 'bad')[number % 2]}\n" for number in range(12))
    (tmp_path / "cases" / "base.csv").write_text("text,label\n" + rows)
    (tmp_path / "cases" / "nan.jsonl").write_text('{"text": "a", "label": NaN}\n{"text": "b", "label": "x"}\n')
    (tmp_path / "cases" / "n_case.csv").write_text("Text\nmy hat\n")
    run("cases", f"{tmp_path}/cases", f"{tmp_path}/cases.md")
    text = (tmp_path / "cases.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    assert lines == ["| `base.csv` | 0 | 0 | 0 |", "| `n_case.csv` |  |  | 1 |", "| `nan.jsonl` | 1 | 1 |  |"], text
    assert "n_case.csv lacks 'text'; it has 'Text' (did you mean 'Text'?)" in text
    assert "nan.jsonl, row 1: the label 'label' is empty (NaN)" in text
    assert str(tmp_path) not in text
