"""The token that an encoder-decoder's answer starts from."""

from typing import Any

from tfew.errors import UserError


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


def _token(holder: Any, name: str) -> int | None:
    value = getattr(holder, name, None)
    return int(value[0] if isinstance(value, list) else value) if value not in (None, []) else None
