"""`suggest=N`: the rows of a labelled file that are the most useful to label by hand, as a table to fill in.

They are chosen from the complete output, before it gets its final name: a run that is killed resumes here, and memory
does not grow with the number of rows. The table has the columns of the training table, so that the filled-in rows can
be appended to it.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfew.data.cells import is_missing
from tfew.data.sources import is_local, load_split
from tfew.decisions.suggest import Candidate, Candidates, kept_for, most_useful, uncertainty
from tfew.errors import UserError
from tfew.files.atomic import write_atomically
from tfew.files.checksums import file_sha256
from tfew.label_sets.questions import has_label_sets
from tfew.prediction.result_rows import (
    BOUNDS,
    DELIMITERS,
    LABEL,
    OF_LABEL,
    PROBABILITIES,
    PROBABILITY,
    SET,
    SET_SIZE,
    csv_line,
    input_columns,
    suggestions_file,
)
from tfew.prediction.saved_run import SavedRun
from tfew.runs.run_folder import finished_settings
from tfew.tables.rows import StreamPosition
from tfew.tables.stream import open_stream
from tfew.tables.table_reader import Table, read_table

log = logging.getLogger(__name__)
SHOWN, SHOWN_CHARACTERS = 5, 60  # rows in the summary, characters of each text


@dataclass(frozen=True)
class Trained:
    """The rows that an adapter was trained on: their texts, the table, and its columns' names in templates."""

    texts: Sequence[str]
    table: Table | None
    names: Mapping[str, str]


