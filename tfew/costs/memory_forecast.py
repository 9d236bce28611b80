"""What a run will take, before anything is loaded: parameters, FLOPs, memory; and whether the device has that memory.

The model is there as a shape alone, and its longest batches go through it in a dry run (`tfew.costs.dry_run`).
"""

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from tfew.costs.dry_run import (
    Counted,
    OptimizerBytes,
    Recipe,
    optimizer_bytes,
    scoring_pass,
    training_step,
    without_numbers,
)
from tfew.costs.lengths import longest_scoring_batch, longest_training_batch
from tfew.data.tokenization import PromptTokenizer
from tfew.devices.distributed import world_size
from tfew.devices.memory import DeviceMemory, memory_of
from tfew.errors import UserError
from tfew.methods.base import Method, adapter_parameters, attach
from tfew.models.blueprint import Blueprint
from tfew.models.build import optimizer_from
from tfew.models.loaded_model import parameter_count
from tfew.ranking.score_methods import prompts_to_score
from tfew.runs.units import format_bytes
from tfew.schema import Batch, Prompt
from tfew.scoring.memory_budget import rough_bytes
from tfew.task import InContext, Task

log = logging.getLogger(__name__)
TRAINING, SCORING = "training", "scoring"
ADVISED_MEMORY = 0.8  # of what is free: allocators round, and kernels take something for themselves


@dataclass(frozen=True)
class Fixed:
    """Bytes that are there from the first step to the last: of the model, of what the method adds to it, of the
    gradients of what is trained and of the optimiser's state; the last two are 0 where nothing is trained."""

    weight_bytes: int
    adapter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.adapter_bytes + self.gradient_bytes + self.optimizer_bytes


@dataclass(frozen=True)
class Plan:
    """The model as a shape with its method attached, without numbers; `parameters` are the bare model's."""

    blueprint: Blueprint
    parameters: int
    model: nn.Module
    method: Method | None
    fixed: Fixed
    optimizer: OptimizerBytes

    @property
    def device(self) -> torch.device:
        return self.blueprint.execution.device

    @property
    def device_name(self) -> str:
        return "GPU" if self.device.type == "cuda" else "CPU"

    @property
    def recipe(self) -> Recipe:
        run = self.blueprint
        return Recipe(
            run.loss,
            run.execution.engine,
            run.training.micro_batch_size,
            run.execution.uses_autocast,
        )


def make_plan(blueprint: Blueprint, trains: bool = True) -> Plan:
    """Raises UserError for what the method refuses to be attached to; `blueprint.method` is left as it is."""
    execution = blueprint.execution
    model = blueprint.shape().to(execution.dtype).requires_grad_(False)
    parameters, weight_bytes = parameter_count(model), _bytes(model)
    method = copy.deepcopy(blueprint.method)
    if method is not None:
        with torch.random.fork_rng(devices=[]):
            attach(method, model)
    adapter_bytes = _bytes(model) - weight_bytes
    model = without_numbers(model, execution.device)
    trained = list(adapter_parameters(model).values()) if trains else []
    optimizer = _optimizer_bytes(blueprint.optimizer, trained)
    gradient_bytes = sum(parameter.nbytes for parameter in trained)
    fixed = Fixed(weight_bytes, adapter_bytes, gradient_bytes, optimizer.state)
    return Plan(blueprint, parameters, model, method, fixed, optimizer)


def _optimizer_bytes(description: Mapping[str, Any], trained: list[nn.Parameter]) -> OptimizerBytes:
    """Adafactor's look at a parameter's size is left out: it needs numbers and keeps nothing."""
    without_size = {**description, **({"scale_parameter": False} if "scale_parameter" in description else {})}
    try:
        return optimizer_bytes(trained, partial(optimizer_from, without_size))
    except UserError:
        raise
    except Exception as error:  # an optimiser of the user's own may need numbers
        log.info(f"Note: what {description['_target_']} keeps cannot be foreseen and is not counted: {error}")
        return OptimizerBytes(0, 0)


