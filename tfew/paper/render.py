"""Tables as Markdown, CSV and LaTeX."""

import csv
import io

from tfew.paper.cells import ACCURACY, Cell
from tfew.paper.reference import AVERAGE
from tfew.paper.table import BYTES, Table

LATEX = str.maketrans({
    "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "^": r"\^{}", "$": r"\$", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "\\": r"\textbackslash{}",
})  # fmt: skip
HOW_TO_READ = (
    "Accuracy in percent: median over few-shot seeds and templates (interquartile range), [runs]; averages are means of"
    " the medians. A dash: no runs, or not printed."
)
HOW_TO_READ_COSTS = (
    "Costs: ours by the paper's formulas with its constants, and their difference from its numbers. Average"
    " accuracy in percent: the mean over data sets of medians, [runs]. A dash: no runs, or not printed."
)


def as_markdown(table: Table) -> str:
    """Three lines per row: ours with the number of runs, the paper's, the difference; a dash for missing numbers."""
    columns = [*table.columns, AVERAGE]
    heads = " | ".join(_cell_text(head) for head in [*table.columns.values(), AVERAGE])
    lines = [
        f"## Table {table.number}: {table.title} ({_cell_text(table.model)})\n",
        f"| | | {heads} |",
        f"|---|---|{'---:|' * len(columns)}",
    ]
    for name, row in table.cells.items():
        for what, show in LINES.items():
            shown = " | ".join(show(row[column], table.kinds.get(column, ACCURACY)) for column in columns)
            lines.append(f"| {name} | {what} | {shown} |" if what == "ours" else f"| | {what} | {shown} |")
    lines.append("\n" + how_to_read(table))
    lines += [f"\nNote: {note}" for note in table.notes]
    return "\n".join(lines) + "\n"


def as_csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "model", "row", "column", "runs", "ours", "ours_iqr", "paper", "paper_iqr", "difference"])
    for name, row in table.cells.items():
        for column, cell in row.items():
            form = ".2f" if column not in table.kinds else ".6g"
            values = (cell.ours, cell.ours_iqr, cell.paper, cell.paper_iqr, cell.difference)
            texts = ["" if value is None else f"{value:{form}}" for value in values]
            writer.writerow([table.number, table.model, name, column, cell.runs, *texts])
    return text.getvalue()


def as_latex(table: Table) -> str:
    """A booktabs tabular: ours, and below it the paper's in brackets."""
    columns = [*table.columns, AVERAGE]
    kinds = [table.kinds.get(column, ACCURACY) for column in columns]
    heads = " & ".join(head.translate(LATEX) for head in ["", *table.columns.values(), AVERAGE])
    lines = [rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule", rf"{heads} \\", r"\midrule"]
    for name, row in table.cells.items():
        cells = [(row[column], kind) for column, kind in zip(columns, kinds, strict=True)]
        ours = " & ".join(number(cell.ours, None, kind).translate(LATEX) for cell, kind in cells)
        paper = " & ".join(f"({number(cell.paper, None, kind)})".translate(LATEX) for cell, kind in cells)
        lines += [rf"{name.translate(LATEX)} & {ours} \\", rf" & {paper} \\"]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def how_to_read(table: Table) -> str:
    return HOW_TO_READ_COSTS if table.kinds else HOW_TO_READ


def ours(cell: Cell, kind: str = ACCURACY) -> str:
    runs = f" [{cell.runs}]" if cell.ours is not None and kind == ACCURACY else ""
    return number(cell.ours, cell.ours_iqr, kind) + runs


def paper(cell: Cell, kind: str = ACCURACY) -> str:
    return number(cell.paper, cell.paper_iqr, kind)


def difference(cell: Cell, kind: str = ACCURACY) -> str:
    """Percentage points; for costs, relative to the paper's."""
    if cell.difference is None:
        return "–"
    if kind == ACCURACY:
        return f"{cell.difference:+.1f}"
    return f"{cell.difference / cell.paper:+.1%}" if cell.paper else "–"


def number(value: float | None, iqr: float | None, kind: str = ACCURACY) -> str:
    if value is None:
        return "–"
    if kind == BYTES:
        return f"{value / 1e3:,.1f} kB"
    if kind != ACCURACY:
        return f"{value:.3g}"
    return f"{value:.1f}" if iqr is None else f"{value:.1f} ({iqr:.1f})"


LINES = {"ours": ours, "paper": paper, "difference": difference}


def _cell_text(text: str) -> str:
    return text.replace("|", "/")
