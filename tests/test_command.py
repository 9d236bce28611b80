"""The command `tfew`, and features of all commands: help, versions, unknown names, settings with old names."""

import os
import subprocess
import sys

import pytest

import tfew
from tests.test_smoke import COMMANDS
from tfew.__main__ import main
from tfew.config import CONFIGS
from tfew.environment import command_line


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def said(*arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["tfew", *arguments])
    main()
    return capsys.readouterr().out


def test_help_has_a_line_for_each_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = said("--help", monkeypatch=monkeypatch, capsys=capsys)
    lines = [line.split(maxsplit=2) for line in out.split("\n\n")[1].splitlines()]
    assert [line[:2] for line in lines] == [["tfew", command] for command in (*COMMANDS, "doctor")]
    assert all(len(line) == 3 for line in lines)
    assert out == said(monkeypatch=monkeypatch, capsys=capsys)


def test_help_imports_nothing() -> None:
    code = "import sys, tfew.__main__; tfew.__main__.main(); print([m for m in sys.modules if m.startswith('tfew.')])"
    result = run("-c", f"{code}; print('hydra' in sys.modules, 'torch' in sys.modules)")
    assert result.stdout.splitlines()[-2:] == ["['tfew.__main__']", "False False"]


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = said("--version", monkeypatch=monkeypatch, capsys=capsys)
    found = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert found["tfew"] == tfew.__version__
    assert found["python"] == sys.version.split()[0]
    assert found["configs"] == str(CONFIGS)
    assert found["device"]
    assert [*found] == ["tfew", "python", "torch", "transformers", "pytorch-lightning", "device", "configs"]
    for module in ("environment.versions", "doctor.libraries"):
        monkeypatch.setattr(f"tfew.{module}.installed", lambda name: {"torch": "1.0"}.get(name))
    out = said("--version", monkeypatch=monkeypatch, capsys=capsys)
    assert "torch              1.0 (needs <3,>=2.11)\ntransformers       not installed\n" in out


def test_an_unknown_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        said("trian", "+experiment=demo", monkeypatch=monkeypatch, capsys=capsys)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("Unknown command 'trian' (tfew COMMAND). Did you mean 'train'? Known: 't")


@pytest.mark.parametrize("command", ["preview", "paper"])
def test_the_same_as_the_module(command: str) -> None:
    arguments = ("--cfg", "job", "+experiment=demo") if command == "preview" else ("table=0", "runs=nowhere")
    short, long = run("-m", "tfew", command, *arguments), run("-m", f"tfew.{command}", *arguments)
    assert (short.stdout, short.stderr, short.returncode) == (long.stdout, long.stderr, long.returncode)
    assert short.returncode == (0 if command == "preview" else 1)


@pytest.mark.parametrize("arguments", [["train", "nosuch=1"], ["predict", "nosuch=1"], ["serve", "--help"]])
def test_a_mistake_and_help_import_nothing_heavy(arguments: list[str]) -> None:
    code = f"import sys; sys.argv = {['tfew', *arguments]}; from tfew.__main__ import main\ntry:\n  main()\nfinally:\n"
    code += "  print('imported:', *sorted({'hydra', 'jinja2', 'numpy', 'torch', 'transformers'} & {*sys.modules}))"
    result = run("-c", code)
    assert result.stdout.splitlines()[-1] == "imported:"
    assert ("nosuch= is not a setting." in result.stderr) == (result.returncode == 1) == ("nosuch=1" in arguments)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "steps=abc"], "steps=abc is not a whole number"),
        (["evaluate", "adapter=nowhere"], "adapter=nowhere does not exist."),
        (["predict", "adapter=nowhere", "input=a.csv", "output=b.csv"], "adapter=nowhere does not exist."),
        (["predict", f"adapter={'a' * 300}", "input=a.csv", "output=b.csv"], "aaa... is not a valid path"),
        (["predict", f"input={'a' * 300}", "output=b.csv"], "aaa... is not a valid path"),
        (["predict", "input=tests", "output=~nobody1/b.csv"], "output=~nobody1/b.csv: this machine has no such user;"),
        (["evaluate", "adapter=~nobody1/a"], "adapter=~nobody1/a: this machine has no such user;"),
        (["predict", "input=nowhere.csv", "output=b.csv"], "input=nowhere.csv does not exist."),
        (["predict", "input=nowhere/*.csv", "output=b.csv"], "input=nowhere/*.csv matches no file."),
        (["predict", "input=tests/", "output=b.doc"], "Unknown file ending '.doc' (output=b.doc)."),
        (["serve", "adapter=nowhere"], "adapter=nowhere does not exist."),
        (["serve", "adapter=~nobody1/a"], "adapter=~nobody1/a: this machine has no such user;"),
        (["preview", "+experiment=rte", "data_dir=nowhere"], "data_dir=nowhere does not exist."),
        (["cost", "engine=quick"], "'quick' (engine=)"),
    ],
    ids=str,
)
def test_a_wrong_value_is_found_before_torch_is_imported(arguments: list[str], sentence: str) -> None:
    code = f"import sys; sys.argv = {['tfew', *arguments]}; from tfew.__main__ import main\ntry:\n  main()\nfinally:\n"
    result = run("-c", f"{code}  print('imported:', *sorted({{'torch', 'transformers'}} & {{*sys.modules}}))")
    assert sentence in result.stderr
    assert (result.stdout.splitlines()[-1], result.returncode) == ("imported:", 1)


def test_a_setting_of_an_old_name_works_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "RENAMED", {"old.n_steps": "steps", "opt": "optimizer"})
    given = [
        "-m",
        "+experiment=demo",
        "old.n_steps=1,2",
        "++old.n_steps=3",
        "~opt",
        "opt=adamw",
        "opt.lr=1",
        "name=opt=x",
    ]
    wanted = ["-m", "+experiment=demo", "steps=1,2", "++steps=3", "~optimizer", "optimizer=adamw", "opt.lr=1", "name=opt=x"]  # fmt: skip  # noqa: E501
    assert command_line.with_new_names(given) == wanted
    code = "from tfew.environment.command_line import RENAMED; RENAMED['n_steps'] = 'steps'"
    code += "; from tfew.train import main; main()"
    result = run("-c", code, "+experiment=demo", "n_steps=7", "--cfg", "job")
    assert "\nsteps: 7\n" in result.stdout
    assert result.stderr == "n_steps= is now called steps=; the next release removes the old name.\n"


def test_no_setting_is_renamed_to_one_that_is_not_there() -> None:
    from tfew.config import compose

    for old, new in command_line.RENAMED.items():
        compose(f"{new}=null")
        with pytest.raises(Exception, match=old):
            compose(f"{old}=null")


@pytest.mark.drill
@pytest.mark.slow
def test_a_command_of_a_sweep_starts_its_workers(tmp_path: os.PathLike[str]) -> None:
    """joblib imports in each worker what was started: `tfew` is no module of Hydra's task."""
    result = run(
        "-m", "tfew", "train", "-m", "+experiment=demo", "model=tiny", "trainer=cpu", "steps=2", "few_shot_seed=0,1",
        "dataset.generator.eval=4", f"runs={tmp_path}", "hydra/launcher=joblib",
    )  # fmt: skip
    assert "2 made, 0 finished before, 0 failed" in result.stdout, result.stderr
