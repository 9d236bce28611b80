"""Trains several adapters at once: one forward and backward pass over a batch with the examples of all of them.

Each has its own parameters, optimiser, schedule, clipping, data order and loss, as if it were trained alone; the
frozen model is shared; each example is scaled by its own adapter's vectors (`tfew.methods.task_bank`). Gradients of
one adapter do not reach another, so results equal those of separate runs up to rounding, except that dropout is drawn
for the batch as a whole.
"""

import io
import itertools
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from tfew.data.loader import PromptDataset, StepSampler
from tfew.data.tokenization import TokenizedPrompt, collate
from tfew.devices.memory import peak_memory_bytes
from tfew.errors import UserError
from tfew.files.atomic import write_bytes_atomically
from tfew.files.checksums import check_checkpoint
from tfew.kernels.dropout import fast_dropout
from tfew.methods.task_bank import Scaler, put_scalings
from tfew.runs.checkpoints import CHECKPOINTS, JOINT_PREFIX
from tfew.runs.metrics_file import MetricsFile
from tfew.runs.run_folder import METRICS_FILE, SPEED_FILE
from tfew.scoring.losses import Counts, LossConfig, counts, loss_terms
from tfew.scoring.memory_budget import OUT_OF_MEMORY, saved_tensors_within, too_little
from tfew.scoring.score import token_logprob
from tfew.training.module import SPEED, check_finite, step_seed
from tfew.training.optim import clip_gradients
from tfew.training.random_state import own_random_state

log = logging.getLogger(__name__)


