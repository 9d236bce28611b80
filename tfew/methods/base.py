"""The interface of a method: an edit of the model, after which other code need not know the method.

Order of calls in a training run: `check_optimizer`, `attach`, `initialise`, `compute_mask`, training of the parameters
that are left trainable, `stored` to save. To use a saved adapter: `attach`, `restore`. To count: `attach` on a model
on device "meta", then the counts. To export: `attach`, `restore`, then `merge` or one of the `to_...`; to import:
`from_...`. Only `attach` must be implemented; the others have defaults.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tfew.errors import UserError, shorten_list
from tfew.methods.merging import check_plain, check_unshared
from tfew.methods.peft_format import PeftAdapter
from tfew.methods.surgery import is_layer_norm
from tfew.methods.task_bank import Scaler, Scaling
from tfew.placement.report import Placement
from tfew.placement.structure import outside_text


class Method(ABC):
    """A fine-tuning method. New parameters are float32, on the device of the weights that they are added to."""

    @abstractmethod
    def attach(self, model: nn.Module) -> None:
        """Edits the model, whose parameters are all frozen, in place. Those trainable afterwards are the adapter."""

    # whether weights of the base model itself are trained: bfloat16 is too coarse for small steps, so on a GPU the base
    # is then float32 under autocast, as in the official code
    trains_base = False
    takes_quantized = True  # whether it works beside `model.dtype=int8|nf4`: it reads no weight of a linear layer
    needs_mask = False  # whether to call `compute_mask`, a pass over the training examples
    merges = True  # whether `merge` results in a plain model
    may_be_zero: ClassVar[tuple[str, ...]] = ()  # whole-number arguments that may be 0; all others are at least 1

    def placement(self, model: nn.Module) -> Placement | None:
        """Where the method would be in this model without a method; None: everywhere, or beside the layers."""
        return None

    def check_optimizer(self, optimizer: Mapping[str, Any]) -> None:
        """Raises UserError for optimiser settings (by name, as in the YAML) that do not work with this method."""

    def initialise(self, model: nn.Module, tokenizer: Any) -> None:
        """Sets initial values that need the tokenizer; not called if a saved adapter is restored."""

    def compute_mask(self, model: nn.Module, losses: Iterable[Tensor]) -> None:
        """Called once before training; `losses` yields the training loss of each single training example."""

    def mask_tensors(self) -> dict[str, Tensor]:
        """The result of `compute_mask`, saved for a run that is resumed: it must not be computed again."""
        return {}

    def load_mask(self, model: nn.Module, found: Mapping[str, Tensor]) -> None:
        """Replaces `compute_mask` on resuming, with the result of `mask_tensors`."""

    def stored(self, model: nn.Module) -> dict[str, Tensor]:
        """The tensors to save: enough to `restore` the trained function on the same base model."""
        return {name: parameter.detach() for name, parameter in adapter_parameters(model).items()}

    def restore(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Loads `stored` weights; raises UserError if names or shapes do not fit."""
        check_fit(adapter_parameters(model), _without_untrained(model, weights))
        _allocate(model)
        with torch.no_grad():
            for name, parameter in adapter_parameters(model).items():
                parameter.copy_(weights[name])

    def check_stored(self, model: nn.Module, stored: Mapping[str, Tensor]) -> None:
        """Raises UserError if `restore` would not accept these names or shapes. The method is attached to `model`; its
        parameters and these tensors may be on device "meta".
        """
        check_fit(adapter_parameters(model), _without_untrained(model, stored))

    def for_restoring(self) -> "Method":
        """The method to attach before `restore`: parameters that are trained but not stored take no memory."""
        return self

    @property
    def restores_adapter_alone(self) -> bool:
        """Whether `restore` needs the model's shapes only (device "meta"), not its weights."""
        return type(self).restore is Method.restore

    def trained_count(self, model: nn.Module) -> int:
        """Number of parameters that are trained."""
        return sum(parameter.numel() for parameter in adapter_parameters(model).values())

    def stored_count(self, model: nn.Module) -> int:
        """Number of parameters in the saved adapter: the count that papers report."""
        return self.trained_count(model)

    def stored_bytes(self, model: nn.Module) -> int:
        """Size of the saved tensors, without the file's header."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.stored(model).values())

    def neutral(self, model: nn.Module) -> dict[str, Tensor]:
        """For a scaling method (see `scalings`): the `stored` weights of the identity, from which training starts."""
        raise _no_scaling(type(self))

    def scaler(self, model: nn.Module) -> Scaler:
        """A function from `stored` weights to each layer's scaling, for methods that only scale inputs and outputs of
        linear layers: vectors of many tasks can then be in one model. `model` has no method attached.
        """
        raise _no_scaling(type(self))

    def scalings(self, model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Scaling]:
        """`scaler` applied to `stored` weights; raises UserError if they do not fit."""
        scaler = self.scaler(model)
        check_fit(self.neutral(model), weights)
        return scaler(weights)

    # `peft_type` of this method in HF peft's adapter_config.json: the one that `to_peft` writes, then others that
    # `from_peft` reads
    peft_types: ClassVar[tuple[str, ...]] = ()

    def merge(self, model: nn.Module) -> None:
        """Folds the adapter into the model's own weights; nothing to do for methods that train only those."""

    def to_peft(self, model: nn.Module) -> PeftAdapter:
        """The adapter in `model` as HF peft would save it."""
        raise _no_exchange(type(self), "HF peft (to=peft)")

    @classmethod
    def from_peft(
        cls, arguments: Mapping[str, Any], adapter: PeftAdapter, model: nn.Module, fused_queries: str
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Returns the method's arguments (those of its YAML, adapted to the file) and the weights to `restore`.

        `model` has no method attached. `fused_queries`: "refuse" or "keep" a vector that also scales queries, which
        the method itself does not scale.
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
    """Folds the adapter in and makes the model a plain one of its class; raises UserError if that is impossible."""
    check_unshared(type(method).__name__, model)
    method.merge(model)
    check_plain(type(method).__name__, model)


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _allocate(model: nn.Module) -> None:
    """Allocates memory on the CPU for trainable parameters on device "meta"."""
    for name, parameter in adapter_parameters(model).items():
        if parameter.is_meta:
            layer, _, last = name.rpartition(".")
            setattr(model.get_submodule(layer), last, nn.Parameter(torch.empty_like(parameter, device="cpu")))


def _without_untrained(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without layer norms outside the text model: earlier versions saved them, though no text had changed them."""
    if set(weights) <= set(adapter_parameters(model)):
        return dict(weights)
    norms = {
        f"{name}.{own}": parameter.shape
        for name in outside_text(model)
        if is_layer_norm(module := model.get_submodule(name))
        for own, parameter in module.named_parameters(recurse=False)
    }
    return {name: tensor for name, tensor in weights.items() if norms.get(name) != tensor.shape}


def check_fit(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Raises UserError, listing the differences, if names or shapes differ."""
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
