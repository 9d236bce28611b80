"""Coverage-guided fuzzing of the readers of untrusted files.

    pip install atheris
    python -m scripts.drills.fuzz csv 600 DIR     ten minutes of one of TARGETS; DIR keeps what covers something new
    python -m scripts.drills.fuzz csv keep DIR    one input of DIR for each new outcome, to tests/seeds/csv.jsonl

A reader may accept an input or reject it with a UserError of one line. Any other exception stops the fuzzer, and so do
an executed pickle, a started process, a file written elsewhere, and more than LONGEST_SECONDS or MOST_MB; the input is
then in DIR/crash-... . To get past checksums, which an attacker can compute as well, inputs get valid checksums here.
The tests, which need no fuzzer, give all of tests/seeds to the readers. POSIX only.
"""

import copy
import io
import json
import os
import random
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml

from scripts.drills.malformed import other_value

SEEDS = Path(__file__).parents[2] / "tests" / "seeds"
LONGEST_SECONDS = 60
MOST_MB = 4096
INSTRUMENTED = ["tfew", "torch._weights_only_unpickler", "jinja2"]
PICKLE = "data.pkl"  # in a `.pt`
BETWEEN = b"\n=====\n"  # separates the parts of an input that represents several files
FORBIDDEN = {"pickle.find_class", "os.system", "os.exec", "os.fork", "os.kill", "socket.connect"}
STARTS = {
    "subprocess.Popen",
    "os.posix_spawn",
}  # of any program but the one that renders; Python 3.13 has both for each
Target = Callable[[bytes, Path], object]


class ForbiddenError(BaseException):
    """What no reader may do; no Exception, so that none catches it."""


def jsonl(data: bytes, folder: Path) -> None:
    (folder / "rows.jsonl").write_bytes(data)
    _read(folder / "rows.jsonl")


def csv(data: bytes, folder: Path) -> None:
    (folder / "rows.csv").write_bytes(data)
    _read(folder / "rows.csv")


def settings(data: bytes, folder: Path) -> None:
    """YAML: the settings that an adapter brings, with templates of its own, and two rows worded by them."""
    from dataclasses import replace

    from tfew.prediction.loaded_task import load_task
    from tfew.prediction.saved_run import saved_run

    (folder / "config.yaml").write_bytes(data)
    for name in ("result.json", "adapter.json"):
        (folder / name).write_bytes(_run()[name])
    task = load_task("t", replace(saved_run(_predict(), [], folder), folder=None), _encoder())
    rows: list[dict[str, Any]] = [{"text": "the lemon is bad", "n": 3}, {"text": "ü {{ 7 * 7 }}", "n": None}]
    for number, row in enumerate(rows, start=1):
        for prompt in task.task_predictor.prompts(number, row):
            task.prompt_tokenizer(prompt)


def template(data: bytes, folder: Path) -> None:
    """Jinja: a template, and its answer choices."""
    del folder
    from tfew.data.templates import InlineTemplate
    from tfew.schema import Example

    jinja, _, choices = data.decode(errors="replace").partition(BETWEEN.decode())
    row = {"text": "the lemon is bad", "tags": ["a", "b"], "n": 3, "none": None, "deep": {"a": {"b": 1}}}
    found = InlineTemplate("t", jinja, choices or ["no", "yes"], ["text"])
    assert found.columns is not None
    found.render("d", Example(0, row, 0))


def adapter(data: bytes, folder: Path) -> None:
    """adapter.json, adapter.safetensors and temperature.json, put on a small model."""
    from tfew.models.adapters_io import CONFIG_FILE, TEMPERATURE_FILE, WEIGHTS_FILE, load_temperature
    from tfew.models.build import attach_saved, saved_method

    description, _, rest = data.partition(BETWEEN)
    weights, _, temperature = rest.partition(BETWEEN)
    (folder / WEIGHTS_FILE).write_bytes(weights)
    (folder / CONFIG_FILE).write_bytes(_sealed(description))
    (folder / TEMPERATURE_FILE).write_bytes(_sealed(temperature))
    load_temperature(folder, "token")
    attach_saved(folder, saved_method(folder, _predict())[1], copy.deepcopy(_model()))


