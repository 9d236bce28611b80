"""The final summary of `tfew predict`: rows per second, label counts, doubtful rows, and the output's path."""

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from tfew.prediction.bulk_predict import OWN, Progress
from tfew.tables.byte_lines import STDIO

MOST_LABELS = 12
FEW_ROWS = 10  # fewer rows with equal labels are no reason for a warning


def print_summary(
    progress: Progress, left_out: Collection[str], doubt: Sequence[str], target: str, bad_rows: str | Path,
    seconds: float,
) -> None:  # fmt: skip
    """Prints to standard output, or to standard error if labels go to standard output; `doubt`: its lines."""
    out = sys.stderr if target == STDIO else sys.stdout
    rows = progress.rows - progress.earlier
    before = f", and {progress.earlier:,} before" if progress.earlier else ""
    print(f"\n{rows:,} row{'s' * (rows != 1)} in {seconds:.1f} s, {rows / seconds:,.0f} a second{before}", file=out)
    for task, counts in sorted(progress.labels.items()):
        print(f"  {task}: {_distribution(counts, progress.several.get(task))}", file=out)
        if len(counts) == 1 and sum(counts.values()) >= FEW_ROWS and OWN not in counts:
            print(f"  Warning: every row of {task} got the same label: check some by hand.", file=out)
    for line in doubt:
        print(f"  {line}", file=out)
    if progress.bad:
        where = "" if target == STDIO else f"; they are listed in {bad_rows}"
        print(f"  {progress.bad:,} rows could not be labelled and are left out{where}", file=out)
    if left_out:
        columns = ", ".join(sorted(left_out)[:5])
        print(f"  columns that the first row lacks are left out ({columns}); output=FILE.jsonl keeps all", file=out)
    if target != STDIO:
        print(f"  labels: {target}", file=out, flush=True)


def _distribution(counts: Mapping[str, int], rows: int | None = None) -> str:
    """`rows`: the number of rows, if each may have several labels."""
    total = rows or sum(counts.values())
    most = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ", ".join(f"{label} {count:,} ({100 * count / total:.1f} %)" for label, count in most[:MOST_LABELS])
    return shown + (f" and {len(most) - MOST_LABELS} other labels" if len(most) > MOST_LABELS else "")
