"""Memory of tfew.predict over the first rows of a large file: `python -m scripts.bench.stream`.

    python -m scripts.bench.stream [GB] [ROWS]      1 and 200000; about four minutes on two idle cores

Trains an adapter of mini-T0 for a few steps, writes a CSV of GB gigabytes into a temporary folder, labels it with one
template, and prints the process's resident memory every tenth of the rows. Linux only (/proc).
"""

import csv
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from tfew.config import compose
from tfew.mini_t0.world import generate
from tfew.train import train

DIFFERENT = 20000  # texts, over and over again
FAMILY = "complaint"


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("gigabytes", nargs="?", type=float, default=1)
    parser.add_argument("rows", nargs="?", type=int, default=200_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = folder / "run"
        train(compose("+experiment=demo", f"dataset=mini/{FAMILY}", "steps=30", "trainer=cpu", f"run_dir={run}"))
        source = folder / "large.csv"
        write_large(source, int(options.gigabytes * 1e9))
        print(f"\n{source.stat().st_size / 1e9:.2f} GB; rows, resident MB, rows a second:", flush=True)
        watch(source, run, folder / "labels.csv", options.rows)


def write_large(path: Path, size: int) -> None:
    texts = generate(split="train", family=FAMILY, seed=0, train=DIFFERENT, validation=0, eval=0)
    kept = [str(texts[number]["text"]) for number in range(DIFFERENT)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        for number in itertools.count():
            writer.writerow([number, kept[number % DIFFERENT]])
            if number % DIFFERENT == 0 and file.tell() >= size:
                return


def watch(source: Path, run: Path, target: Path, rows: int) -> None:
    """Prints what the process holds each time a tenth of the rows is done, and stops it when all are."""
    command = [sys.executable, "-m", "tfew.predict", f"adapter={run}", f"input={source}", f"output={target}"]
    command += ["trainer=cpu", "templates=single", 'templates.name="wording 1"']
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "TQDM_DISABLE": "1"})
    state, started, shown = target.with_name(f"{target.name}.partial.json"), 0.0, 0
    try:
        while process.poll() is None and shown < rows:
            time.sleep(0.2)
            done = json.loads(state.read_text())["state"]["labelled"] if state.is_file() else 0
            started = started or (time.monotonic() if done else 0.0)
            if done >= shown + rows // 10:
                shown = done
                speed = done / max(time.monotonic() - started, 1e-9)
                print(f"{done:9,d} {resident_mb(process.pid, 'VmRSS'):8.1f} {speed:8.0f}", flush=True)
        print(f"most at any time: {resident_mb(process.pid, 'VmHWM'):.1f} MB", flush=True)
    finally:
        process.kill()
        process.wait()


def resident_mb(process: int, which: str) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) / 1e3


if __name__ == "__main__":
    main()
