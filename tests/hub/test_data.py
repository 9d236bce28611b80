"""Data sets on a Hub: configurations, splits, commits, and messages if one cannot be loaded."""

from typing import Any

import pytest

from tests.hub.conftest import new_process
from tests.hub.repositories import parquet, rows, two_configurations
from tests.hub.stand_in import Fault, StandIn
from tfew.config import compose, resolved
from tfew.data.dataset import DatasetSpec
from tfew.data.fewshot import pick_official, row_hash
from tfew.dataset_config import complete
from tfew.errors import UserError
from tfew.files.hub_files import DATASETS, known_commit
from tfew.tables.hub_rows import load_from_hub, load_hub_table
from tfew.task import eval_task, train_task

pytestmark = pytest.mark.filterwarnings("ignore")  # the library's, of what it finds in its cache


def source(**changes: Any) -> dict[str, Any]:
    usual = {"id": "me/films", "config": "small", "revision": "main", "train": "train", "eval": "test"}
    return {**usual, **changes}


def own(*overrides: str) -> Any:
    return complete(compose("+experiment=local", "data=me/films", "folds=null", "model=tiny", *overrides))


def test_one_of_several_configurations(hub: StandIn) -> None:
    hub.add("datasets", "me/films", two_configurations())
    with pytest.raises(
        UserError, match=r"its configurations are large, small; set dataset.hub.config=small, or another. Or name a CSV"
    ):
        own()
    with pytest.raises(UserError, match=r"its configurations are large, small; set dataset.hub.config=small"):
        own("dataset.hub.config=smal")
    config = own("dataset.hub.config=small", "dataset.hub.eval=test")
    assert config.dataset.label.names == ["neg", "pos"]
    training, evaluation = train_task(config), eval_task(config)
    assert evaluation is not None
    assert (training.rows, evaluation.rows) == (16, 8)


def test_one_of_several_splits(hub: StandIn) -> None:
    hub.add("datasets", "me/films", two_configurations())
    with pytest.raises(UserError, match=r"its splits are test, train; set dataset.hub.train=train, or another"):
        load_from_hub(source(train="validation"), "train", "bring it")
    assert len(load_from_hub(source(train="train[:4]"), "train", "bring it")) == 4


def test_a_named_set_checks_its_rows(hub: StandIn) -> None:
    table = [{"premise": f"p {i}", "hypothesis": "h", "label": i % 2} for i in range(6)]
    files = {"rte/train.parquet": parquet(table, None), "rte/validation.parquet": parquet(table, None)}
    card = "---\nconfigs:\n- config_name: rte\n  data_files:\n  - {split: train, path: rte/train.parquet}\n---\n"
    hub.add("datasets", "aps/super_glue", {"README.md": card.encode(), **files})
    with pytest.raises(UserError, match=r"The Hub's rte train split has 6 rows instead of 2490"):
        train_task(compose("+experiment=rte"))
    assert (
        train_task(
            compose("+experiment=rte", "few_shot=draw", "shots=4", "batch_size=4", "dataset.rows.train=null")
        ).rows
        == 4
    )


def test_commits(hub: StandIn) -> None:
    repository = hub.add("datasets", "me/films", two_configurations())
    first = repository.head
    repository.commit({"small/train.parquet": parquet(rows(20))})
    assert len(load_from_hub(source(), "train", "")) == 20
    assert known_commit(DATASETS, "me/films", "main") == repository.head
    assert len(load_from_hub(source(commit=first), "train", "")) == 16
    assert len(load_from_hub(source(revision=first), "train", "")) == 16


def test_a_copy_of_another_commit_is_not_taken_for_the_one_that_is_wanted(hub: StandIn, disconnect: Any) -> None:
    repository = hub.add("datasets", "me/films", two_configurations())
    first = repository.head
    load_from_hub(source(), "train", "")
    disconnect()
    assert len(load_from_hub(source(), "train", "")) == 16
    assert known_commit(DATASETS, "me/films", "main") == first
    assert len(load_from_hub(source(commit=first), "train", "")) == 16
    with pytest.raises(UserError, match=r"is needed at commit 000000000000, but the local copy is of"):
        load_from_hub(source(commit="0" * 40), "train", "")


def test_without_the_hub_and_without_a_copy(hub: StandIn, disconnect: Any) -> None:
    disconnect()
    with pytest.raises(
        UserError, match=r"me/films .* cannot be loaded: the Hub cannot be reached, and there is no cach"
    ):
        load_from_hub(source(), "train", "bring it")


def test_a_hub_out_of_order(hub: StandIn) -> None:
    """Not: couldn't find any data file at ./me/films."""
    hub.add("datasets", "me/films", two_configurations())
    hub.faults.append(Fault("datasets/me/films", 500))
    with pytest.raises(UserError, match=r"the Hub is out of order \(it answers 500.*Or bring it"):
        load_from_hub(source(), "train", "bring it")


def test_content_that_fails_once(hub: StandIn, caplog: Any) -> None:
    hub.add("datasets", "me/films", two_configurations())
    hub.faults.append(Fault("/content/", 503, times=1))
    assert len(load_from_hub(source(), "train", "")) == 16


def test_a_token_that_has_expired_on_public_data(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not: 401."""
    hub.add("datasets", "me/films", two_configurations())
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    with pytest.raises(UserError, match=r"the Hub does not accept your token, which may have expired"):
        load_from_hub(source(), "train", "")


def test_gated_data(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("datasets", "me/films", two_configurations(), token="hf_good")
    with pytest.raises(UserError, match=r"asks to accept conditions: do so on http://.*/datasets/me/films, and log in"):
        load_from_hub(source(), "train", "")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    new_process()
    assert len(load_hub_table(source(), "train").rows) == 16


def test_there_is_no_such_set(hub: StandIn) -> None:
    with pytest.raises(UserError, match=r"the Hub has no such dataset, or it is private"):
        own()


def test_a_set_that_is_a_script(hub: StandIn) -> None:
    hub.add("datasets", "me/films", {"films.py": b"print('hello')"})
    with pytest.raises(UserError, match=r"no longer supported|scripts"):
        load_from_hub(source(config=None), "train", "bring it")


def test_official_rows_are_read_alone(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ANLI's 100,459 all were read, which took a quarter of a minute."""
    table = [{"text": f"row {i}", "label": i % 2} for i in range(100)]
    hub.add("datasets", "me/films", {"data/train-0.parquet": parquet(table, None)})
    loaded = load_from_hub(source(config=None), "train", "")
    names = ["a", "b"]
    spec = DatasetSpec.from_config(
        {
            **resolved(compose("dataset=rte").dataset),
            "columns": ["text"],
            "label": {"column": "label", "names": names, "first": 0},
        }
    )
    read: list[int] = []
    rule = DatasetSpec.example
    monkeypatch.setattr(DatasetSpec, "example", lambda *args, **k: read.append(args[1]) or rule(*args, **k))
    split = [(i, row_hash(spec, spec.example(i, table[i], ""))) for i in (7, 93)]
    read.clear()
    picked = pick_official(spec, spec.examples(loaded, "here"), split)
    assert ([example.idx for example in picked], sorted(read)) == ([7, 93], [7, 93])
