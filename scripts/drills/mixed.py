"""Minutes of attacks and honest requests at the same time: `python -m scripts.drills.attack --minutes 10`."""

import json
import random
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException

from scripts.drills.attacks import KINDS, Kind, Target

HONEST_CLIENTS = 4
PAUSE_SECONDS = 0.2
PATIENCE_SECONDS = 60.0
ALONE = ("a table whose client goes",)  # reads the number of waiting rows, which includes those of others


@dataclass
class Mixed:
    """What came of it. `seconds`: of each honest request; `megabytes`: of the service, each half a minute."""

    honest: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    attacks: Counter[str] = field(default_factory=Counter)
    unlike: Counter[str] = field(default_factory=Counter)
    megabytes: list[float] = field(default_factory=list)

    @property
    def grown(self) -> float:
        """From the second minute to the end."""
        return self.megabytes[-1] - self.megabytes[min(3, len(self.megabytes) - 1)]

    def lines(self) -> list[str]:
        ordered = sorted(self.seconds)
        times = [ordered[int(len(ordered) * part)] for part in (0.5, 0.95, 0.99)]
        return [
            f"{sum(self.honest.values()):,} honest requests: {dict(self.honest)}",
            f"seconds, median, 95 %, 99 %, longest: {' '.join(f'{value:.2f}' for value in (*times, ordered[-1]))}",
            f"{sum(self.attacks.values()):,} attacks of {len(self.attacks)} kinds; unlike alone: {dict(self.unlike)}",
            f"memory each half minute, MB: {' '.join(f'{value:.0f}' for value in self.megabytes)}",
        ]


def mixed(target: Target, minutes: float, megabytes: Callable[[], float]) -> Mixed:
    """One attacker of kinds that add adapters, two of all others, and honest clients, at the same time."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found, lock, end = Mixed(), threading.Lock(), time.monotonic() + 60 * minutes
    adding = [kind for kind in KINDS if kind.whole]
    rest = [kind for kind in KINDS if not kind.whole]

    def attack(kinds: list[Kind], seed: int) -> None:
        chooser = random.Random(seed)
        while time.monotonic() < end:
            kind = chooser.choice(kinds)
            try:
                met = kind.attack(target)
            except (OSError, HTTPException) as error:  # from requests without error handling
                met = f"disconnected ({type(error).__name__})"
            with lock:
                found.attacks[kind.name] += 1
                if not met.startswith(kind.good) and kind.name not in ALONE:
                    found.unlike[f"{kind.name}: {met}"] += 1

    def ask(number: int) -> None:
        expected = None
        while time.monotonic() < end:
            began = time.monotonic()
            status, label = _ask(target, f"127.0.0.{10 + number}")
            expected = expected or label
            with lock:
                found.honest[status if status != "200" or label == expected else "another label"] += 1
                found.seconds.append(time.monotonic() - began)
            time.sleep(PAUSE_SECONDS)

    threads = [threading.Thread(target=attack, args=(kinds, n)) for n, kinds in enumerate((adding, rest, rest))]
    threads += [threading.Thread(target=ask, args=(number,)) for number in range(HONEST_CLIENTS)]
    try:
        for thread in threads:
            thread.start()
        while time.monotonic() < end:
            time.sleep(min(30.0, max(0.0, end - time.monotonic())))
            found.megabytes.append(megabytes())
        for thread in threads:
            thread.join()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return found


def _ask(target: Target, source: str) -> tuple[str, str | None]:
    """Status, or what was in its place, and the label."""
    connection = HTTPConnection("127.0.0.1", target.port, timeout=PATIENCE_SECONDS, source_address=(source, 0))
    try:
        head = {"content-type": "application/json", **target.honest}
        connection.request("POST", "/predict", json.dumps(target.item()), head)
        with connection.getresponse() as answer:
            body = answer.read()
            label = json.loads(body)["labels"][0]["label"] if answer.status == 200 else None
            return str(answer.status), label
    except (OSError, HTTPException) as error:
        return f"no answer ({type(error).__name__})", None
    finally:
        connection.close()
