"""Prompt -> tokens: tokenising, truncating to `max_tokens`; `tfew.tokens.tokenized_prompt` makes batches of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tfew.errors import UserError
from tfew.schema import Prompt
from tfew.tokens.chat_template import ChatTemplate, chat_template
from tfew.tokens.joined_text import split_beginning, token_ids, tokenize_with_ends
from tfew.tokens.special_tokens import SpecialTokens, special_tokens
from tfew.tokens.tokenized_prompt import TokenizedPrompt as TokenizedPrompt
from tfew.tokens.tokenized_prompt import collate as collate
from tfew.tokens.truncation import Span, even_limit, shifted, split_at, truncate

HALF_CHARACTER = "\ufffd"  # decoded from an incomplete character


@dataclass(frozen=True)
class _Context:
    """The shared beginning of prompts with the same shots: `ids`, and `tail`, the end of `text` not in `ids`."""

    text: str
    ids: list[int]
    tail: str


@dataclass(frozen=True)
class PromptTokenizer:
    """Tokenises texts, each truncated to `max_tokens`.

    An input with cuttable parts (`Prompt.cuttable`) is truncated at the ends of those, the longest first, until the
    longest are equally long; each part is then tokenised on its own. Any other input is truncated at its end.

    For an encoder-decoder, input and choices are separate texts and end in end-of-text, as officially, also after
    truncation. For a decoder-only model shots, input and choice are one text (`tfew.tokens.joined_text`). White space
    at the end of an input begins its choices; without any, a space does.

    `eos`: whether each choice ends in end-of-text, a token like any other. `chat`: whether an input is a user's turn
    in the model's chat template; only the tokens of the input itself count towards `max_tokens`.
    """

    tokenizer: Any
    max_tokens: int
    decoder_only: bool = False
    eos: bool = True
    chat: bool = False

    @property
    def pad_id(self) -> int:
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0  # padding is masked: any token will do

    @property
    def rule(self) -> dict[str, Any]:
        """How choices are scored and inputs are shown, for records and adapters."""
        return {"eos": "include" if self.eos else "exclude", "chat": self.chat}

    def __call__(self, prompt: Prompt) -> TokenizedPrompt:
        return self.tokenize([prompt])[0]

    def tokenize(self, prompts: Sequence[Prompt]) -> list[TokenizedPrompt]:
        """Tokenises many prompts at once, which is much faster; shared texts are tokenised once."""
        return self._tokenize_joined(prompts) if self.decoder_only else self._tokenize_separately(prompts)

    def text(self, prompt: Prompt) -> str:
        """The input as shown to the model; shots are included only as turns of a chat."""
        return self._chat.render(prompt.shots, prompt.input) if self.chat else prompt.input

    def context_length(self, shots: Sequence[tuple[str, str]]) -> int:
        """The number of tokens that these shots put before an input."""
        if not self.decoder_only:
            return len(self._context_ids(shots))
        (ids,) = token_ids(self.tokenizer, [self._context_text(shots)])
        return len(ids) + len(self._before)

    def check_cuttable_budget(self, prompts: Sequence[Prompt]) -> None:
        """Raises UserError if the fixed parts of a prompt leave no tokens for its cuttable parts."""
        for prompt in prompts:
            if prompt.cuttable:
                self._cuttable_limit(prompt)

    @cached_property
    def _special(self) -> SpecialTokens:
        return special_tokens(self.tokenizer)

    @cached_property
    def _chat(self) -> ChatTemplate:
        return chat_template(self.tokenizer)

    @property
    def scores_without_input(self) -> bool:
        """Whether choices can be scored after an empty input, which needs a start token."""
        return not self.decoder_only or self.chat or self._start_id is not None

    @property
    def _start_id(self) -> int | None:
        start: int | None = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if start is None else start

    @property
    def _before(self) -> tuple[int, ...]:
        """Special tokens before a text; a chat template adds its own."""
        return () if self.chat else self._special.before

    @property
    def _behind(self) -> tuple[int, ...]:
        return () if self.decoder_only else self._special.behind

    def _tokenize_separately(self, prompts: Sequence[Prompt]) -> list[TokenizedPrompt]:
        """For an encoder-decoder."""
        inputs = self.tokenizer([prompt.input for prompt in prompts])["input_ids"]
        texts = list(dict.fromkeys(choice for prompt in prompts for choice in prompt.choices))
        whole = self.tokenizer(texts)["input_ids"] if texts else []
        choices = {
            text: self._choice(text, ids if self.eos else ids[:-1]) for text, ids in zip(texts, whole, strict=True)
        }
        contexts = {shots: self._context_ids(shots) for shots in dict.fromkeys(prompt.shots for prompt in prompts)}
        encoded = []
        for prompt, ids in zip(prompts, inputs, strict=True):
            input_ids, cut = truncate(ids, self.max_tokens, keep_last=True)
            if cut and prompt.cuttable:
                input_ids = [*self._before, *self._cut_parts(prompt, prompt.input, prompt.cuttable), *self._behind]
            context_ids = contexts[prompt.shots]
            own_ids = input_ids[len(self._before) :] if context_ids else input_ids
            encoded.append(_tokenized(prompt, own_ids, [choices[text] for text in prompt.choices], cut, context_ids))
        return encoded

    def _context_ids(self, shots: Sequence[tuple[str, str]]) -> list[int]:
        """The tokens before an encoder-decoder's input: solved examples, none truncated.

        Each is tokenised on its own, as the input is; for T5 that gives the tokens of the whole text.
        """
        ids = token_ids(self.tokenizer, [shot_text(*shot) for shot in shots])
        return [token for part in (self._before if shots else (), *ids) for token in part]

    def _tokenize_joined(self, prompts: Sequence[Prompt]) -> list[TokenizedPrompt]:
        """For a decoder-only model."""
        cuts = self._excess(prompts)
        if self.chat:  # long inputs are truncated before they become a turn
            prompts = [self._shortened(prompt) if cut else prompt for prompt, cut in zip(prompts, cuts, strict=True)]
        contexts = {shots: self._context(shots) for shots in dict.fromkeys(prompt.shots for prompt in prompts)}
        opened = [self._opened(prompt, contexts[prompt.shots]) for prompt in prompts]
        ends = [
            [gap + choice for choice in prompt.choices] for prompt, (_, _, gap) in zip(prompts, opened, strict=True)
        ]
        joined = tokenize_with_ends(self.tokenizer, [own for _, own, _ in opened], ends)
        encoded = []
        for prompt, cut, (context_ids, own, _), (ids, choice_ids) in zip(prompts, cuts, opened, joined, strict=True):
            before = () if context_ids else self._before
            input_ids = [*before, *ids] or [self._first_id()]
            if cut and prompt.cuttable and not self.chat:
                kept = len(prompt.input.rstrip())
                spans = shifted(prompt.cuttable, len(own) - kept, kept)
                input_ids = [*before, *self._cut_parts(prompt, own, spans)]
            elif cut and not self.chat:
                input_ids = input_ids[: len(input_ids) - cut]
            choices = [self._choice(*pair) for pair in zip(prompt.choices, map(self._ended, choice_ids), strict=True)]
            encoded.append(_tokenized(prompt, input_ids, choices, cut, context_ids))
        return encoded

    def _excess(self, prompts: Sequence[Prompt]) -> list[int]:
        """By how many tokens each input exceeds the limit."""
        ids = token_ids(self.tokenizer, [prompt.input.rstrip() for prompt in prompts])
        return [max(0, len(self._before) + len(own) - self.max_tokens) for own in ids]

    def _opened(self, prompt: Prompt, context: _Context) -> tuple[Sequence[int], str, str]:
        """The ids of its context, the text from there to the choices, and the white space before each choice."""
        shown = self._chat.render(prompt.shots, prompt.input) if self.chat else context.text + prompt.input
        text = shown.rstrip()
        gap = shown[len(text) :] or ("" if self.chat else " ")
        if not context.ids or not text.startswith(context.text):
            return (), text, gap
        return context.ids, context.tail + text[len(context.text) :], gap

    def _context(self, shots: Sequence[tuple[str, str]]) -> _Context:
        text = self._context_text(shots)
        ids, tail = split_beginning(self.tokenizer, text) if shots else ([], text)
        return _Context(text, [*self._before, *ids] if ids else [], tail)

    def _context_text(self, shots: Sequence[tuple[str, str]]) -> str:
        return self._chat.beginning(shots) if self.chat else "".join(shot_text(*shot) for shot in shots)

    def _first_id(self) -> int:
        """The token before the choices of an empty input; raises UserError if there is none."""
        if self._start_id is None:
            raise UserError("An input is empty, and the tokenizer has no start-of-text token to use in its place.")
        return int(self._start_id)

    def _ended(self, ids: list[int]) -> list[int]:
        if not self.eos:
            return ids
        end_id = self._chat.end_id if self.chat else self.tokenizer.eos_token_id
        return ids if end_id is None else [*ids, end_id]

    def _choice(self, text: str, ids: list[int]) -> tuple[list[int], int]:
        if not self.eos and not (ids and text.strip()):
            raise UserError(
                f"Answer choice {text!r} has no tokens but its end-of-text token, which is not scored: set"
                " score.eos=include."
            )
        return truncate(ids, self.max_tokens, keep_last=self.eos)

    def _cut_parts(self, prompt: Prompt, text: str, spans: Sequence[Span]) -> list[int]:
        """Tokens of the text, in which the prompt's cuttable parts are at `spans` and truncated."""
        most = self._cuttable_limit(prompt)
        parts = self._parts(text, spans)
        return [token for number, part in enumerate(parts) for token in (part[:most] if number % 2 else part)]

    def _shortened(self, prompt: Prompt) -> Prompt:
        """The prompt with the text of its first `max_tokens` tokens, or with its cuttable parts truncated."""
        spans = prompt.cuttable or ((0, len(prompt.input)),)
        most = self._cuttable_limit(prompt) if prompt.cuttable else self.max_tokens
        texts = split_at(prompt.input, spans)
        for number, ids in enumerate(token_ids(self.tokenizer, texts)):
            if number % 2 and len(ids) > most:
                texts[number] = self.tokenizer.decode(ids[:most]).rstrip(HALF_CHARACTER)
        return replace(prompt, input="".join(texts), cuttable=())

    def _parts(self, text: str, spans: Sequence[Span]) -> list[list[int]]:
        """Tokens of the parts, alternately fixed and cuttable, each tokenised on its own."""
        return token_ids(self.tokenizer, split_at(text, spans))

    def _cuttable_limit(self, prompt: Prompt) -> int:
        """How many tokens of each cuttable part are kept; raises UserError if that is less than one."""
        parts = self._parts(prompt.input, prompt.cuttable)
        kept = sum(map(len, parts[::2])) + len(self._before) + len(self._behind)
        if self.max_tokens - kept < len(prompt.cuttable):
            raise UserError(
                f"Template {prompt.template!r} of {prompt.dataset} has {kept} tokens besides the texts that may be"
                f" truncated, which leaves no room for them: max_tokens={self.max_tokens} is too small."
            )
        return even_limit([len(part) for part in parts[1::2]], self.max_tokens - kept)


def shot_text(text: str, answer: str) -> str:
    """A solved example and an empty line; the input's final white space, else a space, precedes the answer."""
    return f"{text}{'' if text[-1:].isspace() else ' '}{answer}\n\n"


def _tokenized(
    prompt: Prompt, input_ids: list[int], choices: Sequence[tuple[list[int], int]], cut: int, context_ids: Sequence[int]
) -> TokenizedPrompt:
    """`choices`: tokens of each, and how many were truncated."""
    label = -1 if prompt.label is None else prompt.label
    labels = prompt.answers or (-1,) * len(prompt.questions)
    cut_choices = sum(n for _, n in choices)
    return TokenizedPrompt(input_ids, [ids for ids, _ in choices], label, cut, cut_choices, context_ids, labels)
