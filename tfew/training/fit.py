"""Runs one training with Lightning: the Trainer, checkpoints for resuming, metrics.csv, the progress bar."""

import errno
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import get_class
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm import tqdm

from tfew.config import resolved
from tfew.data.loader import FewShotDataModule, PromptDataset
from tfew.data.tokenization import PromptTokenizer, collate
from tfew.devices.distributed import broadcast_object, is_main_process, world_size
from tfew.environment.verbosity import bar_options, is_quiet
from tfew.errors import UserError
from tfew.files.atomic import write_bytes_atomically, write_error
from tfew.methods.base import Method
from tfew.models.build import make_optimizer
from tfew.models.execution import shards_weights, uses_autocast, uses_zero3
from tfew.runs.checkpoints import CHECKPOINTS, MASK_FILE, last_checkpoint
from tfew.runs.metrics_file import MetricsFile, final_loss
from tfew.runs.run_folder import METRICS_FILE, SPEED_FILE
from tfew.scoring.losses import LossConfig, counts
from tfew.settings import TrainingSettings, settings
from tfew.task import Task
from tfew.training.module import SPEED, FewShotModule
from tfew.training.random_state import own_random_state
from tfew.training.strategy import ExitOnSigterm, devices_of_trainer
from tfew.training.time_left import TimeLeft

CANNOT_WRITE = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EDQUOT}


@dataclass(frozen=True)
class Fitted:
    """Results of training; steps, tokens and loss include the part before an interruption, the seconds do not.

    `final_loss`: mean over the last 10 % of the steps.
    """

    steps: int
    tokens: int
    seconds: float
    final_loss: float


def fit(
    config: DictConfig,
    method: Method,
    model: nn.Module,
    prompt_tokenizer: PromptTokenizer,
    task: Task,
    folder: Path,
    steps_after: int = 0,
) -> Fitted:
    """Trains the adapter in `model`, resuming from the run folder's last checkpoint if there is one.

    `steps_after`: steps of the trainings that will follow, for the estimate of the remaining time.
    """
    device = next(model.parameters()).device
    training = settings(TrainingSettings, config)
    loss_mean = config.fidelity.loss_mean
    module = _module_class(config)(
        model,
        lambda parameters: make_optimizer(config, parameters),
        LossConfig.from_settings(config.loss, config.fidelity.unlikely_epsilon),
        training,
        loss_mean,
        equal_passes=shards_weights(config),
    )
    examples_per_mean = training.micro_batch_size or training.batch_size
    data = FewShotDataModule(
        task.prompts,
        prompt_tokenizer,
        batch_size=training.batch_size,
        steps=training.steps,
        seed=training.seed,
        workers=training.workers,
        length_window=training.length_window,
        # keeps examples together that are averaged together
        piece=examples_per_mean if loss_mean == "micro_batch" else 1,
    )
    started = time.monotonic()
    if method.needs_mask:
        _compute_mask(config, method, module, prompt_tokenizer, task, folder / CHECKPOINTS / MASK_FILE)
    with quiet_lightning():
        trainer = _trainer(config, method, device, folder, steps_after)
    module.train()  # for dropout: from_pretrained returns a model in evaluation mode, and Lightning keeps the mode
    checkpoint = broadcast_object(last_checkpoint(folder) if is_main_process() else None)
    try:
        with quiet_lightning(), own_random_state(device):
            trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as error:  # Lightning converts Ctrl-C to this
        raise KeyboardInterrupt from error
    except OSError as error:
        if error.errno in CANNOT_WRITE:
            raise write_error(folder, error) from error
        raise
    finally:
        _finish_loggers(trainer)
    model.to(device)  # Lightning moves it to the CPU
    seconds = time.monotonic() - started
    loss = broadcast_object(final_loss(folder / METRICS_FILE) if is_main_process() else 0.0)
    return Fitted(module.global_step, module.tokens_seen, seconds, loss)


def _module_class(config: DictConfig) -> type[FewShotModule]:
    if not uses_zero3(config):
        return FewShotModule
    from tfew.training.deepspeed import Zero3Module

    return Zero3Module


def _compute_mask(
    config: DictConfig, method: Method, module: FewShotModule, prompt_tokenizer: PromptTokenizer, task: Task, path: Path
) -> None:
    """Once per run: a resumed run, or another of its processes, loads the saved mask, since rounding could differ."""
    found: dict[str, Tensor] | None = None
    if is_main_process() and path.is_file():
        found = load_file(path)
    elif is_main_process():
        method.compute_mask(module.model, _single_losses(config, method, module, prompt_tokenizer, task))
        made = {name: tensor.cpu() for name, tensor in method.mask_tensors().items()}
        write_bytes_atomically(path, save(made))
        found = made if world_size() > 1 else None
    if (found := broadcast_object(found)) is not None:
        method.load_mask(module.model, found)


