"""How cost grows with size: `python -m scripts.bench.size`; finished points are not measured again.

records=evidence/size.jsonl   SIZE.md is written beside it
only="rows, tfew predict"     one of the scales
most=1000000                  leaves out larger sizes

Seconds are the processor's, so that other work on the machine matters little. Linux only (/proc).
"""

import csv
import json
import math
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts.bench.contenders import make_optimizer, prepared, score, training_step
from scripts.bench.memory import reset_peak, status_bytes
from scripts.bench.workload import Workload, encode, make_encoder, make_prompts
from tfew.cli import run_script
from tfew.comparison.tables import as_markdown
from tfew.config import local_path
from tfew.data.tokenization import collate
from tfew.devices.cpu import keep_freed_memory
from tfew.errors import unknown_value_error
from tfew.files.atomic import write_atomically
from tfew.paper.runs import load_runs
from tfew.runs.records import load_record, save_record

OWN = {"records": "evidence/size.jsonl", "only": "", "most": "1000000"}
PASSES = 3
Cost = tuple[float, int]  # seconds of the processor, and bytes on top of the loaded model, or of the whole process


def main(arguments: Sequence[str]) -> int:
    if "--help" in arguments:
        print(__doc__)
        return 0
    own = {**OWN, **{key: value for key, _, value in (argument.partition("=") for argument in arguments)}}
    if unknown := own.keys() - OWN.keys():
        raise unknown_value_error("setting", min(unknown), OWN, "scripts.bench.size")
    if own["only"] and own["only"] not in SCALES:
        raise unknown_value_error("scale", own["only"], SCALES, "only=")
    path = Path(own["records"])
    points = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    done = {(point["scale"], point["size"]) for point in points}
    for scale, (sizes, cost) in SCALES.items():
        for size in sizes:
            if own["only"] in ("", scale) and size <= int(own["most"]) and (scale, size) not in done:
                seconds, size_bytes = in_own_process(cost, size)
                points.append({"scale": scale, "size": size, "seconds": seconds, "bytes": size_bytes})
                write_atomically(path, "".join(json.dumps(point) + "\n" for point in points))
                print(f"{scale} {size:,}: {seconds:.2f} s, {size_bytes / 1e6:,.0f} MB", file=sys.stderr, flush=True)
    table = as_markdown(cells(points))
    write_atomically(path.with_name("SIZE.md"), f"# Cost against size\n\n{EXPLAINED}\n\n{table}\n")
    print(table)
    return 0


EXPLAINED = """\
`python -m scripts.bench.size` makes this page. Seconds of the processor, one thread. Slope: of the logarithm of the
seconds over that of the size, between the two largest sizes; 1 is in proportion. Memory of scoring and training: on top
of the loaded model; of commands: of the whole process. T5-small's shape, 8 examples; inputs of 128 tokens and 2 choices
where the scale is another; `tfew predict` with mini-T0."""


