"""Inputs as turns of a chat, with templates of several kinds, against whole conversations rendered by transformers."""

from dataclasses import replace
from typing import Any

import pytest

from tests.made_tokenizers import CHATML, INST, THOUGHT, make_tokenizer
from tfew.data.tokenization import PromptTokenizer
from tfew.errors import UserError
from tfew.schema import Prompt
from tfew.tokens.chat_template import chat_template

SHOTS = (("Is the sky blue?", "yes"), ("Is grass blue, and is the street wet?\n", "no, never"))
PROMPT = Prompt("d", "t", 0, "A man bought apples. He has fruit. True or False?", ("True", "no, never"), 0)
TEMPLATES = {"chatml": CHATML, "inst": INST, "thought": THOUGHT}


def conversation(tokenizer: Any, shots: Any, text: str, answer: str) -> str:
    turns = [
        (role, said)
        for pair in (*shots, (text, answer))
        for role, said in zip(("user", "assistant"), pair, strict=True)
    ]
    turns_ = [{"role": role, "content": said} for role, said in turns]
    return str(tokenizer.apply_chat_template(turns_, tokenize=False))


@pytest.mark.parametrize("shots", [(), SHOTS])
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", ["gpt2", "llama3", "gemma"])
def test_an_answer_has_the_tokens_that_it_has_in_a_finished_conversation(kind: str, template: str, shots: Any) -> None:
    tokenizer = make_tokenizer(kind, TEMPLATES[template])
    item = PromptTokenizer(tokenizer, 256, decoder_only=True, chat=True)(replace(PROMPT, shots=shots))
    end = "</s>" if template == "inst" else "<|im_end|>"
    for choice, ids in zip(PROMPT.choices, item.choice_ids, strict=True):
        whole = conversation(tokenizer, shots, PROMPT.input, choice).removesuffix("\n")
        assert [*item.context_ids, *item.input_ids, *ids] == tokenizer(whole, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids).strip() == choice + end
        assert ids[-1] == tokenizer.convert_tokens_to_ids(end)
    bare = PromptTokenizer(tokenizer, 256, decoder_only=True, eos=False, chat=True)(replace(PROMPT, shots=shots))
    assert bare.choice_ids == [ids[:-1] for ids in item.choice_ids]


def test_start_of_text_is_there_once() -> None:
    """The template brings it; a tokenizer that puts it before every text must not."""
    for kind in ("gpt2", "llama3", "gemma"):
        tokenizer = make_tokenizer(kind, INST)
        item = PromptTokenizer(tokenizer, 256, decoder_only=True, chat=True)(replace(PROMPT, shots=SHOTS))
        ids = [*item.context_ids, *item.input_ids]
        assert [position for position, token in enumerate(ids) if token == tokenizer.bos_token_id] == [0]


def test_the_rendered_text_is_the_generation_prompt() -> None:
    tokenizer = make_tokenizer("gpt2", CHATML)
    text = PromptTokenizer(tokenizer, 256, decoder_only=True, chat=True).text(PROMPT)
    turns = [{"role": "user", "content": PROMPT.input}]
    assert text == tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert chat_template(make_tokenizer("gpt2", THOUGHT)).before_answer == "<think>\n\n</think>\n\n"
    assert chat_template(make_tokenizer("gpt2", INST)).before_answer == " "


@pytest.mark.parametrize("cuttable", [(), ((0, 120),)])
def test_only_the_input_is_cut_and_the_conversation_stays_whole(cuttable: Any) -> None:
    tokenizer, most = make_tokenizer("gpt2", CHATML), 25
    text = "apples " * 20 + "True?"
    prompt = replace(PROMPT, input=text, cuttable=cuttable, shots=SHOTS)
    item = PromptTokenizer(tokenizer, most, decoder_only=True, chat=True)(prompt)
    shown = tokenizer.decode([*item.context_ids, *item.input_ids])
    start, end = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant"
    kept = shown.removesuffix(end).rpartition(start)[2]
    assert shown.startswith(f"<|im_start|>system\nBe brief.<|im_end|>\n{start}Is the sky blue?<|im_end|>")
    assert shown.endswith(f"{start}{kept}{end}")
    assert len(tokenizer.tokenize(kept)) in range(most - 2, most + 1)
    assert len(tokenizer.tokenize(text)) - most == item.cut_tokens > 0
    assert kept.startswith("apples apples a")
    assert kept.endswith("True?") == bool(cuttable)
    assert item.choice_ids == PromptTokenizer(tokenizer, 256, decoder_only=True, chat=True)(prompt).choice_ids


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        (None, r"prompt\.chat=true, and the tokenizer of this model has no chat template"),
        ("{{ raise_exception('only one turn!') }}", r"cannot render .* only one turn!\): set prompt\.chat=false"),
        ("{{ messages | nope }}", r"cannot render a conversation of user and assistant \(Template"),
    ],
)
def test_a_template_that_cannot_be_used_is_a_sentence(template: str | None, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        chat_template(make_tokenizer("gpt2", template))
