"""The boundary between a text and its continuation, in the tokens of both together."""

import pytest

from tests.made_tokenizers import KINDS, make_tokenizer
from tfew.tokens.joined_text import TAIL_CHARACTERS, split_beginning, token_ids, tokenize_with_ends

TEXT = "The sky is blue. Grass is green!\n\nAnswer: yes\n\nA man bought 12 apples. Question: he has fruit. True"
ENDS = (" or False?", "\n\nAnswer: no", "ly, never", " " * 3, "\n", "...\n\n\n", "👍", " true\n\n  yes", "")


@pytest.mark.parametrize("text", [TEXT, TEXT.replace(" ", ""), TEXT[:20], "", " ", TEXT + "\n\n"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_change_is_left_off(kind: str, text: str) -> None:
    tokenizer = make_tokenizer(kind)
    ids, tail = split_beginning(tokenizer, text)
    assert text.endswith(tail)
    for end in ENDS:
        (whole,) = token_ids(tokenizer, [text + end])
        assert [*ids, *token_ids(tokenizer, [tail + end])[0]] == whole
    if text == TEXT:
        assert TAIL_CHARACTERS <= len(tail) < 2 * TAIL_CHARACTERS, "else all of it would be tokenised with each end"


@pytest.mark.parametrize("kind", KINDS)
def test_text_and_end_are_the_whole(kind: str) -> None:
    tokenizer = make_tokenizer(kind)
    texts, ends = [TEXT, TEXT[:30], ""], [list(ENDS), [" yes", " no"], []]
    for text, own, (before, end_ids) in zip(texts, ends, tokenize_with_ends(tokenizer, texts, ends), strict=True):
        assert len(before) == len(token_ids(tokenizer, [text])[0]) or "ly, never" in own
        for end, ids in zip(own, end_ids, strict=True):
            assert [*before, *ids] == token_ids(tokenizer, [text + end])[0]


def test_an_end_that_joins_the_last_word_takes_its_tokens() -> None:
    """What stands before both ends is what the text has in common with both."""
    tokenizer = make_tokenizer("gpt2")
    assert tokenizer.tokenize("the sky")[-1] == "Ġsky"
    ((before, (short, long)),) = tokenize_with_ends(tokenizer, ["the sk"], [[" yes", "y"]])
    assert [tokenizer.decode(ids) for ids in (before, short, long)] == ["the", " sk yes", " sky"]
