"""Tables as text: Markdown to read, CSV to compute with, LaTeX to print."""

import csv
import io

from tfew.paper.reference import AVERAGE
from tfew.paper.table import Cell, Table

LATEX = str.maketrans({"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "^": r"\^{}"})


def as_markdown(table: Table) -> str:
    """Three lines a row: ours with its number of runs, the paper's, the difference; a dash where there is none."""
    columns = [*table.columns, AVERAGE]
    lines = [
        f"## Table {table.number}: {table.title} ({table.model})\n",
        f"| | | {' | '.join([*table.columns.values(), AVERAGE])} |",
        f"|---|---|{'---:|' * len(columns)}",
    ]
    for name, row in table.cells.items():
        cells = [row[column] for column in columns]
        lines.append(f"| {name} | ours | {' | '.join(_ours(cell) for cell in cells)} |")
        lines.append(f"| | paper | {' | '.join(_number(cell.paper, cell.paper_iqr) for cell in cells)} |")
        lines.append(f"| | difference | {' | '.join(_signed(cell.difference) for cell in cells)} |")
    lines.append(
        "\nAccuracy in percent: median over few-shot seeds and templates (interquartile range), [runs]; averages are"
        " means of the medians. A dash: no runs, or not printed."
    )
    lines += [f"\nNote: {note}" for note in table.notes]
    return "\n".join(lines) + "\n"


def as_csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "model", "row", "column", "runs", "ours", "ours_iqr", "paper", "paper_iqr", "difference"])
    for name, row in table.cells.items():
        for column, cell in row.items():
            values = (cell.ours, cell.ours_iqr, cell.paper, cell.paper_iqr, cell.difference)
            texts = ["" if value is None else f"{value:.2f}" for value in values]
            writer.writerow([table.number, table.model, name, column, cell.runs, *texts])
    return text.getvalue()


def as_latex(table: Table) -> str:
    """A tabular for booktabs: ours, and below it the paper's in brackets."""
    columns = [*table.columns, AVERAGE]
    heads = " & ".join(head.translate(LATEX) for head in ["", *table.columns.values(), AVERAGE])
    lines = [rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule", rf"{heads} \\", r"\midrule"]
    for name, row in table.cells.items():
        ours = " & ".join(_number(row[column].ours, None) for column in columns)
        paper = " & ".join(f"({_number(row[column].paper, None)})" for column in columns)
        lines += [rf"{name.translate(LATEX)} & {ours} \\", rf" & {paper} \\"]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _ours(cell: Cell) -> str:
    return "–" if cell.ours is None else f"{_number(cell.ours, cell.ours_iqr)} [{cell.runs}]"


def _number(value: float | None, iqr: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if iqr is None else f"{value:.1f} ({iqr:.1f})"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f}"