def pt(data: bytes, folder: Path) -> None:
    """An official `.pt`: as it is, or if it does not look like one, as the pickle in such a file; put on a model."""
    from tfew.config import resolved
    from tfew.methods.base import attach
    from tfew.models.foreign_adapters import read_tensors
    from tfew.models.method_builder import make_method

    path = folder / "vectors.pt"
    if data.startswith(b"PK"):
        path.write_bytes(data)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for entry, content in _official().items():
                archive.writestr(entry, data if entry.endswith(PICKLE) else content)
    tensors = read_tensors(path)
    model, method = copy.deepcopy(_model()), make_method(resolved(_train().method))
    attach(method, model)
    method.restore(model, method.from_official(model, tensors))


def record(data: bytes, folder: Path) -> None:
    """result.json, in all tables and figures and in the report."""
    from tfew.config import resolved
    from tfew.convert import card_text
    from tfew.models.method_builder import make_method
    from tfew.paper.figures import make_figure
    from tfew.paper.reference import specs
    from tfew.paper.report import make_report
    from tfew.paper.runs import load_runs
    from tfew.paper.table import make_table

    (folder / "run").mkdir()
    (folder / "run" / "result.json").write_bytes(_sealed(data))
    runs = load_runs(folder)
    records = [run.record for run in runs]
    for number in specs()["tables"]:
        _refusing(partial(make_table, number, records, records[0].model))
    for number in ("2", "3"):
        _refusing(partial(make_figure, number, records, records[0].model))
    _refusing(partial(card_text, records[0], make_method(resolved(_train().method))))
    make_report(runs)


def predictions(data: bytes, folder: Path) -> None:
    """predictions.jsonl, in a comparison and in the report's mistakes; and records.jsonl, the rows of a comparison."""
    from tfew.comparison.rows import as_csv, load_rows, right_by_row
    from tfew.paper.answers import Answers
    from tfew.paper.mistakes import confusions, hardest_rows
    from tfew.paper.runs import load_runs

    lines, _, rows = data.partition(BETWEEN)
    (folder / "run").mkdir()
    (folder / "run" / "result.json").write_text(_run()["result.json"].decode())
    (folder / "run" / "predictions.jsonl").write_bytes(lines)
    (folder / "records.jsonl").write_bytes(rows)
    runs, answers = load_runs(folder), Answers()
    answers.add("v", runs[0].record.name, folder / "run" / "predictions.jsonl")
    confusions(answers, runs)
    hardest_rows(answers, runs, quote=False)
    _refusing(lambda: as_csv(load_rows(folder / "records.jsonl")))
    right_by_row(folder / "run" / "predictions.jsonl")


TARGETS: dict[str, Target] = {
    target.__name__: target for target in (jsonl, csv, settings, template, adapter, pt, record, predictions)
}


