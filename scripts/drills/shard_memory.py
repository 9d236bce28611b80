"""Memory of each process of a run: with the whole model in each (trainer=ddp), and sharded (trainer=fsdp).

    python -m scripts.drills.shard_memory            a random T5 of 400 MB, 2 processes on the CPU; a minute
    python -m scripts.drills.shard_memory 200 3      of 200 MB, 3 processes

"own" is the peak of a process's private memory (RssAnon), "in training" its resident memory at the end of training,
including mapped pages of the checkpoint's file; both less those of a run of a tiny model. While loading, a process also
maps pages of the file that it is reading, which all processes share and the system reclaims.
"""

import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from transformers import ByT5Tokenizer, logging

from tfew.models.backbone import random_model

SHAPE = {
    "init_seed": 0, "d_model": 512, "d_kv": 64, "d_ff": 1024, "num_heads": 8, "vocab_size": 4096,
    "feed_forward_proj": "gated-gelu", "dropout_rate": 0.0,
}  # fmt: skip
MB = 1_000_000
EMBEDDINGS_MB, LAYER_MB = 17, 25  # embeddings and head; a layer of encoder and decoder


def make_checkpoint(folder: Path, megabytes: int) -> int:
    """A random T5 of about so many MB in float32, and its tokenizer; returns its weights' bytes."""
    layers = max(1, round((megabytes - EMBEDDINGS_MB) / LAYER_MB))
    model = random_model({**SHAPE, "num_layers": layers, "num_decoder_layers": layers}, rows=0)
    logging.disable_progress_bar()
    model.save_pretrained(folder)  # type: ignore[operator]
    ByT5Tokenizer().save_pretrained(folder)
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def measure(processes: int, run_dir: Path, *overrides: str) -> list[tuple[int, int]]:
    """Trains for three steps; of each process the peak of its own bytes, and what it had when training ended."""
    command = [
        sys.executable, "-m", "tfew.train", "+experiment=demo", "trainer=cpu", f"trainer.devices={processes}",
        "steps=3", f"batch_size={processes}", "max_tokens=8", "eval_batch_size=1", "dataset.generator.eval=2",
        f"run_dir={run_dir}", *overrides,
    ]  # fmt: skip
    # else the C library keeps freed memory, and it would be measured as used
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    peak: dict[int, int] = {}
    in_training: dict[int, int] = {}
    while run.poll() is None:
        for process in (run.pid, *_children(run.pid)):
            status = _status(process)
            peak[process] = max(peak.get(process, 0), status.get("RssAnon", 0))
            if not (run_dir / "adapter.safetensors").exists():
                in_training[process] = status.get("VmRSS", in_training.get(process, 0))
        time.sleep(0.01)
    if run.returncode:
        raise SystemExit(run.returncode)  # it has reported the reason
    return [(peak[process], in_training[process]) for process in sorted(in_training)][:processes]


def _children(parent: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    except OSError:
        return []


def _status(process: int) -> dict[str, int]:
    """Sizes in /proc, in bytes; of a process that has just ended, none."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":") for line in lines)
    return {name: 1024 * int(value.split()[0]) for name, value in pairs if value.endswith("kB")}


def table(megabytes: int, processes: int, folder: Path) -> tuple[int, dict[str, list[tuple[int, int]]]]:
    """The model's bytes; by strategy, each process's own bytes at their peak and bytes in training."""
    weights = make_checkpoint(folder / "checkpoint", megabytes)
    tiny = measure(processes, folder / "tiny", "model=tiny")
    rows = {}
    for strategy in ("ddp", "fsdp"):
        overrides = (f"model.path={folder / 'checkpoint'}", f"trainer.strategy={strategy}")
        measured = measure(processes, folder / strategy, *overrides)
        rows[strategy] = [(own - base[0], all_ - base[1]) for (own, all_), base in zip(measured, tiny, strict=True)]
    return weights, rows


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("megabytes", nargs="?", type=int, default=400)
    parser.add_argument("processes", nargs="?", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights, rows = table(options.megabytes, options.processes, Path(folder))
    print(f"a model of {weights / MB:.0f} MB in {options.processes} processes; MB, less a tiny model's")
    print("trainer  process    own  in training")
    for strategy, of_processes in rows.items():
        for number, (own, training) in enumerate(of_processes):
            print(f"{strategy:<7} {number:>8} {own / MB:>6.0f} {training / MB:>12.0f}")


if __name__ == "__main__":
    main()