@dataclass
class Member:
    """The state of one of the runs; `weights` are those that its method stores, on the model's device."""

    folder: Path
    weights: dict[str, nn.Parameter]
    scaler: Scaler
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR
    prompts: PromptDataset
    order: StepSampler
    loss: LossConfig
    loss_mean: str
    clip_norm: float
    seed: int
    micro_batch_size: int | None = None
    trained_together: int = 1  # runs in the shared batches; if resumed with fewer, as many as there were before
    tokens_seen: int = 0

    @property
    def steps(self) -> int:
        return self.order.steps

    def batches(self, start: int) -> Iterator[list[TokenizedPrompt]]:
        self.order.start = start
        batches = map(self.prompts.__getitems__, self.order)
        if self.loss.compares_choices:
            return batches
        return ([_right_choice(item) for item in batch] for batch in batches)  # the loss uses no other choice

    def state(self) -> dict[str, Any]:
        return {
            "weights": {name: weight.detach().cpu() for name, weight in self.weights.items()},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "tokens_seen": self.tokens_seen,
            "trained_together": self.trained_together,
        }

    def restore(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.tokens_seen = state["tokens_seen"]
        self.trained_together = max(self.trained_together, state.get("trained_together", 1))  # new in 0.2


@dataclass(frozen=True)
class Part:
    """Examples of one member that are computed together: one of `of_step` such parts of its step."""

    member: Member
    items: list[TokenizedPrompt]
    step_counts: Counts
    of_step: int


class JointTraining:
    """`autocast` returns the context for forward passes; the model has no method attached."""

    def __init__(
        self,
        model: nn.Module,
        members: Sequence[Member],
        engine: str,
        pad_id: int,
        memory_bytes: float | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.model, self.members = model, members
        self.engine, self.pad_id, self.memory_bytes, self.autocast = engine, pad_id, memory_bytes, autocast
        self.device = next(model.parameters()).device
        self.most: int | None = None  # examples of a member at a time, if memory does not suffice for more

    def run(self, start: int, checkpoint_every: int) -> None:
        """Trains from step `start` to each member's end; every step is logged to the member's `metrics.csv`."""
        with own_random_state(self.device):
            self._run(start, checkpoint_every)

    def _run(self, start: int, checkpoint_every: int) -> None:
        self.model.train()
        files = [
            [MetricsFile(member.folder / name, start) for name in (METRICS_FILE, SPEED_FILE)] for member in self.members
        ]
        batches = [member.batches(start) for member in self.members]
        steps = range(start, max(member.steps for member in self.members))
        try:
            for step in tqdm(steps, desc=f"Training {len(self.members)} adapters", unit="step", mininterval=0.5):
                started, seen = time.monotonic(), [member.tokens_seen for member in self.members]
                active = [n for n, member in enumerate(self.members) if step < member.steps]
                values = self._step(step, [(self.members[n], next(batches[n])) for n in active])
                for n, of_member in zip(active, values, strict=True):
                    tokens_per_second = (self.members[n].tokens_seen - seen[n]) / (time.monotonic() - started)
                    speed = dict(zip(SPEED, (tokens_per_second, float(peak_memory_bytes())), strict=True))
                    for file, row in zip(files[n], (of_member, speed), strict=True):
                        file.write(step + 1, row)
                # also after the last step: a run that is killed when others are finished resumes with the same vectors
                if (step + 1) % checkpoint_every == 0 or step + 1 == steps.stop:
                    save_together(self.members, step + 1)
        finally:
            for file in itertools.chain.from_iterable(files):
                file.close()

    def _step(self, step: int, batches: Sequence[tuple[Member, list[TokenizedPrompt]]]) -> list[dict[str, float]]:
        """One optimiser step of each member, like `FewShotModule.training_step` for one."""
        of_members = self._gradients(step, batches)
        values: list[dict[str, float]] = []
        for (member, items), terms in zip(batches, of_members, strict=True):
            grad_norm = clip_gradients(member.weights.values(), member.clip_norm)
            of_member = {name: value.item() for name, value in {**terms, "grad_norm": grad_norm}.items()}
            try:
                check_finite(of_member, step)
            except UserError as error:
                raise UserError(f"{member.folder}: {error}") from error
            member.optimizer.step()
            member.schedule.step()
            member.tokens_seen += sum(item.length + sum(map(len, item.choice_ids)) for item in items)
            values.append({**of_member, "lr": float(member.schedule.get_last_lr()[0])})
        return values

    def _gradients(self, step: int, batches: Sequence[tuple[Member, list[TokenizedPrompt]]]) -> list[dict[str, Tensor]]:
        """Each member's gradients and loss terms; retried in smaller pieces if memory does not suffice."""
        while True:
            torch.manual_seed(step_seed(batches[0][0].seed, step))
            for member, _ in batches:
                member.optimizer.zero_grad()
            try:
                with fast_dropout(next(self.model.parameters()).device):
                    return self._backward(batches)
            except OUT_OF_MEMORY as error:
                self._halve(batches, error)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _backward(self, batches: Sequence[tuple[Member, list[TokenizedPrompt]]]) -> list[dict[str, Tensor]]:
        totals: list[dict[str, Tensor]] = [{} for _ in batches]
        step_counts = [counts(collate(items, self.pad_id)) for _, items in batches]
        pieces = [self._pieces(member, items) for member, items in batches]
        for of_members in itertools.zip_longest(*pieces):
            present = [n for n, items in enumerate(of_members) if items is not None]
            parts = [Part(batches[n][0], of_members[n], step_counts[n], len(pieces[n])) for n in present]
            with saved_tensors_within(self.memory_bytes, self.model), self.autocast():
                of_parts = self._terms(parts)
            torch.stack([terms["loss"] for terms in of_parts]).sum().backward()
            for n, terms in zip(present, of_parts, strict=True):
                for name, value in terms.items():
                    totals[n][name] = totals[n].get(name, 0) + value.detach()
        return totals

    def _terms(self, parts: Sequence[Part]) -> list[dict[str, Tensor]]:
        """Loss terms of each member's examples, as shares of its step; all are scored in one batch."""
        put_scalings(self.model, [part.member.scaler(part.member.weights) for part in parts])
        sizes = [len(part.items) for part in parts]
        batch = collate([item for part in parts for item in part.items], self.pad_id)
        task_id = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        batch = replace(batch, task_id=task_id).to(self.device)
        logprob_BCT = token_logprob(self.model, batch, self.engine)
        found, start = [], 0
        for part, size in zip(parts, sizes, strict=True):
            member, rows = part.member, slice(start, start + size)
            own = batch.part(rows)
            by_micro_batch = member.loss_mean == "micro_batch"
            total, share = (counts(own), 1 / part.of_step) if by_micro_batch else (part.step_counts, 1.0)
            terms = loss_terms(logprob_BCT[rows], own, member.loss, total)
            found.append({name: value * share for name, value in terms.items()})
            start += size
        return found

    def _pieces(self, member: Member, items: list[TokenizedPrompt]) -> list[list[TokenizedPrompt]]:
        size = min(member.micro_batch_size or len(items), self.most or len(items))
        return [items[start : start + size] for start in range(0, len(items), size)]

    def _halve(self, batches: Sequence[tuple[Member, list[TokenizedPrompt]]], error: RuntimeError) -> None:
        """Halves the pieces for the rest of the run; logged each time."""
        most = max(len(self._pieces(member, items)[0]) for member, items in batches)
        if most == 1:
            raise too_little(self.memory_bytes, f"one example of each of {len(batches)} runs in training") from error
        if any(member.loss_mean == "micro_batch" for member, _ in batches):
            raise UserError(
                f"There is too little memory for {most} examples of each run at a time, and with"
                " fidelity.loss_mean=micro_batch the loss depends on their number: set micro_batch_size= yourself."
            ) from error
        self.most = (most + 1) // 2
        log.info(f"Note: memory does not suffice for {most} examples of each run at a time; from here on {self.most}.")


def _right_choice(item: TokenizedPrompt) -> TokenizedPrompt:
    if item.labels:  # the scored tokens depend on all choices of a question
        return item
    return replace(item, choice_ids=[item.choice_ids[item.label]], label=0)


def save_together(members: Iterable[Member], step: int) -> None:
    """Saves each member's state in its own folder; deletes earlier checkpoints once all are written."""
    members = list(members)
    for member in members:
        data = io.BytesIO()
        torch.save(member.state(), data)
        write_bytes_atomically(_state_path(member, step), data.getvalue())
    for member in members:
        for old in _saved_steps(member) - {step}:
            _state_path(member, old).unlink()


def restore_together(members: Sequence[Member]) -> int:
    """Restores all members to the last step at which all were saved, and returns it; 0 if there is none."""
    step = max(set.intersection(*map(_saved_steps, members)), default=0)
    if step:
        for member in members:
            check_checkpoint(_state_path(member, step))
            member.restore(torch.load(_state_path(member, step), map_location="cpu", weights_only=True))
    return step


def _state_path(member: Member, step: int) -> Path:
    return member.folder / CHECKPOINTS / f"{JOINT_PREFIX}{step}.pt"


def _saved_steps(member: Member) -> set[int]:
    paths = (member.folder / CHECKPOINTS).glob(f"{JOINT_PREFIX}*.pt")
    return {int(match[1]) for path in paths if (match := re.fullmatch(rf"{JOINT_PREFIX}(\d+)\.pt", path.name))}
