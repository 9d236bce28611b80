"""Inline SVG in the page's colours, so that drawings follow its light or dark scheme."""

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from tfew.comparison.plots import COLORS, FAINT, GRID, INK, SVG, figure_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOCAL_NAME = re.compile(r"\{.*\}")
REFERENCE = re.compile(r"(?<=url\(#)[\w.-]+(?=\))|(?<=^#)[\w.-]+$")
INVALID_XML = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # which a name in a record may hold
FONTS = re.compile(r"font-family:[^;]*;?")  # the page's own instead
PAGE_COLORS = {
    INK: "var(--ink)", FAINT: "var(--faint)", GRID: "var(--grid)", "#ffffff": "var(--card)",
    **{color: f"var(--c{place})" for place, color in enumerate(COLORS)},
}  # fmt: skip
COLOR = re.compile("|".join(PAGE_COLORS))
LEFT_OUT = ("metadata", "style")


def inline_svg(drawing: "Figure", name: str, alternative: str) -> str:
    """An `<svg>` without namespaces, in the page's colours and font, which scales down to the page's width.

    `name` prefixes its ids, which must be unique in a page; `alternative` is its alternative text.
    """
    root = ElementTree.fromstring(INVALID_XML.sub("\N{REPLACEMENT CHARACTER}", figure_bytes(drawing, SVG).decode()))
    used = {match for node in root.iter() for value in node.attrib.values() for match in REFERENCE.findall(value)}
    for node in list(root.iter()):
        node.tag = LOCAL_NAME.sub("", node.tag)
        for child in list(node):
            if LOCAL_NAME.sub("", child.tag) in LEFT_OUT:
                node.remove(child)
        attributes = {LOCAL_NAME.sub("", key): value for key, value in node.attrib.items()}
        node.attrib.clear()
        for key, value in attributes.items():
            if key != "id" or value in used:
                node.set(key, f"{name}-{value}" if key == "id" else _to_page_style(value, name))
    width = float(root.attrib.pop("width").removesuffix("pt"))
    root.attrib.pop("height")
    root.set("style", f"max-width: {width / 72 * 96:.0f}px")
    root.set("role", "img")
    root.set("aria-label", alternative)
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _to_page_style(value: str, name: str) -> str:
    value = COLOR.sub(lambda match: PAGE_COLORS[match[0]], FONTS.sub("", value))
    return REFERENCE.sub(lambda match: f"{name}-{match[0]}", value)
