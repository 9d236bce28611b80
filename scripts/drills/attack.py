"""The service under attack: `python -m scripts.drills.attack [--before CHECKOUT] [--minutes 10]`.

Trains a small task, serves it, and tries each kind of attack in `attacks.py`. After each an honest client requests a
row: it must be answered, and the server must not have grown by more than GROWTH_MB. Prints a table; exit code 1 if an
attack does harm. With `--before` the attacks are repeated on another checkout of this repository, for comparison. With
`--minutes` all kinds are tried for that long, three at a time, alongside honest clients: exit code 1 if one of these is
not answered, or if the memory has grown.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from scripts.drills.attacks import KINDS, Kind, Target
from scripts.drills.mixed import mixed

ROOT = Path(__file__).parents[2]
GROWTH_MB = 400
STEADY_MB = 200  # from the second minute to the last
HONEST_SECONDS = 5.0
ATTACKER, HONEST = "attacker-" + "a" * 24, "honest-" + "h" * 24
SETTINGS = ("trainer=cpu", "eval_batch_size=16")
NEW_SETTINGS = ("max_connections=200", "drain_seconds=5")


@dataclass(frozen=True)
class Outcome:
    """What the attack met, and what harm it did; none: empty."""

    met: str
    harm: str

    def __str__(self) -> str:
        return f"{self.met}; {self.harm}" if self.harm else self.met


class Service:
    """`python -m tfew.serve` of a checkout; started again where an attack has ended it."""

    def __init__(self, checkout: Path, folder: Path, run: Path, timeout_seconds: int = 5) -> None:
        self._checkout, self._folder, self._timeout_seconds = checkout, folder, timeout_seconds
        self._is_new = (checkout / "tfew" / "service" / "tokens.py").exists()
        self.manage = folder / "manage"
        shutil.copytree(run, self.manage / "good")
        (folder / "tasks.json").write_text(json.dumps({"complaint": str(self.manage / "good")}))
        (folder / "tokens").write_text(f"attacker: {ATTACKER} predict\nhonest: {HONEST} predict manage\n")
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def target(self) -> Target:
        """Of the running service."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        who = [{"authorization": f"Bearer {token}"} if self._is_new else {} for token in (ATTACKER, HONEST)]
        return Target(self.port, who[0], who[1], self.manage, self.manage / "good", "complaint")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def megabytes(self) -> float:
        """Of memory; 0 where the process has ended."""
        if self._process is None or self._process.poll() is not None:
            return 0.0
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def _start(self) -> None:
        self.stop()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        new = (*NEW_SETTINGS, f"token={self._folder}/tokens") if self._is_new else ()
        command = [
            sys.executable, "-m", "tfew.serve", f"adapters={self._folder}/tasks.json", f"port={self.port}",
            f"manage={self.manage}", f"timeout_seconds={self._timeout_seconds}", *SETTINGS, *new,
        ]  # fmt: skip
        with (self._folder / "log").open("ab") as log:
            environment = {**os.environ, "PYTHONPATH": str(self._checkout)}
            self._process = subprocess.Popen(command, cwd=self._checkout, env=environment, stdout=log, stderr=log)
        while Target(self.port).ask("GET", "/healthz") != "200":
            if self._process.poll() is not None:
                sys.exit(f"tfew.serve did not start:\n{(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.3)


def attacked(kind: Kind, target: Target, megabytes: Callable[[], float]) -> Outcome:
    before, harm = megabytes(), []
    met = kind.attack(target)
    grown = megabytes() - before
    started = time.monotonic()
    honest = target.ask("POST", "/predict", json.dumps(target.item()).encode(), source="127.0.0.3", honest=True)
    waited = time.monotonic() - started
    if not met.startswith(kind.good):
        harm.append("not refused" if met == "201" else "not as it should be")
    if honest not in ("200", "422"):  # a stub labels nothing
        harm.append(f"an honest client then: {honest}")
    elif waited > HONEST_SECONDS:
        harm.append(f"an honest client then waits {waited:.0f} s")
    if grown > GROWTH_MB:
        harm.append(f"{grown:,.0f} MB more")
    return Outcome(met, ", ".join(harm))


def all_attacked(service: Service, label: str) -> list[Outcome]:
    found = []
    for kind in (bar := tqdm(KINDS, unit="attack", desc=label)):
        bar.set_postfix_str(kind.name)
        outcome = attacked(kind, service.target(), service.megabytes)
        if outcome.harm:  # restarts the service for the next one
            service.stop()
        found.append(outcome)
    return found


def table(columns: Sequence[tuple[str, Sequence[Outcome]]]) -> str:
    """In Markdown."""
    head = ["", *(name for name, _ in columns), "limit", "test"]
    lines = [head, ["---"] * len(head)]
    for number, kind in enumerate(KINDS):
        lines.append([kind.name, *(str(found[number]) for _, found in columns), kind.limit, f"`{kind.test}`"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def make_run(folder: Path) -> Path:
    from tfew.config import compose
    from tfew.train import train

    few = ("dataset=mini/complaint", "trainer=cpu", "steps=8", "shots=16", "dataset.generator.eval=8")
    return folder / train(compose("+experiment=mini_few_shot", *few, f"runs={folder}")).name


def for_minutes(minutes: float) -> int:
    with tempfile.TemporaryDirectory() as name:
        run = make_run(Path(name))
        with Service(ROOT, Path(name) / "here", run, timeout_seconds=10) as service:
            found = mixed(service.target(), minutes, service.megabytes)
            still_runs = service.megabytes() > 0
    print(*found.lines(), sep="\n")
    return int(not still_runs or set(found.honest) != {"200"} or found.grown > STEADY_MB)


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--minutes", type=float)
    options = parser.parse_args()
    if options.minutes is not None:
        return for_minutes(options.minutes)
    columns = []
    with tempfile.TemporaryDirectory() as name:
        run = make_run(Path(name))
        for label, checkout in (("here", ROOT), ("before", options.before)):
            if checkout is not None:
                with Service(checkout.resolve(), Path(name) / label, run) as service:
                    columns.append((label, all_attacked(service, label)))
    print(table(columns))
    return int(any(outcome.harm for outcome in columns[0][1]))


if __name__ == "__main__":
    sys.exit(main())
