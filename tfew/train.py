"""Few-shot training and rank classification: `python -m tfew.train +experiment=rte`.

The main path of the project, as a table of contents: data, model, training, evaluation, record.
"""

import logging

from omegaconf import DictConfig

from tfew.cli import command
from tfew.config import check, method_name, resolved, run_name, run_path
from tfew.records import RunRecord, load_record
from tfew.report import finish
from tfew.run_folder import prepare
from tfew.task import eval_task, save_few_shot, train_task

log = logging.getLogger("tfew.train")  # __name__ is __main__ under python -m


def train(config: DictConfig) -> RunRecord:
    """Runs the whole job in its run folder and returns the record; a finished identical run is only read."""
    check(config)
    training, evaluation = train_task(config), eval_task(config)
    folder = run_path(config, run_name(config))
    if not prepare(folder, config):
        return load_record(folder)
    save_few_shot(training, folder, config.few_shot_seed)
    log.info(f"{folder}: {training.rows} shots, {evaluation.rows} rows to evaluate.")

    # heavy imports only now: the configuration and the data are known to be good
    from tfew.adapters_io import save_adapter
    from tfew.build import attach_method, build_backbone, build_device, build_tokenizer
    from tfew.evaluation import evaluate_model
    from tfew.fit import fit

    device = build_device(config)
    tokenizer = build_tokenizer(config)
    model = build_backbone(config, tokenizer, device)
    method = attach_method(config, model, tokenizer)
    fitted = fit(config, method, model, tokenizer, training, folder)
    base = {"name": config.model.name, "path": config.model.path}
    adapter_bytes = save_adapter(folder, method.stored(model), resolved(config.method), base)
    evaluated = evaluate_model(config, model, tokenizer, evaluation, device, folder)
    return finish(folder, config, "train", method_name(config), method, model, evaluated, fitted, adapter_bytes)


main = command("train")(train)

if __name__ == "__main__":
    main()
