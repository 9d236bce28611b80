"""Tokens that a tokenizer adds to a text: start-of-text before it (Llama, Gemma, BART), end-of-text after it (T5)."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SpecialTokens:
    before: tuple[int, ...]
    behind: tuple[int, ...]


def special_tokens(tokenizer: Any) -> SpecialTokens:
    """Found by encoding a text: start and end may be the same token (OPT), and the start may be a language (NLLB)."""
    bare: list[int] = tokenizer("x", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("x")["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return SpecialTokens(tuple(whole[:start]), tuple(whole[start + len(bare) :]))
    return SpecialTokens((), ())
