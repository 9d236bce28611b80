"""Whether end-of-text is scored with a choice, and whether an input is a turn of a chat: `score.eos=`, `prompt.chat=`.

T-Few's losses and scores include the end-of-text token of a choice, and so does every adapter that was trained that
way. T5 ends each text with it. In a decoder-only model that was never trained to stop there it decides rankings, and
lm-evaluation-harness excludes it: so does the bare model here. An adapter keeps the rule that it was trained with.
"""

import logging
from dataclasses import replace
from functools import cache
from pathlib import Path

from tfew.data.tokenization import PromptTokenizer
from tfew.errors import UserError
from tfew.models.adapters_io import adapter_scoring
from tfew.settings import EvaluationSettings
from tfew.tokens.chat_template import chat_template, has_chat_template

log = logging.getLogger(__name__)
INCLUDE, AUTO = "include", "auto"


def with_scoring_rule(
    prompt_tokenizer: PromptTokenizer, model: str, settings: EvaluationSettings, adapter: Path | None, trains: bool
) -> PromptTokenizer:
    """`adapter`: whose vectors are used, or training starts from; `model`: its name, for messages.

    Raises UserError if the model, its tokenizer or the adapter is incompatible with these settings.
    """
    eos: str = settings.score.eos
    chat = settings.prompt.chat
    saved = None if adapter is None else adapter_scoring(adapter)
    if saved is not None and not trains:
        if chat and not saved["chat"]:
            raise UserError(
                f"prompt.chat=true, and {adapter} was trained without the chat template: prompt.chat=false."
            )
        chat = saved["chat"]
    if eos == AUTO and saved is not None:
        eos = saved["eos"]
    elif eos == AUTO:
        eos = INCLUDE if trains or not prompt_tokenizer.decoder_only else "exclude"
    found = replace(prompt_tokenizer, eos=eos == INCLUDE, chat=chat)
    _check(found, model)
    if found.decoder_only and not chat and (trains or adapter is None) and has_chat_template(found.tokenizer):
        _note_chat_template(model)
    return found


def _check(prompt_tokenizer: PromptTokenizer, model: str) -> None:
    if prompt_tokenizer.chat and not prompt_tokenizer.decoder_only:
        raise UserError(f"prompt.chat=true is for decoder-only models, and {model} is none: set prompt.chat=false.")
    tokenizer = prompt_tokenizer.tokenizer
    end_id = chat_template(tokenizer).end_id if prompt_tokenizer.chat else tokenizer.eos_token_id
    if prompt_tokenizer.eos and end_id is None:
        raise UserError(
            f"The tokenizer of {model} has no end-of-text token that could be scored: set score.eos=exclude."
        )


@cache
def _note_chat_template(model: str) -> None:
    log.info(f"Note: {model} has a chat template; prompt.chat=true uses it.")
