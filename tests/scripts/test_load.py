"""The drills of the service distinguish wrong, refused or missing answers from right ones."""

import re
import threading
from collections import Counter

import pytest

from scripts.drills.load import Answered, Asked, Load, percentiles
from scripts.drills.mixed import Mixed
from scripts.drills.rolling_restart import documented
from scripts.drills.served import free_port
from tests.service.running import running
from tests.service.test_client import LIMITS, Echo
from tfew.service.app import make_app
from tfew.service.connections import ConnectionLimits
from tfew.service.metrics import Metrics
from tfew.service.queue import LabelQueue

RIGHT = [Asked({"task": "t", "text": f"ü {number}"}, f"ü {number}", 1.0) for number in range(7)]


def test_each_answer_is_compared() -> None:
    queue = LabelQueue(Echo(), 40, 4)  # type: ignore[arg-type]
    app = make_app(queue, Metrics(), LIMITS)
    wrong = [
        Asked({"task": "t", "text": "a"}, "b", 1.0),
        Asked({"task": "t", "text": "a"}, "a", 0.9),
        Asked({"task": "nobody's", "text": "a"}, "a", 1.0),
    ]
    with running(app, queue, ConnectionLimits(20, 60, 60)) as (port, _):
        answers = Load(port, [*RIGHT, *wrong], 5, requests=100).run()
    assert Counter((answer.status, answer.right) for answer in answers) == {
        (200, True): 70, (200, False): 20, (404, False): 10,
    }  # fmt: skip
    assert all(answer.right == (answer.asked in RIGHT) for answer in answers)
    gone = Load(free_port(), RIGHT, 2, requests=4).run()
    assert [(answer.status, answer.right) for answer in gone] == [(0, False)] * 4


def test_it_ends_in_time_and_its_times_are_in_order() -> None:
    queue = LabelQueue(Echo(), 40, 4)  # type: ignore[arg-type]
    app = make_app(queue, Metrics(), LIMITS)
    with running(app, queue, ConnectionLimits(20, 60, 60)) as (port, _):
        load = Load(port, RIGHT, 3, seconds=0.3)
        thread = threading.Thread(target=load.run)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
    assert len(load.answers) > 3
    found = [Answered(RIGHT[0], 200, True, 0.0, float(number)) for number in (4, 1, 3, 2)]
    assert percentiles(found) == (3.0, 4.0, 4.0, 4.0)


def test_the_documented_proxy_has_these_ports_and_neither_keys_nor_a_rate() -> None:
    config = documented(5001, (5002, 5003))
    assert re.findall(r"127\.0\.0\.1:(\d+)", config) == ["5002", "5003", "5001"]
    assert not re.search("ssl|limit_req|8000", config)
    assert config.count("{") == config.count("}") == 3


def test_growth_is_from_the_second_minute_on() -> None:
    found = Mixed(Counter({"200": 3}), [1.0, 2.0, 3.0], megabytes=[100, 300, 400, 500, 510, 505])
    assert found.grown == 5
    assert "3 honest requests: {'200': 3}" in found.lines()[0]
    assert "2.00 3.00 3.00 3.00" in found.lines()[1]


@pytest.mark.parametrize("megabytes", [[100.0], [100.0, 90.0]])
def test_of_less_than_two_minutes_there_is_no_growth(megabytes: list[float]) -> None:
    assert Mixed(megabytes=megabytes).grown == 0
