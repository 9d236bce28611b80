"""RAFT: the layout of its prompts, truncation, folds on the labelled rows, and a submission."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models import ragged_batch, tiny_t5, with_ia3
from tfew.config import CONFIGS, checked, compose
from tfew.data.sources import load_split
from tfew.data.tokenization import PromptTokenizer, even_limit
from tfew.dataset_config import complete
from tfew.errors import UserError
from tfew.models.backbone import load_tokenizer
from tfew.prediction.submission import predictions_csv
from tfew.raft_submit import submit
from tfew.schema import Prompt
from tfew.scoring.losses import LossConfig, counts, loss_terms
from tfew.scoring.score import token_logprob
from tfew.task import load_spec, train_task, unlabelled_task
from tfew.train import train

TASKS = sorted(path.stem for path in (CONFIGS / "dataset" / "raft").glob("*.yaml") if path.stem != "base")
FIELDS = {
    "tai_safety_research": ["Title", "Abstract Note", "Publication Title", "Item Type", "Publication Year"],
    "neurips_impact_statement_risks": ["Impact statement", "Paper title"],
    "systematic_review_inclusion": ["Title", "Abstract", "Journal"],
    "semiconductor_org_types": ["Organization name", "Paper title"],
}
IN_THE_TABLE = {  # the columns' order in the data's files, of the three tasks where it is not the settings'
    "tai_safety_research": ["Title", "Abstract Note", "Publication Year", "Item Type", "Publication Title"],
    "neurips_impact_statement_risks": ["Paper title", "Impact statement"],
    "semiconductor_org_types": ["Paper title", "Organization name"],
}
TINY = ("model=tiny", "trainer=cpu", "steps=2", "batch_size=4")
BYTES = "max_tokens=3000"  # of the tiny model's tokenizer, which has one for every byte


def instruction(task: str) -> str:
    return f"Say what is asked of {task}.\nOf {{{{ braces }}}} and ${{dollars}} keep all."


def fields(task: str) -> list[str]:
    return FIELDS.get(task, ["Text"])


@pytest.fixture(scope="module")
def raft_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir with RAFT's files of all tasks: ten labelled rows, six without labels."""
    root = tmp_path_factory.mktemp("raft_data")
    (root / "raft").mkdir()
    settings = [{task: fields(task) for task in TASKS}, {task: instruction(task) for task in TASKS}]
    path = root / "raft" / "prompt_construction_settings.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in settings))
    for task in TASKS:
        names = list(load_spec(worded(f"dataset=raft/{task}", data_dir=root)).label_names or ())
        columns = IN_THE_TABLE.get(task, fields(task))
        rows = [{name: f"{name} no. {i}, é" for name in columns} | {"Url": "http://x"} for i in range(16)]
        labelled = [{**row, "Label": names[i % len(names)], "ID": i} for i, row in enumerate(rows[:10])]
        _csv(root / "raft" / task / "train.csv", labelled)
        _csv(root / "raft" / task / "test_unlabeled.csv", [{**row, "ID": 10 + i} for i, row in enumerate(rows[10:])])
        description = {"name": task, "label_columns": {"Label": names}}
        (root / "raft" / task / "task.json").write_text(json.dumps(description))
    return root


def _csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def worded(*overrides: str, data_dir: Path) -> Any:
    return complete(checked(compose(*TINY, *overrides, f"data_dir={data_dir}")))


@pytest.mark.parametrize("task", TASKS)
def test_the_layout(task: str, raft_data: Path) -> None:
    config = worded(f"+experiment=raft/{task}", data_dir=raft_data)
    names = load_spec(config).label_names
    assert names is not None
    words = [name.replace("_", " ") for name in names]
    training = train_task(config)
    (prompt,) = training.prompts[3]
    listed = [f"Possible labels: {', '.join(words)}"] if len(names) > 10 else []
    shown = [f"{name}: {name} no. 3, é" for name in fields(task)]
    assert prompt.input == "\n".join([instruction(task), *listed, *shown, "Label:"])
    assert [prompt.input[start:end] for start, end in prompt.cuttable] == [f"{name} no. 3, é" for name in fields(task)]
    assert (prompt.choices, prompt.label, prompt.idx) == (tuple(words), 3 % len(names), 3)
    test = unlabelled_task(config)
    assert [(p.idx, p.label) for (p,) in test.prompts] == [(10 + i, None) for i in range(6)]
    listing = worded(f"+experiment=raft/{task}", "dataset.layout.list_labels=true", data_dir=raft_data)
    assert f"\nPossible labels: {', '.join(words)}\n" in train_task(listing).prompts[3][0].input


