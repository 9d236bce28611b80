"""Tables of absolute positions, beyond which a model cannot be run, and the check of texts against them."""

from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from tfew.errors import UserError
from tfew.placement.structure import text_roots
from tfew.tokens.tokenized_prompt import TokenizedPrompt

# names of tables; attributes of those that grow, or repeat their last row
TABLES = ("wpe", "embed_positions", "position_embeddings", "positions_embed", "pos_encoding")
ENDLESS = ("make_weight", "max_length")
_known: "WeakKeyDictionary[nn.Module, list[int | None]]" = WeakKeyDictionary()


def position_tables(model: Any) -> list[int | None]:
    """The most tokens for which the encoder and the decoder, or a decoder-only model, have positions in a table.

    None without a table: rotary and relative positions have no end.
    """
    if model not in _known:
        found = []
        for _, root in text_roots(model):
            rows = [
                _positions(getattr(module, name))
                for module in root.modules()
                for name in TABLES
                if hasattr(module, name)
            ]
            found.append(min((number for number in rows if number is not None), default=None))
        _known[model] = found
    return _known[model]


def _positions(table: Any) -> int | None:
    if isinstance(table, Tensor):  # angles, which some models look up (GPT-J)
        return len(table)
    if not isinstance(table, nn.Embedding) or any(hasattr(table, name) for name in ENDLESS):
        return None
    unused = 0 if table.padding_idx is None else table.padding_idx + 1  # RoBERTa counts from behind padding's row
    return table.num_embeddings - int(getattr(table, "offset", unused))


def within_window(model: Any, encoded: list[TokenizedPrompt]) -> list[TokenizedPrompt]:
    """The texts; raises UserError if the model has no positions for the longest of them."""
    for number, table in enumerate(position_tables(model)):
        lengths = [_length(item, number, model.config.is_encoder_decoder) for item in encoded]
        longest = max(lengths, default=0)
        if table is not None and longest > table:
            own = len(encoded[lengths.index(longest)].input_ids)
            what = (
                "A choice" if number else "An input" if model.config.is_encoder_decoder else "An input and its choice"
            )
            raise UserError(
                f"{what} of {longest} tokens: {type(model).__name__} has positions for {table}. Set max_tokens="
                f"{max(2, table if number else own - (longest - table))} or less."
            )
    return encoded


def _length(item: TokenizedPrompt, number: int, encoder_decoder: bool) -> int:
    """Of the encoder's text (`number` 0), the decoder's (1), or a decoder-only model's."""
    choice = max(map(len, item.choice_ids), default=0)
    if encoder_decoder:
        return choice if number else item.length
    return item.length + max(0, choice - 1)  # nothing follows a choice's last token, which is not needed as input
