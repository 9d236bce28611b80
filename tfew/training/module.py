"""The training step: one call of `training_step` is one optimiser step, exactly as in the official recipe.

On several devices each process computes the gradients of its share of the step's examples, with the whole step's counts
as denominators; terms and gradients are then summed over processes, once per step. So processes may split their shares
into micro-batches, and retry with smaller ones, independently, unless devices shard the weights: `equal_passes`.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from tfew.devices.distributed import (
    all_gather_integers,
    all_reduce,
    all_reduce_gradients,
    broadcast_parameters,
    rank,
    world_size,
)
from tfew.devices.memory import peak_memory_bytes
from tfew.errors import UserError
from tfew.kernels.dropout import fast_dropout
from tfew.methods.base import adapter_parameters
from tfew.schema import Batch
from tfew.scoring.losses import Counts, LossConfig, counts, loss_terms
from tfew.scoring.score import token_logprob
from tfew.settings import TrainingSettings
from tfew.training.micro_batches import MicroBatches
from tfew.training.optim import clip_gradients, linear_decay_with_warmup

SPEED = ("tokens_per_second", "peak_memory_bytes")  # logged values that differ between identical runs


@dataclass(frozen=True)
class StepTotals:
    """Counts, tokens and micro-batches of an optimiser step over all processes.

    `most_micro_batches` is the largest number that one process has.
    """

    counts: Counts
    tokens: int
    micro_batches: int
    most_micro_batches: int


class FewShotModule(pl.LightningModule):
    """Trains the parameters that the method left trainable. Micro-batches share the whole step's token counts.

    `loss_mean="micro_batch"` follows the official code instead: the loss is a mean within each micro-batch, and these
    means are averaged. With `equal_passes` all processes run the same number of forward passes, in lockstep.
    """

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        loss: LossConfig,
        training: TrainingSettings,
        loss_mean: str = "step",
        equal_passes: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold the adapter alone
        self.model, self.make_optimizer, self.loss = model, make_optimizer, loss
        self.training_settings, self.loss_mean, self.equal_passes = training, loss_mean, equal_passes
        self.micro_batches = MicroBatches(
            training.micro_batch_size, training.memory_bytes, training.engine, loss_mean, equal_passes
        )
        self._step_started = time.monotonic()
        self.tokens_seen = 0  # input tokens and tokens of all choices, as in the FLOPs formula

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.trained_parameters())
        return [optimizer], [
            linear_decay_with_warmup(optimizer, self.training_settings.steps, self.training_settings.warmup_ratio)
        ]

    def trained_parameters(self) -> list[nn.Parameter]:
        return list(adapter_parameters(self.model).values())

    def on_train_start(self) -> None:
        broadcast_parameters(self.trained_parameters())

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self._step_started = time.monotonic()

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()
        if not self.loss.compares_choices:
            batch = batch.right_choices()
        totals = self.step_totals(batch)
        seed = step_seed(self.training_settings.seed, self.global_step)  # for dropout: a resumed run draws the same
        for attempt in self.micro_batches.attempts():
            with attempt.halved_if_out_of_memory(batch, self.global_step), fast_dropout(batch.label.device):
                torch.manual_seed(seed)
                optimizer.zero_grad()
                sums, terms = dict[str, Tensor](), dict[str, Tensor]()  # frees the tensors of a failed attempt
                for micro_batch, weight, is_last in self.passes(batch, totals):
                    terms = self.loss_terms(micro_batch, totals.counts)
                    self.backward_pass(terms["loss"] * weight, is_last)
                    sums = {name: sums.get(name, 0) + weight * term.detach() for name, term in terms.items()}
        values = {name: term.item() for name, term in self.all_reduce_step(sums).items()}
        values["grad_norm"] = self.clip_and_step(optimizer, values)
        scheduler.step()
        self.tokens_seen += totals.tokens
        self.log_step({**values, "lr": scheduler.get_last_lr()[0]}, totals.tokens)

    def step_totals(self, batch: Batch) -> StepTotals:
        own = counts(batch)
        tokens = int(batch.input_mask.sum() + batch.choice_mask.sum())
        numbers = (own.right_tokens, own.wrong_tokens, own.examples, tokens, self.micro_batches.count(batch))
        columns = list(zip(*all_gather_integers(numbers, batch.label.device), strict=True))
        right, wrong, examples, tokens, micro_batches = map(sum, columns)
        return StepTotals(Counts(right, wrong, examples), tokens, micro_batches, max(columns[-1]))

    def passes(self, batch: Batch, totals: StepTotals) -> Iterator[tuple[Batch, float, bool]]:
        """Each micro-batch, the weight of its loss, and whether it is the last.

        With `equal_passes` the last is repeated with weight 0 until every process has run the same number of passes.
        """
        micro_batches = self.micro_batches.split(batch)
        weight = 1 / totals.micro_batches if self.loss_mean == "micro_batch" else 1.0
        number = totals.most_micro_batches if self.equal_passes else len(micro_batches)
        for i in range(number):
            counted = i < len(micro_batches)
            yield micro_batches[i] if counted else micro_batches[-1], weight if counted else 0.0, i == number - 1

    def loss_terms(self, micro_batch: Batch, step_counts: Counts) -> dict[str, Tensor]:
        """The loss terms of these examples, as shares of a step with these counts."""
        total = counts(micro_batch) if self.loss_mean == "micro_batch" else step_counts
        with self.micro_batches.within_budget(self.model, micro_batch):
            engine, chunks = self.training_settings.engine, self.micro_batches.choice_chunks
            logprob_BCT = token_logprob(self.model, micro_batch, engine, chunks)
            return loss_terms(logprob_BCT, micro_batch, self.loss, total)

    def backward_pass(self, loss: Tensor, is_last: bool) -> None:
        """Accumulates gradients; `is_last`: the last pass of this step."""
        self.manual_backward(loss)

    def all_reduce_step(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sums terms and gradients over processes."""
        if world_size() == 1:
            return terms
        values = torch.stack(list(terms.values()))
        all_reduce(values)
        all_reduce_gradients(self.trained_parameters())
        return dict(zip(terms, values, strict=True))

    def clip_and_step(self, optimizer: Any, values: dict[str, float]) -> float:
        """Clips the gradients and takes the optimiser's step if all are finite; returns the norm before clipping."""
        grad_norm = clip_gradients(self.trained_parameters(), self.training_settings.clip_norm).item()
        check_finite({**values, "grad_norm": grad_norm}, self.global_step)
        optimizer.step()
        return grad_norm

    def log_step(self, values: Mapping[str, float], tokens: int) -> None:
        seconds = time.monotonic() - self._step_started
        speed = dict(zip(SPEED, (tokens / seconds, float(peak_memory_bytes())), strict=True))
        for name, value in {**values, **speed}.items():
            self.log(name, value, prog_bar=name.endswith("loss"), on_step=True, batch_size=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = {f"model.{name}" for name in adapter_parameters(self.model)}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        checkpoint["tokens_seen"] = self.tokens_seen
        checkpoint["pieces"] = (self.micro_batches.size, self.micro_batches.choice_chunks)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.tokens_seen = checkpoint["tokens_seen"]
        if "pieces" in checkpoint:
            self.micro_batches.size, self.micro_batches.choice_chunks = checkpoint["pieces"]


def step_seed(seed: int, step: int) -> int:
    """The seed of dropout in this step; each of several processes draws its own."""
    words = [seed, step] if world_size() == 1 else [seed, step, rank()]
    return int.from_bytes(hashlib.sha256("/".join(map(str, words)).encode()).digest()[:8], "big") >> 1


def check_finite(values: Mapping[str, float], step: int) -> None:
    """Raises UserError if a loss or a gradient is NaN or infinite."""
    if not all(map(torch.isfinite, map(torch.tensor, values.values()))):
        listing = ", ".join(f"{name} {value}" for name, value in values.items())
        raise UserError(
            f"The loss is not finite at step {step} ({listing}). The run is not finished; try a lower optimizer.lr, or"
            " model.dtype=float32."
        )
