"""Log lines that clients can cause are limited, and omitted ones are counted."""

import logging

import pytest

from tfew.service import log_limit
from tfew.service.log_limit import limit_logs


def test_a_thousand_lines_are_ten_and_a_number(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(log_limit.time, "monotonic", lambda: now)
    logger = logging.getLogger("tests.limited")
    for _ in range(2):
        limit_logs("tests.limited")
    for number in range(1000):
        logger.warning("line %s", number)
        if number == 500:
            logger.warning("another place")
    now = 111.0
    logger.warning("line %s", 1000)
    assert len(caplog.records) == 11 + 1
    for number in range(1000):
        now = 120.0 + number // 600 * 11
        logger.warning("more %s", number)
    assert [record.getMessage() for record in caplog.records][-10] == "more 600 [590 more like this were not logged]"
