"""Few-shot training and rank classification: `python -m tfew.train +experiment=rte`.

The main path of the project, as a table of contents: data, model, training, evaluation, record.
"""

import logging
from pathlib import Path

from omegaconf import DictConfig

from tfew.cli import command
from tfew.config import checked, method_name, resolved, run_name, run_path
from tfew.records import RunRecord
from tfew.report import finish
from tfew.run_folder import MIXTURE_FILE, few_shot_path, only_once, open_run
from tfew.task import eval_task, save_few_shot, save_mixture, train_task

log = logging.getLogger("tfew.train")  # __name__ is __main__ under python -m


def train(config: DictConfig) -> RunRecord:
    """Runs the whole job in its run folder and returns the record; a finished identical run is only read."""
    config = checked(config)
    return only_once(run_path(config, run_name(config)), config, _train)


def _train(config: DictConfig, folder: Path) -> RunRecord:
    training, evaluation = train_task(config), eval_task(config)

    # heavy imports only now: the configuration and the data are known to be good
    from tfew.adapters_io import save_adapter
    from tfew.build import attach_method, base_of, build_backbone, build_device, build_encoder, build_method
    from tfew.evaluation import evaluate_model
    from tfew.fit import fit

    device, method, encoder = build_device(config), build_method(config), build_encoder(config)
    model = build_backbone(config, encoder.tokenizer, device, method)
    base_parameters = sum(parameter.numel() for parameter in model.parameters())
    attach_method(config, method, model, encoder.tokenizer)

    open_run(folder, config)
    if training.mixture is None:
        save_few_shot(training, few_shot_path(folder, config))
    else:
        save_mixture(training, folder / MIXTURE_FILE)
    what = "shots" if training.mixture is None else "prompts in a pass over the mixture"
    to_rank = f"{evaluation.rows} rows to evaluate" if evaluation else "nothing to evaluate"
    log.info(f"{folder}: {training.rows} {what}, {to_rank}.")
    fitted = fit(config, method, model, encoder, training, folder)
    adapter_bytes = save_adapter(folder, method.stored(model), resolved(config.method), base_of(config))
    evaluated = evaluate_model(config, method, model, encoder, evaluation, folder) if evaluation else None
    return finish(
        folder, config, "train", method_name(config), method, model, base_parameters, evaluated, fitted, adapter_bytes,
        training.mixture,
    )  # fmt: skip


main = command("train")(train)

if __name__ == "__main__":
    main()
