"""Arguments on the command line: paths and names with any characters, and misspelt settings."""

import csv
from pathlib import Path

import pytest

from tests.commands import run_command
from tfew.api import evaluate, train
from tfew.config import compose, with_quoted_values
from tfew.environment.command_line import check_keys
from tfew.errors import UserError

NAMES = (
    "a=b.csv", "a#b.csv", "a (1).csv", "ü.csv", "a,b.csv", "a b.csv", "a[1].csv", "'x'.csv", "a;b.csv", "a{b}.csv",
    "it's.csv", 'a"b.csv', "{x}.csv", "[x].csv", "1e3", "null", "a\\b.csv", "a&b!.csv", "Reviews (1)=ü.csv", "日本.csv",
    "100%.csv", "a\\'b.csv",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("exists", [True, False])
def test_any_file_name(name: str, exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if exists:
        Path(name).touch()
    elif name in ("null", "1e3", "{x}.csv", "[x].csv", "a\\b.csv"):
        return  # Hydra's own values, where no file says otherwise
    assert str(compose("+experiment=local", f"data={name}").data) == name
    assert compose(f"input={name}", config_name="predict").input == name


def test_values_that_hydra_reads_are_left_to_it() -> None:
    good = ["data=reviews.csv", "steps=3", "+experiment=local", "runs=${data_dir}/x", "-m", "data='a b.csv'", "~label"]
    assert with_quoted_values(good) == good
    assert with_quoted_values(["data=a.csv,b.csv"], is_sweep=True) == ["data=a.csv,b.csv"], "two jobs"
    assert with_quoted_values(["data=a.csv,b.csv"]) == ["data='a.csv,b.csv'"]


def test_a_name_that_would_be_a_reference(tmp_path: Path) -> None:
    (tmp_path / "a${b}.csv").touch()
    with pytest.raises(UserError, match=r"\$\{...\} in a setting refers to another setting; rename the file"):
        with_quoted_values([f"data={tmp_path}/a${{b}}.csv"])


def test_columns_labels_and_templates_in_any_letters() -> None:
    config = compose(
        "+experiment=local", "text=[Größe (cm),b]", "label=Urteil?", "labels=[schön,übel]",
        "choices={schön: good, übel: bad}", "template={{ Größe }} Gut?",
    )  # fmt: skip
    assert config.text == ["Größe (cm)", "b"]
    assert config.labels == ["schön", "übel"]
    assert (config.label, config.choices) == ("Urteil?", "{schön: good, übel: bad}")
    assert config.template == "{{ Größe }} Gut?"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("step=5", r"step= is not a setting. Did you mean steps=\?"),
        ("lr=1", r"lr= is not a setting. Did you mean method.lr= or optimizer.lr=\? --help all"),
        ("norm=sum", r"norm= is not a setting. Did you mean score.norm=\?"),
        ("batchsize=5", r"Did you mean batch_size=\?"),
        ("optimiser=adamw", r"Did you mean optimizer=\?"),
        ("optimizer.lrr=1", r"optimizer.lrr= is not a setting. Did you mean optimizer.lr=\?"),
        ("score.nrom=sum", r"Did you mean score.norm=\?"),
        ("experiment=rte", r"use \+experiment=rte"),
    ],
)
def test_settings_that_there_are_not(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose(override)


def test_what_a_root_configuration_has_is_known() -> None:
    for name in ("train", "evaluate", "predict", "preview", "serve", "cost", "convert", "paper"):
        for key in compose(config_name=name):
            check_keys([f"{key}=null"], name)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataset=raft/x", "Unknown dataset 'raft/x' (dataset=)"),
        ("model=tiny,t0_4b", "Unknown model 't0_4b' (model=). Did you mean 't0_3b'?"),
        ("+experiment=rte.yml", "Unknown experiment 'rte.yml' (+experiment=). Did you mean 'rte'?"),
    ],
)
def test_an_option_that_a_group_does_not_have(override: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        check_keys([override], "train")
    assert str(raised.value).startswith(message)
    assert "base'" not in str(raised.value).replace("bart_base'", "").replace("flan_t5_base'", "")


@pytest.mark.parametrize(
    "overrides",
    [
        ["dataset=raft/overruling", "method=ia3,lora", "+experiment=rte.yaml", "logger=null"],
        ["hydra/launcher=joblib"],
        ["model=choice(tiny,t0)", "method=glob(l*)"],
        ["--config-dir=mine", "model=own"],
        ["hydra.searchpath=[file://mine]", "model=own"],
    ],
)
def test_options_that_exist_or_may_exist_elsewhere(overrides: list[str]) -> None:
    check_keys(overrides, "train")


def test_three_commands_on_a_table_with_an_awkward_name(tmp_path: Path) -> None:
    """A `;`-separated table as a spreadsheet saves it, by the README's three commands."""
    rows = [f"{i};my {thing} looks {word}, tom.;{label}" for i, (thing, word, label) in enumerate(
        [(thing, word, label) for thing in ("hat", "lemon", "book", "apple", "shirt", "grape")
         for word, label in (("nasty", "schlecht"), ("lovely", "gut"))])]  # fmt: skip
    table = tmp_path / "Reviews (1)=ü.csv"
    table.write_text("\n".join(["id;review;urteil", *rows]), encoding="cp1252")
    common = ("trainer=cpu", "steps=2", f"runs={tmp_path}/runs (2)")
    columns = (f"data={table}", "text=review", "label=urteil")
    shown = run_command("tfew.preview", "+experiment=local_mini", *columns, "n=1", check=True)
    assert "my hat looks nasty, tom." in shown.stdout
    assert "separated by ';'" in shown.stderr
    trained = run_command("tfew.train", "+experiment=local_mini", *common, *columns, "folds=null", check=True)
    assert "Training" not in trained.stdout, "bars go to standard error"
    (run,) = (tmp_path / "runs (2)").glob("Reviews_1_ü-*")
    output = tmp_path / "labels = (neu).csv"
    run_command("tfew.predict", f"adapter={run}", "trainer=cpu", f"input={table}", f"output={output}", check=True)
    with output.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 12
    assert {row["label"] for row in found} <= {"gut", "schlecht"}


def test_in_python_too(tmp_path: Path) -> None:
    table = tmp_path / "a=b (1).csv"
    table.write_text("text,label\n" + "".join(f"my hat {i},{'xy'[i % 2]}\n" for i in range(12)))
    common = ("+experiment=local", "model=tiny", "trainer=cpu", f"runs={tmp_path}/r,s")
    record = train(*common, f"data={table}", "folds=null", "validation=0.25", "steps=2", "batch_size=4")
    assert record.counts["rows"] == 3
    assert evaluate(f"adapter={record.folder}", f"runs={tmp_path}/r,s", "trainer=cpu").counts["rows"] == 3
    with pytest.raises(UserError, match=r"Did you mean steps="):
        train("+experiment=demo", step=5)
