"""Training: one call of `training_step` is one optimiser step, exactly as in the official recipe.

On several devices each process makes the gradients of its share of the step's examples, with the whole step's counts as
denominators; terms and gradients are then added up, once a step. What a process does for its share (micro-batches, a
second try in smaller pieces) is so its own affair, unless the weights are shared among them: `equal_passes`.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from tfew.devices.distributed import (
    all_gather_integers,
    all_reduce,
    all_reduce_gradients,
    broadcast_parameters,
    rank,
    world_size,
)
from tfew.errors import UserError
from tfew.methods.base import adapter_parameters
from tfew.schema import Batch
from tfew.scoring.losses import Counts, LossWeights, counts, loss_terms
from tfew.scoring.memory import OUT_OF_MEMORY, saved_tensors_within, too_little
from tfew.scoring.score import token_logprob
from tfew.training.optim import clip_gradients, linear_decay_with_warmup

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """What an optimiser step consists of over all processes: its counts, tokens and micro-batches.

    `most` is the largest number of micro-batches that one of them has.
    """

    counts: Counts
    tokens: int
    micro_batches: int
    most: int


class FewShotModule(pl.LightningModule):
    """Trains what the method left trainable. Micro-batches share the whole step's token counts.

    `loss_mean="micro_batch"` is the official code's way instead: each micro-batch is a mean of its own, and these
    means are averaged. With `equal_passes` all processes go through the model equally often, since they do it together.
    """

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        weights: LossWeights,
        steps: int,
        warmup_ratio: float,
        clip_norm: float,
        seed: int,
        micro_batch_size: int | None = None,
        unlikely_epsilon: float = 0.01,
        loss_mean: str = "step",
        engine: str = "fast",
        memory_bytes: float | None = None,
        equal_passes: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold the adapter alone
        self.model = model
        self.make_optimizer = make_optimizer
        self.weights = weights
        self.steps, self.warmup_ratio, self.clip_norm, self.seed = steps, warmup_ratio, clip_norm, seed
        self.micro_batch_size = micro_batch_size
        self.memory_bytes = memory_bytes
        self.parts = 1  # that an example's choices are computed in
        self._tried = 0  # places of tokens in the largest part that memory was found to suffice for
        self.unlikely_epsilon = unlikely_epsilon
        self.loss_mean = loss_mean
        self.engine = engine
        self.equal_passes = equal_passes
        self.tokens_seen = 0  # input tokens and tokens of all choices: what the FLOPs formula counts

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self._trained())
        return [optimizer], [linear_decay_with_warmup(optimizer, self.steps, self.warmup_ratio)]

    def on_train_start(self) -> None:
        broadcast_parameters(self._trained())

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        step = self.global_step
        torch.manual_seed(step_seed(self.seed, step))  # dropout is a function of (seed, step): resume is exact
        if not (self.weights.ul or self.weights.ln):
            batch = batch.right_choices()  # no other choice has a part in the loss
        optimizer: Any = self.optimizers()
        whole = self._whole_step(batch)
        terms = self._all_reduced(self._gradients(batch, whole, optimizer))
        values = {name: value.item() for name, value in terms.items()}
        values["grad_norm"] = self._move(values, step, optimizer)
        scheduler: Any = self.lr_schedulers()
        scheduler.step()
        self.tokens_seen += whole.tokens
        values["lr"] = scheduler.get_last_lr()[0]
        for name, value in values.items():
            self.log(name, value, prog_bar=name.endswith("loss"), on_step=True, batch_size=len(batch))

    def _whole_step(self, batch: Batch) -> Step:
        own = counts(batch)
        tokens = int(batch.input_mask.sum() + batch.choice_mask.sum())
        micro_batches = -(-len(batch) // (self.micro_batch_size or len(batch)))
        numbers = (own.right_tokens, own.wrong_tokens, own.examples, tokens, micro_batches)
        columns = list(zip(*all_gather_integers(numbers, batch.label.device), strict=True))
        right, wrong, examples, tokens, in_all = map(sum, columns)
        return Step(Counts(right, wrong, examples), tokens, in_all, most=max(columns[-1]))

    def _move(self, values: dict[str, float], step: int, optimizer: Any) -> float:
        """Clips the gradients and takes the optimiser's step, if all is finite; returns the norm before clipping."""
        grad_norm = clip_gradients(self._trained(), self.clip_norm).item()
        check_finite({**values, "grad_norm": grad_norm}, step)
        optimizer.step()
        return grad_norm

    def _all_reduced(self, terms: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Terms and gradients of the whole step, of which each process has its share."""
        if world_size() == 1:
            return terms
        values = torch.stack(list(terms.values()))
        all_reduce(values)
        all_reduce_gradients(self._trained())
        return dict(zip(terms, values, strict=True))

    def _gradients(self, batch: Batch, whole: Step, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
        """This process's share of gradients and loss terms; where memory does not suffice, again in smaller pieces."""
        while True:
            optimizer.zero_grad()
            try:
                return self._backward(batch, whole)
            except OUT_OF_MEMORY as error:
                self._halve(batch, error)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            torch.manual_seed(step_seed(self.seed, self.global_step))

    def _halve(self, batch: Batch, error: RuntimeError) -> None:
        """Halves the micro-batch, or splits the choices further; for the rest of the run, and said each time."""
        examples = min(self.micro_batch_size or len(batch), len(batch))
        choices = int(batch.choice_mask.any(-1).sum(-1).max())
        if self.equal_passes:
            raise UserError(
                f"There is too little memory for {examples} examples at a time, and where devices share the weights one"
                " cannot do with less by itself: set micro_batch_size= below that, or max_tokens=."
            ) from error
        if self.loss_mean == "micro_batch" and examples > 1:
            raise UserError(
                f"There is too little memory for {examples} examples at a time, and with fidelity.loss_mean=micro_batch"
                " the loss depends on their number: set micro_batch_size= yourself."
            ) from error
        if examples == 1 and self.parts >= choices:
            raise too_little(self.memory_bytes, "one choice of one example in training") from error
        if examples > 1:
            self.micro_batch_size = (examples + 1) // 2
        else:
            self.parts, self._tried = min(2 * self.parts, choices), 0
        where = "in parts" if self.parts > 1 else "at once"
        log.info(
            f"Note: step {self.global_step} needs more memory than there is"
            f"{'' if self.memory_bytes is None else f' in memory_gb={self.memory_bytes / 1e9:g}'}; from here on"
            f" {self.micro_batch_size or examples} examples are computed at a time, their choices {where}."
        )

    def _backward(self, batch: Batch, whole: Step) -> dict[str, torch.Tensor]:
        """Gradients of this process's share of the step, micro-batch by micro-batch; returns its share of the terms."""
        totals: dict[str, torch.Tensor] = {}
        passes = self._passes(batch, whole)
        for number, (micro, counted) in enumerate(passes, start=1):
            total, share = denominators(micro, whole.counts, whole.micro_batches, self.loss_mean)
            share *= counted
            with saved_tensors_within(self.memory_bytes, self.model):
                self._try_largest_part(micro)
            with saved_tensors_within(self.memory_bytes, self.model):
                terms = self.terms(micro, total)
            self._backward_of(terms["loss"] * share, last=number == len(passes))
            for name, value in terms.items():
                totals[name] = totals.get(name, 0) + value.detach() * share
        return totals

    def _passes(self, batch: Batch, whole: Step) -> list[tuple[Batch, bool]]:
        """Micro-batches, and whether they count: one more pass, for the others' sake, does not."""
        micro_batches = batch.split(self.micro_batch_size or len(batch))
        more = whole.most - len(micro_batches) if self.equal_passes else 0
        return [*((micro, True) for micro in micro_batches), *[(micro_batches[-1], False)] * more]

    def _backward_of(self, loss: torch.Tensor, last: bool) -> None:
        """Adds to the gradients; `last`: nothing more is added in this step."""
        self.manual_backward(loss)

    def _try_largest_part(self, batch: Batch) -> None:
        """What is computed again for the backward pass is kept then and not now: here it is, once for each new size."""
        if self.parts == 1 or self.memory_bytes is None:
            return
        part = max(batch.by_choices(self.parts), key=lambda part: _places(part))
        if (size := _places(part) + part.input_ids.numel()) > self._tried:
            token_logprob(self.model, part, self.engine)
            self._tried = size

    def terms(self, batch: Batch, total: Counts) -> dict[str, torch.Tensor]:
        """The loss terms of these examples, as shares of a step with these total counts."""
        logprob = token_logprob(self.model, batch, self.engine, self.parts)
        return loss_terms(logprob, batch, self.weights, total, self.unlikely_epsilon)

    def _trained(self) -> list[nn.Parameter]:
        return list(adapter_parameters(self.model).values())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = {f"model.{name}" for name in adapter_parameters(self.model)}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        checkpoint["tokens_seen"] = self.tokens_seen
        checkpoint["pieces"] = (self.micro_batch_size, self.parts)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.tokens_seen = checkpoint["tokens_seen"]
        self.micro_batch_size, self.parts = checkpoint.get("pieces", (self.micro_batch_size, self.parts))


def _places(part: Batch) -> int:
    """Places of tokens in the choices that are present, padded to the longest."""
    return int(part.choice_mask.any(-1).sum()) * part.choice_ids.shape[2]


def denominators(micro: Batch, step_counts: Counts, micro_batches: int, loss_mean: str) -> tuple[Counts, float]:
    """What a micro-batch's sums are divided by, and its share of the step's loss."""
    return (counts(micro), 1 / micro_batches) if loss_mean == "micro_batch" else (step_counts, 1.0)


def step_seed(seed: int, step: int) -> int:
    """Of the draws of dropout in this step; of several processes each draws its own."""
    words = [seed, step] if world_size() == 1 else [seed, step, rank()]
    return int.from_bytes(hashlib.sha256("/".join(map(str, words)).encode()).digest()[:8], "big") >> 1


def check_finite(values: Mapping[str, float], step: int) -> None:
    """Raises UserError where a loss or a gradient is no number any more."""
    if not all(map(torch.isfinite, map(torch.tensor, values.values()))):
        listing = ", ".join(f"{name} {value}" for name, value in values.items())
        raise UserError(
            f"The loss is not finite at step {step} ({listing}). The run is not finished; try a lower optimizer.lr, or"
            " model.dtype=float32."
        )
