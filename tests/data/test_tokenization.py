"""Prompts to tokens by several kinds of tokenizers: the joined text of shots, input and choice; cuts; end-of-text."""

import random
from dataclasses import replace
from typing import Any

import pytest
from transformers import ByT5Tokenizer

from tests.made_tokenizers import KINDS, make_tokenizer
from tfew.data.tokenization import PromptTokenizer, TokenizedPrompt
from tfew.errors import UserError
from tfew.models.backbone import load_tokenizer
from tfew.schema import Prompt

WORDS = ("A", "man", "bought", "12", "apples", "rained", "all", "day", "the", "street", "wet", "sky", "blue", "bank")
ENDS = ("", ".", "?", "\n", ":\n", ".\n\n", " ", "?  ", "\t")
CHOICES = ("yes", "no, never", "True", "12 apples.", "yes, it is")


def sentence(source: random.Random, words: int) -> str:
    separators = (" ", " ", " ", ". ", ".\n", "\n\n", "  ", ", ")
    text = "".join(source.choice(WORDS) + source.choice(separators) for _ in range(words))
    return text + source.choice(WORDS) + source.choice(ENDS)


def prompts(seed: int, shots: int = 0, number: int = 12) -> list[Prompt]:
    source = random.Random(seed)
    context = tuple((sentence(source, 6), source.choice(CHOICES)) for _ in range(shots))
    return [
        Prompt("d", "t", row, sentence(source, source.randint(0, 20)), CHOICES[: 1 + row % 5], 0, shots=context)
        for row in range(number)
    ]


def expected(tokenizer: Any, prompt: Prompt) -> list[tuple[list[int], list[int]]]:
    """Tokens of input and choice, as lm-evaluation-harness 0.4.13 takes them, for each choice by itself."""

    def space(text: str) -> str:
        return "" if text[-1].isspace() else " "

    found = []
    for choice in prompt.choices:
        context = "".join(f"{text}{space(text)}{answer}\n\n" for text, answer in prompt.shots) + prompt.input
        continuation = space(prompt.input) + choice
        moved = len(context) - len(context.rstrip())
        continuation = context[len(context) - moved :] + continuation
        context = context[: len(context) - moved]
        alone, whole = tokenizer(context)["input_ids"], tokenizer(context + continuation)["input_ids"]
        found.append((whole[: len(alone)], whole[len(alone) :]))
    return found


@pytest.mark.parametrize("shots", [0, 1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_shots_input_and_choice_are_tokens_of_one_text(kind: str, shots: int) -> None:
    tokenizer = make_tokenizer(kind)
    prompt_tokenizer = PromptTokenizer(tokenizer, 512, decoder_only=True, eos=False)
    for seed in range(6):
        made = prompts(seed, shots)
        for prompt, item in zip(made, prompt_tokenizer.tokenize(made), strict=True):
            assert [([*item.context_ids, *item.input_ids], ids) for ids in item.choice_ids] == expected(
                tokenizer, prompt
            )
            assert item == prompt_tokenizer(prompt)
            assert item.cut_tokens == item.cut_choice_tokens == 0


def test_separate_tokenisation_would_show() -> None:
    """In byte-level BPE: the line breaks behind a shot are one token at the end of a text, two before a word."""
    tokenizer = make_tokenizer("gpt2")
    alone = tokenizer("yes\n\n")["input_ids"] + tokenizer("no")["input_ids"]
    assert alone != tokenizer("yes\n\nno")["input_ids"]


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "gemma"])
def test_shots_are_tokenised_once(kind: str) -> None:
    """All but their end is the same list for all queries."""
    items = PromptTokenizer(make_tokenizer(kind), 512, decoder_only=True).tokenize(prompts(0, shots=5))
    (shared,) = {id(item.context_ids): item.context_ids for item in items}.values()
    assert len(shared) > 0.6 * PromptTokenizer(make_tokenizer(kind), 512, True).context_length(prompts(0, 5)[0].shots)


def test_one_choice_may_begin_like_another_and_its_tokens_do_not_depend_on_it() -> None:
    prompt_tokenizer = PromptTokenizer(make_tokenizer("gpt2"), 64, decoder_only=True, eos=False)
    prompt = Prompt("d", "t", 0, "Is the sky blue?", ("yes", "yes, it is"), 0)
    short, long = prompt_tokenizer(prompt).choice_ids
    assert long[: len(short)] == short
    assert prompt_tokenizer(replace(prompt, choices=("yes",))).choice_ids == [short]


def test_end_of_text_is_there_or_not() -> None:
    prompt = Prompt("d", "t", 0, "Is the sky blue?", ("yes", "no"), 0)
    for tokenizer, decoder_only in ((make_tokenizer("gpt2"), True), (make_tokenizer("t5"), False)):
        ended, bare = (PromptTokenizer(tokenizer, 64, decoder_only, eos)(prompt) for eos in (True, False))
        assert ended.choice_ids == [[*ids, tokenizer.eos_token_id] for ids in bare.choice_ids]
        assert ended.input_ids == bare.input_ids
        three = [PromptTokenizer(tokenizer, 3, decoder_only, eos)(replace(prompt, choices=("apples " * 9,)))
                 for eos in (True, False)]  # fmt: skip
        assert [len(item.choice_ids[0]) for item in three] == [3, 3]
        assert [item.choice_ids[0][-1] == tokenizer.eos_token_id for item in three] == [True, False]


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
@pytest.mark.parametrize("choice", [" ", "\n"])
def test_a_choice_of_nothing_is_refused_where_nothing_of_it_is_scored(kind: str, choice: str) -> None:
    prompt = Prompt("d", "t", 0, "Is the sky blue?", ("yes", choice), 0)
    PromptTokenizer(make_tokenizer(kind), 64, kind != "t5")(prompt)
    with pytest.raises(UserError, match=r"has no tokens but its end-of-text token, .* set score\.eos=include"):
        PromptTokenizer(make_tokenizer(kind), 64, kind != "t5", eos=False)(prompt)