@pytest.mark.parametrize("task", TASKS)
def test_the_official_codes_order_of_fields(task: str, raft_data: Path) -> None:
    config = worded(f"+experiment=raft/{task}", "fidelity=official", data_dir=raft_data)
    lines = train_task(config).prompts[0][0].input.splitlines()
    order = [line.partition(":")[0] for line in lines if " no. 0" in line]
    assert order == IN_THE_TABLE.get(task, fields(task))


def test_the_one_task_of_many_labels() -> None:
    config = compose("+experiment=raft/banking_77")
    assert (config.loss.lm, config.loss.ul, config.loss.ln, config.loss.score_norm) == (1, 0, 0, "token")
    assert (config.max_tokens, config.memory_gb, len(config.dataset.label["names"])) == (512, 1.4, 77)


def test_a_copy_of_the_hub_counts_labels_from_one(raft_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    labels = ["Unlabeled", "hate speech", "not hate speech"]
    features = {
        "Text": datasets.Value("string"),
        "ID": datasets.Value("int32"),
        "Label": datasets.ClassLabel(names=labels),
    }
    made = {
        "train": {"Text": ["a"] * 50, "ID": list(range(50)), "Label": [1, 2] * 25},
        "test": {"Text": ["b"] * 2966, "ID": list(range(50, 3016)), "Label": [0] * 2966},
    }
    sets = {name: datasets.Dataset.from_dict(rows, features=datasets.Features(features)) for name, rows in made.items()}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, split, **__: sets[split])
    file = raft_data / "raft" / "prompt_construction_settings.jsonl"
    overrides = ("+experiment=raft/tweet_eval_hate", "data_dir=null", f"dataset.layout.settings=[{file}]")
    config = complete(checked(compose(*TINY, *overrides)))
    assert [example.label for example in train_task(config).examples[:3]] == [0, 1, 0]
    test = unlabelled_task(config)
    assert (test.rows, test.examples[0].idx, test.examples[0].label) == (2966, 50, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            None,
            r"overruling takes its prompt from raft/prompt_construction_settings.jsonl or .*is missing. Take .*/t-few,",
        ),
        ('{"overruling": ["Text"]}\n', "must have two lines"),
        ('{"overruling": ["Text"]}\n{"other": "x"}\n', "with 'overruling' in both"),
        ('{"overruling": ["Txt"]}\n{"overruling": "x"}\n', r"train.csv, row 1 lacks 'Txt'"),
    ],
)
def test_settings_that_are_missing_or_wrong(
    settings: str | None, message: str, raft_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "raft").mkdir()
    (tmp_path / "raft" / "overruling").symlink_to(raft_data / "raft" / "overruling")
    if settings is not None:
        (tmp_path / "raft" / "prompt_construction_settings.jsonl").write_text(settings)
    with pytest.raises(UserError, match=message):
        train_task(worded("+experiment=raft/overruling", data_dir=tmp_path))


# what is cut


def test_shares_are_even_and_as_large_as_can_be() -> None:
    assert even_limit([10, 20, 90], 60) == 30
    assert even_limit([10, 50, 90], 60) == 25
    assert even_limit([10, 20, 30], 60) == 30
    assert even_limit([10, 10], -1) < 1
    for room in range(1, 200):
        lengths = [17, 3, 90, 41, 41]
        most = even_limit(lengths, room)
        assert sum(min(length, most) for length in lengths) <= room
        assert most == max(lengths) or sum(min(length, most + 1) for length in lengths) > room


def test_the_longest_parts_are_cut_and_nothing_else() -> None:
    tokenizer = load_tokenizer(None, "main")  # bytes: a token a character
    text = "Instruction!\nTitle: short\nBody: " + "b" * 100 + "\nNote: " + "n" * 40 + "\nLabel:"
    spans = tuple((text.index(part), text.index(part) + len(part)) for part in ("short", "b" * 100, "n" * 40))
    prompt = Prompt("d", "t", 0, text, ("x", "y"), 0, spans)
    encoded = PromptTokenizer(tokenizer, 100)(prompt)
    assert tokenizer.decode(encoded.input_ids) == (
        f"Instruction!\nTitle: short\nBody: {'b' * 26}\nNote: {'n' * 26}\nLabel:</s>"
    )
    assert encoded.cut_tokens == len(text) + 1 - 100
    assert PromptTokenizer(tokenizer, 500)(prompt).input_ids == tokenizer(text)["input_ids"]
    decoder = PromptTokenizer(tokenizer, 100, decoder_only=True)(prompt)
    assert tokenizer.decode(decoder.input_ids).endswith("\nLabel:")
    with pytest.raises(
        UserError, match=r"Template 't' of d has 42 tokens besides the texts.*max_tokens=44 is too small"
    ):
        PromptTokenizer(tokenizer, 44)(prompt)


