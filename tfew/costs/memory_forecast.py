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
from omegaconf import DictConfig
from torch import nn

from tfew.costs.device_memory import DeviceMemory, memory_of
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
from tfew.errors import UserError
from tfew.methods.base import Method, adapter_parameters, attach
from tfew.models.build import build_shape, make_optimizer, memory_bytes, shards_weights, uses_autocast, weight_dtype
from tfew.ranking.score_methods import questions
from tfew.runs.identity import model_name
from tfew.schema import Batch, Prompt
from tfew.scoring.losses import LossWeights
from tfew.scoring.memory import rough_bytes
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

    parameters: int
    model: nn.Module
    method: Method | None
    fixed: Fixed
    device: torch.device
    dtype: torch.dtype
    autocast: bool
    optimizer: OptimizerBytes

    @property
    def device_name(self) -> str:
        return "GPU" if self.device.type == "cuda" else "CPU"


def make_plan(
    config: DictConfig, method: Method | None, device: torch.device, rows: int = 0, trains: bool = True
) -> Plan:
    """Raises UserError for what the method refuses to be attached to; `method` itself is left as it is."""
    dtype = weight_dtype(config, device, method)
    model = build_shape(config, rows).to(dtype).requires_grad_(False)
    parameters, weight_bytes = sum(parameter.numel() for parameter in model.parameters()), _bytes(model)
    method = copy.deepcopy(method)
    if method is not None:
        with torch.random.fork_rng(devices=[]):
            attach(method, model)
    adapter_bytes = _bytes(model) - weight_bytes
    model = without_numbers(model, device)
    trained = list(adapter_parameters(model).values()) if trains else []
    optimizer = _optimizer_bytes(config, trained)
    gradient_bytes = sum(parameter.nbytes for parameter in trained)
    fixed = Fixed(weight_bytes, adapter_bytes, gradient_bytes, optimizer.state)
    return Plan(parameters, model, method, fixed, device, dtype, uses_autocast(config, device, method), optimizer)


def _optimizer_bytes(config: DictConfig, trained: list[nn.Parameter]) -> OptimizerBytes:
    try:
        return optimizer_bytes(trained, _make_optimizer(config))
    except UserError:
        raise
    except Exception as error:  # an optimiser of the user's own may need numbers
        log.info(f"Note: what {config.optimizer._target_} keeps cannot be foreseen and is not counted: {error}")
        return OptimizerBytes(0, 0)


def make_recipe(config: DictConfig, autocast: bool) -> Recipe:
    weights = LossWeights(config.loss.lm, config.loss.ul, config.loss.ln)
    return Recipe(weights, config.fidelity.unlikely_epsilon, config.engine, config.micro_batch_size, autocast)


def dry_runs(config: DictConfig, plan: Plan, batches: Mapping[str, Batch]) -> dict[str, Counted]:
    """Of a batch for "training", one for "scoring", or both."""
    recipe = make_recipe(config, plan.autocast)
    counted = {}
    if TRAINING in batches:
        batch = batches[TRAINING].to(plan.device)
        counted[TRAINING] = training_step(plan.model, batch, plan.optimizer, recipe)
    if SCORING in batches:
        counted[SCORING] = scoring_pass(plan.model, batches[SCORING].to(plan.device), recipe)
    return counted


