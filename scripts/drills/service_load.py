"""Requests per second and latencies, by settings of the service, in one run:

    python -m scripts.drills.service_load [--clients 32,256] [--seconds 20] [--rounds 2] [--before CHECKOUT]

Requests alternate between services with one process, with two, and that of another checkout if one is named; each
answer is compared with `Predictor`'s. Prints a table; exit code 1 if an answer is wrong or missing.
"""

import sys
import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from dataclasses import dataclass, field
from pathlib import Path

from scripts.drills.load import Answered, Asked, Load, percentiles
from scripts.drills.served import ROOT, Served, free_port, make_tasks


@dataclass
class Measured:
    """Of one setting and number of clients, over all rounds; `busy`: seconds of labelling, summed over processes."""

    processes: int
    answers: list[Answered] = field(default_factory=list)
    seconds: float = 0.0
    busy: float = 0.0
    private_mb: float = 0.0

    def line(self, name: str, clients: int) -> list[str]:
        times = [f"{1000 * value:,.0f}" for value in percentiles(self.answers)]
        bad = sum(not answer.right for answer in self.answers)
        share = self.busy / self.seconds / self.processes
        rate = len(self.answers) / self.seconds
        return [name, str(clients), f"{rate:.0f}", *times, f"{100 * share:.0f} %", f"{self.private_mb:.0f}", str(bad)]


HEAD = ["service", "clients", "requests/s", "median ms", "95 %", "99 %", "longest", "model's share", "PSS MB", "wrong"]


def pss_mb(pids: list[int]) -> float:
    """Memory of processes, what they share counted once."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000


def measure(service: Served, asked: list[Asked], clients: int, seconds: float, into: Measured) -> None:
    before, started = service.metric("tfew_busy_seconds_total"), time.monotonic()
    into.answers += Load(service.port, asked, clients, seconds=seconds).run()
    into.seconds += time.monotonic() - started
    time.sleep(1.5)  # processes exchange their metrics every second
    into.busy += service.metric("tfew_busy_seconds_total") - before
    into.private_mb = pss_mb(service.pids())


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--clients", default="32,256")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--before", type=Path)
    options = parser.parse_args()
    clients = [int(number) for number in options.clients.split(",")]
    settings = {"one process": (1, ROOT), "two processes": (2, ROOT)}
    if options.before is not None:
        settings = {"before": (1, options.before.resolve()), **settings}
    found = {(name, number): Measured(settings[name][0]) for number in clients for name in settings}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asked = make_tasks(folder)
        for _ in range(options.rounds):
            for setting, (processes, checkout) in settings.items():
                own = () if processes == 1 else (f"processes={processes}",)
                with Served(folder, free_port(), *own, checkout=checkout) as service:
                    Load(service.port, asked, 8, requests=100).run()  # the first ones take longer
                    for number in clients:
                        measure(service, asked, number, options.seconds, found[setting, number])
    lines = [HEAD, ["---"] * len(HEAD), *(found[key].line(*key) for key in found)]
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return int(any(not answer.right for measured in found.values() for answer in measured.answers))


if __name__ == "__main__":
    sys.exit(main())
