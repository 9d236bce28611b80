"""Batches are pure functions of (seed, step), and collating loses nothing."""

import pytest
import torch
from transformers import ByT5Tokenizer

from tfew.data.loader import PromptDataset, StepSampler
from tfew.data.tokenization import PromptTokenizer, collate
from tfew.schema import Prediction, Prompt


def test_every_epoch_is_a_new_shuffle_with_the_short_batch_dropped() -> None:
    batches = list(StepSampler(rows=50, batch_size=8, steps=12, seed=0))
    assert [{step for step, _ in batch} for batch in batches] == [{step} for step in range(12)]
    first, second = ([row for batch in part for _, row in batch] for part in (batches[:6], batches[6:]))
    assert len(set(first)) == len(set(second)) == 48
    assert first != second
    assert first != [row for batch in StepSampler(50, 8, 6, seed=1) for _, row in batch]


def test_starting_in_the_middle_gives_the_same_batches() -> None:
    whole = list(StepSampler(rows=20, batch_size=8, steps=9, seed=3))
    for start in range(10):
        assert list(StepSampler(20, 8, 9, seed=3, start=start)) == whole[start:]


def test_wordings_are_drawn_anew_each_step_and_depend_on_nothing_else() -> None:
    prompts = [[Prompt("d", f"t{i}", row, f"{row} {i}", ("a", "b"), 0) for i in range(10)] for row in range(3)]
    first, second = (PromptDataset(prompts, PromptTokenizer(ByT5Tokenizer(), 64), seed=0) for _ in range(2))
    keys = [(step, row) for step in range(100) for row in range(3)]
    forwards = [first[key] for key in keys]
    assert [second[key] for key in reversed(keys)] == forwards[::-1]
    for row in range(3):
        assert len({tuple(item.input_ids) for item, key in zip(forwards, keys, strict=True) if key[1] == row}) == 10
    other = PromptDataset(prompts, PromptTokenizer(ByT5Tokenizer(), 64), seed=1)
    assert [other[key] for key in keys] != forwards


def test_a_long_prompt_is_cut_and_counted_and_keeps_its_end_of_text() -> None:
    tokenizer = ByT5Tokenizer()
    prompt = Prompt("d", "t", 0, "x" * 30, ("yes", "n" * 12), 1)
    whole, cut = PromptTokenizer(tokenizer, 64)(prompt), PromptTokenizer(tokenizer, 10)(prompt)
    assert (len(whole.input_ids), whole.cut_tokens) == (31, 0)
    assert (len(cut.input_ids), cut.cut_tokens, len(cut.choice_ids[1]), cut.cut_choice_tokens) == (10, 21, 10, 3)
    assert cut.input_ids == [*whole.input_ids[:9], tokenizer.eos_token_id]
    assert cut.choice_ids[1][-1] == tokenizer.eos_token_id


def test_collate_pads_inputs_choices_and_tokens() -> None:
    tokenizer = ByT5Tokenizer()
    prompts = [Prompt("d", "t", 0, "abc", ("a", "bcd"), 1), Prompt("d", "t", 1, "a", ("wxyz",), None)]
    batch = collate([PromptTokenizer(tokenizer, 64)(p) for p in prompts], pad_id=0)
    assert batch.input_ids.shape == (2, 4)
    assert batch.choice_ids.shape == (2, 2, 5)
    assert batch.choice_mask.sum(-1).tolist() == [[2, 4], [5, 0]]
    assert batch.label.tolist() == [1, -1]
    for b, prompt in enumerate(prompts):
        assert tokenizer.decode(batch.input_ids[b][batch.input_mask[b]], skip_special_tokens=True) == prompt.input
        for c, choice in enumerate(prompt.choices):
            ids = batch.choice_ids[b, c][batch.choice_mask[b, c]]
            assert tokenizer.decode(ids, skip_special_tokens=True) == choice
    parts = batch.split(1)
    assert torch.equal(torch.cat([part.choice_ids for part in parts]), batch.choice_ids)


@pytest.mark.parametrize("label", [1, None])
def test_a_prediction_survives_its_line_of_json(label: int | None) -> None:
    prediction = Prediction("d", "…why? “C1”", 3, label, 0, (-1.25, -3.5), (2, 1))
    assert Prediction.from_json(prediction.to_json()) == prediction


def test_decoder_only_choices_continue_the_input() -> None:
    tokenizer = ByT5Tokenizer()
    item = PromptTokenizer(tokenizer, 64, decoder_only=True)(Prompt("d", "t", 0, "abc", ("yes", "no"), 1))
    assert tokenizer.decode(item.input_ids) == "abc"
    assert [tokenizer.decode(ids) for ids in item.choice_ids] == [" yes</s>", " no</s>"]
    cut = PromptTokenizer(tokenizer, 3, decoder_only=True)(Prompt("d", "t", 0, "abcde", ("yes",), 0))
    assert (tokenizer.decode(cut.input_ids), tokenizer.decode(cut.choice_ids[0])) == ("abc", " y</s>")
    assert (cut.cut_tokens, cut.cut_choice_tokens) == (2, 2)
