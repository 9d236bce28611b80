"""Facts that hold for whatever input: scoring, losses, templates, readers, records and adapters, on generated cases.

Cases are derived from the test's name (`derandomize`), so every run sees the same ones.
"""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

from tests.files.test_checksums import record
from tests.models import ia3, tiny_t5, with_ia3
from tests.scoring.test_engines import lively
from tests.scoring.test_losses import reference
from tfew.config import compose, resolved
from tfew.data.templates import InlineTemplate
from tfew.data.tokenization import PromptTokenizer, TokenizedPrompt, collate
from tfew.models.adapters_io import load_weights, save_adapter
from tfew.models.foreign_adapters import read_peft, read_tensors, write_peft, write_tensors
from tfew.models.method_builder import method_arguments
from tfew.ranking.norms import NORMS, best, rescored
from tfew.runs.records import load_record, save_record
from tfew.schema import Batch, Example, Prediction, Prompt
from tfew.scoring.losses import T_FEW, counts, loss_terms
from tfew.scoring.score import ENGINES, scoring_mode, token_logprob
from tfew.tables.formats import read_rows

ARGUMENTS = method_arguments(resolved(compose("method=ia3").method))
EXCHANGED = {"gated": with_ia3(tiny_t5()), "relu": with_ia3(tiny_t5("relu"))}
MODELS = {"t5": with_ia3(tiny_t5()), "llama": with_ia3(lively("llama"))}
settings.register_profile(
    "tfew",
    derandomize=True,
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("tfew")

TOKEN = st.integers(2, 99)


def ids(most: int) -> st.SearchStrategy[list[int]]:
    return st.lists(TOKEN, min_size=0, max_size=most - 1).map(lambda tokens: [*tokens, 1])


@st.composite
def items(draw: st.DrawFn, most: int = 5) -> list[TokenizedPrompt]:
    found = []
    for _ in range(draw(st.integers(1, most))):
        choices = draw(st.lists(ids(5), min_size=1, max_size=5))
        found.append(TokenizedPrompt(draw(ids(10)), choices, draw(st.integers(0, len(choices) - 1)), 0, 0))
    return found


def scored(kind: str, engine: str, some: list[TokenizedPrompt]) -> list[list[list[float]]]:
    """Token log-probabilities as lists, without anything that is padding."""
    batch = collate(some, pad_id=0)
    with scoring_mode(MODELS[kind]):
        logprob = token_logprob(MODELS[kind], batch, engine).tolist()
    return [
        [row[c][: len(choice)] for c, choice in enumerate(item.choice_ids)]
        for row, item in zip(logprob, some, strict=True)
    ]


def close(first: Any, second: Any) -> None:
    flat_first, flat_second = ([v for row in rows for c in row for v in c] for rows in (first, second))
    assert flat_first == pytest.approx(flat_second, abs=1e-4, rel=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", MODELS)
@given(some=items())
def test_a_score_does_not_depend_on_the_batch_its_order_or_its_padding(
    kind: str, engine: str, some: list[TokenizedPrompt]
) -> None:
    together = scored(kind, engine, some)
    close(together, [scored(kind, engine, [item])[0] for item in some])
    close(together[::-1], scored(kind, engine, some[::-1]))
    close(
        together,
        scored(kind, engine, [*some, TokenizedPrompt([*range(2, 42), 1], [[*range(2, 22), 1]] * 7, 0, 0, 0)])[:-1],
    )
    first = some[0]
    turned = TokenizedPrompt(first.input_ids, first.choice_ids[::-1], 0, 0, 0)
    close([together[0][::-1]], scored(kind, engine, [turned]))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", MODELS)
@given(input_ids=ids(10), first=TOKEN)
def test_probabilities_of_choices_that_leave_nothing_out_add_up_to_one(
    kind: str, engine: str, input_ids: list[int], first: int
) -> None:
    """Every first token but one ends its choice; behind that one stands every token again."""
    rows = MODELS[kind].get_output_embeddings().weight.shape[0]  # type: ignore[operator]
    choices = [[token] for token in range(rows) if token != first] + [[first, token] for token in range(rows)]
    (sums,) = (
        [sum(tokens) for tokens in row] for row in scored(kind, engine, [TokenizedPrompt(input_ids, choices, 0, 0, 0)])
    )
    assert sum(map(math.exp, sums)) == pytest.approx(1, abs=1e-4)
    assert max(sums) < 0


@given(some=items(), epsilon=st.sampled_from([0.01, 0.1, 1e-6]), seed=st.integers(0, 1000))
def test_losses_equal_float64_loops_and_their_gradients_finite_differences(
    some: list[TokenizedPrompt], epsilon: float, seed: int
) -> None:
    batch = collate(some, pad_id=0)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch.choice_mask.shape, generator=generator, dtype=torch.float64)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        logprob = torch.nn.functional.logsigmoid(logits) * batch.choice_mask
        return loss_terms(logprob, batch, replace(T_FEW, epsilon=epsilon), counts(batch))["loss"]

    logprob = torch.nn.functional.logsigmoid(logits) * batch.choice_mask
    wrong = any(len(item.choice_ids) > 1 for item in some)
    expected = reference(logprob, batch, epsilon) if wrong else None
    if expected is not None:
        assert loss(logits).item() == pytest.approx(sum(expected.values()), abs=1e-10)
    assert torch.autograd.gradcheck(loss, logits.requires_grad_(), eps=1e-6, atol=1e-5)


@given(some=items(), size=st.integers(1, 5))
def test_losses_of_parts_add_up(some: list[TokenizedPrompt], size: int) -> None:
    batch = collate(some, pad_id=0)
    logprob = -torch.rand(batch.choice_mask.shape, dtype=torch.float64) * batch.choice_mask

    def loss(part: Batch, logprob: torch.Tensor) -> float:
        return loss_terms(logprob, part, T_FEW, counts(batch))["loss"].item()

    parts = zip(batch.split(size), logprob.split(size), strict=True)
    assert sum(loss(part, of_part) for part, of_part in parts) == pytest.approx(loss(batch, logprob), abs=1e-10)


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=40)