class Suggestions:
    """At most `count` rows of `output`, a file of `kind`; `run`: the run whose labels they need."""

    def __init__(self, run: SavedRun, count: int, output: Path, kind: str) -> None:
        self.count, self.path, self.kind = count, suggestions_file(output), kind
        self._spec, _ = run.data()
        if self._spec.label is None:
            raise UserError(f"suggest= is for rows with a label, and those of {self._spec.name} have none.")
        if has_label_sets(self._spec):
            raise UserError(f"suggest= is for one label a row, and rows of {self._spec.name} may have several.")
        self._trained = _trained(run)
        self._added = {
            LABEL,
            PROBABILITY,
            *([] if run.evaluation.score.shortlist is None else [BOUNDS]),
            *([] if run.decisions.sets is None else [SET, SET_SIZE]),
        }
        self._chosen: list[Candidate] | None = None  # None: not chosen yet, or by an earlier process

    def write(self, written: Path) -> None:
        """`written`: the path of the complete output."""
        candidates = Candidates(kept_for(self.count), self._trained.texts)
        for number, row in enumerate(_rows(written, self.kind), start=1):
            own, probabilities = self._parts(row)
            if not self._is_labelled(own):
                certainty = uncertainty(probabilities.values())
                candidates.add(Candidate(number, self._text(own), certainty, (own, probabilities)))
        found = candidates.in_order()
        self._chosen = most_useful(found, self.count, self._trained.texts)
        if self._chosen:
            write_atomically(self.path, self._table([candidate.content[0] for candidate in self._chosen]))
        else:
            self.path.unlink(missing_ok=True)  # of an output that is replaced

    def lines(self) -> list[str]:
        """Lines for the summary: a few rows, and the path of the table."""
        if self._chosen is None:
            return [f"to label next: {self.path}"] if self.path.is_file() else []
        if not self._chosen:
            return ["suggest=: every row has a label already, or the same text as a training row."]
        few = f" (of {self.count} asked for: all others repeat them)" if len(self._chosen) < self.count else ""
        rows = f"{len(self._chosen)} row{'s' * (len(self._chosen) != 1)}"
        lines = [f"to label next: {rows}{few}, the most useful first: {self.path}"]
        for candidate in self._chosen[:SHOWN]:
            likeliest = sorted(candidate.content[1].items(), key=lambda pair: -pair[1])[:2]
            guesses = " or ".join(f"{label} ({100 * probability:.0f} %)" for label, probability in likeliest)
            text = " ".join(candidate.text.split())
            text = text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."
            lines.append(f"  row {candidate.number}: {text!r}: {guesses}?")
        return lines

    def _parts(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
        """The row's own columns as the input has them, and the probability of each choice."""
        labels = self._spec.label_names
        if self.kind == "jsonl" or labels is None:
            value = row[PROBABILITIES]
            probabilities = json.loads(value) if isinstance(value, str) else value
            added = {*self._added, PROBABILITIES}
        else:
            probabilities = {label: float(row[OF_LABEL + label]) for label in labels}
            added = {*self._added, *(OF_LABEL + label for label in labels)}
        return {name: row[column] for column, name in input_columns(row, added).items()}, probabilities

    def _is_labelled(self, own: Mapping[str, Any]) -> bool:
        assert self._spec.label is not None
        return not is_missing(self._spec.renamed(own).get(self._spec.label.column))

    def _text(self, own: Mapping[str, Any]) -> str:
        fields = self._spec.renamed(own)
        return _joined(fields, self._spec.columns or tuple(fields))

    def _table(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """The table's own columns in its order, with an empty label, then the rows' other columns."""
        assert self._spec.label is not None
        spelt = {known: name for name, known in self._trained.names.items()}
        label = spelt.get(self._spec.label.column, self._spec.label.column)
        renamed = [{spelt.get(name, name): value for name, value in self._spec.renamed(row).items()} for row in rows]
        found = dict.fromkeys(name for row in renamed for name in row)
        first = [] if self._trained.table is None else self._trained.table.columns
        columns = list(dict.fromkeys([*first, *found, label]))
        filled = [{**dict.fromkeys(columns, ""), **row, label: ""} for row in renamed]
        if self.kind == "jsonl":
            return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in filled)
        formats = {} if self._trained.table is None else self._trained.table.formats
        delimiter = formats.get(self.kind, {}).get("delimiter", DELIMITERS[self.kind])
        lines = [columns, *([row[column] for column in columns] for row in filled)]
        return "".join(csv_line(line, delimiter) for line in lines)


def _rows(path: Path, kind: str) -> Iterator[Mapping[str, Any]]:
    """The rows of an output file, which this program has written."""
    formats = {name: {"delimiter": delimiter} for name, delimiter in DELIMITERS.items()}
    stream = open_stream(str(path), kind, None, formats)
    try:
        for found in stream.rows(StreamPosition()):
            if found.row is None:
                raise UserError(f"{path}, row {found.place.row} {found.problem}.")
            yield found.row
    finally:
        stream.close()


def _joined(fields: Mapping[str, Any], columns: Sequence[str]) -> str:
    return "\n".join(str(fields[name]) for name in columns if not is_missing(fields.get(name)))


def _trained(run: SavedRun) -> Trained:
    """The training rows, if they can be read; else logs a note."""
    spec, _ = run.data()
    saved = None if run.folder is None else finished_settings(run.folder)
    if saved is None:
        return Trained((), None, spec.rename)
    names = saved["dataset"].get("rename") or {}
    data_dir = None if run.config.data_dir is None else Path(str(run.config.data_dir))
    # as in training: the new rows' columns may have other names
    trained_on = replace(spec, rename=names, held_out=None)
    path, has_changed = None, False
    if spec.table is not None and spec.files["train"]:
        path = Path(spec.files["train"][0])
        sha256 = file_sha256(path) if path.is_file() else spec.table["sha256"]
        if has_changed := sha256 != spec.table["sha256"]:
            log.info(f"Note: {path} has changed since training; suggest= leaves out the rows that it has now.")
            trained_on = replace(trained_on, table={**spec.table, "sha256": sha256})
    try:
        if spec.table is None and not is_local(trained_on, "train", data_dir):
            raise UserError("they are not on this machine")
        examples = load_split(trained_on, "train", data_dir, labelled=not has_changed)  # new rows may lack a label
        texts = [_joined(example.fields, spec.columns or tuple(example.fields)) for example in examples]
        table = None if path is None else read_table(path)
    except UserError as error:
        log.info(f"Note: suggest= cannot read the training rows, and may suggest some of them ({error})")
        return Trained((), None, names)
    return Trained(texts, table, names)
