"""Fixtures of all tests: small data in every published format, generated here, and ways to run commands in process."""

import copy
import csv
import gc
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # no test reaches for the Hub
os.environ["OMP_NUM_THREADS"] = "1"  # two test processes on two cores: more threads only wait for each other
os.environ.setdefault("TQDM_DISABLE", "1")

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"
EXPERIMENTS = (
    "rte", "cb", "copa", "wic", "wsc", "winogrande", "hellaswag", "storycloze", "anli_r1", "anli_r2", "anli_r3",
)  # fmt: skip
SHOTS = 8


@pytest.fixture(autouse=True, scope="session")
def _configuration_files_are_parsed_once() -> Iterator[None]:
    """A configuration is composed of some 20 YAML files; to parse them took a sixth of the tests' time."""
    from hydra._internal.core_plugins.file_config_source import FileConfigSource

    load, loaded = FileConfigSource.load_config, dict[Any, Any]()

    def load_once(self: Any, config_path: str) -> Any:
        file = Path(self.path, self._normalize_file_name(config_path))
        if not file.is_file():
            return load(self, config_path)
        status = file.stat()
        key = (str(file), status.st_mtime_ns, status.st_size, self.provider)
        if key not in loaded:
            loaded[key] = load(self, config_path)
        return copy.deepcopy(loaded[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileConfigSource, "load_config", load_once)
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    """What a test leaves to chance is the same chance in every run and every order."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not REAL_DATA.is_dir():
        pytest.skip("the public data sets in ../shared/data are not here")
    return REAL_DATA


@pytest.fixture(scope="session")
def made_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir with twelve rows per split of all eleven data sets, spelt as they are distributed."""
    root = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        _write_super_glue(root / "superglue", split)
    for split in ("train", "test"):
        for number in (1, 2, 3):
            _jsonl(root / "anli" / f"R{number}" / f"{split}.jsonl", [_anli(i) for i in range(12)])
    for name in ("train_xl", "dev"):
        _jsonl(root / "winogrande" / f"{name}.jsonl", [_winogrande(i) for i in range(12)])
    for name in ("train", "val"):
        _jsonl(root / "hellaswag" / f"hellaswag_{name}.jsonl", [_hellaswag(i) for i in range(12)])
    for part in ("val", "test"):
        name = f"cloze_test_{part}__spring2016 - cloze_test_ALL_{part}.csv"
        _csv(root / "storycloze" / name, [_storycloze(i) for i in range(12)])
    return root


@pytest.fixture(scope="session")
def made_mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir with twelve rows of each of the six data sets of t0_local, spelt as they are distributed."""
    root = tmp_path_factory.mktemp("mixture_data")
    (root / "mixture").mkdir()
    for kind in ("train", "test"):
        rows = [f'{i % 2}\t{i}\t{i + 90}\tHe said "{i}.\tShe said {i}.' for i in range(12)]
        table = "\r\n".join(["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", *rows]) + "\r\n"
        _bytes(root, f"mrpc/msr_paraphrase_{kind}.txt", table.encode("utf-8-sig"))
        labels = ("DESC:manner", "ENTY:sport", "ABBR:exp", "HUM:ind", "NUM:date", "LOC:city")
        questions = [f"{labels[i % 6]} What caf\xe9 has {i} ?" for i in range(12)]
        _bytes(root, f"trec/{kind}.txt", "\n".join(questions).encode("latin-1"))
        choices = "(A) an ant (B) a bee (C) vitamin (A) tablets (D) ducks"
        lines = [f"{i}\tWhat flies {i}\t{choices}\tall of it\t{'ABCD'[i % 4]}" for i in range(12)]
        header = "ID\tQuestion Stem\tChoices\tComplete Question\tAnswer Key"
        _bytes(root, f"openbookqa/{kind}.tsv", "\n".join([header, *lines, ""]).encode())
    news = [
        {"Class Index": i % 4 + 1, "Title": f"Title {i}", "Description": 'It rains, "they" say.'} for i in range(12)
    ]
    _csv(root / "mixture/agnews/test.csv", news)
    _bytes(root, "rotten_tomatoes/rt-polarity.pos", b"".join(b"a clich\xe9 of %d stars . \n" % i for i in range(6)))
    _bytes(root, "rotten_tomatoes/rt-polarity.neg", b"".join(b"it is %d hours too long\n" % i for i in range(6)))
    answers = {"answer0": "He ran.", "answer1": "He sat.", "answer2": "It rained.", "answer3": "None of these."}
    cosmos = [
        {"id": f"x{i}", "context": f"He saw {i} dogs.", "question": "Why ?", **answers, "label": i % 4}
        for i in range(12)
    ]
    _csv(root / "mixture/cosmosqa/valid.csv", cosmos)
    return root


@pytest.fixture
def compose() -> Callable[..., Any]:
    from tfew.config import compose

    return compose


@pytest.fixture
def train_tiny(tmp_path: Path) -> Callable[..., Any]:
    """Trains the tiny model on a synthetic task in process, with the default recipe; later overrides win."""

    def run(*overrides: str, runs: Path | None = None) -> Any:
        from tfew.config import compose
        from tfew.train import train

        common = ("name=demo_commits", "dataset=mini/commits", "few_shot=draw", "model=tiny", "steps=4", "trainer=cpu")
        return train(compose(*common, "dataset.generator.eval=12", f"runs={runs or tmp_path}", *overrides))

    return run


def _write_super_glue(root: Path, split: str) -> None:
    text = [f"A man bought {n} apples." for n in range(12)]
    entail = ("entailment", "not_entailment")
    rte = [{"premise": t, "hypothesis": "He has fruit.", "label": entail[i % 2]} for i, t in enumerate(text)]
    three = ("entailment", "contradiction", "neutral")
    cb = [{"premise": t, "hypothesis": "he has fruit", "label": three[i % 3]} for i, t in enumerate(text)]
    copa = [
        {"premise": t, "choice1": "He was hungry.", "choice2": "It rained all day.", "question": q, "label": i % 2}
        for i, (t, q) in enumerate(zip(text, ("cause", "effect") * 6, strict=True))
    ]
    wic = [
        {"word": "bank", "sentence1": t, "sentence2": "By the bank.", "label": bool(i % 2)} for i, t in enumerate(text)
    ]
    wsc = [
        {"text": f"Mark told Pete {n} lies. He was sorry.", "span1_index": 0, "span2_index": 5, "span1_text": "Mark"}
        | {"span2_text": "He", "label": n % 2}
        for n in range(12)
    ]
    for name, rows in {"RTE": rte, "CB": cb, "COPA": copa, "WiC": wic}.items():
        _jsonl(root / name / f"{split}.jsonl", [{**row, "idx": i} for i, row in enumerate(rows)])
    _jsonl(root / "WSC" / f"{split}_fixed.jsonl", [{**row, "idx": i} for i, row in enumerate(wsc)])


def _anli(i: int) -> dict[str, Any]:
    return {"uid": str(i), "context": f"{i} cats sat.", "hypothesis": "Some sat.", "label": "enc"[i % 3], "reason": ""}


def _winogrande(i: int) -> dict[str, Any]:
    return {"sentence": f"Ann saw {i} of Eve as _ ran.", "option1": "Ann", "option2": "Eve", "answer": "12"[i % 2]}


def _hellaswag(i: int) -> dict[str, Any]:
    start = {"ind": i, "activity_label": "Cooking", "ctx_a": f"A man takes {i} eggs.", "ctx_b": "he"}
    endings = ["breaks them in a pan.", "flies.", "sings to the moon all night.", "is an egg."]
    return {**start, "ctx": start["ctx_a"] + " He", "endings": endings, "label": i % 4}


def _storycloze(i: int) -> dict[str, Any]:
    story = {f"InputSentence{n}": f"Sentence {n} of story {i}." for n in (1, 2, 3, 4)}
    endings = {"RandomFifthSentenceQuiz1": "All was well.", "RandomFifthSentenceQuiz2": "The moon ate it, sadly."}
    return {"InputStoryid": str(i), **story, **endings, "AnswerRightEnding": i % 2 + 1}


def _bytes(root: Path, name: str, data: bytes) -> None:
    path = root / "mixture" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


LONG_TESTS = Path(__file__).with_name("long_tests.txt")  # each that took SLOW_SECONDS or more, and how many
SLOW_SECONDS, DRILL_SECONDS = 0.3, 2.0  # from here on not run by `make test`, not by CI
REPEATED_SECONDS = 0.5  # from here on not run by CI with other parameters than a test's quickest ones
_seconds: "Counter[str]" = Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-durations", action="store_true", help=f"write {LONG_TESTS.name} anew, from all tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long is left out by how long it took: see tests/README.md."""
    lines = LONG_TESTS.read_text(encoding="utf-8").splitlines()
    seconds = {name: float(taken) for taken, _, name in (line.partition(" ") for line in lines)}
    quickest: dict[str, float] = {}
    for item in items:
        function = item.nodeid.partition("[")[0]
        quickest[function] = min(quickest.get(function, DRILL_SECONDS), seconds.get(item.nodeid, 0.0))
    for item in items:
        taken = seconds.get(item.nodeid, 0.0)
        repeated = taken > max(REPEATED_SECONDS, quickest[item.nodeid.partition("[")[0]])
        if (taken >= DRILL_SECONDS or repeated) and item.get_closest_marker("ci") is None:
            item.add_marker("drill")
        if taken >= SLOW_SECONDS or item.get_closest_marker("drill") is not None:
            item.add_marker("slow")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _seconds[report.nodeid] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("record_durations") and not hasattr(session.config, "workerinput"):
        long = [f"{taken:.1f} {name}" for name, taken in sorted(_seconds.items()) if taken >= SLOW_SECONDS]
        LONG_TESTS.write_text("\n".join([*long, ""]), encoding="utf-8")


def pytest_collection_finish() -> None:
    """What is there now stays: the collector of garbage need not go through it again and again."""
    gc.collect()
    gc.freeze()
