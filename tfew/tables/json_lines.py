"""JSON lines: an object a line; empty lines are skipped."""

import json
from collections.abc import Iterator

from tfew.files.untrusted import parse_json
from tfew.tables.rows import Row, StreamedRow
from tfew.tables.text_lines import LineStream


class JsonStream(LineStream):
    """`is_assumed`: JSON lines by default only; an error in the first line then suggests format=."""

    is_assumed = False

    def _read(self) -> Iterator[StreamedRow]:
        for line in self._lines():
            if not line.strip():
                self._start_row()
                continue
            row, problem = _from_json(line)
            if problem and self.is_assumed and not self._place.row:
                problem += (
                    f"; {self.name} is read as JSON lines unless format= names another format (format=csv, format=tsv,"
                    " format=text)"
                )
            yield self._row(row, problem)


def _from_json(line: str) -> tuple[Row | None, str | None]:
    try:
        row = parse_json(line)
    except json.JSONDecodeError as error:
        return None, f"is not valid JSON: {error.msg} at column {error.colno}"
    except ValueError as error:  # a number with too many digits, or a list nested too deep
        return None, f"is not valid JSON: {error}"
    return row, None if isinstance(row, dict) else f"is {type(row).__name__}, not a JSON object"
