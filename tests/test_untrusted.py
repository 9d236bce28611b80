"""JSON and YAML of strangers: data, or ValueError."""

import os
import re

import pytest

from tfew.untrusted import parse_json, parse_yaml

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
