"""Labels rows on Ray while workers, whole nodes and the job itself are killed, and compares with a single process.

    python -m scripts.drills.ray_under_fire                          200,000 rows in a file, two nodes
    python -m scripts.drills.ray_under_fire 20000 folder             in 50 Parquet files
    python -m scripts.drills.ray_under_fire 20000 store 3            ... in an object store (moto, on loopback), seed 3

The two nodes are processes of this machine, with one core each. After every few parts a worker is killed (SIGKILL),
twice the whole second node, which returns, and once the job, which is restarted. Finally every row must be there once,
in order, the output must equal that of one process byte for byte, and no process may have grown. Needs the extra
[ray]; the object store also needs moto[server] and s3fs. POSIX only.
"""

import contextlib
import json
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.drills.sweep_under_fire import _descendants as descendants

KILLS = 8  # about
KILLED = ("worker", "node", "job", "worker", "node")
FILES = 50
WINDOW_ROWS = 3200
LATEST_SECONDS = 7200
WORDS = [
    "the", "parcel", "came", "late", "broken", "it", "is", "good", "zip", "lamp", "dull", "quoted", "new", "grape",
    "boring", "terrible", "hotel",
]  # fmt: skip
LENGTHS = (1, 1, 2, 3, 5, 25)  # words of a row