@given(text=TEXT, label=st.integers(0, 2))
def test_what_a_row_says_is_shown_and_never_run(text: str, label: int) -> None:
    template = InlineTemplate("t", "a{{ text }}b", ["x", "y", "z"])
    prompt = template.render("d", Example(0, {"text": text}, label))
    assert prompt == Prompt("d", "t", 0, f"a{text}b", ("x", "y", "z"), label)


@given(rows=st.lists(st.fixed_dictionaries({"text": TEXT, "label": st.integers(0, 9)}), min_size=1, max_size=5))
def test_readers_give_back_what_was_written(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8", newline="")
    assert [dict(row) for row in read_rows(path)] == rows
    path = tmp_path / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    assert [dict(row) for row in read_rows(path)] == [{**row, "label": str(row["label"])} for row in rows]


SCORE = st.floats(-1e4, 0, allow_subnormal=False)


@st.composite
def predictions(draw: st.DrawFn) -> Prediction:
    many = draw(st.integers(1, 6))

    def of(strategy: st.SearchStrategy[Any]) -> tuple[Any, ...]:
        return tuple(draw(st.lists(strategy, min_size=many, max_size=many)))

    scores, length = of(SCORE), st.integers(1, 50)
    alone = of(SCORE) if draw(st.booleans()) else None
    label = draw(st.none() | st.integers(0, many - 1))
    return Prediction(draw(TEXT), draw(TEXT), 3, label, best(scores), scores, of(length), of(length), of(length), alone)


@given(prediction=predictions())
def test_predictions_survive_their_line_and_norms_their_way_back(prediction: Prediction) -> None:
    line = prediction.to_json()
    assert "\n" not in line
    assert Prediction.from_json(line) == prediction
    for norm in NORMS[: 5 if prediction.unconditional else 4]:
        there = rescored(prediction, "sum", norm)
        assert there.scores[there.predicted] == max(there.scores)
        assert rescored(there, norm, "sum").scores == pytest.approx(prediction.scores, rel=1e-9, abs=1e-9)


NAME = st.text(st.characters(categories=("Ll", "Nd"), include_characters="._"), min_size=1, max_size=20)


@given(shapes=st.dictionaries(NAME, st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=5))
def test_adapters_survive_their_file(shapes: dict[str, list[int]], tmp_path: Path) -> None:
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    size = save_adapter(tmp_path, tensors, {"name": "some"}, {"name": "base", "path": None})
    loaded = load_weights(tmp_path)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    assert size >= sum(tensor.numel() * 4 for tensor in tensors.values())


@pytest.mark.parametrize(("kind", "way"), [("gated", "official"), ("gated", "peft"), ("relu", "peft")])
@settings(max_examples=8)
@given(seed=st.integers(0, 10**6))
def test_adapters_survive_other_projects_forms(kind: str, way: str, seed: int, tmp_path: Path) -> None:
    """Vectors as they are stored -> a file of that form -> read again, bit for bit, whatever they are."""
    model, method = EXCHANGED[kind], ia3()
    generator = torch.Generator().manual_seed(seed)
    stored = {name: torch.randn(t.shape, generator=generator) * 10 for name, t in method.stored(model).items()}
    method.restore(model, stored)
    if way == "official":
        write_tensors(tmp_path / "vectors.pt", method.to_official(model))
        back = method.from_official(model, read_tensors(tmp_path / "vectors.pt"))
    else:
        write_peft(tmp_path, method.to_peft(model), None)
        _, back = method.from_peft(
            method_arguments(resolved(compose("method=ia3").method)), read_peft(tmp_path), model, "refuse"
        )
    assert back.keys() == stored.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in stored.items())


