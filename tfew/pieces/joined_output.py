"""One file out of all parts, as a single process would have written it."""

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
    """Writes the output, and the file of bad rows where there are any; `header`: each part begins with it."""
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


def header_of(kind: str, columns: Sequence[str] | None, labels: Sequence[str] | None) -> str:
    """The first line of a table; nothing of JSON lines."""
    return "" if kind == "jsonl" else ResultRows(kind, columns, labels).text([], [], first=True)
