"""The cost of one run before it is started: parameters, lengths, FLOPs, memory; with `measure=true` seconds, too."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from tfew.costs.dry_run import Counted
from tfew.costs.formulas import inference_flops, training_flops
from tfew.costs.lengths import assumed_batch, measure
from tfew.costs.measure import measure_run
from tfew.costs.memory_forecast import SCORING, TRAINING, Plan, advise, dry_runs, longest_batches, make_plan, too_large
from tfew.data.tokenization import PromptTokenizer
from tfew.devices.memory import memory_of
from tfew.errors import UserError
from tfew.models.blueprint import Blueprint
from tfew.models.loaded_model import Trainable
from tfew.schema import Batch
from tfew.task import Task

log = logging.getLogger(__name__)
EVALUATION = "evaluation"
NAMES = {TRAINING: "a training step", SCORING: "scoring a batch"}


def cost_report(
    blueprint: Blueprint,
    prompt_tokenizer: PromptTokenizer | None,
    training: Task | None,
    evaluation: Task | None,
    assumed_tokens: int,
    load: Callable[[], Trainable] | None = None,
) -> dict[str, Any]:
    """All numbers by name; without data, for texts of `assumed_tokens` tokens including all choices.

    With `load`, real steps of the real model are measured, too. Raises UserError if that cannot fit the device.
    """
    plan, run = make_plan(blueprint), blueprint.execution
    memory = memory_of(plan.device)
    if load is not None and (reason := too_large(plan, memory)):
        raise UserError(reason)
    lengths = {}
    if training is not None and prompt_tokenizer is not None:
        lengths = measured_lengths(prompt_tokenizer, training, evaluation)
        batches = longest_batches(blueprint, prompt_tokenizer, training, evaluation)
    else:
        batches = {
            TRAINING: assumed_batch(blueprint.training.batch_size, assumed_tokens),
            SCORING: assumed_batch(blueprint.evaluation.eval_batch_size, assumed_tokens),
        }
    counted = _counted(plan, batches)
    kind = "query" if blueprint.loss.compares_choices else "shot"  # what a step computes
    mean_tokens = lengths[TRAINING][kind]["mean"] if lengths else assumed_tokens
    evaluation_tokens = None
    if evaluation is not None:
        evaluation_tokens = sum(map(len, evaluation.prompts)) * lengths[EVALUATION]["query"]["mean"]
    formula = _formula_flops(plan, batches, mean_tokens, evaluation_tokens)
    return {
        **_parameters(plan),
        "steps": blueprint.training.steps,
        "device": plan.device_name,
        "dtype": ", ".join(filter(None, (run.quantization, str(run.dtype).removeprefix("torch.")))),
        "lengths": lengths,
        "assumed_tokens": None if lengths else assumed_tokens,
        "batches": {what: _sizes(batch) for what, batch in batches.items()},
        "flops": {"formula": formula, "counted": {what: count.flops for what, count in counted.items()}},
        "memory": {**asdict(plan.fixed), **_peaks(counted), **asdict(memory)},
        "advice": advise(plan, memory, counted),
        "measured": None if load is None else asdict(measure_run(plan, load(), batches)),
    }


def measured_lengths(
    prompt_tokenizer: PromptTokenizer, training: Task, evaluation: Task | None
) -> dict[str, dict[str, Any]]:
    tasks = {TRAINING: training, EVALUATION: evaluation}
    return {what: asdict(measure(task.prompts, prompt_tokenizer)) for what, task in tasks.items() if task is not None}


def _parameters(plan: Plan) -> dict[str, Any]:
    assert plan.method is not None
    return {
        "trainable": plan.method.stored_count(plan.model),
        "trained": plan.method.trained_count(plan.model),
        "total": plan.parameters,
        "adapter_bytes": plan.method.stored_bytes(plan.model),
    }


def _counted(plan: Plan, batches: Mapping[str, Batch]) -> dict[str, Counted]:
    try:
        with _no_traceback():
            return dry_runs(plan, batches)
    except Exception as error:  # a model may do what fake tensors cannot; the rest is known anyway
        log.info(f"Note: FLOPs and memory of a step cannot be counted on this model: {type(error).__name__}: {error}")
        return {}


@contextmanager
def _no_traceback() -> Iterator[None]:
    """Silences torch's traceback for operations that fail on fake tensors: `_counted` reports them in a sentence."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _sizes(batch: Batch) -> dict[str, int]:
    return {
        "prompts": len(batch),
        "input_tokens": int(batch.input_mask.sum()),
        "choice_tokens": int(batch.choice_mask.sum()),
    }


def _formula_flops(
    plan: Plan, batches: Mapping[str, Batch], mean_tokens: float, evaluation_tokens: float | None
) -> dict[str, float]:
    """FLOPs of these batches, and of the whole run at its mean length, for the bare model's size as in the paper."""
    run, encoder_decoder = plan.blueprint.training, bool(plan.model.config.is_encoder_decoder)  # type: ignore[union-attr]
    tokens = {
        what: sum(size for name, size in _sizes(batch).items() if name != "prompts") for what, batch in batches.items()
    }
    training_tokens = run.steps * run.batch_size * mean_tokens
    found = {"training_run": training_flops(plan.parameters, training_tokens, encoder_decoder)}
    if TRAINING in batches:
        found[TRAINING] = training_flops(plan.parameters, tokens[TRAINING], encoder_decoder)
    if SCORING in batches:
        found[SCORING] = inference_flops(plan.parameters, tokens[SCORING], encoder_decoder)
    if evaluation_tokens is not None:
        found["evaluation_run"] = inference_flops(plan.parameters, evaluation_tokens, encoder_decoder)
    return found


