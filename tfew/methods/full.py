"""Full fine-tuning: the whole model is trained (paper appendix D; official `configs/finetune.json`).

It adds no parameters. Weights in bfloat16 keep 8 bits, so a step of 3e-4 of their size would mostly be rounded away:
like the official code, `trains_base` has the model in float32 under autocast on a GPU.
"""

from torch import nn

from tfew.methods.base import Method


class Full(Method):
    """Unfreezes everything. Tied weights are one parameter: counted, trained and stored once."""

    trains_base = True

    def attach(self, model: nn.Module) -> None:
        model.requires_grad_(True)
