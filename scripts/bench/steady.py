"""Memory and speed over a long training: `python -m scripts.bench.steady`.

    python -m scripts.bench.steady [STEPS]      10000, of the embedded default; some minutes on two cores

Trains mini-T0 on one few-shot task and prints, every tenth of the steps, the resident memory of the process. Linux
only (/proc).
"""

import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from scripts.bench.stream import resident_mb


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="?", type=int, default=10_000)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        command = [sys.executable, "-m", "tfew.train", "+experiment=demo", "dataset=mini/complaint", f"steps={steps}"]
        process = subprocess.Popen(
            [*command, "trainer=cpu", f"run_dir={run}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "TQDM_DISABLE": "1"},
        )  # fmt: skip
        print("   steps   resident MB   steps a second", flush=True)
        try:
            watch(process, run / "metrics.csv", steps)
        finally:
            process.kill()
            process.wait()


def watch(process: "subprocess.Popen[bytes]", metrics: Path, steps: int) -> None:
    shown, last, peak = 0, time.monotonic(), 0.0
    while process.poll() is None and shown < steps:
        time.sleep(0.2)
        done = metrics.read_bytes().count(b"\n") - 1 if metrics.is_file() else 0
        if done >= shown + max(1, steps // 10):
            now, resident = time.monotonic(), resident_mb(process.pid, "VmRSS")
            peak = max(peak, resident_mb(process.pid, "VmHWM"))
            print(f"{done:8,d} {resident:13.1f} {(done - shown) / (now - last):16.1f}", flush=True)
            shown, last = done, now
    print(f"most at any time: {peak:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
