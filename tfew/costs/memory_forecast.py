"""Forecast of a run's parameters, FLOPs and memory before anything is loaded, and whether the device has enough.

The model has shapes only, and its longest batches pass through it in a dry run (`tfew.costs.dry_run`).
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
from tfew.models.loaded_model import parameter_count
from tfew.models.optimizer_builder import optimizer_from
from tfew.models.quantization import saved_bytes
from tfew.ranking.score_methods import prompts_to_score
from tfew.runs.units import format_bytes
from tfew.schema import Batch, Prompt
from tfew.scoring.memory_budget import rough_bytes
from tfew.task import InContext, Task

log = logging.getLogger(__name__)
TRAINING, SCORING = "training", "scoring"
ADVISED_MEMORY = 0.8  # of free memory: allocators round up, and kernels need temporary memory


@dataclass(frozen=True)
class Fixed:
    """Bytes that are in use from the first step to the last: of the model, of the method's parameters, of gradients
    and of the optimiser's state; the last two are 0 without training."""

    weight_bytes: int
    adapter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.adapter_bytes + self.gradient_bytes + self.optimizer_bytes


@dataclass(frozen=True)
class Plan:
    """The model as shapes with its method attached; `parameters` is the bare model's count."""

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
    """Raises UserError if the method cannot be attached to the model; `blueprint.method` is not changed."""
    execution = blueprint.execution
    model = blueprint.shape().to(execution.dtype).requires_grad_(False)
    parameters, weight_bytes = parameter_count(model), _bytes(model)
    saved = saved_bytes(model, execution.quantization) if execution.quantization else 0
    method = copy.deepcopy(blueprint.method)
    if method is not None:
        with torch.random.fork_rng(devices=[]):
            attach(method, model)
    adapter_bytes = _bytes(model) - weight_bytes
    weight_bytes -= saved
    model = without_numbers(model, execution.device)
    trained = list(adapter_parameters(model).values()) if trains else []
    optimizer = _optimizer_bytes(blueprint.optimizer, trained)
    gradient_bytes = sum(parameter.nbytes for parameter in trained)
    fixed = Fixed(weight_bytes, adapter_bytes, gradient_bytes, optimizer.state)
    return Plan(blueprint, parameters, model, method, fixed, optimizer)


def _optimizer_bytes(description: Mapping[str, Any], trained: list[nn.Parameter]) -> OptimizerBytes:
    """Adafactor's scaling by a parameter's size is left out: it needs values and keeps no state."""
    without_size = {**description, **({"scale_parameter": False} if "scale_parameter" in description else {})}
    try:
        return optimizer_bytes(trained, partial(optimizer_from, without_size))
    except UserError:
        raise
    except Exception as error:  # a user's own optimiser may need values
        log.info(f"Note: the state of {description['_target_']} cannot be forecast and is not counted: {error}")
        return OptimizerBytes(0, 0)


def dry_runs(plan: Plan, batches: Mapping[str, Batch]) -> dict[str, Counted]:
    """Dry runs of a batch for "training", one for "scoring", or both."""
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
        batches[TRAINING] = longest_training_batch(
            training.prompts, prompt_tokenizer, batch_size, blueprint.loss.compares_choices
        )
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
    """The prompt after all shots, or in an ensemble after the longest shot, which is its largest context."""
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
    """Raises UserError if the device cannot hold the memory that is in use all the time.

    If the longest batch may not fit beside it, logs advice. Small runs, as most are, are recognised by a rough bound
    and not examined further. Runs with sharded weights are not examined: the memory of each device cannot be forecast.
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
        counted = dry_runs(plan, batches) if left_bytes > 0 else {}  # else it is already known to be too much
    except UserError:
        raise
    except Exception as error:  # code that needs values fails on shapes: no reason not to run it
        log.info(f"Note: the memory of this run cannot be forecast ({type(error).__name__}: {_first_line(error)}).")
        return
    if advice := advise(plan, memory, counted):
        log.info(f"Note: {advice}")


def too_large(plan: Plan, memory: DeviceMemory) -> str | None:
    """Why it can never fit: weights, adapter, gradients and optimiser state exceed the device's total memory."""
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
    """Advice if the permanent memory, or the longest batch beside it, may not fit; None if all fits."""
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
    """`memory_gb=` bounds what training saves for its backward pass; the rest has to fit as well."""
    on_top = max(0, needs[TRAINING] - counted[TRAINING].kept_bytes) if TRAINING in needs else 0
    budget = usable - on_top
    if budget <= 0 or run.execution.memory_bytes is not None:
        return []
    return [f"memory_gb={budget / 1e9:.2g}, which splits batches that need more,"]


def _smaller_batches(run: Blueprint, needs: Mapping[str, float], usable: float) -> list[str]:
    """Smaller batch sizes for batches that need too much; empty if even one prompt does."""
    settings = {
        TRAINING: ("micro_batch_size", run.training.micro_batch_size or run.training.batch_size),
        SCORING: ("eval_batch_size", run.evaluation.eval_batch_size),
    }
    sizes = {settings[what][0]: int(settings[what][1] * usable / need) for what, need in needs.items()}
    if not sizes or min(sizes.values()) < 1:
        return []
    return [" and ".join(f"{name}={size}" for name, size in sizes.items())]


def beside_fixed(counted: Counted, limit_bytes: float | None) -> float:
    """Peak temporary memory of a step; `memory_gb=` bounds the saved part of it, or in scoring all of it."""
    passing = counted.peak_bytes - counted.gradient_bytes - counted.optimizer_bytes
    if limit_bytes is None:
        return passing
    return max(0, passing - max(0, (counted.kept_bytes or passing) - limit_bytes))


def _alternatives(plan: Plan, memory_bytes: float) -> str:
    fixed, trains_base = plan.fixed, plan.method is not None and plan.method.trains_base
    ways = ["a smaller model="]
    is_float32 = plan.blueprint.execution.dtype == torch.float32
    is_quantized = plan.blueprint.execution.quantization is not None
    if is_float32 and not (trains_base or is_quantized) and fixed.total_bytes - fixed.weight_bytes / 2 <= memory_bytes:
        ways.append("model.dtype=bfloat16")
    if fixed.gradient_bytes + fixed.optimizer_bytes > fixed.weight_bytes / 2:
        ways.append("a method= that trains less")
    return f"Use {', '.join(ways[:-1])}{' or ' if len(ways) > 1 else ''}{ways[-1]}."


def _bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]