@pytest.mark.real_data
@pytest.mark.parametrize("task", TASKS)
def test_real_prompts_keep_instruction_labels_and_question(task: str, real_data: Path) -> None:
    """With T5's own vocabulary, in the length that the experiment sets and in one that cuts something everywhere."""
    vocabulary = real_data / "t5_vocab"
    config = worded(f"+experiment=raft/{task}", f"model.tokenizer={vocabulary}", data_dir=real_data)
    description = json.loads((real_data / "raft" / task / "task.json").read_text())
    assert set(load_spec(config).label_names or ()) == set(description["label_columns"]["Label"])
    tokenizer = load_tokenizer(str(vocabulary), "main")
    training = train_task(config)
    for (prompt,) in training.prompts[::7]:
        bounds = [0, *(place for span in prompt.cuttable for place in span), len(prompt.input)]
        kept = [prompt.input[start:end] for start, end in zip(bounds[::2], bounds[1::2], strict=True)]
        fixed = sum(len(ids) for ids in tokenizer(kept, add_special_tokens=False)["input_ids"]) + 1
        assert fixed < config.max_tokens - 50
        for most in (config.max_tokens, fixed + 2 * len(prompt.cuttable)):
            ids = PromptTokenizer(tokenizer, most)(prompt).input_ids
            assert len(ids) <= most
            text = " ".join(tokenizer.decode(ids).split())
            assert text.startswith(" ".join(tokenizer.decode(tokenizer(kept[0])["input_ids"][:-1]).split()))
            assert text.endswith("Label:</s>")


# training and submitting


def test_only_the_right_choice_counts_where_only_it_has_a_loss() -> None:
    """The same loss and gradients as with all choices (no dropout), for a fraction of the work."""
    batch = ragged_batch()
    weights, found = LossConfig({"lm": 1, "ul": 0, "ln": 0}), []
    for one in (batch, batch.right_choices()):
        model = with_ia3(tiny_t5()).eval()
        loss = loss_terms(token_logprob(model, one), one, weights, counts(one))["loss"]
        loss.backward()
        found.append((loss, [p.grad for p in model.parameters() if p.grad is not None]))
    assert batch.right_choices().choice_ids.shape == (5, 1, batch.choice_ids.shape[2])
    torch.testing.assert_close(found[0][0], found[1][0])
    for ours, theirs in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert any(gradient.abs().max() > 0 for gradient in found[0][1])


def trained(task: str, raft_data: Path, runs: Path, *overrides: str) -> Any:
    common = (f"+experiment=raft/{task}", *TINY, BYTES, f"data_dir={raft_data}", f"runs={runs}")
    return train(compose(*common, *overrides))


@pytest.mark.parametrize(
    "tasks",
    [["overruling", "tai_safety_research"], pytest.param(TASKS, marks=[pytest.mark.slow, pytest.mark.drill])],
    ids=["two", "all"],
)
def test_folds_and_a_submission(tasks: list[str], raft_data: Path, tmp_path: Path) -> None:
    runs, output = tmp_path / "runs", tmp_path / "out"
    for task in tasks:
        in_folds = task == "overruling"
        record = trained(task, raft_data, runs, "folds=2" if in_folds else "folds=null")
        assert record.counts.get("rows", 0) == (10 if in_folds else 0)
        assert ("f1_macro" in record.metrics) == in_folds
        assert ("bag of words" in record.metrics.get("baselines", {})) == in_folds
    all_of_them = "tasks=null" if tasks == TASKS else f"tasks={tasks}".replace("'", "")
    given = (f"runs={runs}", f"output={output}", "trainer=cpu", all_of_them)
    files = submit(compose(*given, config_name="raft_submit"))
    assert files == [output / task / "predictions.csv" for task in tasks]
    for task in tasks:
        with (output / task / "predictions.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["ID", "Label"]
        assert [row["ID"] for row in rows] == [str(10 + i) for i in range(6)]
        names = json.loads((raft_data / "raft" / task / "task.json").read_text())["label_columns"]["Label"]
        assert {row["Label"] for row in rows} <= set(names)
    # what is there stays
    before = files[0].stat().st_mtime_ns
    files[1].unlink()
    submit(compose(*given, config_name="raft_submit"))
    assert files[0].stat().st_mtime_ns == before
    assert files[1].is_file()


def test_a_task_without_its_run_is_missed_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"has no finished run of ade_corpus_v2, banking_77, .*train with \+experiment=raft"
    ):
        submit(compose(f"runs={tmp_path}/none", f"output={tmp_path}/new", config_name="raft_submit"))
    assert not (tmp_path / "new").exists()


