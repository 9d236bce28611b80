"""What a method is: one edit of the model, after which nobody needs to know which method it was.

The life of a method in a training run: `check_optimizer`, `attach`, `initialise`, `compute_mask`, training of whatever
was left trainable, `stored` to save. To use a saved adapter: `attach`, `restore`. To count: `attach` on a model
without memory (device "meta"), then the counts. To leave the project: `attach`, `restore`, then `merge` or one of the
`to_...`; to come back: `from_...`. Only `attach` must be written; the rest have the usual answer.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tfew.errors import UserError, shorten_list
from tfew.methods.merging import check_plain
from tfew.methods.peft_format import PeftAdapter
from tfew.methods.task_bank import Scaler, Scaling
from tfew.placement.report import Placement


class Method(ABC):
    """A way to fine-tune. New parameters are float32 and live on the device of the weights they join."""

    @abstractmethod
    def attach(self, model: nn.Module) -> None:
        """Edits the model in place; all its parameters are frozen before. What is trainable after is the adapter."""

    # whether weights of the base model itself are trained: bfloat16 is too coarse to move them by small steps, so on a
    # GPU the base is then float32 under autocast, as everything is in the official code
    trains_base = False
    needs_mask = False  # whether `compute_mask` wants to be called: it costs a pass over the training examples
    merges = True  # whether `merge` leaves a plain model
    may_be_zero: ClassVar[tuple[str, ...]] = ()  # whole-number arguments that may be 0; all others are at least 1

    def placement(self, model: nn.Module) -> Placement | None:
        """Where the method is in this model, which nothing is attached to; None: everywhere, or beside the layers."""
        return None

    def check_optimizer(self, optimizer: Mapping[str, Any]) -> None:
        """Raises UserError for optimiser settings (by name, as in the YAML) that this method cannot live with."""

    def initialise(self, model: nn.Module, tokenizer: Any) -> None:
        """Starting values that need the tokenizer; not called where a saved adapter is restored."""

    def compute_mask(self, model: nn.Module, losses: Iterable[Tensor]) -> None:
        """Called once before training; `losses` yields the training loss of each single training example."""

    def mask_tensors(self) -> dict[str, Tensor]:
        """What `compute_mask` found, for a run that is continued: it must not be found anew."""
        return {}

    def load_mask(self, model: nn.Module, found: Mapping[str, Tensor]) -> None:
        """In place of `compute_mask`, with what `mask_tensors` gave."""

    def stored(self, model: nn.Module) -> dict[str, Tensor]:
        """What is saved: enough to `restore` the trained function on the same base model."""
        return {name: parameter.detach() for name, parameter in adapter_parameters(model).items()}

    def restore(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Puts `stored` weights back; raises UserError where names or shapes do not fit."""
        check_fit(adapter_parameters(model), weights)
        _allocate(model)
        with torch.no_grad():
            for name, parameter in adapter_parameters(model).items():
                parameter.copy_(weights[name])

    def check_stored(self, model: nn.Module, stored: Mapping[str, Tensor]) -> None:
        """Raises UserError where names or shapes are not those that `restore` takes. Neither these tensors nor `model`,
        which the method is attached to, need have memory.
        """
        check_fit(adapter_parameters(model), stored)

    def for_restoring(self) -> "Method":
        """The method to attach before `restore`: what is trained and not stored takes no memory."""
        return self

    @property
    def restores_adapter_alone(self) -> bool:
        """Whether `restore` needs the model's shape only, not its weights (device "meta")."""
        return type(self).restore is Method.restore

    def trained_count(self, model: nn.Module) -> int:
        """Numbers that training moves."""
        return sum(parameter.numel() for parameter in adapter_parameters(model).values())

    def stored_count(self, model: nn.Module) -> int:
        """Numbers that the adapter consists of: the count that papers print."""
        return self.trained_count(model)

    def stored_bytes(self, model: nn.Module) -> int:
        """Size of the saved tensors, without the file's header."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.stored(model).values())

    def neutral(self, model: nn.Module) -> dict[str, Tensor]:
        """Of a method that scales (see `scalings`): `stored` weights that change nothing, where training starts."""
        raise _no_scaling(type(self))

    def scaler(self, model: nn.Module) -> Scaler:
        """What `stored` weights do, layer by layer, as a function of them, where that is nothing but scaling inputs and
        outputs of linear layers: then many tasks' vectors can be in one model. `model` has no method attached.
        """
        raise _no_scaling(type(self))

    def scalings(self, model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Scaling]:
        """`scaler` applied to `stored` weights; raises UserError where they do not fit."""
        scaler = self.scaler(model)
        check_fit(self.neutral(model), weights)
        return scaler(weights)

    # what HF peft calls this method in adapter_config.json: what `to_peft` writes, then what else `from_peft` knows
    peft_types: ClassVar[tuple[str, ...]] = ()

    def merge(self, model: nn.Module) -> None:
        """Folds the adapter into the model's own weights; what only changed those is folded already."""

    def to_peft(self, model: nn.Module) -> PeftAdapter:
        """The adapter in `model` as HF peft would save it."""
        raise _no_exchange(type(self), "HF peft (to=peft)")

    @classmethod
    def from_peft(
        cls, arguments: Mapping[str, Any], adapter: PeftAdapter, model: nn.Module, fused_queries: str
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The method's arguments, those of its YAML changed to what the file needs, and the weights to `restore`.

        `model` has no method attached. `fused_queries`: what to do with a vector that scales queries where the
        method leaves them alone, "refuse" or "keep".
        """
        raise _no_exchange(cls, "HF peft (to=peft)")

    def to_official(self, model: nn.Module) -> dict[str, Tensor]:
        """The adapter in `model` as the authors' code saves it."""
        raise _no_exchange(type(self), "the authors' files (to=official, adapter=FILE.pt)")

    def from_official(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights to `restore` in `model`, which the method is attached to, from a file of the authors' code."""
        raise _no_exchange(type(self), "the authors' files (to=official, adapter=FILE.pt)")


def attach(method: Method, model: nn.Module) -> None:
    """Freezes the whole model, then lets the method edit it."""
    model.requires_grad_(False)
    method.attach(model)
    if not adapter_parameters(model):
        raise RuntimeError(f"{type(method).__name__} left nothing to train")


def merge(method: Method, model: nn.Module) -> None:
    """Turns the model into a plain one of its class with the adapter folded in, or raises UserError."""
    method.merge(model)
    check_plain(type(method).__name__, model)


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _allocate(model: nn.Module) -> None:
    """Gives trainable parameters that have none (device "meta") memory on the CPU."""
    for name, parameter in adapter_parameters(model).items():
        if parameter.is_meta:
            layer, _, last = name.rpartition(".")
            setattr(model.get_submodule(layer), last, nn.Parameter(torch.empty_like(parameter, device="cpu")))


def check_fit(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Raises UserError, listing both sides, where names or shapes differ."""
    in_file = {f"{name} {list(tensor.shape)}" for name, tensor in weights.items()}
    in_model = {f"{name} {list(tensor.shape)}" for name, tensor in expected.items()}
    if in_file != in_model:
        raise UserError(
            f"The adapter does not fit this model and method. Only in the file: {shorten_list(in_file - in_model, 6)};"
            f" only in the model: {shorten_list(in_model - in_file, 6)}."
        )


def _no_scaling(kind: type[Method]) -> UserError:
    return UserError(
        f"The method {kind.__name__} cannot share a batch with other tasks (adapters=, train_together=): it does more"
        " than scale inputs and outputs of linear layers, as (IA)³ does. Use adapter=, one task at a time."
    )


def _no_exchange(kind: type[Method], what: str) -> UserError:
    return UserError(f"The method {kind.__name__} has no form in {what}.")