def longest_batches(
    config: DictConfig,
    prompt_tokenizer: PromptTokenizer,
    training: Task | None,
    evaluation: Task | None,
    context: InContext | None = None,
) -> dict[str, Batch]:
    batches = {}
    if training is not None:
        batches[TRAINING] = longest_training_batch(
            training.prompts, prompt_tokenizer, -(-config.batch_size // world_size())
        )
    if evaluation is not None:
        asked = [
            question
            for row in evaluation.prompts
            for prompt in row
            for question in questions(_in_context(prompt, context, config), config.score.method)
        ]
        batches[SCORING] = longest_scoring_batch(asked, prompt_tokenizer, config.eval_batch_size)
    return batches


def _in_context(prompt: Prompt, context: InContext | None, config: DictConfig) -> Prompt:
    """Behind all shots, or in an ensemble behind the longest: no other of its contexts takes more."""
    if context is None:
        return prompt
    shots = context.shots[prompt.template]
    longest = max(shots, key=lambda shot: len(shot[0]) + len(shot[1]))
    return replace(prompt, shots=(longest,) if config.icl.mode == "ensemble" else shots)


def check_memory(
    config: DictConfig,
    device: torch.device,
    method: Method | None,
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
    if shards_weights(config):
        return
    try:
        plan = make_plan(config, method, device, len(prompt_tokenizer.tokenizer), training is not None)
        memory = memory_of(device)
        if reason := too_large(config, plan, memory):
            raise UserError(reason)
        batches = longest_batches(config, prompt_tokenizer, training, evaluation, context)
        room = memory.free_bytes - plan.fixed.total_bytes
        if all(rough_bytes(plan.model, batch, config.engine) < room for batch in batches.values()):
            return
        counted = dry_runs(config, plan, batches) if room > 0 else {}  # else it is known to be too much already
    except UserError:
        raise
    except Exception as error:  # whatever needs numbers that a shape has not: no reason not to run it
        log.info(f"Note: what memory this takes cannot be foreseen ({type(error).__name__}: {_first_line(error)}).")
        return
    if advice := advise(config, plan, memory, counted):
        log.info(f"Note: {advice}")


def too_large(config: DictConfig, plan: Plan, memory: DeviceMemory) -> str | None:
    """Why it can never fit: weights, adapter, gradients and optimiser state are more than the device has in all."""
    fixed = plan.fixed
    if fixed.total_bytes <= memory.total_bytes:
        return None
    parts = {"weights": fixed.weight_bytes, "adapter": fixed.adapter_bytes, "gradients": fixed.gradient_bytes,
             "optimiser state": fixed.optimizer_bytes}  # fmt: skip
    listing = ", ".join(f"{in_words(size)} of {name}" for name, size in parts.items() if size)
    return (
        f"{model_name(config)} does not fit this {plan.device_name}: {listing}, and it has"
        f" {in_words(memory.total_bytes)} in all. {_ways_out(plan, memory.total_bytes)}"
    )


def advise(config: DictConfig, plan: Plan, memory: DeviceMemory, counted: Mapping[str, Counted]) -> str | None:
    """What to change where all that is there, or the longest batch beside it, may not fit; None where all fits."""
    if reason := too_large(config, plan, memory):
        return reason
    room = memory.free_bytes - plan.fixed.total_bytes
    needs = {what: beside_fixed(count, memory_bytes(config)) for what, count in counted.items()}
    what, need = max(needs.items(), key=lambda item: item[1], default=("", 0.0))
    if need <= room:
        return None
    longest = f" and {in_words(need)} for the longest batch of {what}" if need else ""
    start = (
        f"{model_name(config)} is expected to take {in_words(plan.fixed.total_bytes)} all the time{longest}, and this"
        f" {plan.device_name} has {in_words(memory.free_bytes)} free."
    )
    usable = ADVISED_MEMORY * room
    ways = [*_budget(config, counted, needs, usable), *_fewer_at_once(config, needs, room, usable)]
    if not ways:
        return f"{start} {_ways_out(plan, memory.free_bytes)}"
    return f"{start} Say {' or '.join(ways)}, or use a smaller model=."


def _budget(config: DictConfig, counted: Mapping[str, Counted], needs: Mapping[str, float], usable: float) -> list[str]:
    """`memory_gb=` bounds what training keeps; what comes on top of that must find its place as well."""
    on_top = max(0, needs[TRAINING] - counted[TRAINING].kept_bytes) if TRAINING in needs else 0
    budget = usable - on_top
    if budget <= 0 or config.memory_gb is not None:
        return []
    return [f"memory_gb={budget / 1e9:.2g}, which computes in pieces what takes more,"]


def _fewer_at_once(config: DictConfig, needs: Mapping[str, float], room: float, usable: float) -> list[str]:
    """Smaller batches where they are too large; none where even one prompt is."""
    at_once = {
        TRAINING: ("micro_batch_size", config.micro_batch_size or config.batch_size),
        SCORING: ("eval_batch_size", config.eval_batch_size),
    }
    too_many = [what for what, need in needs.items() if need > room]
    sizes = {at_once[what][0]: int(at_once[what][1] * usable / needs[what]) for what in too_many}
    if not sizes or min(sizes.values()) < 1:
        return []
    return [" and ".join(f"{name}={size}" for name, size in sizes.items())]


def beside_fixed(counted: Counted, limit_bytes: float | None) -> float:
    """The most that comes and goes during a step; `memory_gb=` bounds what of it is kept, or all of it in scoring."""
    passing = counted.peak_bytes - counted.gradient_bytes - counted.optimizer_bytes
    if limit_bytes is None:
        return passing
    return max(0, passing - max(0, (counted.kept_bytes or passing) - limit_bytes))


def in_words(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _ways_out(plan: Plan, memory_bytes: float) -> str:
    fixed, trains_base = plan.fixed, plan.method is not None and plan.method.trains_base
    ways = ["a smaller model="]
    if plan.dtype == torch.float32 and not trains_base and fixed.total_bytes - fixed.weight_bytes / 2 <= memory_bytes:
        ways.append("model.dtype=bfloat16")
    if fixed.gradient_bytes + fixed.optimizer_bytes > fixed.weight_bytes / 2:
        ways.append("a method= that trains less")
    return f"Use {', '.join(ways[:-1])}{' or ' if len(ways) > 1 else ''}{ways[-1]}."


def _make_optimizer(config: DictConfig) -> Any:
    """Without Adafactor's look at a parameter's size, which needs numbers and keeps nothing."""
    without = copy.deepcopy(config)
    if "scale_parameter" in without.optimizer:
        without.optimizer.scale_parameter = False
    return partial(make_optimizer, without)


def _bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]
