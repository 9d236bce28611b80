"""Few-shot training and rank classification: `python -m tfew.train +experiment=rte`.

The main path of the project, as an overview: data, model, training, evaluation, record.
"""

import copy
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from tfew.cli import command, on_all_devices, overridden
from tfew.config import check_logger, checked, resolved, warn_of_single_step
from tfew.dataset_config import complete
from tfew.devices.distributed import broadcast_object, is_main_process
from tfew.errors import UserError
from tfew.ranking.baselines import guess, guess_in_folds
from tfew.ranking.tuning import Setting, settings_to_try
from tfew.runs.identity import method_name, resolved_with_hashes, run_name, run_path
from tfew.runs.model_source import model_source
from tfew.runs.noted import keep_to, note_commits, note_rows
from tfew.runs.records import RunRecord
from tfew.runs.rerun import log_comparison, log_differences_here, settings_again
from tfew.runs.run_folder import open_run, run_once, saved_settings
from tfew.settings import EvaluationSettings, settings
from tfew.task import Task, eval_task, save_training_rows, train_task
from tfew.together import settings_of_each, train_together
from tfew.training.folds import row_folds

if TYPE_CHECKING:
    from tfew.checks.finding import Finding
    from tfew.models.loaded_model import Trainable
    from tfew.ranking.evaluation import Evaluated
    from tfew.summary import RunResult
    from tfew.training.fit import Fitted

log = logging.getLogger("tfew.train")  # __name__ is __main__ under python -m
CHOICE_FOLDS = 5  # of the held-out rows of validation=, to cross-validate the choice of settings


def train(config: DictConfig) -> RunRecord:
    """Runs the whole job in its run folder and returns the record; a finished identical run is only read."""
    if config.train_together is not None:
        raise UserError("train_together= is of the command line; in Python call tfew.together.train_together.")
    if config.get("rerun") is not None:
        raise UserError("rerun= is of the command line; in Python call tfew.train.rerun.")
    config = complete(checked(config))
    folder = run_path(config, run_name(config))
    return run_once(folder, resolved_with_hashes(config), config.overwrite, partial(_train, config))


def _train(config: DictConfig, folder: Path) -> RunRecord:
    check_logger(config)
    warn_of_single_step(config)
    _check_tuning(config)
    if config.resume and (saved := saved_settings(folder)) is not None:
        keep_to(config, saved)
    training, evaluation = train_task(config), None
    if config.folds is not None:
        fold_of_row = row_folds(training, config.folds, config.batch_size, config.few_shot_seed)
        run = partial(_cross_validate_and_train, config, folder, training, fold_of_row)
    else:
        evaluation = eval_task(config)
        if config.tune and (evaluation is None or evaluation.rows < CHOICE_FOLDS):
            raise UserError(
                f"tune=true chooses by at least {CHOICE_FOLDS} held-out rows: a larger validation=, or folds=5."
            )
        run = partial(_train_and_evaluate, config, folder, training, evaluation)
    _announce(config, training, evaluation)
    note_commits(config)  # after all data, so that errors in them come first
    note_rows(config, training=training.examples, evaluation=[] if evaluation is None else evaluation.examples)
    with on_all_devices(config, "train"):
        return broadcast_object(run())


# heavy imports only from here on, after the configuration and the data were checked. Each process of the run, one per
# device, runs what follows; only the first writes


def _train_and_evaluate(config: DictConfig, folder: Path, training: Task, evaluation: Task | None) -> RunRecord:
    """Trains once, then evaluates on held-out rows, if there are any."""
    from tfew.models.build import build_trainable
    from tfew.ranking.evaluation import evaluate_model
    from tfew.summary import RunResult

    loaded, findings = _build(config, training, evaluation)
    guesses = guess(training, evaluation) if config.baselines and evaluation is not None else {}
    _open(config, folder, training, f"{f'{evaluation.rows} rows' if evaluation else 'nothing'} to evaluate")
    tuning = {}
    if config.tune and evaluation is not None:
        fold_of_row = [row % CHOICE_FOLDS for row in range(evaluation.rows)]
        config, tuned = _tune(config, folder, evaluation, fold_of_row, partial(_try_once, training, evaluation))
        tuning = {"tuning": tuned.metrics["tuning"]}
        loaded = build_trainable(config)
    fitted, adapter_bytes = _fit(config, loaded, training, folder)
    evaluated = None
    if evaluation is not None:
        evaluation_settings = settings(EvaluationSettings, config).in_full
        evaluated = evaluate_model(loaded, evaluation, evaluation_settings, folder, guesses=guesses)
        evaluated.metrics.update(tuning)
    result = RunResult(loaded, evaluated, fitted, adapter_bytes, training.mixture, evaluation, findings)
    return _finish(config, folder, result)


