"""configs/sweep: as many runs as the head of each file says, of settings that work, for the paper's tables."""

import re
from functools import cache
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from tests.conftest import EXPERIMENTS
from tfew.config import CONFIGS, checked, compose
from tfew.paper.table import specs
from tfew.runs.identity import run_name
from tfew.sweep.callback import SweepCallback
from tfew.sweep.job_list import planned_jobs

SHARED = {"figure_2": "table_4"} | {
    f"{name}{part}": f"table_9{part}" for name in ("table_1", "figure_3") for part in ("", "_zero_shot", "_icl")
}
FILES = sorted(path.stem for path in CONFIGS.glob("sweep/*.yaml"))
GRIDS = [name for name in FILES if name not in SHARED]
PAPER = [name for name in GRIDS if name.startswith("table_")]
OWN_FOLDER = ("accept", "mini_tables", "mini_icl")
NEED_VECTORS = {"table_8", "table_9", "table_10", "accept"}


def head(name: str) -> str:
    lines = (CONFIGS / "sweep" / f"{name}.yaml").read_text().splitlines()
    return " ".join(line.removeprefix("# ") for line in lines[1:] if line.startswith("# "))


@cache
def jobs(name: str) -> tuple[str, list[list[str]]]:
    """The root configuration of the command that the file opens with, and the jobs of that command."""
    found = re.match(r"python -m tfew\.(train|evaluate) -m \+sweep=(\w+)(?: (init_adapter=\S+))?", head(name))
    assert found is not None
    assert found[2] == name
    vectors = [] if found[3] is None else [found[3].replace("FOLDER", str(CONFIGS))]  # any folder will do
    return found[1], planned_jobs(name, vectors, found[1])


def values(name: str, key: str) -> set[str]:
    return {value for job in jobs(name)[1] for word, _, value in (text.partition("=") for text in job) if word == key}


def test_no_grid_is_missing() -> None:
    assert {f"table_{number}" for number in (1, 3, 4, 5, 6, 7, 8, 9, 10)} | {"figure_2", "figure_3"} <= set(FILES)
    assert set(FILES) - set(PAPER) - SHARED.keys() == {
        "accept",
        "mini_tables",
        "mini_icl",
        "figure_icl",
        "figure_icl_shots",
    }


@pytest.mark.parametrize("name", GRIDS)
def test_the_head_says_how_many_runs(name: str) -> None:
    found = re.search(r"(?:= |: )(\d+) runs", head(name))
    assert found is not None
    assert len({tuple(job) for job in jobs(name)[1]}) == len(jobs(name)[1]) == int(found[1])


@pytest.mark.parametrize(("name", "source"), SHARED.items())
def test_what_shows_the_same_runs(name: str, source: str) -> None:
    (command, ours), (source_command, theirs) = jobs(name), jobs(source)
    assert command == source_command
    assert [[word.replace(f"+sweep={name}", f"+sweep={source}") for word in job] for job in ours] == theirs


@pytest.mark.slow
def test_settings_work() -> None:
    """Each value of each grid, at least once; the runs of a table are all different, and lie where others find them."""
    seen: set[tuple[str, str]] = set()
    for name in GRIDS:
        command, planned = jobs(name)
        for job in planned:
            new = {(command, word) for word in job if not word.startswith("+sweep=")} | {(name, "")}
            if new <= seen:
                continue
            seen |= new
            config = checked(compose(*job, config_name=command))
            assert config.runs == (f"runs/{name}" if name in OWN_FOLDER else "runs/paper")
    assert len(seen) > 50


def test_tables_share_runs() -> None:
    def of(name: str, *words: str) -> DictConfig:
        job = next(job for job in jobs(name)[1] if set(words) <= set(job))
        return checked(compose(*job))

    full = ("method=full", "+experiment=cb", "few_shot_seed=42")
    for table, loss in (("table_4", "tfew"), ("table_5", "lm_ln"), ("table_6", "lm_ul"), ("table_7", "lm")):
        assert run_name(of("table_3", f"loss={loss}", *full)) == run_name(of(table, *full))
    bare = ("+experiment=rte", "few_shot_seed=0", "init_adapter=null")
    assert run_name(of("table_8", *bare)) == run_name(of("table_4", "method=ia3", *bare[:2]))


@pytest.mark.parametrize("name", PAPER)
def test_grids_cover_the_tables(name: str) -> None:
    assert values(name, "+experiment") == set(EXPERIMENTS)
    assert values(name, "few_shot_seed") in ({"0", "1", "32", "42", "1024"}, set())
    assert (values(name, "few_shot_seed") == set()) == name.endswith("_zero_shot")
    table = specs()["tables"][name.split("_")[1]]
    if "methods" in table:
        blank = set() if name == "table_4" else {"said_500k", "said_20k"}
        assert values(name, "method") == set(table["methods"].values()) - blank
        assert values(name, "loss") == {table["select"]["loss"]}
    elif not name.startswith("table_9_"):
        rows = [row for row in table["rows"].values() if row and "loss" in row]
        assert values(name, "loss") == {row["loss"] for row in rows}
        assert (len(values(name, "init_adapter")) or 1) == len({row["pretrained"] for row in rows})


@pytest.mark.parametrize("name", FILES)
def test_pretrained_vectors_are_asked_for(name: str) -> None:
    path = CONFIGS / "sweep" / f"{SHARED.get(name, name)}.yaml"
    needs = OmegaConf.select(OmegaConf.load(path), "hydra.callbacks.sweep.needs", default=[])
    assert list(needs) == (["init_adapter"] if SHARED.get(name, name) in NEED_VECTORS else [])


def test_a_sweep_without_what_it_needs_is_refused() -> None:
    from hydra import compose as hydra_compose

    from tfew.config import hydra_at_work

    with hydra_at_work():
        config = hydra_compose("train", ["+sweep=table_8"], return_hydra_config=True)
        callback = SweepCallback(config.hydra.callbacks.sweep.needs)
        with pytest.raises(SystemExit, match="This sweep needs init_adapter=; the head of its file"):
            callback.on_multirun_start(config)


def test_makefile_and_readme_name_no_grid_that_is_not_there() -> None:
    for text in (Path("Makefile").read_text(), Path("README.md").read_text()):
        assert set(re.findall(r"\+sweep=(\w+)", text)) <= set(FILES)
