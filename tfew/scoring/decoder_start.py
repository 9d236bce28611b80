"""The token that an encoder-decoder's decoder begins with."""

from typing import Any

from torch import nn

from tfew.errors import UserError


def decoder_start_id(model: nn.Module) -> int:
    """What the checkpoint says it is; T5Gemma says it as start-of-text of its decoder, and generation takes that, too.

    Raises UserError where neither is said.
    """
    config: Any = model.config
    decoder = getattr(config, "decoder", None)
    for place in (config, getattr(model, "generation_config", None)):
        if (start := getattr(place, "decoder_start_token_id", None)) is not None:
            return int(start)
    for place in (decoder, config, getattr(model, "generation_config", None)):
        if (start := getattr(place, "bos_token_id", None)) is not None:
            return int(start)
    raise UserError(
        f"The checkpoint of {type(model).__name__} does not say which token its decoder begins with: set"
        " decoder_start_token_id in its config.json."
    )
