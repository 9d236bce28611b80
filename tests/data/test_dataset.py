"""Reading rows, the label rule, and the few-shot sets."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import EXPERIMENTS
from tfew.config import CONFIGS, compose, resolved
from tfew.data.dataset import DatasetSpec
from tfew.data.fewshot import OFFICIAL_SPLITS, draw, few_shot_examples, pick_official, row_hash
from tfew.data.labels import LabelRule
from tfew.data.sources import load_split
from tfew.data.templates import load_templates
from tfew.errors import UserError
from tfew.schema import Example
from tfew.tables.formats import read_rows
from tfew.task import eval_task, load_spec, save_shots, train_task

RTE = LabelRule("label", (("entailment",), ("not_entailment",)))


@pytest.mark.parametrize(
    ("rule", "value", "index"),
    [
        (RTE, "not_entailment", 1),
        (RTE, 0, 0),
        (RTE, "1", 1),
        (LabelRule("label", (("false",), ("true",))), True, 1),
        (LabelRule("label", (("entailment", "e"), ("neutral", "n"), ("contradiction", "c"))), "c", 2),
        (LabelRule("answer", (("option1",), ("option2",)), first=1), "2", 1),
    ],
)
def test_label_rule(rule: LabelRule, value: Any, index: int) -> None:
    assert rule.index(value) == index


@pytest.mark.parametrize("value", ["maybe", 2, -1, "-1", None, 1.0])
def test_label_outside_the_choices(value: Any) -> None:
    with pytest.raises(ValueError, match=r"is none of 0 \(entailment\), 1 \(not_entailment\)"):
        RTE.index(value)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_distributed_form_is_read(experiment: str, made_data: Path) -> None:
    spec = load_spec(compose(f"dataset={experiment}"))
    for split in ("train", "eval"):
        examples = load_split(spec, split, made_data)
        assert [example.idx for example in examples] == list(range(12))
        assert len({example.label for example in examples}) == len(spec.label.names)
        assert all(set(spec.columns) <= example.fields.keys() for example in examples)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "", "a.jsonl is empty"),
        ("a.jsonl", '{"a": 1}\n{"a": \n', "a.jsonl, line 2 is not valid JSON: Expecting value"),
        ("a.jsonl", "[1]\n", "a.jsonl, line 1 is list, not a JSON object"),
        ("a.csv", "x,y\n1,2\n3\n", "a.csv, line 3 does not have the header's 2 columns"),
        ("a.csv", "x,y\n1,2,3\n", "a.csv, line 2 does not have the header's 2 columns"),
        ("a.csv", "x,y\n", "a.csv is empty"),
        ("a.txt", "x", "Unknown file ending '.txt'"),
    ],
)
def test_files_that_cannot_be_read(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_rows(write(tmp_path / name, text))


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"b.jsonl does not exist"):
        read_rows(tmp_path / "b.jsonl")
    (tmp_path / "c.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"c.jsonl cannot be read: 'utf-8' codec"):
        read_rows(tmp_path / "c.jsonl")


def test_rows_that_do_not_fit() -> None:
    spec = load_spec(compose("dataset=rte"))
    good = {"premise": "p", "hypothesis": "h", "label": "entailment"}
    with pytest.raises(UserError, match="FILE, row 2 lacks 'hypothesis'; it has 'premise', 'label'"):
        spec.examples([good, {"premise": "p", "label": 0}], "FILE")
    with pytest.raises(UserError, match="FILE, row 1: label 'perhaps' in column 'label' is none of 0"):
        spec.examples([{**good, "label": "perhaps"}], "FILE")
    with pytest.raises(UserError, match="FILE, row 1: 'premise' is null"):
        spec.examples([{**good, "premise": None}], "FILE")
    with pytest.raises(UserError, match="FILE, row 1, column 'idx': 'x7' is not int"):
        spec.examples([{**good, "idx": "x7"}], "FILE")
    with pytest.raises(UserError, match="FILE, row 2: an earlier row has idx 3, too"):
        spec.examples([{**good, "idx": 3}, {**good, "idx": 3}], "FILE")
    swag = load_spec(compose("dataset=hellaswag"))
    row = {"ctx_a": "", "ctx_b": "", "ctx": "", "activity_label": "", "endings": "abcd", "label": 0}
    with pytest.raises(UserError, match="FILE, row 1, column 'endings': 'abcd' is not list"):
        swag.examples([row], "FILE")
    with pytest.raises(UserError, match="FILE holds no rows"):
        spec.examples([], "FILE")


def test_bare_yes_in_yaml_is_refused() -> None:
    with pytest.raises(UserError, match=r"label.names of rte holds something that is not text: \[False, True\]. Quote"):
        load_spec(compose("dataset=rte", "dataset.label.names=[false,true]"))


def pool(size: int = 20) -> list[Example]:
    rows = [{"premise": f"p {i}", "hypothesis": "h", "label": i % 2} for i in range(size)]
    return load_spec(compose("dataset=rte")).examples(rows, "pool")


def test_official_rows_are_picked_in_order_and_checked() -> None:
    spec, rows = load_spec(compose("dataset=rte")), pool()
    split = [(idx, row_hash(spec, rows[idx])) for idx in (7, 3, 19)]
    assert [example.idx for example in pick_official(spec, rows, split)] == [7, 3, 19]
    changed = list(rows)
    changed[3] = Example(3, {**rows[3].fields, "premise": "p 3."}, rows[3].label)
    with pytest.raises(UserError, match=r"Row 3 of the rte training pool is not the official one .*'p 3\.'"):
        pick_official(spec, changed, split)
    changed[3] = Example(3, rows[3].fields, 0)
    with pytest.raises(UserError, match="Row 3 of the rte"):
        pick_official(spec, changed, split)
    with pytest.raises(UserError, match=r"Official row 19 of rte is not in the training pool \(10 rows\)"):
        pick_official(spec, rows[:10], split)


def test_shipped_splits_are_whole() -> None:
    for experiment in EXPERIMENTS:
        spec = load_spec(compose(f"dataset={experiment}"))
        splits = json.loads((OFFICIAL_SPLITS / f"{spec.official_name}.json").read_text())
        assert list(splits) == ["0", "1", "32", "42", "1024"]
        assert all(len({idx for idx, _ in split}) == spec.shots for split in splits.values())
        if spec.rows["train"]:
            assert all(idx < spec.rows["train"] for split in splits.values() for idx, _ in split)


@pytest.mark.slow
def test_draw_is_seeded_and_can_be_read_again(made_data: Path, tmp_path: Path) -> None:
    rows = pool()
    assert [e.idx for e in draw(rows, 5, 1)] == [e.idx for e in draw(rows, 5, 1)] != [e.idx for e in draw(rows, 5, 2)]
    options = ("few_shot=draw", "shots=8", "few_shot_seed=3")
    for experiment in EXPERIMENTS:
        config = compose(f"+experiment={experiment}", f"data_dir={made_data}", *options)
        drawn = train_task(config)
        save_shots(config, drawn.examples, tmp_path)
        again = compose(f"+experiment={experiment}", f"data_dir={tmp_path}", *options, "few_shot=files")
        assert train_task(again) == drawn


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("few_shot=official", "few_shot_seed=7"), r"seed=7 is not an official seed of rte \(0, 1, 32, 42, 1024\)"),
        (("few_shot=official", "shots=16"), "shots=16, but the official splits of rte have 32.*few_shot=draw"),
        (("few_shot=official",), "Official row .* of rte is not in the training pool"),
        (("few_shot=draw",), "shots=32, but the training pool of rte has only 12 rows"),
        (("few_shot=files",), r"0_seed.jsonl does not exist. Few-shot files of rte there: none"),
        (("few_shot=draw", "shots=4"), "batch_size=8, but there are only 4 training examples"),
        (("few_shot=draw", "dataset.files.train=[x.jsonl]"), r"No train rows of rte under .*x.jsonl.*files.train="),
    ],
)  # fmt: skip
def test_shots_that_cannot_be_had(overrides: tuple[str, ...], message: str, made_data: Path) -> None:
    with pytest.raises(UserError, match=message):
        train_task(compose("+experiment=rte", f"data_dir={made_data}", *overrides))


def test_rows_of_the_hub_are_read_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    table = datasets.Dataset.from_list([{"premise": f"p {i}", "hypothesis": "h", "label": i % 2} for i in range(277)])
    asked: list[Any] = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: asked.append((args, options)) or table)
    spec = load_spec(compose("dataset=rte"))
    examples = load_split(spec, "eval", None)
    assert asked == [(("aps/super_glue", "rte"), {"split": "validation", "revision": "main"})]
    assert not isinstance(examples, list)
    assert (len(examples), examples[276].idx, examples[-1].label, len(examples[:3])) == (277, 276, 0, 3)
    with pytest.raises(UserError, match="The Hub's rte train split has 277 rows instead of 2490"):
        load_split(spec, "train", None)
    wrong = table.add_column("answer", ["?"] * 277).remove_columns("label").rename_column("answer", "label")
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: wrong)
    with pytest.raises(UserError, match=r"aps/super_glue eval, row 6: label '\?' in column 'label' is none of"):
        load_split(spec, "eval", None)[5]


def test_files_need_a_folder() -> None:
    with pytest.raises(UserError, match="few_shot=files needs data_dir="):
        train_task(compose("+experiment=rte", "few_shot=files"))


def test_story_cloze_says_what_to_bring() -> None:
    with pytest.raises(
        UserError, match=r"storycloze cannot be loaded from the Hub .*data_dir= .*cloze_test_ALL_test.csv"
    ):
        eval_task(compose("+experiment=storycloze"))


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("experiment", "pool_file"), [("rte", "RTE/train"), ("cb", "CB/train"), ("wsc", "WSC/train_fixed")]
)
def test_official_splits_from_the_real_pools(experiment: str, pool_file: str, real_data: Path, tmp_path: Path) -> None:
    """Picked by row number, and drawn with the seed, both equal the official files row for row."""
    spec = load_spec(compose(f"dataset={experiment}"))
    for seed in (0, 1, 32, 42, 1024):
        official = few_shot_examples(spec, "official", seed, spec.shots, real_data)
        file = few_shot_examples(spec, "files", seed, spec.shots, real_data)
        drawn = few_shot_examples(spec, "draw", seed, spec.shots, real_data)
        columns = (*spec.columns, "label", "idx")
        for rows in (official, drawn):
            assert [[row.fields[c] for c in columns] for row in rows] == [
                [row.fields[c] for c in columns] for row in file
            ]

    path = tmp_path / "superglue" / f"{pool_file}.jsonl"
    path.parent.mkdir(parents=True)
    lines = (real_data / "superglue" / f"{pool_file}.jsonl").read_text().splitlines()
    idx = few_shot_examples(spec, "official", 0, spec.shots, real_data)[5].idx
    row = json.loads(lines[idx])
    row[spec.columns[0]] = row[spec.columns[0]][:-1] + "?"
    lines[idx] = json.dumps(row)
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=f"Row {idx} of the {experiment} training pool is not the official one"):
        few_shot_examples(spec, "official", 0, spec.shots, tmp_path)


@pytest.mark.real_data
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_official_files_lie_as_they_are(experiment: str, real_data: Path) -> None:
    """Where there is no pool, few_shot=official takes the official file of rows and checks it by the same hashes."""
    spec = load_spec(compose(f"dataset={experiment}"))
    for seed in (0, 1, 32, 42, 1024):
        assert len(few_shot_examples(spec, "official", seed, spec.shots, real_data)) == spec.shots


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("experiment", "rows"),
    [
        ("rte", 277), ("cb", 56), ("copa", 100), ("wic", 638), ("wsc", 104), ("winogrande", 1267),
        ("anli_r1", 1000), ("anli_r2", 1000), ("anli_r3", 1200),
    ],
)  # fmt: skip
def test_real_evaluation_sets_have_their_published_sizes(experiment: str, rows: int, real_data: Path) -> None:
    spec = load_spec(compose(f"dataset={experiment}"))
    assert len(load_split(spec, "eval", real_data)) == rows == spec.rows["eval"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colums": ["text"]}, r"dataset has unknown or missing keys: colums; its keys: name, official_name"),
        ({"columns": 3}, r"dataset\.columns: input should be a valid tuple"),
        ({"rows": {"train": "many"}}, r"dataset\.rows\.train.*: input should be a valid integer"),
        ({"label": {"names": ["no", "yes"]}}, r"dataset\.label of complaint: column: field required"),
        ({"label": ["text"]}, r"dataset\.label of complaint: input should be a valid dict"),
        ({"prompts": None}, r"dataset\.prompts is null"),
        ({"prompts": [{"name": "a", "jinja": "b"}]}, r"A template .* or malformed: answer_choices: field required"),
        ({"prompts": [{"name": "a", "jinja": 3, "answer_choices": "c"}]}, r"jinja: input should be a valid string"),
        (
            {"prompts": [{"name": "a", "jinja": "b", "answer_choices": "c", "jina": "d"}]},
            r"or malformed: unknown keys jina",
        ),
        ({"prompts": ["super_glue/rte"]}, r"A template of dataset\.prompts .*malformed: input should be a valid dict"),
    ],
)
def test_a_data_sets_file_that_cannot_be_is_told_by_its_key(change: dict[str, Any], message: str) -> None:
    section = {**resolved(compose("dataset=mini/complaint").dataset), **change}
    with pytest.raises(UserError, match=message):
        load_templates(DatasetSpec.from_config(section).prompts)


def _repositories() -> dict[Path, tuple[str, str]]:
    """The files that name a repository of the Hub: its id, and the line above their section `hub`."""
    found = {}
    for path in (CONFIGS / "dataset").rglob("*.yaml"):
        section = re.search(r"(?m)^(.*)\n^hub:(.*\n(?:^ .*\n)*)", path.read_text())
        if section and (id := re.search(r"\bid: ([\w.-]+/[\w.-]+)", section[2])):
            found[path] = (id[1], section[1])
    return found


def test_each_repository_of_the_hub_says_whether_it_was_seen_elsewhere() -> None:
    """And at which commit; files of one repository say the same."""
    found = _repositories()
    assert len(found) > 30
    form = re.compile(r"# (not seen elsewhere|seen elsewhere: [0-9a-f]{40}, (undated|\d{4}-\d\d-\d\d))")
    assert [path.name for path, (_, line) in found.items() if not form.fullmatch(line)] == []
    assert len(set(found.values())) == len({id for id, _ in found.values()})
