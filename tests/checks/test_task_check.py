"""Checks of a task before training: every finding with its remedy, and no finding for a good task."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tfew.checks.finding import report
from tfew.checks.task_check import check_task
from tfew.config import compose
from tfew.data.tokenization import PromptTokenizer
from tfew.errors import UserError
from tfew.preview import preview
from tfew.schema import Example, Prompt
from tfew.task import Task
from tfew.train import train

TEXTS = [f"text {number} of the table" for number in range(12)]


def made_tokenizer() -> Any:
    """One token a word, of the words and characters that it has seen; any other is unknown, as in T5's vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [
        "<pad>",
        "</s>",
        "<unk>",
        *["good", "bad", "okay", "Good", "text", "of", "the", "table"],
        *map(str, range(30)),
    ]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def tokenizer(max_tokens: int = 64) -> PromptTokenizer:
    return PromptTokenizer(made_tokenizer(), max_tokens)


def task(
    texts: Sequence[str] = TEXTS,
    labels: Sequence[int] | None = None,
    names: Sequence[str] = ("good", "bad"),
    words: Sequence[str] | None = None,
) -> Task:
    """Rows that take turns with their labels, worded as "Answer: TEXT" with the text cuttable."""
    labels = labels or [number % len(names) for number in range(len(texts))]
    examples = [Example(n, {"text": text}, label) for n, (text, label) in enumerate(zip(texts, labels, strict=True))]
    prompts = [
        [
            Prompt(
                "d",
                "t",
                e.idx,
                f"of {e.fields['text']}",
                tuple(words or names),
                e.label,
                ((3, 3 + len(e.fields["text"])),),
            )
        ]
        for e in examples
    ]
    return Task("d", examples, prompts, 0, classes=tuple(names))


def own_choices(choices: Sequence[Sequence[str]]) -> Task:
    examples = [Example(number, {}, 0) for number in range(len(choices))]
    prompts = [[Prompt("d", "t", e.idx, TEXTS[e.idx], tuple(choices[e.idx]), 0)] for e in examples]
    return Task("d", examples, prompts, 0)


def said(found: Task, max_tokens: int = 64, **options: Any) -> list[str]:
    return [str(finding) for finding in check_task(found, tokenizer(max_tokens), **options)]


def test_a_good_task_is_passed_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    assert said(task(), folds=3) == []
    assert said(own_choices([["good", "bad"]] * 12)) == []
    report([])
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("names", "words", "message"),
    [
        (("好评", "差评"), None, "the labels '好评' and '差评' are the same tokens to this model (its vocabulary does"
         " not know their characters): say other words for them, choices='{好评: ..., 差评: ...}', or take a model"),
        (("😀", "good", "😡"), None, "the labels '😀' and '😡' are the same tokens"),
        (("a", "b"), ("good bad good text", "good bad good table"), "(of which only the first 4 count, max_tokens=)"),
    ],
)  # fmt: skip
def test_labels_that_are_the_same_tokens(names: Sequence[str], words: Sequence[str] | None, message: str) -> None:
    errors = [line for line in said(task(names=names, words=words), 4) if line.startswith("error")]
    assert len(errors) == 1
    assert message in errors[0]


@pytest.mark.parametrize(
    ("names", "one"),
    [
        (("Good", "good", "bad"), "labels=[good,bad]"),
        (("not_good", "not good", "bad"), "labels=[not_good,bad]"),
        (("cafe\u0301", "caf\u00e9", "bad"), "labels=[caf\u00e9,bad]"),
        (("1", "1.0", "2"), "labels=[1.0,2]"),
    ],
)
def test_labels_that_are_alike(names: Sequence[str], one: str) -> None:
    (line,) = [line for line in said(task(names=names)) if line.startswith("error")]
    assert line.startswith("error: labels that are alike but for upper case, Unicode's form, blanks or underscores: ")
    assert f"{one} takes such spellings as one" in line
    assert not any("alike" in line for line in said(task(names=names), labels_are_named=True))


def test_labels_that_may_be_none() -> None:
    assert "warning: 'nan' (4 rows) may mean that there is no label: if so, leave these rows out." in said(
        task(names=("good", "bad", "nan"))
    )


def test_choices_of_rows_that_are_the_same_are_listed() -> None:
    some = own_choices([["good", "bad"]] * 8 + [["好", "评"]] * 2)
    (line,) = said(some)
    assert line.startswith(
        "warning: rows 9, 10 (2 of 10 rows) have choices that the model cannot tell apart, since its tokenizer makes"
        " the same tokens of them ('好' and '评' in row 9): if they mean different things, reword one of them"
    )
    assert "no answer to such a row counts as right" in line
    assert said(own_choices([["好", "评"]] * 4))[0].startswith("error: rows 1, 2, 3, 4 (4 of 4 rows)")


def test_a_script_that_the_vocabulary_cannot_read() -> None:
    (line,) = said(task([f"很好 {number}" for number in range(12)]))
    assert line.startswith("error: 63 % of the texts' characters are unknown to this model's vocabulary ('很', '好')")
    (line,) = said(task([f"{text} 好" for text in TEXTS]))
    assert line.startswith("warning: 6 % of the texts' characters are unknown")
    assert "take a model that reads this script" in line


