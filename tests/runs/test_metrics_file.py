"""`metrics.csv` of a run that is killed and resumed is that of an uninterrupted one."""

import csv
from pathlib import Path

import pytest

from tfew.runs.metrics_file import MetricsFile


def logged(path: Path, start: int, stop: int) -> bytes:
    file = MetricsFile(path, start)
    for step in range(start, stop):
        file.write(step + 1, {"loss": 1 / (step + 1), "grad_norm": float(step)})
    file.close()
    return path.read_bytes()


def test_resumed_as_if_uninterrupted(tmp_path: Path) -> None:
    logged(tmp_path / "resumed", 0, 7)
    with (tmp_path / "resumed").open("ab") as file:
        file.write(b"8,0.12")  # cut off by the kill
    whole = logged(tmp_path / "whole", 0, 12)
    assert logged(tmp_path / "resumed", 6, 12) == whole
    assert len(whole.splitlines()) == 13
    assert whole.startswith(b"step,grad_norm,loss\r\n1,0.0,1.0\r\n2,1.0,0.5\r\n")


@pytest.mark.parametrize("moment", ["writeheader", "writerows"])
def test_killed_while_it_takes_over_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """The second resume finds all rows: the first must not have emptied the file before it could write them again."""
    path = tmp_path / "metrics.csv"
    before = logged(path, 0, 6)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(csv.DictWriter, moment, killed)
        with pytest.raises(KeyboardInterrupt):
            MetricsFile(path, 6)
    assert path.read_bytes() == before
    assert logged(path, 6, 12) == logged(tmp_path / "whole", 0, 12)
