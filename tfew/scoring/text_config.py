"""The configuration of the part of a model that generates text, and the token that it starts from.

A model for images and text, or one composed of two models, has vocabulary, widths and windows in a nested
configuration (`text_config`, `decoder`).
"""

import re
from typing import Any

from tfew.errors import UserError

WINDOW = re.compile(
    r"(?!max_|num_|n_).*window(_size|_len)?|local_attention|attention_chunk_size|floor_scale|index_topk"
)


def text_config(model: Any) -> Any:
    """The configuration of the part that generates the answer; for an encoder-decoder of two models, the decoder's."""
    config = model.config
    for name in ("decoder", "text_config", "generator"):
        part = getattr(config, name, None)
        if hasattr(part, "to_dict"):
            return part
    return config


def layer_kinds(model: Any) -> list[str] | None:
    """The kinds of layers by transformers' names ("sliding_attention", ...); None if the configuration lacks them."""
    kinds = getattr(text_config(model), "layer_types", None)
    return sorted(set(kinds)) if kinds else None


def windows(model: Any) -> list[int]:
    """Every number of tokens beyond which some layer attends no further, or computes scores differently, ascending."""
    config = text_config(model)
    if model.config.is_encoder_decoder:  # the encoder's are the same in every engine
        sizes = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
        return sorted(size for size in sizes if size)
    if layer_kinds(model) == ["full_attention"] or getattr(config, "use_sliding_window", True) is False:
        return []
    found: set[int] = set()
    for name, value in config.to_dict().items():
        if WINDOW.fullmatch(name):
            found.update(size for size in (value if isinstance(value, list) else [value]) if _is_size(size))
    if blocks := getattr(config, "index_topk_blocks", None):
        found.add(blocks * config.index_block_size)
    return sorted(found)


def rope_limit(model: Any) -> int | None:
    """The number of tokens beyond which rotary angles depend on the longest text of a forward pass; None if they never
    do.

    "longrope" has other angles for all texts then, and "dynamic" ones by the length itself.
    """
    config = text_config(model)
    rope = getattr(config, "rope_parameters", None) or {}
    limits = []
    for part in (rope, *rope.values()):  # for all layers, or by their kind
        kind = str(part.get("rope_type")) if isinstance(part, dict) else ""
        if kind == "longrope":
            limits.append(part.get("original_max_position_embeddings"))
        elif "dynamic" in kind:
            limits.append(getattr(config, "max_position_embeddings", None))
    return min((limit for limit in limits if limit), default=None)


def decoder_start_id(model: Any) -> int:
    """`decoder_start_token_id` of the configuration, of the decoder's or of the generation's, else bos, else padding.

    T5's relatives have no bos and start from padding. Raises UserError if there is none of these.
    """
    config = model.config
    parts = [part for part in (getattr(config, name, None) for name in ("decoder", "text_config")) if part is not None]
    holders = [config, *parts, getattr(model, "generation_config", None)]
    starts = [_token(holder, "decoder_start_token_id") for holder in holders]
    starts += [_token(holder, "bos_token_id") for holder in (*parts, config)]
    starts.append(_token(config, "pad_token_id"))
    found = next((start for start in starts if start is not None), None)
    if found is None:
        raise UserError(
            f"{type(model).__name__} does not say which token an answer starts from: its config.json needs"
            " decoder_start_token_id (or bos_token_id)."
        )
    return found


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _token(holder: Any, name: str) -> int | None:
    value = getattr(holder, name, None)
    return int(value[0] if isinstance(value, list) else value) if value not in (None, []) else None
