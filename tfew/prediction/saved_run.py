"""The settings that an adapter brings with it: those of the finished run whose folder it lies in."""

from collections.abc import Collection, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from tfew.cli import overridden
from tfew.dataset_config import on_other_rows
from tfew.errors import UserError
from tfew.runs.identity import WEIGHT_HASHES
from tfew.runs.run_folder import finished_settings

# what the command line may say beside adapter=RUN: the rest was settled when it was trained
EVALUATION_SETTINGS = (
    "adapter", "dataset", "data", "text", "label", "data_dir", "templates", "score", "model", "trainer", "max_tokens",
    "eval_batch_size", "eval_rows", "eval_seed", "icl", "runs", "run_dir", "resume", "overwrite", "workers", "engine",
    "memory_gb", "trust_remote_code",
)  # fmt: skip
# of that run, not of this one; and how it was computed, which older runs do not know
NOT_BROUGHT = ("runs", "run_dir", "resume", "overwrite", "engine", "memory_gb", "icl", "trust_remote_code")


def with_run_settings(
    config: DictConfig, overrides: Sequence[str], may_change: Collection[str] = EVALUATION_SETTINGS
) -> DictConfig:
    """The settings of the run that `config.adapter` lies in, with what the command line says laid over them.

    `may_change`: what it may say; the rest was settled when the run was trained. An adapter folder that is no run
    folder brings no settings: then the command line is all there is.
    """
    if config.adapter is None:
        return config
    folder = Path(str(config.adapter)).expanduser()
    saved = finished_settings(folder)
    if saved is None:
        return config
    saved.pop(WEIGHT_HASHES, None)
    merged = OmegaConf.create({**saved, "init_adapter": None})
    for key in NOT_BROUGHT:
        if key in config:
            merged[key] = config[key]
    for key in ("devices", "strategy"):
        merged.trainer[key] = config.trainer[key]
    merged.score = OmegaConf.merge(config.score, merged.score)  # older runs do not know all of it
    for key in overridden(overrides):
        if key.partition(".")[0] not in may_change:
            good = ", ".join(may_change)
            raise UserError(f"{key}= belongs to training, and adapter= brings its run's settings; here go: {good}.")
        OmegaConf.update(merged, key, OmegaConf.select(config, key), merge=False, force_add=True)
    if "data" in overridden(overrides):
        merged = on_other_rows(merged)
    merged.name = merged.dataset.name
    return merged
