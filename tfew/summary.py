"""The end of a run: its record, written last, and the printed summary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from tfew.costs.formulas import inference_flops, training_flops
from tfew.decisions.curve import in_words
from tfew.devices.distributed import is_main_process
from tfew.environment.verbosity import is_quiet
from tfew.models.adapters_io import save_temperature
from tfew.ranking.label_set_table import passes_line
from tfew.ranking.label_table import by_label, confusions, doubts, headline
from tfew.ranking.tuning import tuning_table, tuning_verdict
from tfew.runs.card import describe_scoring
from tfew.runs.checkpoints import remove_checkpoints
from tfew.runs.identity import model_name, resolved_with_hashes
from tfew.runs.records import RunRecord, git_commit, library_versions, save_record
from tfew.runs.run_folder import REPORT_FILE, file_checksums
from tfew.task import Task

if TYPE_CHECKING:
    from tfew.checks.finding import Finding
    from tfew.models.loaded_model import LoadedModel
    from tfew.ranking.evaluation import Evaluated
    from tfew.training.fit import Fitted


@dataclass(frozen=True)
class RunResult:
    """The results of a run: `fitted` by training, the size of the saved adapter, and the mixture, if any.

    `predicted`: the held-out rows, None if there were none; `findings`: of the check of the task, None if there was no
    check; `trained_together`: runs in the shared batches.
    """

    loaded: "LoadedModel"
    evaluated: "Evaluated | None"
    fitted: "Fitted | None" = None
    adapter_bytes: int = 0
    mixture: dict[str, Any] | None = None
    predicted: Task | None = None
    findings: "Sequence[Finding] | None" = None
    trained_together: int = 1


def finish(folder: Path, config: DictConfig, command: str, method_name: str, result: RunResult) -> RunRecord:
    """Writes `result.json`, prints the summary, removes the checkpoints that are no longer needed."""
    from tfew.devices.hardware import hardware
    from tfew.devices.memory import peak_memory_bytes

    loaded, evaluated, fitted = result.loaded, result.evaluated, result.fitted
    method, total = loaded.method, loaded.base_parameters
    encoder_decoder = bool(loaded.model.config.is_encoder_decoder)  # type: ignore[union-attr]
    record = RunRecord(
        name=folder.resolve().name,
        command=command,
        experiment=config.name,
        model=model_name(config),
        method=method_name,
        loss=config.loss.name,
        dataset=config.dataset.name,
        split="folds" if evaluated and "folds" in evaluated.metrics else "eval",
        few_shot_seed=config.few_shot_seed,
        seed=config.seed,
        metrics={
            **(evaluated.metrics if evaluated else {}),
            **({"final_loss": fitted.final_loss} if fitted and (result.mixture or not evaluated) else {}),
        },
        counts={
            **(evaluated.counts if evaluated else {}),
            **({"trained_together": result.trained_together} if result.trained_together > 1 else {}),
        },
        parameters={
            "trainable": method.stored_count(loaded.model) if method else 0,
            "trained": method.trained_count(loaded.model) if method and fitted else 0,
            "total": total,
        },
        flops={
            "training": training_flops(total, fitted.tokens if fitted else 0, encoder_decoder),
            "evaluation": inference_flops(total, evaluated.tokens if evaluated else 0, encoder_decoder),
        },
        seconds={"train": fitted.seconds if fitted else 0.0, "evaluate": evaluated.seconds if evaluated else 0.0},
        peak_memory_bytes=peak_memory_bytes(),
        adapter_bytes=result.adapter_bytes,
        git_commit=git_commit(),
        versions=library_versions(),
        config=resolved_with_hashes(config),
        scoring=loaded.prompt_tokenizer.rule,
        mixture=result.mixture,
        hardware=hardware(loaded.execution.device),
    )
    if result.adapter_bytes and "calibration" in record.metrics:
        save_temperature(folder, record.metrics["calibration"], config.score.norm, record.scoring["eos"])
    if is_main_process():
        if _has_report(config):
            from tfew.report.task_report import write_report

            write_report(folder, record, result.predicted, result.findings)
        record = replace(record, files=file_checksums(folder))
        path = save_record(folder, record)
        remove_checkpoints(folder)
        if not is_quiet():
            print_summary(record, path)
    return record


def _has_report(config: DictConfig) -> bool:
    """Whether rows are a user's own, or cross-validated; published data sets are in `tfew.paper`'s report."""
    return config.dataset.get("table") is not None or config.get("folds") is not None


def print_summary(record: RunRecord, path: Path) -> None:
    """Prints a small table, and the path of the record."""
    counts, seconds = record.counts, record.seconds
    print(f"\n{record.dataset}: {record.method} on {record.model}, loss {record.loss}, seed {record.few_shot_seed}")
    if "accuracy_interval" in record.metrics and "classes" in record.config["dataset"]:
        _print_labels(record.metrics, counts["rows"])
    else:
        _print_metrics(record.metrics)
    if record.mixture and record.mixture["left_out"]:
        print(f"  left out of the mixture: {', '.join(record.mixture['left_out'])}")
    if counts.get("cut_prompts"):
        print(f"  {counts['cut_prompts']} of {counts['prompts']} prompts did not fit max_tokens and were truncated.")
    if counts.get("empty_renders"):
        print(f"  {counts['empty_renders']} times a template rendered nothing for a row and was skipped.")
    if scored := describe_scoring(record.scoring):
        print(f"  choices are {scored}.")
    if sets := record.metrics.get("label_sets"):
        print(f"  {passes_line(sets['labels'], record.config['engine'], counts['prompts'])}.")
    folds = len(record.metrics.get("folds", ()))
    what = f"trained and evaluated in {folds} folds" if folds else "evaluated"
    parameters, took = record.parameters, f"{what} in {seconds['evaluate']:.0f} s"
    if parameters["trained"]:
        how = "trained on all rows" if folds else "trained"
        took = f"{parameters['trained']:,} parameters {how} in {seconds['train']:.0f} s, {took}"
    print(f"  model of {parameters['total']:,} parameters, adapter of {parameters['trainable']:,}; {took}")
    print(f"  record: {path}", flush=True)
    if REPORT_FILE in record.files:
        print(f"  a page about this task, to open in a browser: {path.with_name(REPORT_FILE)}", flush=True)


def _print_metrics(metrics: Mapping[str, Any]) -> None:
    if "members" in metrics:
        width = max(len(name) for name in [*metrics["members"], "mean of members"])
        print(f"  {'member':<{width}}  accuracy   (IQR)  chance")
        for name, member in metrics["members"].items():
            print(f"  {name:<{width}}  {_format_percents(member, 'accuracy', 'accuracy_iqr', 'chance')}")
        print(f"  {'mean of members':<{width}}  {_format_percents(metrics, 'accuracy')}")
    elif "templates" in metrics:
        templates = metrics["templates"]
        width = max(len(name) for name in templates)
        print(f"  {'template':<{width}}  accuracy   rows")
        for name, template in templates.items():
            print(f"  {name:<{width}}  {100 * template['accuracy']:8.1f}  {template['rows']:5d}")
        print(
            f"  {'median (IQR)':<{width}}  {100 * metrics['accuracy']:8.1f}  ({100 * metrics['accuracy_iqr']:.1f});"
            f" chance {100 * metrics['chance']:.1f}"
        )
        _print_probabilities(metrics)
    else:
        print(f"  nothing evaluated; mean loss of the last tenth of training {metrics['final_loss']:.4f}")


def _print_labels(metrics: Mapping[str, Any], rows: int) -> None:
    """Prints the metrics of a user's own rows, and how reliable they are."""
    print("\n".join(f"  {line}" for line in headline(metrics, rows)))
    if "classes" in metrics:
        confused = [*confusions(metrics), ""] if "confusion" in metrics else []
        print("\n".join(f"  {line}".rstrip() for line in ["", *by_label(metrics), "", *confused]))
    _print_probabilities(metrics)
    if "tuning" in metrics:
        print(
            "\n".join(
                ["", *(f"  {line}" for line in [*tuning_table(metrics["tuning"]), tuning_verdict(metrics["tuning"])])]
            )
        )
    for sentence in doubts(metrics, rows):
        print(f"  {sentence}")


def _print_probabilities(metrics: Mapping[str, Any]) -> None:
    print(_describe_calibration(metrics["calibration"]))
    if "answering" in metrics and (words := in_words(metrics["answering"])):
        print(f"  {words}")


def _describe_calibration(calibration: Mapping[str, Any]) -> str:
    """The expected calibration error, before and after temperature scaling."""
    if calibration["ece"] is None:
        return "  probabilities: nothing to check them with, no row has a label"
    if calibration["ece_calibrated"] is None:
        few = f"{calibration['rows']} rows are too few to fit a temperature to"
        return f"  probabilities: calibration error {calibration['ece']:.3f}; {few}"
    return (
        f"  probabilities: calibration error {calibration['ece']:.3f}, and {calibration['ece_calibrated']:.3f} at"
        f" temperature {calibration['temperature']:.3g} (on {calibration['rows']} rows)"
    )


def _format_percents(values: Mapping[str, Any], *keys: str) -> str:
    return "".join(f"{100 * values[key]:8.1f}" for key in keys)
