"""The drawings of the documentation, light and dark: `python docs/pictures.py` writes docs/_static/*.svg."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

STATIC = Path(__file__).parent / "_static"
THEMES = {
    "light": {"ink": "#1b1f24", "faint": "#6b7480", "line": "#c3cad2", "card": "#ffffff", "accent": "#1f6feb",
              "frozen": "#e8eef6", "learned": "#f2a33a"},
    "dark": {"ink": "#e6e9ee", "faint": "#9aa4b1", "line": "#4a535f", "card": "#1d232b", "accent": "#6ea8fe",
             "frozen": "#2a3442", "learned": "#f2a33a"},
}  # fmt: skip
FONT = "font-family='-apple-system, Segoe UI, Helvetica, Arial, sans-serif'"
MONOSPACE = "font-family='ui-monospace, SFMono-Regular, Menlo, Consolas, monospace'"
CHOICES = ("card arrival", "card not working", "card payment fee charged", "cash withdrawal charge")
ROWS = (
    ("Where is my parcel?", "delivery"), ("The zip broke on day one.", "fault"), ("I was charged twice.", "billing"),
    ("I can't reset my password.", "account"), ("...", "..."),
)  # fmt: skip
SHARES = {"fault": 0.81, "delivery": 0.15, "billing": 0.03, "account": 0.01}
Theme = Mapping[str, str]


def text(x: float, y: float, words: str, color: str, size: int = 13, anchor: str = "start", bold: bool = False) -> str:
    weight = " font-weight='600'" if bold else ""
    return (
        f"<text x='{x:g}' y='{y:g}' fill='{color}' font-size='{size}' text-anchor='{anchor}'{weight} {FONT}>"
        f"{escape(words)}</text>"
    )


def box(x: float, y: float, width: float, height: float, fill: str, line: str, radius: int = 6) -> str:
    return (
        f"<rect x='{x:g}' y='{y:g}' width='{width:g}' height='{height:g}' rx='{radius}' fill='{fill}' stroke='{line}'/>"
    )


def arrow(x1: float, x2: float, y: float, color: str) -> str:
    return (
        f"<path d='M{x1:g} {y:g} H{x2 - 7:g}' stroke='{color}' stroke-width='2' fill='none'/>"
        f"<path d='M{x2 - 9:g} {y - 5:g} L{x2:g} {y:g} L{x2 - 9:g} {y + 5:g} Z' fill='{color}'/>"
    )


def svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' role='img'>"
    return "\n".join([head, f"<title>{escape(title)}</title>", *parts, "</svg>", ""])


def overview(theme: Theme) -> str:
    """What goes in, what is trained, what comes out."""
    ink, faint, line, card = (theme[name] for name in ("ink", "faint", "line", "card"))
    parts = [box(10, 40, 270, 170, card, line), text(20, 28, "50 labelled texts", ink, 15, bold=True)]
    for number, (words, label) in enumerate(ROWS):
        y = 66 + 30 * number
        parts += [text(22, y, words, ink), text(268, y, label, theme["accent"], anchor="end")]
    parts += [arrow(288, 328, 125, faint), *_model(theme), arrow(548, 588, 125, faint)]
    parts += [box(596, 40, 274, 170, card, line), text(606, 28, "Any number of new texts", ink, 15, bold=True)]
    parts += [text(608, 66, "The box came empty.", ink)]
    for number, (label, share) in enumerate(SHARES.items()):
        y = 92 + 26 * number
        color = theme["accent"] if number == 0 else line
        parts += [
            text(608, y + 11, label, ink if number == 0 else faint),
            box(676, y, 130 * share + 2, 14, color, color, 2),
            text(862, y + 11, f"{share:.2f}", ink if number == 0 else faint, anchor="end"),
        ]
    return svg(880, 225, "Labelled texts train a small adapter beside a frozen model, which labels new texts", parts)


def _model(theme: Theme) -> Iterator[str]:
    yield text(336, 28, "A frozen language model", theme["ink"], 15, bold=True)
    yield box(336, 40, 204, 170, theme["card"], theme["line"])
    for number in range(3):
        y = 54 + 38 * number
        yield box(350, y, 138, 28, theme["frozen"], theme["line"], 4)
        yield text(419, y + 18, "layer, frozen", theme["faint"], 12, "middle")
        for place in range(3):
            yield box(496 + 10 * place, y, 7, 28, theme["learned"], theme["learned"], 2)
    yield box(350, 171, 7, 28, theme["learned"], theme["learned"], 2)
    yield text(364, 182, "learned scaling vectors:", theme["ink"], 12)
    yield text(364, 199, "0.02 to 0.04 % as many", theme["ink"], 12)


def prefix_tree(theme: Theme) -> str:
    """The choices' words as a tree: each box is computed once."""
    width, height, gap = 104, 26, 44
    places: dict[tuple[str, ...], float] = {}
    for number, choice in enumerate(CHOICES):
        words = tuple(choice.split())
        for depth in range(len(words) + 1):
            places.setdefault(words[:depth], 0.0)
        places[words] = 30 + gap * number
    for prefix in sorted(places, key=len, reverse=True):  # a parent stands in the middle of its children
        children = [y for other, y in places.items() if other and other[:-1] == prefix]
        if children:
            places[prefix] = sum(children) / len(children)
    parts = []
    for prefix, y in places.items():
        x = 12 + (width + 40) * len(prefix)
        if prefix:
            x0, y0 = 12 + (width + 40) * (len(prefix) - 1) + width, places[prefix[:-1]]
            middle = (x0 + x) / 2
            path = f"M{x0} {y0:g} C{middle} {y0:g} {middle} {y:g} {x} {y:g}"
            parts.append(f"<path d='{path}' stroke='{theme['line']}' stroke-width='1.5' fill='none'/>")
        leaf = " ".join(prefix) in CHOICES
        fill = theme["frozen"] if prefix else theme["card"]
        parts.append(box(x, y - height / 2, width, height, fill, theme["accent"] if leaf else theme["line"]))
        parts.append(text(x + width / 2, y + 4, prefix[-1] if prefix else "input, once", theme["ink"], 13, "middle"))
    tokens, nodes = sum(len(choice.split()) for choice in CHOICES), len(places) - 1
    note = f"{len(CHOICES)} choices have {tokens} words; {nodes} are computed."
    parts.append(text(12, 30 + gap * len(CHOICES), note, theme["faint"]))
    return svg(740, 50 + gap * len(CHOICES), note, parts)


