"""The comparison on real English, with classifiers and tables that are known by hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from scripts.english.__main__ import main, planned
from scripts.english.classical import bag_of_words, classify, commonest
from scripts.english.contenders import COMMONEST, EMBEDDINGS, SETFIT, TRAINED, Contender
from scripts.english.job import Job, make, pooled
from scripts.english.report import write_report
from scripts.english.sets import RAFT, SETS, EnglishSet, in_folds, own_tables, tables_of
from tfew.comparison.rows import Row, as_json_lines, load_rows
from tfew.errors import UserError
from tfew.schema import Example

ROWS = [
    {"text": "good", "a": "fine", "b": "poor", "label": "fine"},
    {"text": "bad", "a": "poor", "b": "fine", "label": "poor"},
]


def knows_pairs(
    texts: Sequence[str], labels: Sequence[str], asked: Sequence[str], seed: int
) -> tuple[list[Mapping[str, float]], Mapping[str, str]]:  # fmt: skip
    known = dict(zip(texts, labels, strict=True))
    return [{"right": float(known[text] == "right"), "wrong": float(known[text] == "wrong")} for text in asked], {}


def test_a_row_with_choices_of_its_own_is_one_text_for_each() -> None:
    outcome = classify(knows_pairs, ROWS, [*ROWS, {**ROWS[0], "label": "poor"}], ["text"], ["a", "b"], "label", 0)
    assert (outcome.right, outcome.chance) == ([1, 1, 0], 0.5)


def test_the_commonest_label_and_words() -> None:
    train = [{"text": text, "label": label} for text, label in (("red", "x"), ("red red", "x"), ("blue", "y"))]
    test = [{"text": "red", "label": "x"}, {"text": "blue", "label": "y"}]
    assert classify(commonest, train, test, ["text"], [], "label", 0).right == [1, 0]
    assert classify(bag_of_words, train, test, ["text"], [], "label", 0).right == [1, 1]


def test_the_order_is_seeds_then_contenders_then_sets() -> None:
    own = {"part": "comparison", "sets": "RTE,COPA", "only": "", "seeds": "0,1"}
    jobs = planned(own, with_sentence_models=False)
    assert [job.seed for job in jobs] == sorted(job.seed for job in jobs)
    assert [job.set_name for job in jobs[:2]] == ["RTE", "COPA"]
    assert not {EMBEDDINGS, SETFIT} & {job.contender.name for job in jobs}
    assert {job.seed for job in jobs if job.contender.name == "zero-shot"} == {0}
    assert {job.set_name for job in jobs if job.contender.name == "LoRA"} == {"RTE"}


@pytest.mark.parametrize(("key", "value"), [("sets", "RTE,RAFT overuling"), ("only", "IA3")])
def test_a_name_that_is_none_is_refused(key: str, value: str) -> None:
    own = {"part": "comparison", "sets": "", "only": "", "seeds": "0", key: value}
    with pytest.raises(UserError, match=f"^Unknown .*{key}="):
        planned(own, with_sentence_models=True)


def test_sets_in_folds_have_one_seed_and_the_cheaper_contenders() -> None:
    own = {"part": "comparison", "sets": "RTE,RAFT overruling", "only": "", "seeds": "0,1"}
    of_raft = [job for job in planned(own, with_sentence_models=True) if job.set_name != "RTE"]
    assert {job.seed for job in of_raft} == {0}
    assert {job.contender.name for job in of_raft} == {
        COMMONEST, "TF-IDF + LR", "zero-shot", TRAINED, EMBEDDINGS, SETFIT, "in context, 4",
    }  # fmt: skip
    later = planned({**own, "seeds": "1"}, with_sentence_models=True)
    assert {job.set_name for job in later} == {"RTE"}, "the folds are those of seed 0, whichever part is run"
    assert "zero-shot" not in {job.contender.name for job in later}


def test_folds_part_the_examples_and_spread_each_label() -> None:
    examples = [Example(number, {"text": str(max(number, 1))}, int(number < 8)) for number in range(30)]
    folds = in_folds(examples, ["text"], 4, seed=0)
    assert sorted(e.idx for _, test in folds for e in test) == list(range(30))
    for train, test in folds:
        assert sorted(e.idx for e in (*train, *test)) == list(range(30))
        assert sum(e.label == 1 for e in test) == 2
        assert len({0, 1} & {e.idx for e in test}) in (0, 2)  # of the same text
    assert [[e.idx for e in test] for _, test in in_folds(examples, ["text"], 4, seed=1)] != [
        [e.idx for e in test] for _, test in folds
    ]


def test_the_row_of_a_set_in_folds_counts_each_test_row_once() -> None:
    parts = [row(TRAINED, "1110", rows_sha256="a", training_flops=1.0), row(TRAINED, "01", rows_sha256="b")]
    parts[1].settings["training_flops"] = 2.0
    whole = pooled(parts)
    assert (whole.right, whole.accuracy, whole.seconds["train"]) == ("111001", pytest.approx(4 / 6), 16.0)
    assert whole.accuracy_by_norm["sum"] == pytest.approx(4 / 6)
    assert whole.settings["training_flops"] == 3.0
    assert whole.settings["rows_sha256"] not in ("a", "b")
    assert pooled(parts[:1]) is parts[0]


def row(variant: str, right: str, seed: int = 0, dataset: str = "RTE", **settings: float | str) -> Row:
    accuracy = right.count("1") / len(right)
    known = dict.fromkeys(("steps", "batch_size", "shots", "eval_rows", "lr", "score_norm"))
    return Row(
        variant, dataset, seed, "", "", variant, "", accuracy, {"token": accuracy, "sum": accuracy}, 0.5, 1, right,
        {**known, **settings}, 0, {"train": 8.0, "evaluate": 4.0}, "abcdef0123", {},
    )  # fmt: skip


def test_the_page_compares_the_same_rows_and_seeds(tmp_path: Path) -> None:
    run = {"evaluation_flops": 400.0, "training_flops": 6000.0}
    rows = [
        row(TRAINED, "1110", **run), row(TRAINED, "1100", 1, **run), row(COMMONEST, "1010"),
        row(TRAINED, "1111", dataset="CB"), row(COMMONEST, "1000", dataset="CB"),
        row("in context, 4", "1000", evaluation_flops=2400.0, training_flops=0.0),
        row("in context, 1", "1000", evaluation_flops=1200.0, training_flops=0.0),
    ]  # fmt: skip
    path = tmp_path / "records.jsonl"
    path.write_text(as_json_lines(rows), encoding="utf-8")
    assert "62.5" in write_report(path)
    page = (tmp_path / "TABLE.md").read_text(encoding="utf-8")
    # seed 0 alone: of RTE 1110 less 1010 is 0, 1, 0, 0, of mean 0.25 and standard error 0.25; so is CB's, of mean 0.75
    assert f"| {COMMONEST} | 2 | 87.5 | 37.5 | +50.0 [+15.4, +84.6] | 2 of 2 | +25.0 (CB) |" in page
    assert "| in context, 1 | 1 | 75.0 | 25.0 | +50.0 [-6.6, +106.6] | 1 of 1 | - |" in page
    # 100 FLOPs a prediction instead of 600: 6000 / 500
    assert [line.split("|")[-2].strip() for line in page.splitlines() if "| in context, 4 | 25.0" in line] == ["12"]
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("accuracy.png", "costs.png"))


def test_a_run_and_a_classifier_have_the_same_rows(tmp_path: Path) -> None:
    settings = ["model=mini_t0", "steps=2", "trainer.autocast=false", "eval_batch_size=52"]
    run = make(Job(Contender(TRAINED, "train"), "reviews", 0), None, tmp_path, {}, settings)
    other = make(Job(Contender(COMMONEST), "reviews", 0), None, tmp_path, {COMMONEST: commonest}, [])
    assert run.settings["rows_sha256"] == other.settings["rows_sha256"] == own_tables("reviews").sha256
    assert len(run.right) == len(other.right) == 104
    assert run.settings["training_flops"] > 0  # type: ignore[operator]


@pytest.mark.real_data
@pytest.mark.parametrize("which", SETS, ids=lambda which: which.name)
def test_test_rows_are_the_same_for_all_seeds_and_none_is_trained_on(
    which: EnglishSet, real_data: Path, tmp_path: Path
) -> None:
    (first,), (second,) = (tables_of(which, seed, real_data, tmp_path) for seed in (0, 1))
    assert first.test.read_text() == second.test.read_text()
    assert first.train.read_text() != second.train.read_text()
    assert not set(first.train.read_text().splitlines()) & set(first.test.read_text().splitlines())
    assert len(first.test.read_text().splitlines()) <= 300


@pytest.mark.real_data
@pytest.mark.parametrize("which", RAFT, ids=lambda which: which.name)
def test_each_of_raft_s_fifty_rows_is_tested_on_once(which: EnglishSet, real_data: Path, tmp_path: Path) -> None:
    folds = tables_of(which, 0, real_data, tmp_path)
    train, test = ([getattr(tables, part).read_text().splitlines() for tables in folds] for part in ("train", "test"))
    assert [len(lines) for lines in test] == [10] * 5
    every = sorted(line for lines in test for line in lines)
    assert all(sorted(train[fold] + test[fold]) == every for fold in range(5))


@pytest.mark.real_data
def test_what_is_there_is_not_made_again(real_data: Path, tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    arguments = [
        f"data_dir={real_data}", f"records={records}", f"runs={tmp_path / 'runs'}", "setfit=none", "sets=CB,COPA",
        "seeds=0", f"only={COMMONEST}",
    ]  # fmt: skip
    assert main(arguments) == 0
    lines = records.read_text().splitlines()
    assert [json.loads(line)["dataset"] for line in lines] == ["CB", "COPA"]
    records.write_text(lines[0] + "\n")
    assert main(arguments) == 0
    assert records.read_text().splitlines()[0] == lines[0]
    assert [r.dataset for r in load_rows(records)] == ["CB", "COPA"]
