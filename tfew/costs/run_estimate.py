"""A one-line estimate for a run on a user's own rows, before anything is downloaded, loaded or trained.

It uses the model's shape, the lengths of the texts, and the speed of this machine (`tfew.costs.speed_forecast`).
Training logs the actual time after its first steps.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

from tfew.costs.dry_run import scoring_pass, training_step
from tfew.costs.lengths import assumed_batch, longest_scoring_batch, longest_training_batch, measure
from tfew.costs.memory_forecast import Plan, beside_fixed, make_plan
from tfew.costs.speed_forecast import CountedOperations, Speed, Work, measure_speed
from tfew.data.tokenization import PromptTokenizer
from tfew.models.blueprint import Blueprint
from tfew.runs.units import duration, format_bytes
from tfew.schema import Batch, Prompt
from tfew.task import Task

log = logging.getLogger(__name__)

CHARACTERS_IN_TOKEN = 4  # roughly, in English: if the tokenizer is not available locally
LONG_SECONDS = 3600.0
FASTER = (
    "Without a GPU this takes long: use +experiment=local_english, with a small English language model, or a machine"
    " with a GPU (trainer=gpu)."
)


@dataclass(frozen=True)
class RunEstimate:
    """`steps`: of all trainings together. `download_bytes`: at 2 and 4 bytes a parameter; None without a download."""

    model_name: str
    parameters: int
    download_bytes: tuple[int, int] | None
    memory_bytes: float
    trainings: int
    steps: int
    step_seconds: float
    scoring_seconds: float
    device_name: str

    @property
    def seconds(self) -> float:
        return self.steps * self.step_seconds + self.scoring_seconds

    def __str__(self) -> str:
        many = (
            f"{self.trainings} trainings, {self.steps:,} steps in all"
            if self.trainings > 1
            else f"{self.steps:,} steps"
        )
        download = "at hand"
        if self.download_bytes is not None:
            download = f"to be downloaded, {' or '.join(map(format_bytes, self.download_bytes))} (2 or 4 bytes each)"
        return (
            f"What it takes: {self.model_name}, {self.parameters:,} parameters, {download}; about"
            f" {format_bytes(self.memory_bytes)} of memory; {many}: about {duration(self.seconds)} on this"
            f" {self.device_name}, estimated from its speed."
        )


def announce(
    make_blueprint: Callable[[int], Blueprint],
    build_tokenizer: Callable[[], PromptTokenizer],
    is_at_hand: bool,
    training: Task,
    evaluation: Task | None,
    steps_tried: Sequence[int],
    folds: int | None,
    max_tokens: int,
) -> RunEstimate | None:
    """Logs the estimate and, if it is long and there is no GPU, faster alternatives; returns the estimate if any.

    `make_blueprint`: a function of the vocabulary's size. Nothing is downloaded for an estimate: without the local
    model (`is_at_hand`) token counts are guessed. `evaluation`: the rows ranked to evaluate the tried adapters;
    `steps_tried`: steps of each tried setting, the requested one first.
    """
    try:
        prompt_tokenizer = build_tokenizer() if is_at_hand else None
        tokens = 0 if prompt_tokenizer is None else len(prompt_tokenizer.tokenizer)
        blueprint = make_blueprint(tokens)
        trials = folds or (len(steps_tried) > 1)  # a single setting is evaluated with the final adapter
        trainings = [*list(steps_tried) * int(trials), steps_tried[0]]
        found = estimate(blueprint, training, evaluation, trainings, prompt_tokenizer, max_tokens, len(steps_tried))
    except Exception as error:  # logged only: errors of the run are reported when it is built
        log.debug(f"What it takes cannot be estimated: {type(error).__name__}: {error}")
        return None
    log.info(str(found))
    if blueprint.execution.device.type == "cpu" and found.seconds > LONG_SECONDS:
        log.info(f"Note: {FASTER}")
    return found


def estimate(
    blueprint: Blueprint,
    training: Task,
    evaluation: Task | None,
    trainings: Sequence[int],
    prompt_tokenizer: PromptTokenizer | None,
    max_tokens: int,
    times_scored: int = 1,
) -> RunEstimate:
    plan, batch_size = make_plan(blueprint), blueprint.training.batch_size
    prompts = _prompts(training)
    if prompt_tokenizer is None:
        batch, share = _assumed(prompts, batch_size, max_tokens)
    else:
        compares = blueprint.loss.compares_choices
        batch = longest_training_batch(training.prompts, prompt_tokenizer, batch_size, compares)
        share = _share(batch, prompts, prompt_tokenizer, compares)
    with CountedOperations() as counting:
        step = training_step(plan.model, batch.to(plan.device), plan.optimizer, plan.recipe)
    execution = blueprint.execution
    speed = measure_speed(plan.model, int(batch.input_mask.sum()), execution.device, execution.dtype)
    work = Work(step.flops, counting.written_bytes, counting.operations).of_share(share)
    scored = [] if evaluation is None else _prompts(evaluation)
    return RunEstimate(
        blueprint.model_name,
        plan.parameters,
        None if prompt_tokenizer else (2 * plan.parameters, 4 * plan.parameters),
        plan.fixed.total_bytes + beside_fixed(step, execution.memory_bytes),
        len(trainings),
        sum(trainings),
        speed.seconds(work),
        times_scored * _scoring_seconds(plan, speed, scored, prompt_tokenizer, max_tokens) if scored else 0.0,
        plan.device_name,
    )


def _prompts(task: Task) -> list[Prompt]:
    return [prompt for row in task.prompts for prompt in row]


def _scoring_seconds(
    plan: Plan, speed: Speed, scored: Sequence[Prompt], prompt_tokenizer: PromptTokenizer | None, max_tokens: int
) -> float:
    size = min(plan.blueprint.evaluation.eval_batch_size, len(scored))
    if prompt_tokenizer is None:
        batch, share = _assumed(scored, size, max_tokens)
    else:
        batch = longest_scoring_batch(scored, prompt_tokenizer, size)
        share = _share(batch, scored, prompt_tokenizer)
    with CountedOperations() as counting:
        counted = scoring_pass(plan.model, batch.to(plan.device), plan.recipe)
    work = Work(counted.flops, counting.written_bytes, counting.operations).of_share(share)
    return speed.seconds(work) * len(scored) / size


def _share(
    batch: Batch, prompts: Sequence[Prompt], prompt_tokenizer: PromptTokenizer, all_choices: bool = True
) -> float:
    """Tokens of an average batch as a share of this batch's, which is the longest."""
    lengths = measure([[prompt] for prompt in prompts], prompt_tokenizer)
    usual = (lengths.query if all_choices or lengths.shot is None else lengths.shot).mean
    return usual * len(batch) / int(batch.input_mask.sum() + batch.choice_mask.sum())


def _assumed(prompts: Sequence[Prompt], size: int, max_tokens: int) -> tuple[Batch, float]:
    """The batch and its share if nothing can be tokenised, estimated from characters."""
    inputs = [min(max_tokens, len(prompt.input) / CHARACTERS_IN_TOKEN + 1) for prompt in prompts]
    choices = max(len(prompt.choices) for prompt in prompts)
    words = mean(len(choice) for prompt in prompts for choice in prompt.choices)
    choice_tokens = 2 + int(words / CHARACTERS_IN_TOKEN)
    longest = int(max(inputs)) + choices * choice_tokens
    return assumed_batch(size, longest, choices, choice_tokens), (mean(inputs) + choices * choice_tokens) / longest