def _read(path: Path) -> None:
    """As rows to label, whole and from every place on; then as a table to train on."""
    from tfew.data.describe_table import TableOptions, describe_table
    from tfew.tables.rows import StreamPosition
    from tfew.tables.stream import open_stream
    from tfew.tables.table_reader import read_table

    def streamed() -> None:
        stream = open_stream(str(path), None, "text")
        try:
            found = list(stream.rows(StreamPosition()))
            for number in {len(found) // 3, len(found) - 1} & set(range(len(found))):
                rest = list(stream.rows(found[number].place))
                assert repr(rest) == repr(found[number + 1 :]), "from the middle on, other rows are read"
        finally:
            stream.close()

    _refusing(streamed)
    describe_table(read_table(path), TableOptions())


def _refusing(read: Callable[[], object]) -> None:
    """For a reader that may refuse while the next one is tried."""
    from tfew.errors import UserError

    try:
        read()
    except UserError as error:
        _check(error)


def _check(error: Exception) -> str:
    sentence = str(error)
    assert sentence, "no sentence"
    assert "\n" not in sentence, f"more than a sentence: {sentence!r}"
    return sentence


def _sealed(data: bytes) -> bytes:
    """With the checksum that belongs to these fields, if they are any."""
    from tfew.files.checksums import CHECKSUM_KEY, to_checked_json
    from tfew.files.untrusted import parse_json

    try:
        fields = parse_json(data.decode())
        return to_checked_json({key: value for key, value in fields.items() if key != CHECKSUM_KEY}).encode()
    except (ValueError, AttributeError, RecursionError):
        return data


@cache
def _predict() -> Any:
    from tfew.config import compose

    return compose("adapter=.", config_name="predict")


@cache
def _train() -> Any:
    from tfew.config import compose

    settings = ("dataset=mini/complaint", "model=tiny", "trainer=cpu", "steps=1", "shots=8", "dataset.generator.eval=8")
    return compose("+experiment=demo", *settings)


@cache
def _encoder() -> Any:
    from tfew.models.build import build_tokenizer

    return build_tokenizer(_train())


@cache
def _model() -> Any:
    from tfew.models.build import build_backbone, build_device

    return build_backbone(_train(), _encoder().tokenizer, build_device(_train()))


@cache
def _run() -> dict[str, bytes]:
    """The files of a finished run, and its row in a comparison."""
    from tfew.comparison.rows import as_json_lines, make_row
    from tfew.models.adapters_io import save_temperature
    from tfew.train import train

    with tempfile.TemporaryDirectory() as name, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        config = copy.deepcopy(_train())
        config.runs = name
        found = train(config)
        folder = Path(name) / found.name
        save_temperature(folder, {"temperature": 1.5, "rows": 40, "ece": 0.2, "ece_calibrated": 0.1}, "token")
        (folder / "records.jsonl").write_text(as_json_lines([make_row(found, "v", folder)]))
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@cache
def _official() -> dict[str, bytes]:
    """The entries of a `.pt`, which is an archive."""
    from tfew.config import resolved
    from tfew.methods.base import attach
    from tfew.models.foreign_adapters import write_tensors
    from tfew.models.method_builder import make_method

    model, method = copy.deepcopy(_model()), make_method(resolved(_train().method))
    attach(method, model)
    with tempfile.TemporaryDirectory() as folder:
        write_tensors(Path(folder) / "vectors.pt", method.to_official(model))
        with zipfile.ZipFile(Path(folder) / "vectors.pt") as archive:
            return {entry: archive.read(entry) for entry in archive.namelist()}


def whole(name: str) -> bytes:
    """An input in which nothing is wrong."""

    rows = [
        {"text": f"the lemon is {'good' if i % 2 else 'bad'}, {i}", "label": ["no", "yes"][i % 2]} for i in range(9)
    ]
    if name == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if name == "csv":
        return ("text,label\n" + "".join(f'"{row["text"]}",{row["label"]}\n' for row in rows)).encode()
    if name == "template":
        jinja = (
            "{{ text }} {% if n > 2 %}{{ tags | join(', ') }}{% endif %} {% for t in tags %}{{ t.upper() }}{% endfor %}"
        )
        return f"{jinja}{BETWEEN.decode()}no ||| yes {{{{ n }}}}".encode()
    if name == "pt":
        return next(content for entry, content in _official().items() if entry.endswith(PICKLE))
    files = {
        "settings": ("config.yaml",),
        "adapter": ("adapter.json", "adapter.safetensors", "temperature.json"),
        "record": ("result.json",),
        "predictions": ("predictions.jsonl", "records.jsonl"),
    }  # fmt: skip
    return BETWEEN.join(_run()[file] for file in files[name])


def seeds(name: str) -> list[bytes]:
    """The inputs that are kept of a target: what fuzzing has found, and one for each outcome."""
    path = SEEDS / f"{name}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line).encode("latin-1") for line in lines]


def judge(target: Target, data: bytes) -> str:
    """The sentence by which the input was refused; none: it was taken. Raises whatever else happens."""
    from omegaconf.errors import OmegaConfBaseException

    from tfew.errors import UserError

    _run()  # now, since it is made but once
    with tempfile.TemporaryDirectory(prefix="fuzz", dir=_memory()) as name, _watched(Path(name)):
        try:
            target(data, Path(name))
        except UserError as error:
            return _check(error)
        except OmegaConfBaseException as error:  # which every command says in a sentence
            return str(error).splitlines()[0]
    return ""


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


_inside: list[str] = []  # the folder that may be written in, while a reader is watched


@contextmanager
def _watched(folder: Path) -> Iterator[None]:
    _install_hook()
    _inside.append(str(folder))
    try:
        with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
            yield
    finally:
        _inside.clear()


@cache
def _install_hook() -> None:
    from tfew.data import rendering

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not _inside:
            return
        if event in FORBIDDEN or (event in STARTS and rendering.__file__ not in arguments[1]):
            raise ForbiddenError(f"{event} {arguments}")
        writes = event == "open" and isinstance(arguments[0], str) and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if writes and not arguments[0].startswith((_inside[0] + os.sep, os.devnull)):
            raise ForbiddenError(f"{event} {arguments}")

    sys.addaudithook(hook)


def fuzz(name: str, seconds: int, corpus: Path) -> None:
    """Does not return: the fuzzer ends the process, with a code other than zero where it found something."""
    import atheris

    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate((whole(name), *seeds(name))):
        (corpus / f"seed-{number:03}").write_bytes(data)
    from tfew.data import sandbox
    from tfew.paper import pictures

    sandbox.RENDER_TIMEOUT_SECONDS = 0.5  # shortened, so that they do not take most of the time
    pictures.draw_all = lambda parts: {part: [] for part in parts}
    options = [f"-max_total_time={seconds}", f"-timeout={LONGEST_SECONDS}", f"-rss_limit_mb={MOST_MB}"]
    options += [f"-artifact_prefix={corpus}/", "-print_final_stats=1", "-max_len=65536"]

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        """Bytes as the fuzzer likes, or as often a value of one of the files: bytes alone seldom leave JSON as JSON."""
        if seed % 2:
            return bytes(atheris.Mutate(data, most))
        return other_part(data, random.Random(seed))[:most]

    arguments = [sys.argv[0], *options, str(corpus)]
    atheris.Setup(arguments, lambda data: judge(TARGETS[name], data) and None, custom_mutator=mutated)
    atheris.Fuzz()


def other_part(data: bytes, source: random.Random) -> bytes:
    """One of the files in the input with another value in its JSON or YAML."""
    parts = data.split(BETWEEN)
    place = source.randrange(len(parts))
    parts[place] = other_value(parts[place], source) if parts[place] else parts[place]
    try:
        found = yaml.safe_load(data) if len(parts) == 1 and data[:1] not in b"{[" else None
    except (yaml.YAMLError, ValueError, RecursionError):  # it was not valid before, either
        found = None
    if isinstance(found, dict) and found:
        value = json.loads(json.dumps(found, default=str))
        return yaml.safe_dump(json.loads(other_value(json.dumps(value).encode(), source))).encode()
    return BETWEEN.join(parts)


def keep(name: str, corpus: Path) -> int:
    """Adds to the seeds one input, the smallest, for each outcome that none of them has; how many."""
    known = {outcome(name, data) for data in (whole(name), *seeds(name))}
    found: dict[str, bytes] = {}
    for path in sorted(corpus.iterdir(), key=lambda path: path.stat().st_size):
        data = path.read_bytes()
        if (how := outcome(name, data)) not in known:
            found.setdefault(how, data)
    SEEDS.mkdir(exist_ok=True)
    with (SEEDS / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(data.decode("latin-1")) + "\n" for data in found.values())
    return len(found)


def outcome(name: str, data: bytes) -> str:
    """What a reader says to it, without what changes from one input to the next."""
    return " ".join(re.sub(r"\W?\d+|'[^']*'|\"[^\"]*\"|/dev/shm\S*", " ", judge(TARGETS[name], data)).split()[:30])


def main(name: str = "", what: str = "", corpus: str = "") -> int:
    if name == "--help":
        print(__doc__)
        return 0
    if name not in TARGETS or not corpus or not (what == "keep" or what.isdecimal()):
        sys.exit(f"python -m scripts.drills.fuzz TARGET SECONDS|keep DIR, where TARGET is one of {', '.join(TARGETS)}.")
    if what == "keep":
        if not Path(corpus).is_dir():
            sys.exit(f"{corpus} is no folder: fuzz first (python -m scripts.drills.fuzz {name} 600 {corpus}).")
        print(f"{keep(name, Path(corpus))} inputs added to {SEEDS / name}.jsonl")
        return 0
    try:
        import atheris
    except ModuleNotFoundError:
        sys.exit("The fuzzer is not installed, since nothing else needs it: pip install atheris")
    with atheris.instrument_imports(include=INSTRUMENTED):
        judge(TARGETS[name], whole(name))  # imports all that it needs
    fuzz(name, int(what), Path(corpus))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