def dry_runs(plan: Plan, batches: Mapping[str, Batch]) -> dict[str, Counted]:
    """Of a batch for "training", one for "scoring", or both."""
    counted = {}
    if TRAINING in batches:
        batch = batches[TRAINING].to(plan.device)
        counted[TRAINING] = training_step(plan.model, batch, plan.optimizer, plan.recipe)
    if SCORING in batches:
        counted[SCORING] = scoring_pass(plan.model, batches[SCORING].to(plan.device), plan.recipe)
    return counted


def longest_batches(
    blueprint: Blueprint,
    prompt_tokenizer: PromptTokenizer,
    training: Task | None,
    evaluation: Task | None,
    context: InContext | None = None,
) -> dict[str, Batch]:
    batches = {}
    if training is not None:
        batch_size = -(-blueprint.training.batch_size // world_size())
        batches[TRAINING] = longest_training_batch(training.prompts, prompt_tokenizer, batch_size)
    if evaluation is not None:
        options = blueprint.evaluation
        prompts = [
            query
            for row in evaluation.prompts
            for prompt in row
            for query in prompts_to_score(_in_longest_context(prompt, context, options.icl.mode), options.score.method)
        ]
        batches[SCORING] = longest_scoring_batch(prompts, prompt_tokenizer, options.eval_batch_size)
    return batches


def _in_longest_context(prompt: Prompt, context: InContext | None, mode: str) -> Prompt:
    """Behind all shots, or in an ensemble behind the longest: no other of its contexts takes more."""
    if context is None:
        return prompt
    shots = context.shots[prompt.template]
    longest = max(shots, key=lambda shot: len(shot[0]) + len(shot[1]))
    return replace(prompt, shots=(longest,) if mode == "ensemble" else shots)


def check_memory(
    blueprint: Blueprint,
    prompt_tokenizer: PromptTokenizer,
    training: Task | None,
    evaluation: Task | None,
    context: InContext | None = None,
) -> None:
    """Raises UserError where the device cannot hold what stays there all the time, whatever else is done.

    Where the longest batch may not fit beside it, says what to do about that. Small runs, which most are, are not
    looked at more closely than is needed to see that they are small. Where devices share the weights, they are not
    looked at: what each then has in memory is not foreseen.
    """
    if blueprint.execution.is_sharded:
        return
    try:
        plan = make_plan(blueprint, trains=training is not None)
        memory = memory_of(plan.device)
        if reason := too_large(plan, memory):
            raise UserError(reason)
        batches = longest_batches(blueprint, prompt_tokenizer, training, evaluation, context)
        left_bytes = memory.free_bytes - plan.fixed.total_bytes
        engine = blueprint.execution.engine
        if all(rough_bytes(plan.model, batch, engine) < left_bytes for batch in batches.values()):
            return
        counted = dry_runs(plan, batches) if left_bytes > 0 else {}  # else it is known to be too much already
    except UserError:
        raise
    except Exception as error:  # whatever needs numbers that a shape has not: no reason not to run it
        log.info(f"Note: what memory this takes cannot be foreseen ({type(error).__name__}: {_first_line(error)}).")
        return
    if advice := advise(plan, memory, counted):
        log.info(f"Note: {advice}")


def too_large(plan: Plan, memory: DeviceMemory) -> str | None:
    """Why it can never fit: weights, adapter, gradients and optimiser state are more than the device has in all."""
    fixed = plan.fixed
    if fixed.total_bytes <= memory.total_bytes:
        return None
    parts = {"weights": fixed.weight_bytes, "adapter": fixed.adapter_bytes, "gradients": fixed.gradient_bytes,
             "optimiser state": fixed.optimizer_bytes}  # fmt: skip
    listing = ", ".join(f"{format_bytes(size)} of {name}" for name, size in parts.items() if size)
    return (
        f"{plan.blueprint.model_name} does not fit this {plan.device_name}: {listing}, and it has"
        f" {format_bytes(memory.total_bytes)} in all. {_alternatives(plan, memory.total_bytes)}"
    )


def advise(plan: Plan, memory: DeviceMemory, counted: Mapping[str, Counted]) -> str | None:
    """What to change where all that is there, or the longest batch beside it, may not fit; None where all fits."""
    if reason := too_large(plan, memory):
        return reason
    run, left_bytes = plan.blueprint, memory.free_bytes - plan.fixed.total_bytes
    needs = {what: beside_fixed(count, run.execution.memory_bytes) for what, count in counted.items()}
    what, need = max(needs.items(), key=lambda item: item[1], default=("", 0.0))
    if need <= left_bytes:
        return None
    longest = f" and {format_bytes(need)} for the longest batch of {what}" if need else ""
    start = (
        f"{run.model_name} is expected to take {format_bytes(plan.fixed.total_bytes)} all the time{longest}, and this"
        f" {plan.device_name} has {format_bytes(memory.free_bytes)} free."
    )
    usable = ADVISED_MEMORY * left_bytes
    too_many = {what: need for what, need in needs.items() if need > left_bytes}
    ways = [*_memory_budget(run, counted, needs, usable), *_smaller_batches(run, too_many, usable)]
    if not ways:
        return f"{start} {_alternatives(plan, memory.free_bytes)}"
    return f"{start} Set {' or '.join(ways)}, or use a smaller model=."


def _memory_budget(
    run: Blueprint, counted: Mapping[str, Counted], needs: Mapping[str, float], usable: float
) -> list[str]:
    """`memory_gb=` bounds what training keeps; what comes on top of that has to fit as well."""
    on_top = max(0, needs[TRAINING] - counted[TRAINING].kept_bytes) if TRAINING in needs else 0
    budget = usable - on_top
    if budget <= 0 or run.execution.memory_bytes is not None:
        return []
    return [f"memory_gb={budget / 1e9:.2g}, which computes in pieces what takes more,"]


def _smaller_batches(run: Blueprint, needs: Mapping[str, float], usable: float) -> list[str]:
    """In place of those that need too much; none where even one prompt does."""
    settings = {
        TRAINING: ("micro_batch_size", run.training.micro_batch_size or run.training.batch_size),
        SCORING: ("eval_batch_size", run.evaluation.eval_batch_size),
    }
    sizes = {settings[what][0]: int(settings[what][1] * usable / need) for what, need in needs.items()}
    if not sizes or min(sizes.values()) < 1:
        return []
    return [" and ".join(f"{name}={size}" for name, size in sizes.items())]


def beside_fixed(counted: Counted, limit_bytes: float | None) -> float:
    """The most that comes and goes during a step; `memory_gb=` bounds what of it is kept, or all of it in scoring."""
    passing = counted.peak_bytes - counted.gradient_bytes - counted.optimizer_bytes
    if limit_bytes is None:
        return passing
    return max(0, passing - max(0, (counted.kept_bytes or passing) - limit_bytes))


def _alternatives(plan: Plan, memory_bytes: float) -> str:
    fixed, trains_base = plan.fixed, plan.method is not None and plan.method.trains_base
    ways = ["a smaller model="]
    is_float32 = plan.blueprint.execution.dtype == torch.float32
    if is_float32 and not trains_base and fixed.total_bytes - fixed.weight_bytes / 2 <= memory_bytes:
        ways.append("model.dtype=bfloat16")
    if fixed.gradient_bytes + fixed.optimizer_bytes > fixed.weight_bytes / 2:
        ways.append("a method= that trains less")
    return f"Use {', '.join(ways[:-1])}{' or ' if len(ways) > 1 else ''}{ways[-1]}."


def _bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]
