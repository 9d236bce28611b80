"""Gives broken files of every kind to the commands, and checks how they fail.

    python -m scripts.drills.malformed              80 of each kind, a quarter of an hour
    python -m scripts.drills.malformed 5 7          5 of each kind, drawn with seed 7

A valid file is broken in some way (truncated, bits and bytes changed, values of other types, fields missing, nested
deeply, another file's contents, ...) and given to the command that reads it, as a user would. It may still be valid,
and is then counted as such. Otherwise the command must end with one sentence and a nonzero exit code, without a
traceback, within a minute and without writing its output; or, if bad rows are skipped, with all of them listed. Exit
code 1 if one does not.
"""

import json
import os
import pickle
import random
import shutil
import signal
import sys
import tempfile
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from tqdm import tqdm

from scripts.drills.forked import import_everything, start

SECONDS = 60.0
SMALL = ("model=tiny", "trainer=cpu")
ROWS = [{"text": f"the lemon is {'great' if i % 2 else 'bad'}, {i}", "label": ["no", "yes"][i % 2]} for i in range(12)]
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 10**400, 1e308, float("nan"), "", "\0", "../../x", "{{ 7 * 7 }}", [], [[]], {}, {"a": {}},
)  # fmt: skip
BYTES = (
    b"", b"\0", b"\n", b"\xef\xbb\xbf", "ümlaut".encode("utf-16"), b"\xff" * 40, b'"', b"{", b"[" * 100_000,
    b'{"a":' * 5_000, b"%PDF-1.7\n", b"PK\x03\x04", b"\x93NUMPY", pickle.dumps({"a": print}), b"a,b\n1,2,3\n", b"null",
    b"{}", b"[]", b"---\n- !!python/object:os.system {}\n", b"&a [*a, *a]", b"text\nlabel\n", b"{{ ", b"{% for %}",
    b"{% include 'x' %}", b"{{ text.__class__ }}",
)  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """`make` writes what is good into a folder; `file` of it is broken. {folder} and {output} stand in `arguments`.

    `lists`: bad rows do not stop the command, and this many files more than a good run leaves say which they are.
    """

    module: str
    arguments: tuple[str, ...]
    file: str
    make: Callable[[Path], None]
    lists: bool = False


