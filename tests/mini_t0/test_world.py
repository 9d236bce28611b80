"""The synthetic world: seeded, held-out families kept out of pre-training, splits apart; and the shipped checkpoint."""

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tfew.config import CONFIGS, compose, local_path, resolved
from tfew.data.dataset import DatasetSpec
from tfew.data.members import load_mixture
from tfew.data.mixture import Mixture, MixtureSpec
from tfew.data.templates import load_templates
from tfew.errors import UserError
from tfew.mini_t0 import held_out, validation
from tfew.mini_t0.family import FAMILIES, SPLITS, Family, Registry, Rows, choices, content_bucket
from tfew.mini_t0.world import generate
from tfew.schema import Prompt

TEST, VALIDATION = (
    {name for name, family in FAMILIES.items() if family.row.__module__ == module.__name__}
    for module in (held_out, validation)
)
HELD_OUT = TEST | VALIDATION
FILES = {path.stem for path in (CONFIGS / "dataset" / "mini").glob("*.yaml")} - {"base"}
SCANNED = 1_000_000  # prompts of pre-training


@cache
def spec(family: str) -> DatasetSpec:
    return DatasetSpec.from_config(resolved(compose(f"dataset=mini/{family}").dataset))


@cache
def mixture() -> Mixture:
    return load_mixture(MixtureSpec.from_config(resolved(compose("dataset=mini_mixture").dataset)), "all", None).mixture


def prompts(family: str, split: str, count: int) -> Iterator[Prompt]:
    """Every wording of the first rows of a split."""
    declared = spec(family)
    templates = load_templates(declared.prompts)
    rows = Rows(FAMILIES[family], split, 0, count)
    for example in declared.examples(rows, family):
        for template in templates:
            prompt = template.render(family, example)
            assert prompt is not None
            yield prompt


def test_every_family_is_a_file_and_the_mixture_is_all_but_the_held_out() -> None:
    assert set(FAMILIES) == FILES
    assert {part.name for part in mixture().parts} == set(FAMILIES) - HELD_OUT
    assert len(mixture().parts) >= 30
    assert len(TEST) == 8
    assert sum(len(part.templates) for part in mixture().parts) >= 3 * len(mixture().parts)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_rows_are_pure_functions_of_their_index_and_render(family: str) -> None:
    first, again = (generate("train", family, 0, train=40) for _ in range(2))
    assert [first[i] for i in range(40)] == [again[i] for i in reversed(range(40))][::-1]
    assert list(generate("train", family, 1, train=40)) != list(first)
    shown = list(prompts(family, "train", 40))
    assert len({prompt.input for prompt in shown}) > len(shown) / 4
    for prompt in shown:
        assert prompt.label is not None
        assert len(set(prompt.choices)) == len(prompt.choices) >= 2


