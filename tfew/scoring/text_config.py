"""What a model's configuration says of the part that makes text: of several parts it is one of them.

A model for pictures and text, or of two halves, keeps vocabulary, widths and windows in a configuration of its own
inside (`text_config`, `decoder`).
"""

import re
from typing import Any

WINDOW = re.compile(
    r"(?!max_|num_|n_).*window(_size|_len)?|local_attention|attention_chunk_size|floor_scale|index_topk"
)


def text_config(model: Any) -> Any:
    """The configuration of the model that writes the answer; the decoder's, of an encoder-decoder of two parts."""
    config = model.config
    for name in ("decoder", "text_config", "generator"):
        part = getattr(config, name, None)
        if hasattr(part, "to_dict"):
            return part
    return config


def layer_kinds(model: Any) -> list[str] | None:
    """The kinds of layers by transformers' names ("sliding_attention", ...); None where it does not tell them apart."""
    kinds = getattr(text_config(model), "layer_types", None)
    return sorted(set(kinds)) if kinds else None


def windows(model: Any) -> list[int]:
    """Every number of tokens beyond which some layer sees no further, or scores in another way, smallest first."""
    config = text_config(model)
    if model.config.is_encoder_decoder:  # its encoder's are the same whatever way is taken
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


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
