"""What a method is: one edit of the model, after which nobody needs to know which method it was."""

from abc import ABC, abstractmethod

from torch import nn


class Method(ABC):
    """A way to fine-tune. `attach` edits a frozen model in place; the parameters left trainable are the adapter."""

    @abstractmethod
    def attach(self, model: nn.Module) -> None:
        """Adds or unfreezes the parameters to train. All parameters are frozen when this is called."""


def attach(method: Method, model: nn.Module) -> None:
    """Freezes the whole model, then lets the method edit it."""
    model.requires_grad_(False)
    method.attach(model)
    if not adapter_parameters(model):
        raise RuntimeError(f"{type(method).__name__} left nothing to train")


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters by name: what is trained, saved and loaded."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
