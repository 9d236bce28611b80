"""Few-shot training and rank classification: `python -m tfew.train +experiment=rte`.

The main path of the project, as a table of contents: data, model, training, evaluation, record.
"""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from tfew.cli import command, on_all_devices, overridden
from tfew.config import check_logger, checked, resolved
from tfew.dataset_config import complete
from tfew.devices.distributed import broadcast_object
from tfew.errors import UserError
from tfew.runs.identity import method_name, resolved_with_hashes, run_name, run_path
from tfew.runs.noted import keep_to, note_commits
from tfew.runs.records import RunRecord
from tfew.runs.rerun import log_comparison, log_differences_here, settings_again
from tfew.runs.run_folder import open_run, run_once, saved_settings
from tfew.settings import EvaluationSettings, settings
from tfew.summary import RunResult, finish
from tfew.task import Task, eval_task, save_training_rows, train_task
from tfew.together import settings_of_each, train_together
from tfew.training.folds import row_folds

if TYPE_CHECKING:
    from tfew.models.loaded_model import Trainable
    from tfew.ranking.evaluation import Evaluated
    from tfew.training.fit import Fitted

log = logging.getLogger("tfew.train")  # __name__ is __main__ under python -m


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
    if config.resume and (saved := saved_settings(folder)) is not None:
        keep_to(config, saved)
    training = train_task(config)
    if config.folds is not None:
        fold_of_row = row_folds(training, config.folds, config.batch_size, config.few_shot_seed)
        run = partial(_cross_validate_and_train, config, folder, training, fold_of_row)
    else:
        run = partial(_train_and_evaluate, config, folder, training, eval_task(config))
    note_commits(config)  # after all data: their mistakes are said first
    with on_all_devices(config, "train"):
        return broadcast_object(run())


# heavy imports only from here on: the configuration and the data are known to be good. Each of the run's processes, one
# a device, does what follows; only the first writes


def _train_and_evaluate(config: DictConfig, folder: Path, training: Task, evaluation: Task | None) -> RunRecord:
    """One training; then what it has learned is tried on rows that it has not seen, where there are such."""
    from tfew.ranking.evaluation import evaluate_model

    loaded = _build(config, training, evaluation)
    _open(config, folder, training, f"{f'{evaluation.rows} rows' if evaluation else 'nothing'} to evaluate")
    fitted, adapter_bytes = _fit(config, loaded, training, folder)
    evaluated = None
    if evaluation is not None:
        evaluated = evaluate_model(loaded, evaluation, settings(EvaluationSettings, config), folder)
    return _finish(config, folder, RunResult(loaded, evaluated, fitted, adapter_bytes, training.mixture))


def _cross_validate_and_train(
    config: DictConfig, folder: Path, training: Task, fold_of_row: Sequence[int]
) -> RunRecord:
    """A training without each fold, which is then predicted; and one on all rows, whose adapter is kept."""
    from tfew.models.build import build_trainable
    from tfew.training.cross_validation import cross_validate

    _build(config, training, None)  # that it can be built is known before the folder is opened; each fold has its own
    _open(config, folder, training, f"in {config.folds} folds")
    norm = settings(EvaluationSettings, config).score.norm
    evaluated = cross_validate(training, fold_of_row, folder, norm, partial(_train_fold, config))
    loaded = build_trainable(config)
    fitted, adapter_bytes = _fit(config, loaded, training, folder)
    return _finish(config, folder, RunResult(loaded, evaluated, fitted, adapter_bytes))


def _train_fold(config: DictConfig, training: Task, held_out: Task, folder: Path) -> "Evaluated":
    from tfew.models.build import build_trainable
    from tfew.ranking.evaluation import evaluate_model
    from tfew.training.fit import fit

    loaded = build_trainable(config)
    fit(config, loaded.method, loaded.model, loaded.prompt_tokenizer, training, folder)
    return evaluate_model(loaded, held_out, settings(EvaluationSettings, config), folder)


def _build(config: DictConfig, training: Task, evaluation: Task | None) -> "Trainable":
    """Raises UserError for what does not fit together, or into memory."""
    from tfew.costs.memory_forecast import check_memory
    from tfew.models.build import build_blueprint, build_device, build_method, build_tokenizer, build_trainable
    from tfew.ranking.task_check import check_task, is_checked, report

    prompt_tokenizer = build_tokenizer(config)
    if is_checked(config.dataset, training):
        report(check_task(training, prompt_tokenizer, config.folds, config.get("labels") is not None))
    if training.mixture is None:
        prompt_tokenizer.check_cuttable_budget(training.prompts[0])
    tokens = len(prompt_tokenizer.tokenizer)
    blueprint = build_blueprint(config, build_method(config), build_device(config), tokens)
    check_memory(blueprint, prompt_tokenizer, training, evaluation)
    return build_trainable(config, prompt_tokenizer)


def _open(config: DictConfig, folder: Path, training: Task, evaluation: str) -> None:
    """`evaluation`: what will be evaluated, in words."""
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


def _finish(config: DictConfig, folder: Path, result: RunResult) -> RunRecord:
    from tfew.models.build import gathered_adapter

    with gathered_adapter(config, result.loaded.model):
        return finish(folder, config, "train", method_name(config), result)


def rerun(config: DictConfig, overrides: Sequence[str]) -> RunRecord:
    """Makes the run in the folder `config.rerun` again, elsewhere, and logs what differs; `overrides` as given."""
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
