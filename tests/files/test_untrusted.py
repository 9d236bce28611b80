"""JSON and YAML from untrusted sources: data, or ValueError."""

import os
import re
from dataclasses import dataclass

import pytest
from typing_extensions import TypedDict

from tfew.errors import UserError
from tfew.files.untrusted import MAX_INTEGER, parse_json, parse_own_json, parse_yaml, validated

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{k}: &{k} [{', '.join([f'*{p}'] * 9)}]\n" for p, k in zip("abcdef", "bcdefg", strict=True)
)


def test_data_is_read() -> None:
    assert parse_json('{"a": [1, null, "é"]}') == {"a": [1, None, "é"]}
    assert parse_yaml("a: [1, null, 'é']\nb: 2.5 # &c") == {"a": [1, None, "é"], "b": 2.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 50_000, "nested too deeply"),
        ("{", "Expecting"),
        ("1" * 5000, "digits"),
    ],
)
def test_what_is_no_json(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


@pytest.mark.parametrize("sign", ["", "-"])
def test_largest_integer_in_own_files(sign: str) -> None:
    assert parse_own_json(f"{sign}{MAX_INTEGER}") == int(f"{sign}{MAX_INTEGER}")
    with pytest.raises(ValueError, match="is too large"):
        parse_own_json(f"{sign}{MAX_INTEGER + 1}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 5_000, "nested too deeply"),
        (LAUGHS, re.escape("it has aliases (*name)")),
        ("&a [*a]", re.escape("it has aliases (*name)")),
        ("!!python/object/apply:os.mkdir [{}]", "could not determine a constructor"),
        ("!!python/name:os.system", "could not determine a constructor"),
        ("a: [", "while parsing"),
        ("\0", "special characters are not allowed"),
    ],
)  # fmt: skip
def test_what_is_no_yaml(text: str, message: str, tmp_path: os.PathLike[str]) -> None:
    folder = os.path.join(tmp_path, "made")
    with pytest.raises(ValueError, match=message):
        parse_yaml(text.replace("{}", folder))
    assert not os.path.exists(folder)


@dataclass(frozen=True)
class Counted:
    name: str
    rows: dict[str, int]
    share: float
    parts: tuple[float, ...] | None = None


class Wanted(TypedDict, total=False):
    rows: dict[str, float | None]


@pytest.mark.parametrize("found", [Counted("a", {"b": 2}, 1), Counted("", {}, float("nan"), (1, 2.5))])
def test_what_is_as_declared_comes_back(found: Counted) -> None:
    assert validated(found) is found


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (Counted(3, {}, 1.0), "name: input should be a valid string"),  # type: ignore[arg-type]
        (Counted("a", {"b": "2"}, 1.0), "rows.b: input should be a valid integer"),  # type: ignore[dict-item]
        (Counted("a", {"b": True}, 1.0), "rows.b: input should be a valid integer"),
        (Counted("a", {}, "1"), "share: input should be a valid number"),  # type: ignore[arg-type]
        (Counted("a", {}, 1.0, (1.0, None)), "parts.1: input should be a valid number"),  # type: ignore[arg-type]
    ],
)
def test_what_is_of_another_kind_is_named(found: Counted, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validated(found)


def test_a_plain_dictionary_agrees_with_a_declaration_or_not() -> None:
    found = {"rows": {"a": 1, "b": None}, "more": object()}
    assert validated(found, Wanted) is found
    with pytest.raises(ValueError, match=r"rows\.a.*: input should be a valid number"):
        validated({"rows": {"a": "1"}}, Wanted)
    with pytest.raises(ValueError, match=r"^input should be a valid dict"):
        validated([], Wanted)


def test_a_sentence_stays_on_its_line_and_moves_no_cursor() -> None:
    hostile = "a\nb\r\x1b[2Jc\x00\u2028d\u202ee\ud800é³"
    assert str(UserError(f"{hostile} is bad.")) == r"a\nb\r\x1b[2Jc\x00\u2028d\u202ee\ud800é³ is bad."
