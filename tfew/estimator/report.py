"""The report of a run: its page, if it has one, else a few lines of its record."""

from html import escape
from pathlib import Path

from tfew.estimator.kept_run import KeptRun

PAGE_FILE = "report.html"
HEIGHT_PIXELS = 640  # of the page within a notebook


class Report:
    """Printed, the run's summary; in a notebook, its page."""

    def __init__(self, run: KeptRun) -> None:
        self._run = run  # its folder is removed with the last reference

    @property
    def path(self) -> Path | None:
        """The HTML page; None if the run has none."""
        path = self._run.folder / PAGE_FILE
        return path if path.is_file() else None

    def __str__(self) -> str:
        return str(self._run.record())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        if self.path is None:
            return self._run.record()._repr_html_()
        page = escape(self.path.read_text(encoding="utf-8"))
        style = f"width: 100%; height: {HEIGHT_PIXELS}px; border: 0"
        return f'<iframe srcdoc="{page}" style="{style}" sandbox></iframe>'
