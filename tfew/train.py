"""Few-shot training and rank classification: `python -m tfew.train +experiment=rte`.

The main path of the project, as a table of contents: data, model, training, evaluation, record.
"""

import logging
from pathlib import Path

from omegaconf import DictConfig

from tfew.cli import command
from tfew.config import checked, method_name, resolved, run_name, run_path
from tfew.ranks import from_first, is_first, wait_for_all
from tfew.records import RunRecord, load_record
from tfew.report import finish
from tfew.run_folder import MIXTURE_FILE, few_shot_path, open_run, to_skip
from tfew.task import Task, eval_task, save_few_shot, save_mixture, train_task

log = logging.getLogger("tfew.train")  # __name__ is __main__ under python -m


def train(config: DictConfig) -> RunRecord:
    """Runs the whole job in its run folder and returns the record; a finished identical run is only read."""
    config = checked(config)
    folder = run_path(config, run_name(config))
    if to_skip(folder, config):
        return load_record(folder)
    training, evaluation = train_task(config), eval_task(config)

    # heavy imports only now: the configuration and the data are known to be good
    from tfew.processes import processes

    with processes(config, "train"):
        record = from_first(_run(config, folder, training, evaluation))
    assert record is not None
    return record


def _run(config: DictConfig, folder: Path, training: Task, evaluation: Task | None) -> RunRecord | None:
    """The job as each of its processes does it; the first one also writes, and has the record."""
    from tfew.adapters_io import save_adapter
    from tfew.build import (
        attach_method,
        base_of,
        build_backbone,
        build_device,
        build_encoder,
        build_method,
        share_out,
        whole_adapter,
    )  # fmt: skip
    from tfew.evaluation import evaluate_model
    from tfew.fit import fit

    device, method, encoder = build_device(config), build_method(config), build_encoder(config)
    model = build_backbone(config, encoder.tokenizer, device, method)
    base_parameters = sum(parameter.numel() for parameter in model.parameters())
    attach_method(config, method, model, encoder.tokenizer)
    share_out(config, model, device, method)

    if is_first():
        open_run(folder, config)
        if training.mixture is None:
            save_few_shot(training.examples, few_shot_path(folder, config))
        else:
            save_mixture(training, folder / MIXTURE_FILE)
        what = "shots" if training.mixture is None else "prompts in a pass over the mixture"
        to_rank = f"{evaluation.rows} rows to evaluate" if evaluation else "nothing to evaluate"
        log.info(f"{folder}: {training.rows} {what}, {to_rank}.")
    wait_for_all()
    fitted = fit(config, method, model, encoder, training, folder)
    adapter_bytes = 0
    with whole_adapter(config, model):
        if is_first():
            adapter_bytes = save_adapter(folder, method.stored(model), resolved(config.method), base_of(config))
    evaluated = evaluate_model(config, method, model, encoder, evaluation, folder) if evaluation else None
    with whole_adapter(config, model):
        if not is_first():
            return None
        return finish(
            folder, config, "train", method_name(config), method, model, base_parameters, evaluated, fitted,
            adapter_bytes, training.mixture,
        )  # fmt: skip


main = command("train")(train)

if __name__ == "__main__":
    main()
