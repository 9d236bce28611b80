"""Rank classification with a saved adapter or the bare model: `python -m tfew.evaluate adapter=runs/NAME`."""

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from tfew.cli import command
from tfew.config import check, run_name, run_path
from tfew.errors import UserError
from tfew.records import RunRecord, load_record
from tfew.report import finish
from tfew.run_folder import CONFIG_FILE, is_finished, prepare
from tfew.task import eval_task

log = logging.getLogger("tfew.evaluate")  # __name__ is __main__ under python -m
ZERO_SHOT = "zero_shot"


def evaluate(config: DictConfig) -> RunRecord:
    """Scores `config.adapter` (None: the bare model) on the evaluation split, in a run folder of its own."""
    check(config)
    evaluation = eval_task(config)
    folder = run_path(config, f"evaluate-{run_name(config, ZERO_SHOT if config.adapter is None else None)}")
    if not prepare(folder, config):
        return load_record(folder)
    log.info(f"{folder}: {evaluation.rows} rows to evaluate.")

    from tfew.build import attach_saved, build_backbone, build_device, build_tokenizer
    from tfew.evaluation import evaluate_model

    device = build_device(config)
    tokenizer = build_tokenizer(config)
    model = build_backbone(config, tokenizer, device)
    name, method = (ZERO_SHOT, None) if config.adapter is None else attach_saved(Path(config.adapter), model)
    evaluated = evaluate_model(config, model, tokenizer, evaluation, device, folder)
    return finish(folder, config, "evaluate", name, method, model, evaluated)


def with_run_settings(config: DictConfig, overrides: list[str]) -> DictConfig:
    """The settings of the run that `config.adapter` lies in, with what the command line says laid over them.

    An adapter folder that is no run folder brings no settings: then the command line is all there is.
    """
    saved = Path(config.adapter) / CONFIG_FILE if config.adapter is not None else None
    if saved is None or not saved.is_file():
        return config
    if not is_finished(saved.parent):
        raise UserError(f"adapter={config.adapter} is a run that did not finish; finish it with resume=true.")
    merged = OmegaConf.load(saved)
    assert isinstance(merged, DictConfig)
    for key in ("run_dir", "resume", "overwrite", "runs"):  # of that run, not of this one
        merged[key] = config[key]
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.key_or_group == "experiment":
            raise UserError("adapter= brings its run's experiment along; give dataset= to evaluate on other data.")
        OmegaConf.update(merged, override.key_or_group, OmegaConf.select(config, override.key_or_group), force_add=True)
    merged.name = merged.dataset.name
    return merged


@command("evaluate")
def main(config: DictConfig) -> RunRecord:
    return evaluate(with_run_settings(config, list(HydraConfig.get().overrides.task)))


if __name__ == "__main__":
    main()