@dataclass
class Fire:
    """What was killed, and the memory of processes: of each the most in its first and its last third, in MB."""

    workers: int = 0
    nodes: int = 0
    jobs: int = 0
    seconds: float = 0.0
    memory: dict[int, list[float]] = field(default_factory=dict)

    def grown(self) -> list[tuple[float, float]]:
        long = (sizes for sizes in self.memory.values() if len(sizes) >= 12)
        return [(max(sizes[len(sizes) // 3 : 2 * len(sizes) // 3]), max(sizes[-len(sizes) // 3 :])) for sizes in long]


def rows(count: int) -> Iterator[dict[str, Any]]:
    source = random.Random(0)
    for number in range(count):
        text = " ".join(source.choice(WORDS) for _ in range(source.choice(LENGTHS)))
        yield {"text": text, "judged": ["boring", "terrible"], "lead": "", "tail": " about?", "number": number}


def write_file(path: Path, count: int) -> None:
    with path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows(count))


def write_folder(folder: Path, count: int) -> None:
    """Parquet files of uneven size, whose names sort in the order of the rows."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir()
    every, source = list(rows(count)), random.Random(1)
    cuts = [0, *sorted(source.sample(range(1, count), FILES - 1)), count]
    for number in range(FILES):
        table = pyarrow.Table.from_pylist(every[cuts[number] : cuts[number + 1]])
        pyarrow.parquet.write_table(table, folder / f"{number:03d}.parquet", row_group_size=1000)


class Cluster:
    """Two nodes of Ray, each a process of this machine with all that it starts."""

    def __init__(self, folder: Path, environment: dict[str, str], port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self._folder, self._environment = folder, environment
        head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}"]
        self.head = self._start("head", head)
        self.second = self._start("second", [f"--address={self.address}"])

    def restart_second(self) -> None:
        kill_all(self.second)
        self.second = self._start("second", [f"--address={self.address}"])

    def workers(self) -> list[int]:
        every = [*descendants(self.head.pid), *descendants(self.second.pid)]
        return [pid for pid in every if "_Labeller" in command_line(pid)]

    def close(self) -> None:
        kill_all(self.second)
        kill_all(self.head)
        for pid in [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]:
            if str(self._folder) in command_line(pid):  # of a node that started after the timeout
                os.kill(pid, signal.SIGKILL)

    def _start(self, name: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        path = self._folder.parent / f"{self._folder.name}.{name}.log"
        common = ["--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats", "--block"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments, *common]
        for _ in range(3):  # on a busy machine Ray may time out
            with path.open("wb") as log:
                process = subprocess.Popen(
                    command, stdout=log, stderr=log, env=self._environment, start_new_session=True
                )
            while process.poll() is None:
                if b"Ray runtime started" in path.read_bytes():
                    return process
                time.sleep(0.5)
            kill_all(process)
        sys.exit(f"The {name} node did not start:\n{path.read_text()[-3000:]}")


def free_port() -> int:
    """Below those that systems give out by themselves, of which Ray takes many."""
    for port in random.Random(os.getpid()).sample(range(6400, 8000), 100):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    sys.exit("No port is free.")


def kill_all(process: subprocess.Popen[bytes]) -> None:
    for pid in [process.pid, *descendants(process.pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def megabytes(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def predict(adapter: Path, source: str, target: Path, *more: str, **environment: str) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "tfew.predict", f"adapter={adapter}", "trainer=cpu", f"input={source}",
        f"output={target}", "eval_batch_size=100", f"piece_rows={WINDOW_ROWS}", *more,
    ]  # fmt: skip
    log = target.with_name(f"{target.name}.log").open("ab")
    return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environment)


def trained(folder: Path) -> Path:
    """A run on the tiny model, of one template."""
    command = [
        sys.executable, "-m", "tfew.train", "+experiment=demo", "dataset=mini/complaint", "model=tiny", "trainer=cpu",
        "few_shot=draw", "steps=8", "dataset.generator.eval=20", "templates=single", "templates.name='wording 1'",
        f"run_dir={folder}",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return folder


def under_fire(cluster: Cluster, adapter: Path, source: str, target: Path, seed: random.Random, count: int) -> Fire:
    """`count`: of the parts, about."""
    fire, started = Fire(), time.monotonic()
    job: subprocess.Popen[bytes] | None = None
    parts, next_kill = target.with_name(f"{target.name}.parts"), 2
    while time.monotonic() - started < LATEST_SECONDS:
        if job is None:
            job = predict(adapter, source, target, f"ray={cluster.address}", "ray_actors=2")
        if (code := job.poll()) is not None:
            if code:
                sys.exit(f"The job failed:\n{target.with_name(f'{target.name}.log').read_text()[-3000:]}")
            break
        for pid in [job.pid, *cluster.workers()]:
            fire.memory.setdefault(pid, []).append(megabytes(pid))
        done = len(list(parts.glob("done-*.json")))
        if done >= next_kill:
            next_kill = done + seed.randint(1, max(1, 2 * count // KILLS))
            job = _kill_something(cluster, job, fire, seed)
        time.sleep(0.5)
    fire.seconds = time.monotonic() - started
    return fire


def _kill_something(
    cluster: Cluster, job: subprocess.Popen[bytes], fire: Fire, seed: random.Random
) -> subprocess.Popen[bytes] | None:
    """In turn; behind the last, workers."""
    match [*KILLED, *["worker"] * 1000][fire.workers + fire.nodes + fire.jobs]:
        case "job":
            job.kill()
            job.wait()
            fire.jobs += 1
            return None
        case "node":
            cluster.restart_second()
            fire.nodes += 1
        case _ if workers := cluster.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(seed.choice(workers), signal.SIGKILL)
                fire.workers += 1
    return job


@contextlib.contextmanager
def placed(kind: str, folder: Path, count: int) -> Iterator[tuple[str, dict[str, str]]]:
    """What `input=` says, and the environment in which it is found."""
    if kind == "file":
        write_file(folder / "new.jsonl", count)
        yield str(folder / "new.jsonl"), {}
        return
    write_folder(folder / "new", count)
    if kind == "folder":
        yield str(folder / "new"), {}
        return
    from moto.server import ThreadedMotoServer  # type: ignore[import-not-found]

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    store = {
        "AWS_ACCESS_KEY_ID": "drill", "AWS_SECRET_ACCESS_KEY": "drill", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }  # fmt: skip
    os.environ.update(store)
    import fsspec

    system = fsspec.filesystem("s3")
    system.mkdir("drill")
    system.put(f"{folder}/new/", "drill/new/", recursive=True)
    yield "s3://drill/new/", store
    server.stop()


def wrong(one: Path, ray: Path, count: int, fire: Fire) -> list[str]:
    found = []
    with ray.open() as lines:
        numbers = [json.loads(line)["number"] for line in lines]
    if numbers != list(range(count)):
        found.append(f"{len(numbers)} rows, {len(set(numbers))} different ones, for {count}; or in another order")
    if one.read_bytes() != ray.read_bytes():
        found.append("other labels than one process gives")
    if left := [path.name for path in ray.parent.glob(f"{ray.name}.p*")]:
        found.append(f"left over: {', '.join(left)}")
    if any(late > 1.1 * early + 20 for early, late in fire.grown()):
        found.append("a process has grown")
    return found


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="?", type=int, default=200_000)
    parser.add_argument("kind", nargs="?", choices=("file", "folder", "store"), default="file")
    parser.add_argument("seed", nargs="?", type=int, default=0)
    options = parser.parse_args()
    os.environ.update({"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "RAY_AUTH_MODE": "disabled"})  # of loopback
    session = Path(tempfile.mkdtemp(prefix="ray_", dir="/tmp"))  # short: Ray's sockets lie in it
    with tempfile.TemporaryDirectory() as name, placed(options.kind, Path(name), options.rows) as (source, store):
        folder = Path(name)
        adapter = trained(folder / "run")
        alone = predict(adapter, source, folder / "one.jsonl")
        port = free_port()
        ray = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "300"}
        cluster = Cluster(session / "r", os.environ | store | ray, port)
        try:
            count = options.rows // WINDOW_ROWS if options.kind == "file" else FILES
            seed = random.Random(options.seed)
            fire = under_fire(cluster, adapter, source, folder / "ray.jsonl", seed, count)
            if alone.wait():
                sys.exit(f"One process failed:\n{(folder / 'one.jsonl.log').read_text()[-3000:]}")
        finally:
            alone.kill()
            cluster.close()
            shutil.rmtree(session, ignore_errors=True)
        found = wrong(folder / "one.jsonl", folder / "ray.jsonl", options.rows, fire)
    print(f"{options.rows:,} rows ({options.kind}), {fire.seconds:.0f} s under fire, one process beside it")
    print(f"killed: {fire.workers} workers, {fire.nodes} times the second node, {fire.jobs} times the job")
    print("memory in MB, in the middle and at the end: ", "; ".join(f"{a:.0f}, {b:.0f}" for a, b in fire.grown()))
    print("\n".join(found) or "Every row once, in order; byte for byte what one process writes; no process has grown.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