# of `architecture`: column, row, package, what it does
STAGES = (
    (0, 0, "configs/", "settings"), (1, 0, "data/  tables/", "rows, templates"), (2, 0, "tokens/", "token batches"),
    (3, 0, "models/  methods/", "frozen model + adapter"), (4, 0, "scoring/", "log P(choice | input)"),
    (4, 1, "training/", "losses, optimizer, folds"), (4, 2, "ranking/", "best choice, metrics"),
    (3, 1, "runs/", "adapter, record, report"), (2, 1, "prediction/  pieces/", "labels for new rows"),
    (1, 1, "service/", "HTTP, page"), (2, 2, "comparison/  paper/", "tables, figures"),
)  # fmt: skip
STEPS = ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (5, 7), (6, 7), (7, 8), (8, 9), (7, 10))  # between STAGES


def architecture(theme: Theme) -> str:
    """Packages in the order in which a run goes through them."""
    width, height, step_x, step_y = 158, 54, 186, 92

    def corner(stage: int) -> tuple[int, int]:
        column, row = STAGES[stage][:2]
        return 10 + step_x * column, 12 + step_y * row

    parts = []
    for start, end in STEPS:
        (x1, y1), (x2, y2) = corner(start), corner(end)
        if y1 == y2:
            ends = (x1 + width, y1 + height // 2, x2, y2 + height // 2)
            ends = ends if x1 < x2 else (x1, ends[1], x2 + width, ends[3])
        else:
            ends = (x1 + width // 2, y1 + height, x2 + width // 2, y2)
            ends = ends if x1 == x2 else (x1, y1 + height // 2, x2 + width, y2 + height // 2)
        parts.append(pointer(*ends, theme["faint"]))
    for number, (_, _, package, what) in enumerate(STAGES):
        x, y = corner(number)
        parts.append(box(x, y, width, height, theme["card"], theme["line"]))
        parts.append(text(x + width / 2, y + 23, package, theme["ink"], 13, "middle", bold=True))
        parts.append(text(x + width / 2, y + 42, what, theme["faint"], 12, "middle"))
    title = "From settings to rows, batches, scores, losses and metrics, a run folder, and labels for new rows"
    return svg(20 + step_x * 4 + width, 24 + step_y * 2 + height, title, parts)


def pointer(x1: float, y1: float, x2: float, y2: float, color: str) -> str:
    """A line with an arrow head at its end."""
    angle = math.atan2(y2 - y1, x2 - x1)
    head = " ".join(
        f"L{x2 - 10 * math.cos(angle + turn):.1f} {y2 - 10 * math.sin(angle + turn):.1f}" for turn in (0.45, -0.45)
    )
    return (
        f"<path d='M{x1:g} {y1:g} L{x2:g} {y2:g}' stroke='{color}' stroke-width='1.6' fill='none'/>"
        f"<path d='M{x2:g} {y2:g} {head} Z' fill='{color}'/>"
    )


def terminal(theme: Theme) -> str:
    """docs/terminal.txt, which `docs/record.py` made: commands in colour, what they print below."""
    lines = (STATIC.parent / "terminal.txt").read_text(encoding="utf-8").splitlines()
    step, width = 17, 20 + round(7.25 * max(map(len, lines)))
    parts = [box(0.5, 0.5, width - 1, 34 + step * len(lines), theme["card"], theme["line"], 8)]
    parts += [f"<circle cx='{18 + 16 * number}' cy='15' r='5' fill='{theme['line']}'/>" for number in range(3)]
    for number, line in enumerate(lines):
        is_command = line.startswith("$ ")
        color, weight = (theme["accent"], " font-weight='600'") if is_command else (theme["ink"], "")
        parts.append(
            f"<text x='12' y='{42 + step * number}' fill='{color}' font-size='12' xml:space='preserve'"
            f"{weight} {MONOSPACE}>{escape(line)}</text>"
        )
    return svg(
        width, 36 + step * len(lines), "A terminal: training on 60 labelled messages, then labelling others", parts
    )


def main() -> None:
    for name, theme in THEMES.items():
        for draw in (overview, prefix_tree, architecture, terminal):
            (STATIC / f"{draw.__name__}_{name}.svg").write_text(draw(theme), encoding="utf-8")


if __name__ == "__main__":
    main()
