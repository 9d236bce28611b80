"""Files that list labels."""

import logging
from pathlib import Path

import pytest

from tests.data.test_describe_table import TINY, write
from tfew.config import checked, compose
from tfew.dataset_config import complete
from tfew.errors import UserError
from tfew.tables.label_file import is_label_file, read_labels
from tfew.task import train_task

ROWS = [{"text": f"row {n} is here", "kind": ("lost", "late")[n % 2]} for n in range(8)]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "a.csv",
            "name,words\nlost,a lost card\nlate,a late parcel\n",
            {"lost": "a lost card", "late": "a late parcel"},
        ),
        ("a.tsv", "label\tdescription\n7\tseven\n8\teight\n", {"7": "seven", "8": "eight"}),
        ("a.csv", "name\nlost\nlate\n", ["lost", "late"]),
        ("a.yaml", "no: it is not\nyes: it is\n", {"no": "it is not", "yes": "it is"}),
        ("a.yml", "- no\n- yes\n", ["no", "yes"]),
        ("a.jsonl", '{"label": "x", "words": "an x"}\n{"label": "y", "words": "a y"}\n', {"x": "an x", "y": "a y"}),
    ],
)
def test_what_they_list(name: str, text: str, expected: object, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert is_label_file(str(tmp_path / name))
    assert read_labels(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "a,b,c\n1,2,3\n", r"has 3 columns \(a, b, c\)"),
        ("a.csv", "a,b\nlost,x\nlost,y\n", "lists 'lost' twice"),
        ("a.csv", "a,b\nlost,x\nlate,\n", "row 2: 'b' is empty"),
        ("a.yaml", "lost: {a: b}\n", "lists no labels"),
        ("a.yaml", "just text\n", "lists no labels"),
        ("a.yaml", "a: [\n", "cannot be read"),
    ],
)
def test_what_is_no_list_of_labels(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_labels(tmp_path / name)


def test_the_line_that_is_taken_for_the_header_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tfew")
    path = tmp_path / "a.csv"
    path.write_text("mixed\nlost\nlate\n")
    assert read_labels(path) == ["lost", "late"]
    assert caplog.messages == [f"{path}: its first line, 'mixed', is the header; 2 labels below it."]
    caplog.clear()
    (tmp_path / "a.yaml").write_text("- mixed\n- lost\n")
    assert read_labels(tmp_path / "a.yaml") == ["mixed", "lost"]
    assert not caplog.messages


def test_choices_and_labels_take_a_file(tmp_path: Path) -> None:
    data = write(tmp_path / "t.csv", ROWS)
    words = tmp_path / "words.csv"
    words.write_text("name,words\nlost,a card that was lost\nlate,a late parcel\nother,something else\n")
    config = complete(checked(compose(*TINY, f"data={data}", f"choices={words}")))
    assert config.choices == {"lost": "a card that was lost", "late": "a late parcel", "other": "something else"}
    prompt = train_task(config).prompts[0][0]
    assert prompt.choices == ("a card that was lost", "a late parcel", "something else")
    by_hand = complete(checked(compose(*TINY, f"data={data}", f"choices={dict(config.choices)}")))
    assert by_hand.dataset == config.dataset
    names = tmp_path / "names.yaml"
    names.write_text("- late\n- lost\n- other\n")
    config = complete(checked(compose(*TINY, f"data={data}", f"labels={names}")))
    assert list(config.dataset.label.names) == ["late", "lost", "other"]


def test_whether_the_input_lists_them_can_be_said(tmp_path: Path) -> None:
    data = write(tmp_path / "t.csv", ROWS)
    many = write(tmp_path / "many.csv", [{"text": f"row {n} is here", "kind": f"kind {n % 30}"} for n in range(60)])

    def lists(*overrides: str) -> bool:
        prompt = train_task(complete(checked(compose(*TINY, *overrides)))).prompts[0][0]
        return all(choice in prompt.input for choice in prompt.choices)

    assert lists(f"data={data}")
    assert not lists(f"data={data}", "list_labels=false")
    assert not lists(f"data={many}", "label=kind")
    assert lists(f"data={many}", "label=kind", "list_labels=true")
    with pytest.raises(UserError, match="with template= the template decides"):
        lists(f"data={data}", "list_labels=true", "template='{{ text }} which?'")
    with pytest.raises(UserError, match="list_labels='maybe' is neither true nor false"):
        lists(f"data={data}", "list_labels=maybe")