def _peaks(counted: Mapping[str, Counted]) -> dict[str, int]:
    found = {f"{what}_peak_bytes": count.peak_bytes for what, count in counted.items()}
    return {**found, "kept_bytes": counted[TRAINING].kept_bytes} if TRAINING in counted else found


def as_text(found: Mapping[str, Any]) -> str:
    """The report as text; parameter counts are in the table of methods."""
    return "\n".join(
        [
            *_assumed_or_measured(found),
            "",
            *_flops_as_text(found),
            "",
            *_memory_as_text(found),
            *_measured_as_text(found),
        ]
    )


def _assumed_or_measured(found: Mapping[str, Any]) -> list[str]:
    if found["lengths"]:
        return lengths_as_text(found["lengths"])
    return [
        f"No data are named (data_dir=): texts of {found['assumed_tokens']} tokens with all choices are assumed, the"
        " paper's length."
    ]


def lengths_as_text(lengths: Mapping[str, Any]) -> list[str]:
    lines = [f"{'tokens':<34}{'prompts':>9}{'rows':>7}{'median':>9}{'mean':>9}{'truncated':>11}"]
    for what, length in lengths.items():
        for kind, name in (("query", "with all choices"), ("shot", "with the right choice")):
            if (spread := length[kind]) is not None:
                lines.append(
                    f"{what + ', ' + name:<34}{length['prompts']:>9,}{length['rows']:>7,}{spread['median']:>9,.1f}"
                    f"{spread['mean']:>9,.1f}{length['cut_prompts']:>11,}"
                )
    return lines


def _flops_as_text(found: Mapping[str, Any]) -> list[str]:
    formula, counted = found["flops"]["formula"], found["flops"]["counted"]
    lines = [f"{'FLOPs':<50}{'by the formula':>16}{'counted':>12}"]
    for what, batch in found["batches"].items():
        tokens = batch["input_tokens"] + batch["choice_tokens"]
        count = f"{counted[what]:.3e}" if what in counted else "unknown"
        name = f"{NAMES[what]}, {batch['prompts']} prompts, {tokens:,} tokens"
        lines.append(f"{name:<50}{formula[what]:>16.3e}{count:>12}")
    whole = {"training_run": f"the whole training, {found['steps']:,} steps", "evaluation_run": "the whole evaluation"}
    return lines + [f"{name:<50}{formula[what]:>16.3e}" for what, name in whole.items() if what in formula]


def _memory_as_text(found: Mapping[str, Any]) -> list[str]:
    memory = found["memory"]
    loaded = memory["weight_bytes"] + memory["adapter_bytes"]
    sizes = {
        "weights": memory["weight_bytes"],
        "adapter, its gradients, optimiser state": memory["adapter_bytes"] + memory["gradient_bytes"]
        + memory["optimizer_bytes"],
        "kept for the backward pass": memory.get("kept_bytes"),
    }  # fmt: skip
    for what in (what for what in NAMES if f"{what}_peak_bytes" in memory):
        sizes[f"in all, at the height of {NAMES[what]}"] = loaded + memory[f"{what}_peak_bytes"]
    highest = max(size for size in sizes.values() if size is not None)
    sizes |= {"the device has, free now": memory["free_bytes"], "the device has, at most": memory["total_bytes"]}
    unit, name = (1e9, "GB") if highest >= 1e9 else (1e6, "MB")
    title = f"memory, {found['device']}, {found['dtype']}"
    lines = [f"{title:<50}{name:>16}"]
    lines += [f"{what:<50}{size / unit:>16,.3f}" for what, size in sizes.items() if size is not None]
    fits = "It fits." if found["flops"]["counted"] else "The weights fit; what a step takes beside them is not known."
    return [*lines, "", found["advice"] or fits]


def _measured_as_text(found: Mapping[str, Any]) -> list[str]:
    measured = found["measured"]
    if measured is None:
        return []
    lines = ["", f"{'measured':<20}{'seconds':>12}{'FLOPs':>12}{'peak bytes':>18}{'as foreseen':>18}"]
    for what, seconds in measured["seconds"].items():
        foreseen = found["memory"].get(f"{what}_peak_bytes")
        lines.append(
            f"{NAMES[what]:<20}{seconds:>12.4f}{measured['counted'][what]['flops']:>12.3e}"
            f"{measured['peak_bytes'][what]:>18,}{'unknown' if foreseen is None else f'{foreseen:,}':>18}"
        )
    if TRAINING in measured["seconds"]:
        minutes = found["steps"] * measured["seconds"][TRAINING] / 60
        lines.append(f"the whole training at most {minutes:,.1f} minutes: these are the longest batches")
    if measured["adapter_file_bytes"] is not None:
        lines.append(f"the adapter's file {measured['adapter_file_bytes']:,} bytes")
    return lines