def test_rows_are_the_same_in_every_process() -> None:
    code = (
        "import hashlib; from tfew.mini_t0.world import generate; from tfew.mini_t0.family import FAMILIES;"
        "rows = [row for name in sorted(FAMILIES) for row in generate('train', name, 0, train=50)];"
        "print(hashlib.sha256(repr(rows).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(digests) == 1, "the order of a set, which changes from process to process, reached the rows"


@pytest.mark.parametrize("family", sorted(HELD_OUT))
def test_no_content_is_in_two_splits(family: str) -> None:
    content = {
        split: {FAMILIES[family].content(row) for row in Rows(FAMILIES[family], split, seed, 600)}
        for seed in (0, 1)
        for split in ("train", "eval")
    }
    assert not content["train"] & content["eval"]
    texts = {split: {prompt.input for prompt in prompts(family, split, 600)} for split in ("train", "eval")}
    assert not texts["train"] & texts["eval"]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_right_answer_is_in_no_favourite_place(family: str) -> None:
    rows = list(Rows(FAMILIES[family], "eval", 0, 400))
    declared = spec(family).label
    assert declared is not None
    places = max(len(row.get("choices", declared.names)) for row in rows)
    first = sum(row["label"] == 0 for row in rows) / len(rows)
    assert abs(first - 1 / places) < 0.12


def test_a_family_without_content_for_a_split_is_our_mistake() -> None:
    family = Family("always", lambda source: {"text": "the same"}, content=str)
    (here,) = (split for split, eighths in SPLITS.items() if content_bucket(family, {"text": "the same"}) in eighths)
    assert Rows(family, here, 0, 1)[0]["text"] == "the same"
    with pytest.raises(AssertionError, match="has no content for the split"):
        Rows(family, next(split for split in SPLITS if split != here), 0, 1)[0]
    with pytest.raises(IndexError):
        Rows(family, here, 0, 1)[1]


def test_choices_hold_the_right_one_once() -> None:
    row = choices(random.Random(0), "a", ["a", "b", "b", "c"], count=3)
    assert sorted(row["choices"]) == ["a", "b", "c"]
    assert row["choices"][row["label"]] == "a"


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(UserError, match=r"Unknown family 'comits' \(dataset.generator.family=\). Did you mean 'comm"):
        generate("train", "comits", 0, train=1)


# ---- the leak test


def literals(family: str) -> set[str]:
    """The fixed parts of a family's wordings, of two words and more: what stands between the fields."""
    parts = [re.split(r"{{.*?}}", prompt["jinja"]) for prompt in spec(family).prompts]
    return {text.strip() for split in parts for text in split if len(text.split()) >= 2}


def label_sets(family: str) -> set[frozenset[str]]:
    """Answer words of the wordings whose answers are the same for every row."""
    sets = [frozenset(prompt.choices) for prompt in prompts(family, "train", 3)]
    return {words for words in sets if sets.count(words) == 3}


def scripts() -> set[str]:
    """Sentences that held-out families are made of, without the names in them."""
    sentences = [*held_out.CAUSE_SENTENCES, *held_out.EFFECT_SENTENCES]
    sentences += [part for first, second, ends in held_out.STORIES for part in (first, second, *ends)]
    sentences += [form for forms in held_out.PROBLEMS.values() for form in forms]
    fragments = {text.strip() for sentence in sentences for text in re.split(r"{\w*}", sentence)}
    return {text for text in fragments if len(text.split()) >= 3}


class Leaks:
    """What of the held-out families would be a leak, and which of it a text holds."""

    def __init__(self) -> None:
        fixed = {f" {text} " for family in HELD_OUT for text in literals(family)} | {f" {text} " for text in scripts()}
        self.fixed = re.compile("|".join(map(re.escape, sorted(fixed))))
        self.labels = {words for family in HELD_OUT for words in label_sets(family)}
        tests = [prompt for family in HELD_OUT for prompt in prompts(family, "eval", 2000)]
        self.inputs = {prompt.input for prompt in tests}
        rows = [row for family in HELD_OUT for row in Rows(FAMILIES[family], "eval", 0, 2000)]
        self.utterances = {str(row[key]) for row in rows for key in ("text", "first", "second", "claim") if key in row}

    def found(self, text: str, row: dict[str, Any]) -> list[str]:
        found = [match.strip() for match in self.fixed.findall(f" {text} ")]
        found += [text] if text in self.inputs else []
        return found + [str(row[key]) for key in ("text", "first", "second") if str(row.get(key)) in self.utterances]


def scan(leaks: Leaks, count: int) -> list[str]:
    """Draws rows of pre-training as training does, and looks for anything held out in them and in all their prompts."""
    drawn, source = mixture(), random.Random(0)
    found: set[str] = set()
    while count > 0:
        number, row, _ = drawn.locate(source.randrange(len(drawn)))
        part, example = drawn.parts[number], drawn.examples[number][row]
        for template in part.templates:
            prompt = template.render_target(part.name, example)
            assert prompt is not None
            found.update(leaks.found(f"{prompt.input} {prompt.choices[0]}", example.fields))
        count -= len(part.templates)
    return sorted(found)


@pytest.fixture(scope="module")
def leaks() -> Leaks:
    return Leaks()


@pytest.mark.slow
def test_no_label_set_of_a_held_out_family_is_one_of_pre_training(leaks: Leaks) -> None:
    ours = {words for part in mixture().parts for words in label_sets(part.name)}
    assert {frozenset({"yes", "no"}), frozenset({"same", "different"})} <= ours
    assert len(leaks.labels) >= 12
    assert not ours & leaks.labels


@pytest.mark.ci
def test_the_scan_finds_a_leak(leaks: Leaks) -> None:
    prompt = next(prompts("commits", "eval", 1))
    row = Rows(FAMILIES["commits"], "eval", 0, 1)[0]
    assert leaks.found(prompt.input, {}) != []
    assert leaks.found("", row) == [row["text"]]
    assert leaks.found("she said: mary could not avoid the rain today", {}) == ["could not avoid the"]
    assert leaks.found("mary is in the park. where is mary?", {"text": "mary is in the park."}) == []


@pytest.mark.drill
@pytest.mark.slow
def test_nothing_held_out_occurs_in_a_million_prompts(leaks: Leaks) -> None:
    assert len(leaks.fixed.pattern.split("|")) > 80
    assert len(leaks.utterances) > 10_000
    assert scan(leaks, SCANNED) == []


# ---- the shipped model

CHECKPOINT = Path(local_path("pkg://mini_t0/checkpoint"))


def test_the_shipped_checkpoint_is_small_and_whole() -> None:
    import torch

    from tfew.models.backbone import load_model, load_tokenizer

    size = sum(path.stat().st_size for path in CHECKPOINT.glob("*") if path.suffix in (".safetensors", ".json"))
    assert size <= 6_000_000
    model = load_model("pkg://mini_t0/checkpoint", "main", torch.float32)
    assert sum(parameter.numel() for parameter in model.parameters()) <= 3_000_000
    tokenizer = load_tokenizer("pkg://mini_t0/checkpoint", "main")
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    ids = tokenizer("Größe: 7 × 8?")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "größe: 7 × 8?"
    assert len(tokenizer("anna gave the hammer to ben.")["input_ids"]) == 8  # a token a word, the full stop, the end


@pytest.mark.drill
@pytest.mark.slow
def test_the_vocabulary_is_made_again_the_same(tmp_path: Path) -> None:
    from scripts.make_mini_t0 import vocabulary_texts
    from tfew.mini_t0.tokenizer import train_tokenizer
    from tfew.models.backbone import load_tokenizer

    config = compose("+experiment=pretrain_mini_t0")
    again = train_tokenizer(vocabulary_texts(config), config.model.arch.vocab_size)
    shipped = load_tokenizer("pkg://mini_t0/checkpoint", "main")
    assert again.get_vocab() == shipped.get_vocab()


def test_a_registry_is_filled_by_name() -> None:
    registry = Registry()

    @registry.family()
    def one(source: random.Random) -> dict[str, Any]:
        return {"label": 0}

    assert registry.lookup("one").row is one
