"""Rank classification with a saved adapter or the bare model: `python -m tfew.evaluate adapter=runs/NAME`."""

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from tfew.cli import command
from tfew.config import checked
from tfew.dataset_config import complete, on_all_rows
from tfew.devices.distributed import broadcast_object
from tfew.errors import UserError
from tfew.models.adapters_io import adapter_description
from tfew.prediction.saved_run import with_run_settings
from tfew.runs.identity import run_name, run_path
from tfew.runs.records import IN_CONTEXT, ZERO_SHOT, RunRecord
from tfew.runs.run_folder import few_shot_path, open_run, run_once
from tfew.summary import finish
from tfew.task import InContext, Task, eval_task, in_context, save_few_shot

log = logging.getLogger("tfew.evaluate")  # __name__ is __main__ under python -m


def evaluate(config: DictConfig) -> RunRecord:
    """Scores `config.adapter` (None: the bare model) on the evaluation split, in a run folder of its own."""
    config = complete(checked(config))
    if config.init_adapter is not None and config.adapter is None:
        raise UserError("init_adapter= is where training starts; to evaluate an adapter say adapter=.")
    if config.adapter is None:
        config = on_all_rows(config)
    folder = run_path(config, f"evaluate-{run_name(config, _method_name(config))}")
    return run_once(folder, config, _evaluate)


def _method_name(config: DictConfig) -> str:
    name = ZERO_SHOT if config.adapter is None else adapter_description(Path(config.adapter))["method"]["name"]
    if config.icl.mode == "none":
        return str(name)
    learning = f"{IN_CONTEXT}_{config.icl.mode}"
    return learning if config.adapter is None else f"{name}_{learning}"


def _evaluate(config: DictConfig, folder: Path) -> RunRecord:
    evaluation, context = eval_task(config), in_context(config)
    if evaluation is None:
        raise UserError(_nothing_to_evaluate(config))

    from tfew.devices.launcher import processes

    with processes(config, "evaluate"):
        return broadcast_object(_run(config, folder, evaluation, context))


def _run(config: DictConfig, folder: Path, evaluation: Task, context: InContext | None) -> RunRecord:
    """The job as each of its processes does it; only the first writes."""
    from tfew.costs.memory_forecast import check_memory
    from tfew.models.build import attach_saved, build_backbone, build_device, build_tokenizer, saved_method, shard_model
    from tfew.ranking.evaluation import evaluate_model

    method = None if config.adapter is None else saved_method(Path(config.adapter), config)[1]
    device, prompt_tokenizer = build_device(config), build_tokenizer(config)
    check_memory(config, device, method, prompt_tokenizer, None, evaluation, context)
    model = build_backbone(config, prompt_tokenizer.tokenizer, device, method)
    base_parameters = sum(parameter.numel() for parameter in model.parameters())
    if method is not None:
        attach_saved(Path(config.adapter), method, model)
    shard_model(config, model, device, method)

    prompt_tokenizer.check_cuttable_budget(evaluation.prompts[0])
    open_run(folder, config)
    if context is not None:
        save_few_shot(context.examples, few_shot_path(folder, config))
    log.info(f"{folder}: {evaluation.rows} rows to evaluate.")
    evaluated = evaluate_model(config, method, model, prompt_tokenizer, evaluation, folder, context)
    return finish(folder, config, "evaluate", _method_name(config), method, model, base_parameters, evaluated)


def _nothing_to_evaluate(config: DictConfig) -> str:
    name = config.dataset.name
    if config.dataset.get("members") is not None:
        return (
            f"dataset.evaluate=false: {name} has nothing to evaluate; name another dataset=, or say"
            " dataset.evaluate=true."
        )
    return f"{name} has no rows to evaluate that the adapter was not trained on: name others with data= or dataset=."


@command("evaluate")
def main(config: DictConfig) -> RunRecord:
    return evaluate(with_run_settings(config, list(HydraConfig.get().overrides.task)))


if __name__ == "__main__":
    main()
