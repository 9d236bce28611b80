"""Few-shot training and rank classification: `python -m tfew.train +experiment=rte`.

The main path of the project, as a table of contents: data, model, training, evaluation, record.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from tfew.cli import command
from tfew.config import checked, resolved
from tfew.dataset_config import complete
from tfew.devices.distributed import broadcast_object
from tfew.errors import UserError
from tfew.runs.identity import method_name, run_name, run_path
from tfew.runs.records import RunRecord
from tfew.runs.run_folder import MIXTURE_FILE, few_shot_path, open_run, run_once
from tfew.summary import finish
from tfew.task import Task, eval_task, row_folds, save_few_shot, save_mixture, train_task
from tfew.together import settings_of_each, train_together

log = logging.getLogger("tfew.train")  # __name__ is __main__ under python -m


def train(config: DictConfig) -> RunRecord:
    """Runs the whole job in its run folder and returns the record; a finished identical run is only read."""
    if config.train_together is not None:
        raise UserError("train_together= is of the command line; in Python call tfew.together.train_together.")
    config = complete(checked(config))
    return run_once(run_path(config, run_name(config)), config, _train)


def _train(config: DictConfig, folder: Path) -> RunRecord:
    training = train_task(config)
    folds = None if config.folds is None else row_folds(config, training)
    evaluation = eval_task(config) if folds is None else None

    # heavy imports only now: the configuration and the data are known to be good
    from tfew.devices.launcher import processes

    with processes(config, "train"):
        return broadcast_object(_run(config, folder, training, folds, evaluation))


def _run(
    config: DictConfig, folder: Path, training: Task, folds: Sequence[int] | None, evaluation: Task | None
) -> RunRecord:
    """The job as each of its processes does it, one a device; only the first writes."""
    from tfew.costs.memory_forecast import check_memory
    from tfew.models.adapters_io import save_adapter
    from tfew.models.build import (
        base_of,
        build_device,
        build_method,
        build_tokenizer,
        build_trainable,
        gathered_adapter,
    )
    from tfew.ranking.evaluation import evaluate_model
    from tfew.training.cross_validation import cross_validate
    from tfew.training.fit import fit

    prompt_tokenizer = build_tokenizer(config)
    if training.mixture is None:
        prompt_tokenizer.check_cuttable_budget(training.prompts[0])
    check_memory(config, build_device(config), build_method(config), prompt_tokenizer, training, evaluation)
    built = build_trainable(config, prompt_tokenizer)
    open_run(folder, config)
    _save_training_rows(config, training, folder)
    log.info(f"{folder}: {_what_there_is(config, training, evaluation)}.")
    evaluated = None
    if folds is not None:
        del built  # each fold has a model of its own
        evaluated = cross_validate(config, training, folds, folder)
        built = build_trainable(config)
    fitted = fit(config, built.method, built.model, built.prompt_tokenizer, training, folder)
    with gathered_adapter(config, built.model):
        stored = built.method.stored(built.model)
        adapter_bytes = save_adapter(folder, stored, resolved(config.method), base_of(config))
    if evaluation is not None:
        evaluated = evaluate_model(config, built.method, built.model, built.prompt_tokenizer, evaluation, folder)
    with gathered_adapter(config, built.model):
        return finish(
            folder, config, "train", method_name(config), built.method, built.model, built.base_parameters, evaluated,
            fitted, adapter_bytes, training.mixture,
        )  # fmt: skip


def _save_training_rows(config: DictConfig, training: Task, folder: Path) -> None:
    """The shots that were drawn, or what the mixture consists of; all rows of a table lie in the table."""
    if training.mixture is not None:
        save_mixture(training, folder / MIXTURE_FILE)
    elif config.few_shot != "all":
        save_few_shot(training.examples, few_shot_path(folder, config))


def _what_there_is(config: DictConfig, training: Task, evaluation: Task | None) -> str:
    what = "shots" if config.few_shot != "all" else "rows to train on"
    what = what if training.mixture is None else "prompts in a pass over the mixture"
    if config.folds is not None:
        return f"{training.rows} {what}, in {config.folds} folds"
    return f"{training.rows} {what}, {f'{evaluation.rows} rows' if evaluation else 'nothing'} to evaluate"


@command("train")
def main(config: DictConfig) -> RunRecord | list[RunRecord]:
    if config.train_together is None:
        return train(config)
    configs = settings_of_each(HydraConfig.get().overrides.task, config.train_together)
    for each in configs:
        each.resume = config.resume  # a sweep sets it
    return train_together(configs)


if __name__ == "__main__":
    main()
