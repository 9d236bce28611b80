"""Rank classification with a saved adapter or the bare model: `python -m tfew.evaluate adapter=runs/NAME`."""

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from tfew.adapters_io import adapter_description
from tfew.cli import command, overridden
from tfew.config import WEIGHT_HASHES, checked, run_name, run_path
from tfew.errors import UserError
from tfew.ranks import from_first, is_first, wait_for_all
from tfew.records import IN_CONTEXT, ZERO_SHOT, RunRecord, load_record
from tfew.report import finish
from tfew.run_folder import few_shot_path, finished_settings, open_run, to_skip
from tfew.task import InContext, Task, eval_task, in_context, save_few_shot

log = logging.getLogger("tfew.evaluate")  # __name__ is __main__ under python -m
# what the command line may say beside adapter=RUN: the rest was settled when it was trained
EVALUATION_SETTINGS = (
    "adapter", "dataset", "data_dir", "templates", "score", "model", "trainer", "max_tokens", "eval_batch_size",
    "eval_rows", "eval_seed", "icl", "runs", "run_dir", "resume", "overwrite", "workers", "engine", "memory_gb",
)  # fmt: skip


def evaluate(config: DictConfig) -> RunRecord:
    """Scores `config.adapter` (None: the bare model) on the evaluation split, in a run folder of its own."""
    config = checked(config)
    if config.init_adapter is not None and config.adapter is None:
        raise UserError("init_adapter= is where training starts; to evaluate an adapter say adapter=.")
    method_name = ZERO_SHOT
    if config.adapter is not None:
        method_name = adapter_description(Path(config.adapter))["method"]["name"]
    if config.icl.mode != "none":
        learning = f"{IN_CONTEXT}_{config.icl.mode}"
        method_name = learning if config.adapter is None else f"{method_name}_{learning}"
    folder = run_path(config, f"evaluate-{run_name(config, method_name)}")
    if to_skip(folder, config):
        return load_record(folder)
    evaluation, context = eval_task(config), in_context(config)
    if evaluation is None:
        raise UserError(
            f"dataset.evaluate=false: {config.dataset.name} has nothing to evaluate; name another dataset=, or say"
            " dataset.evaluate=true."
        )

    from tfew.processes import processes

    with processes(config, "evaluate"):
        record = from_first(_run(config, folder, method_name, evaluation, context))
    assert record is not None
    return record


def _run(
    config: DictConfig, folder: Path, method_name: str, evaluation: Task, context: InContext | None
) -> RunRecord | None:
    """The job as each of its processes does it; the first one also writes, and has the record."""
    from tfew.build import attach_saved, build_backbone, build_device, build_encoder, saved_method, share_out
    from tfew.evaluation import evaluate_model

    method = None if config.adapter is None else saved_method(Path(config.adapter), config)[1]
    device, encoder = build_device(config), build_encoder(config)
    model = build_backbone(config, encoder.tokenizer, device, method)
    base_parameters = sum(parameter.numel() for parameter in model.parameters())
    if method is not None:
        attach_saved(Path(config.adapter), method, model)
    share_out(config, model, device, method)

    if is_first():
        open_run(folder, config)
        if context is not None:
            save_few_shot(context.examples, few_shot_path(folder, config))
        log.info(f"{folder}: {evaluation.rows} rows to evaluate.")
    wait_for_all()
    evaluated = evaluate_model(config, method, model, encoder, evaluation, folder, context)
    if not is_first():
        return None
    return finish(folder, config, "evaluate", method_name, method, model, base_parameters, evaluated)


def with_run_settings(config: DictConfig, overrides: list[str]) -> DictConfig:
    """The settings of the run that `config.adapter` lies in, with what the command line says laid over them.

    An adapter folder that is no run folder brings no settings: then the command line is all there is.
    """
    if config.adapter is None:
        return config
    folder = Path(str(config.adapter)).expanduser()
    saved = finished_settings(folder)
    if saved is None:
        return config
    saved.pop(WEIGHT_HASHES, None)
    merged = OmegaConf.create({**saved, "init_adapter": None})
    # of that run, not of this one; and how it was computed, which older runs do not know
    for key in ("runs", "run_dir", "resume", "overwrite", "engine", "memory_gb", "icl"):
        merged[key] = config[key]
    for key in ("devices", "strategy"):
        merged.trainer[key] = config.trainer[key]
    merged.score = OmegaConf.merge(config.score, merged.score)  # older runs do not know all of it
    for key in overridden(overrides):
        if key.partition(".")[0] not in EVALUATION_SETTINGS:
            good = ", ".join(EVALUATION_SETTINGS)
            raise UserError(f"{key}= belongs to training, and adapter= brings its run's settings; here go: {good}.")
        OmegaConf.update(merged, key, OmegaConf.select(config, key), merge=False, force_add=True)
    merged.name = merged.dataset.name
    return merged


@command("evaluate")
def main(config: DictConfig) -> RunRecord:
    return evaluate(with_run_settings(config, list(HydraConfig.get().overrides.task)))


if __name__ == "__main__":
    main()
