"""The short form of scripts/drills/attack.py: what needs neither a model nor a managed folder."""

import pytest

from scripts.drills.attack import attacked
from scripts.drills.attacks import KINDS, Kind, Target
from tests.service.running import running
from tests.service.stubs import Recorder
from tfew.service.app import make_app
from tfew.service.connections import ConnectionLimits
from tfew.service.limits import Limits
from tfew.service.metrics import Metrics
from tfew.service.queue import LabelQueue

SLOW = ("drip", "idle", "taken")  # test_connections has them with shorter times
SHORT = [kind for kind in KINDS if not kind.whole and not any(word in kind.name for word in SLOW)]


def test_there_are_enough_and_each_is_tested() -> None:
    assert len(KINDS) >= 30
    assert len(SHORT) >= 15
    assert len({kind.name for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", SHORT, ids=lambda kind: kind.name)
def test_it_is_refused_and_the_next_client_is_answered(kind: Kind) -> None:
    queue = LabelQueue(Recorder(), 2048, 16)  # type: ignore[arg-type]
    app = make_app(queue, Metrics(), Limits(256, 8_000_000, 5.0, ("127.0.0.1",), None))
    with running(app, queue, ConnectionLimits(50, 5, 5)) as (port, _):
        outcome = attacked(kind, Target(port), lambda: 0.0)
    assert outcome.met.startswith(kind.good)
    assert outcome.harm == ""