def test_how_much_is_cut() -> None:
    long = [f"text {number}" + " text of the table" * 20 for number in range(6)]
    (line,) = said(task(TEXTS[:6] + long, [0, 1] * 6), 16)
    assert line.startswith("warning: 6 of 12 rows are longer than max_tokens=16 and are truncated, by 7")
    assert "max_tokens=128 truncates nothing" in line
    assert not said(task(TEXTS[:6] + long, [0, 1] * 6), 128)


def test_duplicates_rare_labels_and_imbalance() -> None:
    lines = said(task(["text 1"] * 4 + TEXTS[2:], [0, 0, 0, 1, *[0] * 10]), folds=5)
    assert lines == [
        "warning: rows 2, 3, 4 (3 of 14 rows) repeat what an earlier row shows the model (other columns are not"
        " compared; upper case and blanks do not count); cross-validation keeps them in the same fold: delete them,"
        " for they add no information; 11 different rows remain.",
        "warning: the text of row 1 occurs elsewhere with another label: decide on one of them.",
        "warning: labels with fewer rows than there are folds (5): bad (1): more rows of them, or one label for several"
        " of them.",
        "warning: 13 of 14 rows are 'good', so always saying it is right in 93 %: look at balanced accuracy and"
        " macro-F1 rather than at accuracy, and bring more rows of 'bad'.",
    ]
    (line, *_) = said(task(["text 1"] * 4 + TEXTS[2:], [0, 0, 0, 0, *[0] * 10]))
    assert "; validation= and folds= keep them together: delete them" in line, "whether or not one of them is set"


def test_labels_without_rows() -> None:
    lines = said(task(labels=[0, 1] * 6, names=("good", "bad", "okay")))
    assert (
        "warning: labels without any row: 'okay': the model may answer with them, and nothing here says how well."
        in lines
    )


def test_texts_that_give_the_label_away() -> None:
    (line,) = said(task([f"{text} {('good', 'bad')[number % 2]}" for number, text in enumerate(TEXTS)]))
    assert line.startswith("warning: the text of 12 of 12 rows holds the words of its own label and of no other")


def rows(path: Path, labels: Sequence[Any]) -> Path:
    lines = [json.dumps({"text": f"my hat {number} is here", "label": label}) for number, label in enumerate(labels)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_preview_and_training_say_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    common = ("+experiment=local_mini", f"data={rows(tmp_path / 't.jsonl', ['Yes', 'yes', 'no'] * 6)}", "steps=1")
    with pytest.raises(
        UserError, match=r"^Check of the task: labels that are alike .* labels=\[yes,no\]"
    ) as of_preview:
        preview(compose(*common, config_name="preview"))
    with pytest.raises(UserError) as of_training:
        train(compose(*common, f"runs={tmp_path}/runs", "trainer=cpu"))
    assert str(of_preview.value) == str(of_training.value)
    assert not (tmp_path / "runs").exists(), "nothing is trained"
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="tfew"):
        report(check_task(task(["text 1"] * 2 + TEXTS), tokenizer()))
    assert caplog.messages[-1].startswith("Check of the task:\n  warning: row 2 (1 of 14 rows) repeats")
    record = train(compose(*common, "labels=[no,yes]", f"runs={tmp_path}/runs", "trainer=cpu", "folds=2"))
    assert record.metrics["classes"].keys() == {"no", "yes"}


@pytest.mark.parametrize(
    ("settings", "split", "expected"),
    [
        ("steps=2 batch_size=5", "train", "steps=2 of batch_size=5 train on 10 of 18 rows: steps=3 is one pass over the"
         " rows, and takes 1.5 times as long."),
        ("steps=3 batch_size=5", "train", None),
        ("steps=1 batch_size=18", "train", None),
        ("steps=1 validation=0.9", "eval", None),  # rows that are not trained on
    ],
)  # fmt: skip
def test_rows_that_a_training_does_not_reach(
    settings: str, split: str, expected: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = ("folds=null", f"split={split}", *settings.split())
    with caplog.at_level(logging.INFO, logger="tfew"):
        common = ("+experiment=local_mini", f"data={rows(tmp_path / 't.jsonl', ['yes', 'no', 'no'] * 6)}")
        preview(compose(*common, *given, config_name="preview"))
    assert [line for line in caplog.text.splitlines() if " train on " in line] == (
        [] if expected is None else [f"  warning: {expected}"]
    )


def test_published_data_sets_are_not_checked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="tfew"):
        preview(compose("dataset=mini/complaint", "model=mini_t0", "few_shot=draw", "shots=16", config_name="preview"))
    assert not any("Check of the task" in message for message in caplog.messages)


@pytest.mark.parametrize("left", [[0, 3, 5], [5, 3, 0]])
def test_rows_are_named_by_their_places_in_the_table(left: list[int]) -> None:
    """Of rows that are held out none is left, drawn ones are in any order, and each keeps its number."""
    whole = task(["text 1", *TEXTS[1:5], "text 1"])
    (line,) = [one for one in said(whole.only(left)) if "repeat" in one]
    assert line.startswith("warning: row 6 (1 of 3 rows) repeats what an earlier row shows"), line
