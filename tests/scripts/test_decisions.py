"""The page about decisions from generated records: contents, order, and correct numbers."""

from pathlib import Path

import numpy as np
import pytest

from scripts.decisions import report
from scripts.decisions.__main__ import OWN, main, planned
from scripts.decisions.offline import adaptive_sets, as_held_out, by_coverage, drift, pooled, sets, splits
from scripts.decisions.records import Record, Scored, load_records, rounded, save_records
from tests.decisions.rows import draw
from tfew.errors import UserError


def scored(rows: int, seed: int, sharpness: float = 3.0) -> Scored:
    scores, label = draw(np.random.default_rng(seed), rows, sharpness=sharpness)
    return rounded(scores[:, 0], np.log(np.exp(scores[:, 0]).sum(1)) - 9, label.tolist())


@pytest.fixture
def records() -> list[Record]:
    labels = ["a", "b", "c", "d"]
    return [
        Record(way, "TREC", seed, labels, 1.0, scored(96, seed), scored(300, seed + 50), scored(300, seed + 90, 0.3),
               48, {"train": 1.0}, "abc")
        for way in ("validation", "folds") for seed in (0, 1)
    ]  # fmt: skip


def test_records_come_back(records: list[Record], tmp_path: Path) -> None:
    save_records(tmp_path / "new" / "r.jsonl", records)
    assert load_records(tmp_path / "new" / "r.jsonl") == records


def test_seeds_come_one_after_the_other_over_all_sets() -> None:
    jobs = [job.key for job in planned({**OWN, "seeds": "0,1", "ways": "validation"})]
    assert jobs == [("validation", name, seed) for seed in (0, 1) for name in ("AG News", "TREC")]
    with pytest.raises(UserError, match="ways=x"):
        planned({**OWN, "ways": "x"})
    with pytest.raises(UserError, match="data_dir= is no folder"):
        main([])


def test_numbers(records: list[Record]) -> None:
    record = records[0]
    known, new = as_held_out(record.held_out, 1.0), as_held_out(record.test, 1.0)
    answered = by_coverage(known, new, 0.8)
    above = [top >= answered.threshold for top in new.top_R]
    wrong = [not right for right, is_above in zip(new.is_right_R, above, strict=True) if is_above]
    assert (answered.coverage, answered.risk) == pytest.approx((np.mean(above), np.mean(wrong)))
    assert 0.7 < answered.coverage < 0.9
    for of_labels in (sets(known, new, 0.9), adaptive_sets(known, new, 0.9)):
        assert 0.83 < of_labels.held < 0.97
        assert 1 <= of_labels.size <= 4
    assert {finding.signal for finding in drift(record, record.others)[1]} >= {"probability", "mass"}
    assert drift(record, record.test)[1] == []


def test_partings_keep_every_row(records: list[Record]) -> None:
    known, new = splits(records[0], 1)[0]
    assert (known.rows, new.rows) == (96, 300)
    every = pooled(records[0])
    found = [*known.log_mass_R.tolist(), *new.log_mass_R.tolist()]
    assert sorted(found) == sorted(every.log_mass)


def test_page(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "SPLITS", 3)
    text = report.page(records)
    assert text.count("### Drift") == 2
    assert "4 runs (validation, AG News: seeds none; validation, TREC: seeds 0, 1; folds, AG News" in text
    assert text.count("parted anew") == 1, "folds' rows were scored by other adapters"
    assert "**" in text.partition("### Drift")[2]
