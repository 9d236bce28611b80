"""Full fine-tuning: the whole model is trained (paper appendix D; official `configs/finetune.json`).

It adds no parameters. bfloat16 weights have 8 bits of precision, so a relative step of 3e-4 would mostly be rounded
away: as in the official code, `trains_base` keeps the model in float32 under autocast on a GPU.
"""

from torch import nn

from tfew.methods.base import Method


class Full(Method):
    """Unfreezes everything. Tied weights are one parameter: counted, trained and stored once."""

    trains_base = True
    takes_quantized = False

    def attach(self, model: nn.Module) -> None:
        model.requires_grad_(True)
