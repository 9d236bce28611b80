"""Rate limit for logs that clients can fill: some lines per period, then the number of suppressed ones."""

import logging
import time


class LogLimit(logging.Filter):
    """Per logging statement, `lines` in `seconds` pass."""

    def __init__(self, lines: int = 10, seconds: float = 10.0) -> None:
        super().__init__()
        self._lines, self._seconds = lines, seconds
        self._periods: dict[tuple[str, int], tuple[float, int]] = {}  # by statement: start of the period, lines in it

    def filter(self, record: logging.LogRecord) -> bool:
        place, now = (record.pathname, record.lineno), time.monotonic()
        began, count = self._periods.get(place, (now, 0))
        if now - began > self._seconds:
            if count > self._lines:
                record.msg = f"{record.msg} [{count - self._lines} more like this were not logged]"
            began, count = now, 0
        self._periods[place] = (began, count + 1)
        return count < self._lines


def limit_logs(*names: str) -> None:
    for name in names:
        logger = logging.getLogger(name)
        if not any(isinstance(found, LogLimit) for found in logger.filters):
            logger.addFilter(LogLimit())