NUMBER = st.floats(allow_nan=False) | st.integers(-(2**63) + 1, 2**63 - 1)
SCORES = st.fixed_dictionaries({"accuracy": NUMBER | st.none()}, optional={"chance": NUMBER, "other": st.lists(TEXT)})


@given(
    metrics=st.fixed_dictionaries({}, optional={"accuracy": NUMBER, "templates": st.dictionaries(TEXT, SCORES)}),
    counts=st.dictionaries(TEXT, st.integers(0, 2**63 - 1)),
    config=st.dictionaries(TEXT.map(lambda text: f"a {text}"), st.none() | NUMBER | TEXT | st.lists(NUMBER)),
    commit=TEXT | st.none(),
)
def test_records_survive_their_file(metrics: Any, counts: Any, config: Any, commit: Any, tmp_path: Path) -> None:
    made = record(metrics=metrics, counts=counts, config=config, git_commit=commit)
    save_record(tmp_path, made)
    assert load_record(tmp_path) == made


@given(texts=st.lists(TEXT, min_size=1, max_size=4), choice=TEXT, most=st.integers(2, 30))
def test_encoding_loses_nothing_but_what_it_counts(texts: list[str], choice: str, most: int) -> None:
    prompt_tokenizer = PromptTokenizer(ByT5Tokenizer(), most)
    prompts = [Prompt("d", "t", i, text, (choice,), 0) for i, text in enumerate(texts)]
    for prompt, item in zip(prompts, prompt_tokenizer.tokenize(prompts), strict=True):
        whole = ByT5Tokenizer()(prompt.input)["input_ids"]
        assert len(item.input_ids) + item.cut_tokens == len(whole)
        assert item.input_ids == [*whole[: len(item.input_ids) - 1], whole[-1]]
        assert item == prompt_tokenizer(prompt)