def _cross_validate_and_train(
    config: DictConfig, folder: Path, training: Task, fold_of_row: Sequence[int]
) -> RunRecord:
    """Cross-validates: trains without each fold and predicts it; then trains the final adapter on all rows."""
    from tfew.models.build import build_trainable
    from tfew.summary import RunResult
    from tfew.training.cross_validation import cross_validate
    from tfew.training.folds_at_once import train_fold, train_folds_at_once

    # checks that it can be built before the folder is opened; each fold builds its own
    findings = _build(config, training, None)[1]
    guesses = guess_in_folds(training, fold_of_row) if config.baselines else {}
    _open(config, folder, training, f"in {config.folds} folds")
    norm = settings(EvaluationSettings, config).score.norm

    def validate(config: DictConfig, folder: Path, steps_later: int) -> "Evaluated":
        train_folds_at_once(config, folder)
        return cross_validate(training, fold_of_row, folder, norm, partial(train_fold, config, steps_later), guesses)

    if config.tune:
        config, evaluated = _tune(config, folder, training, fold_of_row, validate)
    else:
        evaluated = validate(config, folder, config.steps)
    loaded = build_trainable(config)
    fitted, adapter_bytes = _fit(config, loaded, training, folder)
    return _finish(config, folder, RunResult(loaded, evaluated, fitted, adapter_bytes, None, training, findings))


def _tune(
    config: DictConfig,
    folder: Path,
    task: Task,
    fold_of_row: Sequence[int],
    validate: Callable[[DictConfig, Path, int], "Evaluated"],
) -> "tuple[DictConfig, Evaluated]":
    """The configuration with the best settings, and the summary of `tfew.training.tune`.

    `validate` evaluates a configuration in a folder, given the number of training steps that follow.
    """
    from tfew.training.tune import tune

    tried = settings_to_try(config.steps, config.optimizer.lr)

    def validate_setting(setting: Setting, own: Path, settings_after: int) -> "Evaluated":
        steps = sum(later.steps for later in tried[len(tried) - settings_after :])
        return validate(_with_setting(config, setting), own, steps * (config.folds or 1) + config.steps)

    fold_by_idx = dict(zip((example.idx for example in task.examples), fold_of_row, strict=True))
    norm = settings(EvaluationSettings, config).score.norm
    chosen, evaluated = tune(tried, validate_setting, task, fold_by_idx, folder, norm)
    return _with_setting(config, chosen), evaluated


def _with_setting(config: DictConfig, setting: Setting) -> DictConfig:
    """With these steps and this learning rate, also in the adapter's description."""
    own = copy.deepcopy(config)
    own.steps = own.method.steps = setting.steps
    own.optimizer.lr = own.method.lr = setting.lr
    return own


def _check_tuning(config: DictConfig) -> None:
    if not config.tune:
        return
    if config.dataset.get("table") is None and config.folds is None:
        raise UserError(
            f"tune=true chooses by the rows that are held out, and those of {config.dataset.name} are for reporting:"
            " it is for rows of your own, or set folds=5."
        )
    if config.folds is None and config.get("validation") is None:
        raise UserError("tune=true chooses by held-out rows, and none are: set folds=5 or validation=0.25.")


def _try_once(training: Task, evaluation: Task, config: DictConfig, folder: Path, steps_later: int) -> "Evaluated":
    from tfew.training.cross_validation import once
    from tfew.training.folds_at_once import train_fold

    return once(training, evaluation, folder, partial(train_fold, config, steps_later))