@pytest.mark.parametrize("shots", [0, 3])
@pytest.mark.parametrize("kind", [*KINDS, "t5"])
def test_a_cut_input_keeps_its_special_tokens_and_loses_so_many_others(kind: str, shots: int) -> None:
    tokenizer, decoder_only = make_tokenizer(kind), kind != "t5"
    whole, cut = (PromptTokenizer(tokenizer, most, decoder_only) for most in (512, 12))
    plain = Prompt(
        "d", "t", 0, "A man bought apples. " * 6 + "True or False?", ("yes",), 0, shots=prompts(1, shots)[0].shots
    )
    cuttable = replace(plain, cuttable=((0, 60), (60, len(plain.input) - 15)))
    specials = set(tokenizer.all_special_ids)
    long = _ids(whole(plain))
    for prompt in (plain, cuttable):
        ids = _ids(cut(prompt))
        assert [token for token in ids if token in specials] == [token for token in long if token in specials]
        assert (ids[0] in specials, ids[-1] in specials) == (long[0] in specials, long[-1] in specials)
        assert cut(prompt).cut_tokens == len(whole(replace(plain, shots=())).input_ids) - 12
        assert cut(prompt).choice_ids == whole(prompt).choice_ids
    alone = replace(cuttable, shots=())
    assert len(cut(replace(plain, shots=())).input_ids) == 12
    assert len(cut(alone).input_ids) in (11, 12), "parts are cut evenly"
    assert len(long) - len(_ids(cut(plain))) == cut(plain).cut_tokens
    assert "or False?" in tokenizer.decode(cut(cuttable).input_ids), "what may not be cut is there"


def test_the_start_of_text_counts_in_the_budget() -> None:
    """Of an input with cuttable parts, too: one token less is left for them."""
    prompt = Prompt("d", "t", 0, "apples " * 20 + "True?", ("yes",), 0, cuttable=((0, 140),))
    fixed = {
        kind: len(make_tokenizer(kind)("True?", add_special_tokens=False)["input_ids"]) for kind in ("gpt2", "llama3")
    }
    for kind, others in (("gpt2", 0), ("llama3", 1)):
        least = fixed[kind] + others + 1
        PromptTokenizer(make_tokenizer(kind), least, decoder_only=True).check_cuttable_budget([prompt])
        with pytest.raises(UserError, match=f"has {fixed[kind] + others} tokens besides"):
            PromptTokenizer(make_tokenizer(kind), least - 1, decoder_only=True).check_cuttable_budget([prompt])


def test_white_space_at_the_end_of_an_input_is_its_choices_separator() -> None:
    tokenizer = ByT5Tokenizer()
    for text, gap in (("is it?", " "), ("is it? ", " "), ("is it?\n", "\n"), ("is it?\n\n", "\n\n"), ("", " ")):
        prompt = Prompt("d", "t", 0, text, ("yes",), 0, shots=((text, "no"), ("so?", "no")) if text else ())
        item = PromptTokenizer(tokenizer, 64, decoder_only=True, eos=False)(prompt)
        assert tokenizer.decode(item.choice_ids[0]) == f"{gap}yes"
        if text:
            assert tokenizer.decode(_ids(item)) == f"is it?{gap}no\n\nso? no\n\nis it?"
        separate = PromptTokenizer(tokenizer, 64)(prompt)
        assert not text or tokenizer.decode(separate.context_ids) == f"is it?{gap}no\n\nso? no\n\n"


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_input_has_a_token_for_choices_to_follow(kind: str) -> None:
    tokenizer = make_tokenizer(kind)
    item = PromptTokenizer(tokenizer, 8, decoder_only=True, eos=False)(Prompt("", "", 0, "", ("no",), None))
    assert item.input_ids == [tokenizer.bos_token_id]
    assert item.choice_ids == [tokenizer(" no", add_special_tokens=False)["input_ids"]]


def _ids(item: TokenizedPrompt) -> list[int]:
    return [*item.context_ids, *item.input_ids]


@pytest.mark.real_data
def test_shots_of_t5_have_the_tokens_of_the_joined_text(real_data: Any) -> None:
    """An encoder-decoder's shots are tokenised one by one, which for T5's own vocabulary is the same."""
    _check_t5(load_tokenizer(str(real_data / "t5_vocab"), "main"))


def test_shots_of_a_tokenizer_like_t5s_have_the_tokens_of_the_joined_text() -> None:
    _check_t5(make_tokenizer("t5"))


def _check_t5(tokenizer: Any) -> None:
    for seed in range(4):
        for prompt in prompts(seed, shots=4):
            item = PromptTokenizer(tokenizer, 512)(prompt)
            text = "".join(f"{text} {answer}\n\n" for text, answer in prompt.shots) + prompt.input
            assert _ids(item) == tokenizer(text)["input_ids"]
