"""LayerNorm tuning: only the layer norms are trained (paper appendix D; official `configs/layernorm.json`).

The norms are the model's own; see `full.py` for their dtype on a GPU.
"""

from torch import nn

from tfew.errors import UserError
from tfew.methods.base import Method, adapter_parameters
from tfew.methods.surgery import train_layer_norms


class LayerNorm(Method):
    """Scales of all layer norms, and their shifts in models that have them (T5 has none)."""

    trains_base = True

    def attach(self, model: nn.Module) -> None:
        none = UserError(f"method=layernorm trains layer norms, and {type(model).__name__} has none with weights.")
        try:
            train_layer_norms(model)
        except UserError as error:  # its advice does not apply here: this method needs them
            raise none from error
        if not adapter_parameters(model):
            raise none