def _lines(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _csv(path: Path) -> None:
    path.write_text("text,label\n" + "".join(f'"{row["text"]}",{row["label"]}\n' for row in ROWS))


def _parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


def readers(run: Path) -> dict[str, Reader]:
    """By its name, each file that a stranger may have sent; `run`: a finished run on ROWS."""
    mine = ("+experiment=local_mini", "text=text", "label=label")

    def of_run(folder: Path) -> None:
        shutil.copytree(run, folder / "run")
        _lines(folder / "new.jsonl", ROWS[:4])

    def pt(folder: Path) -> None:
        found = run.parent / "vectors.pt"
        shutil.copy(found, folder / "vectors.pt")

    def peft(folder: Path) -> None:
        shutil.copytree(run.parent / "peft", folder / "peft")

    def tasks(folder: Path) -> None:
        (folder / "tasks.json").write_text(json.dumps({"a": str(run), "b": str(run)}))
        _lines(folder / "new.jsonl", [{"task": "a", **row} for row in ROWS[:4]])

    def shots(folder: Path) -> None:
        shutil.copytree(run.parent / "shots" / "few_shot", folder / "few_shot")

    def superglue(folder: Path) -> None:
        rows = [{"premise": "a b", "hypothesis": "b", "label": "entailment", "idx": i} for i in range(9)]
        (folder / "RTE").mkdir()
        for name in ("train", "val"):
            _lines(folder / "RTE" / f"{name}.jsonl", rows)  # type: ignore[arg-type]

    def template(folder: Path) -> None:
        _csv(folder / "rows.csv")
        (folder / "my.jinja").write_text("{{ text }} {% if text %}?{% endif %} {{ text[:9] * 2 }} Good?")

    predict = (
        "predict",
        ("adapter={folder}/run", "trainer=cpu", "input={folder}/new.jsonl", "output={output}/o.jsonl"),
    )
    skipping = ("adapter={run}", "trainer=cpu", "output={output}/o.jsonl", "bad_rows=skip")
    return {
        "table, CSV": Reader("preview", (*mine, "data={folder}/rows.csv"), "rows.csv", lambda f: _csv(f / "rows.csv")),
        "table, JSONL": Reader(
            "preview", (*mine, "data={folder}/rows.jsonl"), "rows.jsonl", lambda f: _lines(f / "rows.jsonl", ROWS)
        ),
        "table, Parquet": Reader(
            "preview", (*mine, "data={folder}/r.parquet"), "r.parquet", lambda f: _parquet(f / "r.parquet")
        ),
        "template": Reader(
            "preview", (*mine, "data={folder}/rows.csv", "template={folder}/my.jinja"), "my.jinja", template
        ),
        "data set, SuperGLUE's JSONL": Reader(
            "preview", ("+experiment=rte", "model=tiny", "few_shot=draw", "shots=8", "data_dir={folder}"),
            "RTE/train.jsonl", superglue,
        ),
        "few-shot file": Reader(
            "train", ("+experiment=demo", "dataset=mini/complaint", *SMALL, "steps=1", "shots=8", "few_shot=files",
                      "dataset.generator.eval=2", "data_dir={folder}", "run_dir={output}/run"),
            "few_shot/complaint/8_shot/0_seed.jsonl", shots,
        ),
        "rows to label, CSV": Reader(
            "predict", ("adapter={run}", "trainer=cpu", "input={folder}/rows.csv", "output={output}/o.csv"), "rows.csv",
            lambda f: _csv(f / "rows.csv"),
        ),
        "rows to label, skipped": Reader(
            "predict", (*skipping, "input={folder}/rows.jsonl"), "rows.jsonl",
            lambda f: _lines(f / "rows.jsonl", ROWS), lists=True,
        ),
        "tasks": Reader(
            "predict",
            ("adapters={folder}/tasks.json", "trainer=cpu", "input={folder}/new.jsonl", "output={output}/o.jsonl"),
            "tasks.json", tasks,
        ),
        "adapter.json": Reader(*predict, "run/adapter.json", of_run),
        "adapter.safetensors": Reader(*predict, "run/adapter.safetensors", of_run),
        "temperature.json": Reader(*predict, "run/temperature.json", of_run),
        "config.yaml of a run": Reader(*predict, "run/config.yaml", of_run),
        "record, as an adapter's": Reader(*predict, "run/result.json", of_run),
        "record, in a table": Reader(
            "paper", ("table=4", "of_model=tiny", "runs={folder}", "output={output}"), "run/result.json", of_run
        ),
        "predictions, in a report": Reader(
            "paper", ("report=true", "runs={folder}", "output={output}"), "run/predictions.jsonl", of_run, True
        ),
        "official .pt": Reader(
            "convert", ("adapter={folder}/vectors.pt", "to=tfew", "model=tiny", "output={output}/o"), "vectors.pt", pt
        ),
        "peft's configuration": Reader(
            "convert", ("adapter={folder}/peft", "to=tfew", "model=tiny", "output={output}/o"),
            "peft/adapter_config.json", peft,
        ),
        "peft's weights": Reader(
            "convert", ("adapter={folder}/peft", "to=tfew", "model=tiny", "output={output}/o"),
            "peft/adapter_model.safetensors", peft,
        ),
    }  # fmt: skip


def broken(data: bytes, source: random.Random) -> bytes:
    """The contents, broken in one way."""
    kind = source.choice((_cut, _flipped, _overwritten, _inserted, _another, _doubled, _without_a_line, other_value))
    return kind(data, source)


def _cut(data: bytes, source: random.Random) -> bytes:
    return data[: source.randrange(len(data) or 1)]


def _flipped(data: bytes, source: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(source.choice((1, 1, 4, 100))):
        changed[source.randrange(len(changed))] ^= 1 << source.randrange(8)
    return bytes(changed)


def _overwritten(data: bytes, source: random.Random) -> bytes:
    place = source.randrange(len(data))
    return data[:place] + source.randbytes(source.choice((1, 8, 200))) + data[place + 8 :]


def _inserted(data: bytes, source: random.Random) -> bytes:
    place = source.randrange(len(data))
    return data[:place] + source.choice(BYTES) + data[place:]


def _another(data: bytes, source: random.Random) -> bytes:
    del data
    return source.choice(BYTES)


def _doubled(data: bytes, source: random.Random) -> bytes:
    del source
    return data + data


def _without_a_line(data: bytes, source: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    del lines[source.randrange(len(lines))]
    return b"".join(lines)


def other_value(data: bytes, source: random.Random) -> bytes:
    """A value of a JSON file, or of one of its lines, replaced or gone; of other files, some bytes."""
    lines = data.splitlines(keepends=True)
    whole = _json(data)
    number = source.randrange(len(lines)) if whole is None else 0
    value = whole if whole is not None else _json(lines[number])
    if not isinstance(value, dict | list) or not value:
        return _overwritten(data, source)
    _change(value, source)
    text = json.dumps(value).encode() + b"\n"
    return text if whole is not None else b"".join([*lines[:number], text, *lines[number + 1 :]])


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _change(value: Any, source: random.Random) -> None:
    key = source.choice(list(value) if isinstance(value, dict) else range(len(value)))
    if isinstance(value[key], dict | list) and value[key] and source.random() < 0.7:
        _change(value[key], source)
    elif source.random() < 0.3:
        del value[key]
    else:
        value[key] = source.choice(VALUES)


def judge(reader: Reader, folder: Path, run: Path) -> tuple[str, str]:
    """`good`, `refused`, `listed`, or what is wrong; and what was said."""
    output, log = folder / "output", folder / "log"
    output.mkdir()
    arguments = [argument.format(folder=folder / "in", output=output, run=run) for argument in reader.arguments]
    child, deadline = start(f"tfew.{reader.module}", arguments, log), time.monotonic() + SECONDS
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "no end", ""
        time.sleep(0.005)
    said, code = log.read_text(errors="replace"), os.waitstatus_to_exitcode(ended[1])
    if "Traceback" in said or code < 0:
        return f"traceback, or signal ({code})", said
    # tfew.predict keeps rows labelled so far under another name, for resuming
    left = [path for path in output.rglob("*") if path.is_file() and ".partial" not in path.name]
    if code:
        sentence = [line for line in said.splitlines() if line.rstrip().endswith((".", ".)"))]
        return ("output left" if left else "refused" if sentence else "no sentence"), said
    bad_rows = any(path.name.endswith(".bad.jsonl") for path in left)
    unread = any(path.suffix == ".html" and "cannot be read" in path.read_text() for path in left)
    damaged = any(path.suffix == ".html" and "is damaged" in path.read_text() for path in left)
    return ("listed" if reader.lists and (bad_rows or unread or damaged) else "good"), said


def make_run(root: Path) -> Path:
    """A finished run on ROWS, and what it is converted to."""
    _lines(root / "rows.jsonl", ROWS)
    run = root / "run"
    local = ("+experiment=local", *SMALL, f"data={root}/rows.jsonl", "text=text", "label=label")
    commands = [
        ("train", *local, "folds=null", "validation=0.3", "steps=2", f"run_dir={run}"),
        ("convert", f"adapter={run}", "to=official", f"output={root}/vectors.pt"),
        ("convert", f"adapter={run}", "to=peft", f"output={root}/peft"),
        ("train", "+experiment=demo", "dataset=mini/complaint", *SMALL, "steps=1", "shots=8", "few_shot=draw",
         "dataset.generator.eval=2", f"run_dir={root}/shots"),
    ]  # fmt: skip
    for module, *arguments in commands:
        _, status = os.waitpid(start(f"tfew.{module}", arguments, root / "log"), 0)
        if status:
            sys.exit(f"tfew.{module} {' '.join(arguments)} failed:\n{(root / 'log').read_text()}")
    return run


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("each", nargs="?", type=int, default=80)
    parser.add_argument("seed", nargs="?", type=int, default=0)
    options = parser.parse_args()
    import_everything()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        run = make_run(root)
        print(f"{'':<30}{'refused':>9}{'listed':>9}{'still good':>12}{'faults':>9}")
        total: Counter[str] = Counter()
        for kind, reader in readers(run).items():
            counts = _try_all(kind, reader, root / "try", run, options.each, options.seed)
            total += counts
            print(_row(kind, counts), flush=True)
        print(_row("all", total))
    return int(bool(total["faults"]))


def _try_all(kind: str, reader: Reader, folder: Path, run: Path, each: int, seed: int) -> "Counter[str]":
    counts: Counter[str] = Counter()
    for number in tqdm(range(-1, each), desc=kind, unit="file", leave=False):
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "in").mkdir(parents=True)
        reader.make(folder / "in")
        if number >= 0:  # the first is whole
            path = folder / "in" / reader.file
            path.write_bytes(broken(path.read_bytes(), random.Random(f"{seed} {kind} {number}")))
        verdict, said = judge(reader, folder, run)
        if number < 0:
            if verdict != "good":
                sys.exit(f"{kind}: what is whole was not taken ({verdict}):\n{said}")
        elif verdict in ("good", "refused", "listed"):
            counts[verdict] += 1
        else:
            counts["faults"] += 1
            tqdm.write(f"{kind}, {number}: {verdict}\n{said[-1500:]}\n")
    return counts


def _row(kind: str, counts: "Counter[str]") -> str:
    return "{:<30}{:>9}{:>9}{:>12}{:>9}".format(
        kind, *(counts[name] for name in ("refused", "listed", "good", "faults"))
    )


if __name__ == "__main__":
    sys.exit(main())