def _announce(config: DictConfig, training: Task, evaluation: Task | None) -> None:
    """Logs the estimated cost of a run on a user's own rows, before any request to the Hub."""
    from tfew.checks.run_check import is_checked
    from tfew.costs.run_estimate import announce
    from tfew.models.build import build_blueprint, build_device, build_method, build_tokenizer
    from tfew.models.checkpoint_path import is_at_hand
    from tfew.training import time_left

    time_left.estimated_step_seconds = None  # not that of an earlier run of this process
    if is_main_process() and is_checked(config.dataset, training):  # before the other processes use their devices
        estimated = announce(
            partial(build_blueprint, config, build_method(config), build_device(config)),
            partial(build_tokenizer, config),
            is_at_hand(model_source(config)),
            training,
            training if config.folds else evaluation,
            [setting.steps for setting in settings_to_try(config.steps, config.optimizer.lr, config.tune)],
            config.folds,
            config.max_tokens,
        )
        if estimated is not None:
            time_left.estimated_step_seconds = estimated.step_seconds


def _build(config: DictConfig, training: Task, evaluation: Task | None) -> "tuple[Trainable, Sequence[Finding] | None]":
    """The model, and the findings of the task check; raises UserError for incompatible settings or too little memory.

    None: published data sets are not checked.
    """
    from tfew.checks.finding import report
    from tfew.checks.run_check import check_run, is_checked
    from tfew.costs.lengths import check_lengths
    from tfew.costs.memory_forecast import check_memory
    from tfew.models.build import build_blueprint, build_device, build_method, build_tokenizer, build_trainable

    prompt_tokenizer, findings = build_tokenizer(config), None
    if is_checked(config.dataset, training):
        labels_are_named, steps = config.get("labels") is not None, config.steps
        findings = report(
            check_run(training, prompt_tokenizer, config.folds, labels_are_named, steps, config.batch_size)
        )
    if training.mixture is None:
        prompt_tokenizer.check_cuttable_budget(training.prompts[0])
    tokens = len(prompt_tokenizer.tokenizer)
    blueprint = build_blueprint(config, build_method(config), build_device(config), tokens)
    check_lengths(blueprint, prompt_tokenizer, training, evaluation)
    check_memory(blueprint, prompt_tokenizer, training, evaluation)
    return build_trainable(config, prompt_tokenizer), findings


def _open(config: DictConfig, folder: Path, training: Task, evaluation: str) -> None:
    """`evaluation`: a description of what will be evaluated."""
    open_run(folder, resolved_with_hashes(config), config.resume)
    save_training_rows(config, training, folder)
    rows = "shots" if config.few_shot != "all" else "rows to train on"
    rows = rows if training.mixture is None else "prompts in a pass over the mixture"
    log.info(f"{folder}: {training.rows} {rows}, {evaluation}.")


def _fit(config: DictConfig, loaded: "Trainable", training: Task, folder: Path) -> "tuple[Fitted, int]":
    """Trains and saves the adapter; also the size of its file in bytes."""
    from tfew.models.adapters_io import save_adapter
    from tfew.models.base_check import base_of
    from tfew.models.build import gathered_adapter
    from tfew.training.fit import fit

    fitted = fit(config, loaded.method, loaded.model, loaded.prompt_tokenizer, training, folder)
    with gathered_adapter(config, loaded.model):
        weights = loaded.method.stored(loaded.model)
        return fitted, save_adapter(
            folder, weights, resolved(config.method), base_of(config), loaded.prompt_tokenizer.rule
        )


def _finish(config: DictConfig, folder: Path, result: "RunResult") -> RunRecord:
    from tfew.models.build import gathered_adapter
    from tfew.summary import finish

    with gathered_adapter(config, result.loaded.model):
        return finish(folder, config, "train", method_name(config), result)


def rerun(config: DictConfig, overrides: Sequence[str]) -> RunRecord:
    """Repeats the run in the folder `config.rerun` elsewhere, and logs differences; `overrides` as given."""
    before, again = settings_again(config, overridden(overrides))
    folder = run_path(again, run_name(again))
    if folder.resolve() == Path(str(config.rerun)).expanduser().resolve():
        raise UserError(f"rerun={config.rerun} would overwrite itself: name another place with runs= or run_dir=.")
    log_differences_here(before)
    record = train(again)
    log_comparison(before, record)
    return record


@command("train")
def main(config: DictConfig) -> RunRecord | list[RunRecord]:
    if config.rerun is not None:
        return rerun(config, HydraConfig.get().overrides.task)
    if config.train_together is None:
        return train(config)
    configs = settings_of_each(HydraConfig.get().overrides.task, config.train_together)
    for each in configs:
        each.resume = config.resume  # a sweep sets it
    return train_together(configs)


if __name__ == "__main__":
    main()
