"""The scripts that show messages about the Hub: a terminal's screen, and a table made in parts."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from scripts.drills.hub_cases import BEGIN, END, Case, as_markdown, parts_of, split_page
from scripts.drills.hub_pictures import COLUMNS, Screen, as_svg, check

EVIDENCE = Path(__file__).parents[2] / "evidence"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("one\r\ntwo\r\n", ["one", "two", ""]),
        ("a: 10%|#  |\ra: 50%|## |", ["a: 50%|## |"]),
        ("a\r\nb\x1b[A\rc", ["c", "b"]),
        ("gone\r\x1b[Khere", ["here"]),
        ("\x1b[1;31mred\x1b[0m", ["red"]),
        ("x" * (COLUMNS + 2), ["x" * COLUMNS, "xx"]),
    ],
)
def test_a_screen_shows_what_a_terminal_would(written: str, shown: list[str]) -> None:
    screen = Screen()
    screen.write(written)
    assert screen.lines == shown


def test_a_picture_that_shows_a_path_or_lacks_its_subject_is_none() -> None:
    check("the bar", ["bar"], ["/tmp/x"])
    with pytest.raises(SystemExit, match="Not on the screen: \\['bar'\\]"):
        check("nothing", ["bar"], [])
    with pytest.raises(SystemExit, match="A path of this machine"):
        check("in /tmp/x", [], ["/tmp/x"])


def test_a_picture_is_svg_without_anything_to_load() -> None:
    pytest.importorskip("rich")
    svg = as_svg("$ tfew evaluate\n<done> & more", "A title")
    assert "done" in "".join(ElementTree.fromstring(svg).itertext())
    assert "url(http" not in svg


@pytest.mark.parametrize("path", sorted((EVIDENCE / "hub").glob("*.svg")), ids=lambda path: path.stem)
def test_the_pictures_that_are_there(path: Path) -> None:
    text = "".join(ElementTree.parse(path).getroot().itertext()).replace("\xa0", " ")
    assert "$ tfew evaluate" in text
    assert not [word for word in ("/tmp", "/root", "/home", "/work") if word in text]


def test_a_table_made_in_parts() -> None:
    """A part that is made again replaces its own rows, and the sums are of all."""
    first = Case(
        "models", "gated", ["load_model()"], ["accept conditions", "x cannot be loaded: accept conditions"], False, 1.5
    )
    second = Case("commands", "offline", ["`evaluate`"], ["offline | mode"], True, 2.0)
    page = as_markdown({"models": [first.row, first.row], "commands": [second.row]})
    assert page.startswith(BEGIN)
    assert page.endswith(END)
    before, table, after = split_page(f"above\n{page}\nbelow")
    assert (before, after) == ("above\n", "\nbelow")
    parts = parts_of(table)
    assert parts == {"models": [first.row, first.row], "commands": [second.row]}
    again = as_markdown({**parts, "models": [first.row]})
    assert "2 cases, 1 of them commands in processes of their own, 4 seconds" in again
    assert first.row == "| gated | load_model() | x cannot be loaded: accept conditions | 1.5 |"
    assert "offline / mode" in second.row
    with pytest.raises(SystemExit, match="no place for the table"):
        split_page("nothing")
