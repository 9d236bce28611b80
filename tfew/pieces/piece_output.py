"""`output=` for several workers: a folder with the parts, or one file joined from them.

The parts of a file are in FILE.parts/, which exists until the file is complete.
"""

import glob
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tfew.errors import UserError, unknown_value_error
from tfew.files.partial_file import check_output_file
from tfew.pieces.input_files import InputFile
from tfew.pieces.part_store import PartStore
from tfew.prediction.result_rows import STANDARD, ResultRows, bad_rows_file, kind_of_output
from tfew.tables.remote import is_url

if TYPE_CHECKING:
    from tfew.pieces.labeller import Description
    from tfew.pieces.manifest import Manifest
    from tfew.prediction.bulk_predict import Progress

PART_KINDS = ("jsonl", "parquet")


def is_folder(target: str) -> bool:
    return is_url(target) or target.endswith("/")


class PieceOutput:
    """`target`: the value of `output=`; `parts`: the format of the parts in a folder."""

    def __init__(self, target: str, parts: str) -> None:
        if target == STANDARD:
            raise UserError("Several workers or files need an output=: a file, or a folder (output=labels/).")
        if parts not in PART_KINDS:
            raise unknown_value_error("kind", parts, PART_KINDS, "parts=")
        self.path = None if is_folder(target) else Path(target).expanduser()
        self.part_kind = parts if self.path is None else kind_of_output(target)
        folder = str(target) if is_url(target) else str(Path(target).expanduser().absolute())
        self.store = PartStore(folder if self.path is None else f"{folder}.parts")

    @property
    def bad_rows(self) -> str:
        """The file that lists the rows that could not be labelled."""
        return f"{self.store.folder}/bad_rows.jsonl" if self.path is None else str(bad_rows_file(self.path))

    def check(self, source: str, files: Sequence[InputFile], overwrite: bool) -> None:
        """Raises UserError if the output would be read as input, or overwrite something."""
        mine = [self.store.folder, *([] if self.path is None else [str(self.path.absolute())])]
        for name in mine:
            inside = [file.path for file in files if file.path == name or file.path.startswith(f"{name}/")]
            folder = source.rstrip("/") if is_url(source) else str(Path(source).expanduser().absolute())
            if inside or (name.startswith(f"{folder}/") and len(files) > 1):
                raise UserError(f"output= lies in input={source}, and would be read as rows: choose another place.")
        if self.path is not None and not Path(self.store.folder).is_dir():
            check_output_file(self.path, overwrite)

    def finished(self, manifest: "Manifest", progress: "Progress", description: "Description") -> "Progress":
        """Completes the output; returns the progress."""
        if self.path is None:
            manifest.finish()
            return progress
        from tfew.pieces.joined_output import header_of, join_parts

        reports = manifest.in_order
        columns = next(report.columns for report in reports if report.labelled)
        has = {"sets": description.sets, "bounds": description.bounds}
        header = header_of(ResultRows(self.part_kind, columns, description.labels, **has))
        join_parts(self.store, reports, self.path, bad_rows_file(self.path), header, manifest.bad_rows())
        self.store.unlock()
        self._remove_parts()
        return progress

    def _remove_parts(self) -> None:
        """Renames their folder first, since a kill while it is removed would leave some of them to resume from."""
        folder = Path(self.store.folder)
        os.replace(folder, folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp"))
        for removed in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):  # also by killed processes
            shutil.rmtree(removed, ignore_errors=True)
