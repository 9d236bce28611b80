"""Rank classification with a saved adapter or the bare model: `python -m tfew.evaluate adapter=runs/NAME`."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from tfew.cli import command, on_all_devices, with_run_settings
from tfew.config import checked
from tfew.data.split import normalized
from tfew.dataset_config import complete, on_all_rows
from tfew.devices.distributed import broadcast_object
from tfew.errors import UserError
from tfew.files.checksums import file_sha256
from tfew.files.hub_adapter import local_adapter
from tfew.models.adapters_io import adapter_description, load_temperature, load_thresholds
from tfew.ranking.baselines import Guesses, guess, guess_without_training
from tfew.runs.identity import resolved_with_hashes, run_name, run_path
from tfew.runs.noted import note_commits
from tfew.runs.records import IN_CONTEXT, ZERO_SHOT, RunRecord
from tfew.runs.run_folder import open_run, run_once, saved_settings
from tfew.settings import EvaluationSettings, settings
from tfew.task import InContext, Task, eval_task, in_context, load_spec, save_shots, train_task

if TYPE_CHECKING:
    from tfew.ranking.label_set_summary import SavedDecision

log = logging.getLogger("tfew.evaluate")  # __name__ is __main__ under python -m


def evaluate(config: DictConfig) -> RunRecord:
    """Scores `config.adapter` (None: the bare model) on the evaluation split, in a run folder of its own."""
    config = complete(checked(config))
    if config.init_adapter is not None and config.adapter is None:
        raise UserError("init_adapter= is where training starts; to evaluate an adapter set adapter=.")
    if config.adapter is None:
        config = on_all_rows(config)
    folder = run_path(config, f"evaluate-{run_name(config, _method_name(config))}")
    return run_once(folder, resolved_with_hashes(config), config.overwrite, partial(_evaluate, config))


def _method_name(config: DictConfig) -> str:
    name = ZERO_SHOT if config.adapter is None else adapter_description(local_adapter(config.adapter))["method"]["name"]
    if config.icl.mode == "none":
        return str(name)
    learning = f"{IN_CONTEXT}_{config.icl.mode}"
    return learning if config.adapter is None else f"{name}_{learning}"


def _evaluate(config: DictConfig, folder: Path) -> RunRecord:
    evaluation, context = eval_task(config), in_context(config)
    note_commits(config)
    if evaluation is None:
        raise UserError(_nothing_to_evaluate(config))
    if context is not None and config.dataset.get("table") is not None:  # they may be drawn from the same rows
        evaluation = _without_shots(evaluation, context)
    training, has_changed = _training_rows(config)
    trained_on = evaluation.rows - len(_unseen(evaluation, [] if training is None else _inputs(training)))

    guesses: Guesses = {}
    if config.baselines:
        # a baseline that is trained on rows of the evaluation knows their labels
        fair = None if trained_on else training
        guesses = guess_without_training(evaluation) if fair is None else guess(fair, evaluation)
    with on_all_devices(config, "evaluate"):
        known = None if has_changed else trained_on
        return broadcast_object(_run(config, folder, evaluation, context, guesses, known))


def _inputs(task: Task) -> list[str]:
    return [prompt.input for prompts in task.prompts for prompt in prompts]


def _unseen(task: Task, inputs: Iterable[str]) -> list[int]:
    """The rows without any of these inputs."""
    seen = set(map(normalized, inputs))
    return [
        row
        for row, prompts in enumerate(task.prompts)
        if not any(normalized(prompt.input) in seen for prompt in prompts)
    ]


def _without_shots(evaluation: Task, context: InContext) -> Task:
    """Without rows that the context shows with their labels; raises UserError if none is left."""
    rows = _unseen(evaluation, [shown for shots in context.shots.values() for shown, _ in shots])
    if not rows:
        raise UserError(
            f"The context shows all {evaluation.rows} rows of {evaluation.name} with their labels, so none is left to"
            " evaluate: show fewer with icl.shots=8, or hold some out with validation=0.25."
        )
    if len(rows) < evaluation.rows:
        log.info(f"{evaluation.rows - len(rows)} of {evaluation.rows} rows are shown in the context, not evaluated.")
    return evaluation.only(rows)


def _training_rows(config: DictConfig) -> tuple[Task | None, bool]:
    """The rows of a table that the adapter was trained on, None if they are not known; and whether the table has
    changed, so that they are not."""
    saved = None if config.adapter is None else saved_settings(Path(config.adapter))
    if saved is None or saved["dataset"].get("members") is not None:
        return None, False
    trained = OmegaConf.create(saved)
    spec = load_spec(trained)
    if not spec.classes or spec.table is None or spec.table["sha256"] is None or not spec.files["train"]:
        return None, False
    path = Path(str(spec.files["train"][0]))
    if not path.is_file():
        return None, False
    has_changed = file_sha256(path) != spec.table["sha256"]
    return None if has_changed else train_task(trained), has_changed


def _run(
    config: DictConfig, folder: Path, evaluation: Task, context: InContext | None, guesses: Guesses,
    trained_on: int | None,
) -> RunRecord:  # fmt: skip
    """The job, run by each process; only the first writes. `trained_on`: how many rows the adapter knows, None if that
    cannot be told."""
    # heavy imports only now, after the configuration and the data were checked
    from tfew.costs.memory_forecast import check_memory
    from tfew.models.build import build_blueprint, build_device, build_for_scoring, build_tokenizer, saved_method
    from tfew.ranking.evaluation import evaluate_model
    from tfew.summary import RunResult, finish

    adapter = None if config.adapter is None else local_adapter(config.adapter)
    method = None if adapter is None else saved_method(adapter, config)[1]
    device, prompt_tokenizer = build_device(config), build_tokenizer(config, adapter=adapter, trains=False)
    blueprint = build_blueprint(config, method, device, len(prompt_tokenizer.tokenizer))
    check_memory(blueprint, prompt_tokenizer, None, evaluation, context)
    loaded = build_for_scoring(config, prompt_tokenizer, method, adapter)

    prompt_tokenizer.check_cuttable_budget(evaluation.prompts[0])
    open_run(folder, resolved_with_hashes(config), config.resume)
    if context is not None:
        save_shots(config, context.examples, folder)
    log.info(f"{folder}: {evaluation.rows} rows to evaluate.")
    of_evaluation = settings(EvaluationSettings, config)
    saved = None
    if evaluation.several and adapter is not None and of_evaluation.score.method == "direct":  # predict has no other
        saved = _saved_decision(adapter, of_evaluation.score.norm, loaded.prompt_tokenizer.rule["eos"])
    evaluated = evaluate_model(loaded, evaluation, of_evaluation, folder, context, guesses, saved)
    if trained_on != 0:
        evaluated = replace(evaluated, metrics={**evaluated.metrics, "trained_on": trained_on})
    return finish(folder, config, "evaluate", _method_name(config), RunResult(loaded, evaluated, predicted=evaluation))


def _saved_decision(adapter: Path, norm: str, eos: str) -> "SavedDecision | None":
    """How the adapter decides on new rows; None if nothing is saved for this norm and `eos`."""
    from tfew.ranking.label_set_summary import SavedDecision

    thresholds = load_thresholds(adapter, norm, eos)
    return None if thresholds is None else SavedDecision(load_temperature(adapter, norm, eos) or 1.0, thresholds)


def _nothing_to_evaluate(config: DictConfig) -> str:
    name = config.dataset.name
    if config.dataset.get("members") is not None:
        return (
            f"dataset.evaluate=false: {name} has nothing to evaluate; name another dataset=, or set"
            " dataset.evaluate=true."
        )
    return f"{name} has no rows to evaluate that the adapter was not trained on: name others with data= or dataset=."


@command("evaluate")
def main(config: DictConfig) -> RunRecord:
    return evaluate(with_run_settings(config, list(HydraConfig.get().overrides.task)))


if __name__ == "__main__":
    main()