def _single_losses(
    config: DictConfig, method: Method, module: FewShotModule, prompt_tokenizer: PromptTokenizer, task: Task
) -> Iterator[Tensor]:
    """The training loss of each single training example, with the template drawn for step 0, without dropout."""
    prompts = PromptDataset(task.prompts, prompt_tokenizer, config.seed)
    device = next(module.model.parameters()).device
    module.eval()
    for row in tqdm(range(task.rows), desc="Calibrating", unit="example", mininterval=0.5, **bar_options()):
        batch = collate([prompts[0, row]], prompt_tokenizer.pad_id).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=uses_autocast(config, device, method)):
            loss = module.loss_terms(batch, counts(batch))["loss"]
        yield loss


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """A context that silences Lightning's advertisements, and warnings that do not apply here."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # few-shot sets are tiny: more loader processes only cost start-up
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # checkpoints are meant to hold the state after the step, and to coexist briefly with an earlier one
        warnings.filterwarnings("ignore", message="(?s).*ModelCheckpoint with manual optimization.*")
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        # StepSampler itself starts at the resumed step
        warnings.filterwarnings("ignore", message=".*resuming from a checkpoint that ended before the epoch ended.*")
        # Lightning 2.6.6 with torch 2.13
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
        yield


def _trainer(config: DictConfig, method: Method, device: torch.device, folder: Path, steps_after: int) -> pl.Trainer:
    return pl.Trainer(
        accelerator=device.type,
        **devices_of_trainer(uses_zero3(config), config.clip_norm),
        precision="bf16-mixed" if uses_autocast(config, device, method) else "32-true",
        max_steps=config.steps,
        logger=_logger(config, folder) if is_main_process() else False,
        callbacks=[
            StepBar(config.steps),
            *([MetricsCsv(folder), TimeLeft(config.steps, steps_after)] if is_main_process() else []),
            *([ExitOnSigterm()] if world_size() > 1 else []),
            ModelCheckpoint(
                folder / CHECKPOINTS,
                filename="{step}",
                every_n_train_steps=config.checkpoint_every,
                save_on_train_epoch_end=False,
                enable_version_counter=False,
            ),
        ],
        log_every_n_steps=1,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )


def _finish_loggers(trainer: pl.Trainer) -> None:
    """Closes loggers: wandb continues an open run, so the next job of a sweep would be logged to this one's."""
    for logger in trainer.loggers:
        experiment: Any = getattr(logger, "experiment", None)
        finish = getattr(experiment, "finish", None)
        if finish is not None:
            finish()


def _logger(config: DictConfig, folder: Path) -> Any:
    if config.logger._target_ is None:
        return False
    arguments = {"name": folder.resolve().name, **resolved(config.logger), "save_dir": str(folder)}
    target = arguments.pop("_target_")
    try:
        logger = get_class(target)(**arguments)
        _ = logger.experiment  # a missing login fails here and not in the middle of training
        return logger
    except Exception as error:  # each service has its own types
        raise UserError(
            f"{target} cannot start: {' '.join(str(error).split())} (wandb needs a login or WANDB_MODE=offline;"
            " logger=csv needs nothing)."
        ) from error


class StepBar(TQDMProgressBar):
    """Lightning's bar on standard error, labelled for steps (to Lightning all steps are one epoch)."""

    def __init__(self, steps: int) -> None:
        """In a file each refresh is a line, so there are only a few; on a terminal a hundred."""
        super().__init__(refresh_rate=max(1, steps // (100 if sys.stderr.isatty() else 5)))

    def init_train_tqdm(self) -> Tqdm:
        return Tqdm(
            desc="Training", disable=self.is_disabled or is_quiet(), dynamic_ncols=True, file=sys.stderr, smoothing=0,
            bar_format=self.BAR_FORMAT,
        )  # fmt: skip

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description("Training")


class MetricsCsv(pl.Callback):
    """`metrics.csv` and `speed.csv`, whatever logger is chosen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: list[MetricsFile] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._files = [MetricsFile(self.folder / name, trainer.global_step) for name in (METRICS_FILE, SPEED_FILE)]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        values = {name: value.item() for name, value in trainer.callback_metrics.items()}
        speed = {name: values.pop(name) for name in SPEED}
        for file, row in zip(self._files, (values, speed), strict=True):
            file.write(trainer.global_step, row)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        for file in self._files:
            file.close()
