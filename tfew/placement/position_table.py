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


def within_window(model: Any, encoded: list[TokenizedPrompt], engine: str) -> list[TokenizedPrompt]:
    """The texts; raises UserError if the model has no positions for the longest of them."""
    two = model.config.is_encoder_decoder
    for number, table in enumerate(position_tables(model)):
        needed = [_needed(item, two, number, engine) for item in encoded]
        longest = max(needed, default=0)
        if table is not None and longest > table:
            what = ("An input" if two else "An input with its choice") if number == 0 else "A choice"
            own = len(encoded[needed.index(longest)].input_ids) - (longest - table)
            # one less leaves room for the token that the plain engine, to which the fast one may fall back, takes more
            raise UserError(
                f"{what} takes {longest} positions, and {type(model).__name__} has {table}: set max_tokens="
                f"{max(2, table if number else own if two else own - 1)} or less."
            )
    return encoded


def _needed(item: TokenizedPrompt, two: bool, number: int, engine: str) -> int:
    """Positions of an encoder (`number` 0) and a decoder (1) where there are `two`, or of a decoder-only model."""
    choice = max(map(len, item.choice_ids), default=0)
    if two:
        return choice if number else item.length
    # nothing follows the last token of a choice, which only the plain engine gives to the model
    return item.length + (choice if engine == "plain" else max(0, choice - 1))