def in_own_process(cost: Callable[[int], Cost], size: int) -> Cost:
    """A fork, so that no point finds the memory that another one has freed."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(cost(size)))
    process.start()
    sender.close()
    try:
        found: Cost = receiver.recv()
    except EOFError:
        sys.exit(f"size {size:,} failed, see above.")
    process.join()
    return found


def cells(points: Sequence[dict[str, float]]) -> list[list[str]]:
    rows = [["scale", "sizes", "seconds", "slope", "MB"]]
    for scale in dict.fromkeys(point["scale"] for point in points):
        found = sorted((p for p in points if p["scale"] == scale), key=lambda p: p["size"])
        rows.append([
            str(scale), ", ".join(f"{p['size']:,}" for p in found), ", ".join(f"{p['seconds']:.3g}" for p in found),
            f"{slope(found):.2f}" if len(found) > 1 else "-", ", ".join(f"{p['bytes'] / 1e6:,.0f}" for p in found),
        ])  # fmt: skip
    return rows


def slope(points: Sequence[dict[str, float]]) -> float:
    (first, last) = points[-2:]
    return math.log(last["seconds"] / first["seconds"]) / math.log(last["size"] / first["size"])


SMALL = Workload(2, 8, True, 1)


def scoring(workload: Workload) -> Cost:
    tokenizer, model = make_encoder(), prepared("ours", "small")
    small, items = (encode(make_prompts(one, tokenizer), tokenizer) for one in (SMALL, workload))
    return _fastest(lambda given: score("ours", model, given, tokenizer.pad_id), small, items)


def training(workload: Workload) -> Cost:
    tokenizer, model = make_encoder(), prepared("ours", "small")
    optimizer = make_optimizer(model)
    small, batch = (
        collate(encode(make_prompts(one, tokenizer), tokenizer), tokenizer.pad_id) for one in (SMALL, workload)
    )
    return _fastest(lambda given: training_step("ours", model, given, optimizer), small, batch)


def _fastest(call: Callable[[Any], object], small: object, given: object) -> Cost:
    keep_freed_memory()  # as commands do
    call(small)  # one-time allocations
    reset_peak()
    before, seconds = status_bytes("VmRSS"), []
    for _ in range(PASSES):
        started = time.process_time()
        call(given)
        seconds.append(time.process_time() - started)
    return min(seconds), max(0, status_bytes("VmHWM") - before)


def predicting(rows: int) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        where, source = Path(folder), random.Random(0)
        words = [word for row in _shipped() for word in row["review"].split()]
        with (where / "new.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["review"])
            writer.writerows([" ".join(source.choices(words, k=8))] for _ in range(rows))
        (run,) = _trained(where)
        return _of_command("predict", f"adapter={run}", f"input={where / 'new.csv'}", f"output={where / 'out.csv'}")


def reading(runs: int) -> Cost:
    """The records of finished runs, as the tables read them."""
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        (run,) = _trained(where)
        record = load_record(run)
        for name in ("few/run", *(f"many/{number}" for number in range(runs))):
            (where / name).mkdir(parents=True)
            save_record(where / name, replace(record, name=Path(name).name))
        return _fastest(load_runs, where / "few", where / "many")


REVIEWS = Path(local_path("pkg://examples/reviews_train.csv"))


def _shipped() -> list[dict[str, str]]:
    with REVIEWS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _trained(where: Path) -> list[Path]:
    _of_command("train", "+experiment=local_mini", f"data={REVIEWS}", "label=sentiment", "steps=2", "folds=null",
                "validation=0.25", f"runs={where / 'runs'}")  # fmt: skip
    return [path.parent for path in (where / "runs").glob("*/result.json")]


def _of_command(*arguments: str) -> Cost:
    with tempfile.TemporaryFile("w+") as messages:
        process = subprocess.Popen([sys.executable, "-m", "tfew", *arguments], stdout=messages, stderr=messages)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            messages.seek(0)
            raise RuntimeError(messages.read())
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


SCALES: dict[str, tuple[Sequence[int], Callable[[int], Cost]]] = {
    "tokens of an input, scoring": ((64, 128, 256, 512), lambda n: scoring(Workload(2, n, True, 8))),
    "tokens of an input, training step": ((64, 128, 256, 512), lambda n: training(Workload(2, n, True, 8))),
    "choices, scoring": ((2, 20, 77), lambda n: scoring(Workload(n, 128, True, 8))),
    "choices, training step": ((2, 20, 77), lambda n: training(Workload(n, 128, True, 8))),
    "examples, scoring": ((8, 32, 128), lambda n: scoring(Workload(2, 128, True, n))),
    "rows, tfew predict": ((1_000, 10_000, 100_000, 1_000_000), predicting),
    "finished runs, read for a table": ((10, 100, 1_000), reading),
}

if __name__ == "__main__":
    run_script(main)
