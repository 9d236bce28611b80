"""Formats an input as a user's turn of a conversation, with the tokenizer's chat template.

Few-shot examples are earlier turns. An answer choice takes the place of the assistant's answer: after the generation
prompt and the text that the template puts before an answer (Mistral: a space; Qwen3: an empty thought). It ends with
the token that ends the assistant's turn, which need not be the tokenizer's end-of-text token (Gemma, Phi-3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from tfew.errors import UserError
from tfew.tokens.joined_text import token_ids

ANSWER = "yes"  # of a made-up conversation that shows the text around an answer


@dataclass(frozen=True)
class ChatTemplate:
    """`before_answer`: between the generation prompt and an answer; `end_id`: the token that ends an answer."""

    tokenizer: Any
    before_answer: str
    end_id: int | None

    def render(self, shots: Sequence[tuple[str, str]], text: str) -> str:
        """Renders the conversation up to the start of the answer to `text`."""
        turns = [*(turn for question, answer in shots for turn in _exchange(question, answer)), _user(text)]
        return _rendered(self.tokenizer, turns, add_generation_prompt=True) + self.before_answer

    def beginning(self, shots: Sequence[tuple[str, str]]) -> str:
        """The common beginning of conversations with these earlier turns, whatever the last user turn."""
        first, second = (self.render(shots, text) for text in ("a", "b"))
        return "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def chat_template(tokenizer: Any) -> ChatTemplate:
    """The tokenizer's chat template; raises UserError if it has none."""
    if not has_chat_template(tokenizer):
        raise UserError(
            "prompt.chat=true, and the tokenizer of this model has no chat template: set prompt.chat=false."
        )
    opening = _rendered(tokenizer, [_user("a")], add_generation_prompt=True)
    whole = _rendered(tokenizer, _exchange("a", ANSWER), add_generation_prompt=False)
    start = whole.find(ANSWER, len(opening)) if whole.startswith(opening) else -1
    before = whole[len(opening) : start] if start >= 0 else ""
    behind = whole[whole.rfind(ANSWER) + len(ANSWER) :]
    special = {*tokenizer.all_special_ids, *_added_special(tokenizer)}
    ends = [token for token in token_ids(tokenizer, [behind])[0] if token in special]
    return ChatTemplate(tokenizer, before, ends[0] if ends else tokenizer.eos_token_id)


def has_chat_template(tokenizer: Any) -> bool:
    return bool(getattr(tokenizer, "chat_template", None))


def _added_special(tokenizer: Any) -> list[int]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return [token for token, content in added.items() if getattr(content, "special", False)]


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _exchange(question: str, answer: str) -> list[dict[str, str]]:
    return [_user(question), {"role": "assistant", "content": answer}]


def _rendered(tokenizer: Any, turns: list[dict[str, str]], add_generation_prompt: bool) -> str:
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt))
    except Exception as error:  # any type: a template is a program
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(
            f"prompt.chat=true, and the model's chat template cannot render a conversation of user and assistant"
            f" ({type(error).__name__}: {reason}): set prompt.chat=false."
        ) from error