def test_a_length_that_leaves_no_room_is_said_before_anything_is_written(raft_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has \d+ tokens besides the texts .*max_tokens=60 is too small"):
        trained("overruling", raft_data, tmp_path, "max_tokens=60")
    assert not list(tmp_path.iterdir())


def test_which_run_predicts(raft_data: Path, tmp_path: Path) -> None:
    first = trained("overruling", raft_data, tmp_path, "folds=null")
    second = trained("overruling", raft_data, tmp_path, "folds=null", "few_shot_seed=1")
    one = ("tasks=[overruling]", "trainer=cpu", f"output={tmp_path}/out", "overwrite=true")
    named = tmp_path / "named.json"
    named.write_text(json.dumps({"overruling": str(tmp_path / first.name)}))

    def predicted(*overrides: str, capsys: Any = None) -> str:
        (file,) = submit(compose(*one, *overrides, config_name="raft_submit"))
        return file.read_text()

    assert predicted(f"runs={tmp_path}") == predicted(f"adapters={_named(tmp_path, second.name)}")
    assert predicted(f"adapters={named}").splitlines()[0] == "ID,Label"
    named.write_text(
        json.dumps({"overruling": str(tmp_path / first.name), "tweet_eval_hate": str(tmp_path / first.name)})
    )
    with pytest.raises(UserError, match="is a run on overruling, not on tweet_eval_hate"):
        predicted(f"adapters={named}", "tasks=[tweet_eval_hate]")
    with pytest.raises(UserError, match=r"Unknown task 'overrule' \(tasks=\). Did you mean 'overruling'"):
        predicted("tasks=[overrule]")
    named.write_text("[1]")
    with pytest.raises(UserError, match="is not a JSON file of task names and run folders"):
        predicted(f"adapters={named}")


def _named(folder: Path, run: str) -> Path:
    path = folder / "second.json"
    path.write_text(json.dumps({"overruling": str(folder / run)}))
    return path


def test_labels_that_are_not_the_tasks_own_are_refused_before_predicting(raft_data: Path, tmp_path: Path) -> None:
    record = trained("overruling", raft_data, tmp_path, "folds=null")
    elsewhere = tmp_path / "data"
    for file in ("train.csv", "test_unlabeled.csv"):
        target = elsewhere / "raft" / "overruling" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((raft_data / "raft" / "overruling" / file).read_bytes())
    description = {"label_columns": {"Label": ["Overruling", "not overruling"]}}
    (elsewhere / "raft" / "overruling" / "task.json").write_text(json.dumps(description))
    named = _named(tmp_path, record.name)
    with pytest.raises(UserError, match=r"the run's labels are not those of .*task.json: 'Overruling', 'overruling'"):
        submit(compose(f"adapters={named}", "tasks=[overruling]", f"data_dir={elsewhere}", config_name="raft_submit"))


@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        ([(1, "a"), (2, "b"), (2, "b")], "ids predicted twice: 2"),
        ([(1, "a")], "ids that are not those of the test rows, or missing: 2"),
        ([(1, "a"), (3, "b")], "or missing: 2, 3"),
        ([(1, "a"), (2, "B")], "labels that the task does not have: 'B'"),
    ],
)
def test_a_file_that_would_be_wrong_is_not_made(predicted: list[tuple[int, str]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        predictions_csv("task", predicted, [1, 2], ["a", "b"])


def test_a_file_of_predictions() -> None:
    text = predictions_csv("task", [(2, 'say "b", please'), (1, "a")], [1, 2], ["a", 'say "b", please'])
    assert text == 'ID,Label\n1,a\n2,"say ""b"", please"\n'
    assert [row["Label"] for row in csv.DictReader(text.splitlines())] == ["a", 'say "b", please']


@pytest.mark.real_data
def test_the_real_rows_are_read(real_data: Path) -> None:
    for task in TASKS:
        spec = load_spec(worded(f"dataset=raft/{task}", data_dir=real_data))
        assert len(load_split(spec, "train", real_data)) == spec.rows["train"] == 50
        assert len(load_split(spec, "test", real_data, labelled=False)) == spec.rows["test"]
