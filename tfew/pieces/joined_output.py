"""Joins all parts into the file that a single process would have written."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from tfew.errors import UserError
from tfew.pieces.manifest import Report
from tfew.pieces.part_store import COPY_BYTES, PartStore
from tfew.prediction.result_rows import ResultRows


def join_parts(
    store: PartStore, reports: Sequence[Report], path: Path, bad_path: Path, header: str, bad_rows: Sequence[bytes]
) -> None:
    """Writes the output, and the file of bad rows if there are any; `header`: the first line of each part."""
    temporary, bad_temporary = (each.with_name(f"{each.name}.partial") for each in (path, bad_path))
    skipped = len(header.encode())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as target:
            target.write(header.encode())
            for part in (report.part for report in reports if report.part is not None):
                with store.open(part) as source:
                    source.seek(skipped)
                    shutil.copyfileobj(source, target, COPY_BYTES)
            target.flush()
            os.fsync(target.fileno())
        if bad_rows:
            bad_temporary.write_bytes(b"".join(bad_rows))
            os.replace(bad_temporary, bad_path)
        else:
            bad_path.unlink(missing_ok=True)  # of an output that is replaced
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"output={path} cannot be written ({error.strerror or error}): choose another.") from error


def header_of(results: ResultRows) -> str:
    """The header line of a table; empty for JSON lines."""
    return "" if results.kind == "jsonl" else results.text([], [], first=True)
