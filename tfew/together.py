"""Several runs trained in one process: `python -m tfew.train +experiment=rte train_together=5`.

Each run has the settings, folder, record and adapter that it would have alone, and is found finished by whoever asks
for it alone. What they share is the frozen model and, in training, the batches (`tfew.training.joint_training`).
"""

import logging
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig

from tfew.config import checked, compose, resolved
from tfew.dataset_config import complete
from tfew.errors import UserError
from tfew.runs.identity import differences, method_name, run_name, run_path
from tfew.runs.records import RunRecord, load_record
from tfew.runs.run_folder import METRICS_FILE, MIXTURE_FILE, already_finished, few_shot_path, open_run, remove_leftovers
from tfew.runs.run_lock import lock_run
from tfew.summary import finish
from tfew.task import Task, eval_task, save_few_shot, save_mixture, train_task

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tfew.data.tokenization import PromptTokenizer
    from tfew.methods.base import Method
    from tfew.training.joint_training import Member

log = logging.getLogger(__name__)
SEEDS = (0, 1, 32, 42, 1024)  # the paper's
SHARED = ("model", "method", "trainer", "engine", "memory_gb", "logger")  # one model, computed in one way


@dataclass(frozen=True)
class Job:
    """One run that is still to be made."""

    config: DictConfig
    folder: Path
    training: Task
    evaluation: Task | None


def settings_of_each(overrides: Sequence[str], together: Any) -> list[DictConfig]:
    """The settings of each run: those of the command line, and its own on top; `together` as in configs/train.yaml."""
    if isinstance(together, int) and not isinstance(together, bool) and 1 <= together <= len(SEEDS):
        together = SEEDS[:together]
    if isinstance(together, int | str) or not isinstance(together, Sequence | ListConfig) or not len(together):
        raise UserError(
            f"train_together={together} is neither a number from 1 to {len(SEEDS)}, nor a list of seeds, [0, 1, 7],"
            " nor of what each run says, ['dataset=ONE', 'dataset=TWO shots=16']."
        )
    own = [[f"few_shot_seed={entry}"] if isinstance(entry, int) else shlex.split(str(entry)) for entry in together]
    if bad := [setting for settings in own for setting in settings if "=" not in setting]:
        raise UserError(f"train_together= holds {bad[0]!r}, which is neither a seed nor a setting (KEY=VALUE).")
    common = [override for override in overrides if _key(override) != "train_together"]
    return [
        compose(*(c for c in common if _key(c) not in map(_key, settings)), *settings, "train_together=null")
        for settings in own
    ]


def train_together(configs: Sequence[DictConfig]) -> list[RunRecord]:
    """Makes those of the runs that are not finished, all at once, and returns the records of all."""
    configs = [complete(checked(config)) for config in configs]
    folders = [run_path(config, run_name(config)) for config in configs]
    _check(configs, folders)
    with ExitStack() as claims:
        jobs = []
        for config, folder in zip(configs, folders, strict=True):
            if not already_finished(folder, config):
                claims.enter_context(lock_run(folder))
                if not already_finished(folder, config):  # another process may have finished it meanwhile
                    jobs.append(Job(config, folder, train_task(config), eval_task(config)))
        if jobs:
            _make(jobs)
    records = [load_record(folder) for folder in folders]
    for folder in folders:
        remove_leftovers(folder)
    return records


def _make(jobs: Sequence[Job]) -> None:
    # heavy imports only now: all configurations and data are known to be good
    from tfew.costs.memory_forecast import check_memory
    from tfew.methods.base import attach
    from tfew.methods.task_bank import without_tasks
    from tfew.models.build import build_backbone, build_device, build_method, build_tokenizer

    first = jobs[0].config
    device, method, prompt_tokenizer = build_device(first), build_method(first), build_tokenizer(first)
    check_memory(
        first, device, method, prompt_tokenizer, jobs[0].training, jobs[0].evaluation
    )  # the others come on top
    model = build_backbone(first, prompt_tokenizer.tokenizer, device, method)
    base_parameters = sum(parameter.numel() for parameter in model.parameters())
    members = [_member(job, method, model, prompt_tokenizer) for job in jobs]
    for job in jobs:
        _open(job)
    seconds = _fit(jobs, members, method, model, prompt_tokenizer, device)
    without_tasks(model)
    attach(method, model)
    for job, member in zip(jobs, members, strict=True):
        _complete(job, member, method, model, prompt_tokenizer, base_parameters, seconds / len(jobs))


def _member(job: Job, method: "Method", model: "nn.Module", prompt_tokenizer: "PromptTokenizer") -> "Member":
    from torch import nn

    from tfew.data.loader import FewShotDataModule
    from tfew.models.build import build_method, make_optimizer, starting_weights
    from tfew.scoring.losses import LossWeights
    from tfew.training.joint_training import Member
    from tfew.training.optim import linear_decay_with_warmup

    config = job.config
    build_method(config)  # checks it against this run's optimiser
    weights = {name: nn.Parameter(vector) for name, vector in starting_weights(config, method, model).items()}
    optimizer = make_optimizer(config, list(weights.values()))
    data = FewShotDataModule(
        job.training.prompts,
        replace(prompt_tokenizer, max_tokens=config.max_tokens),
        batch_size=config.batch_size,
        steps=config.steps,
        seed=config.seed,
        workers=0,
        length_window=config.length_window,
    )
    return Member(
        job.folder,
        weights,
        method.scaler(model),
        optimizer,
        linear_decay_with_warmup(optimizer, config.steps, config.warmup_ratio),
        data.dataset,
        data.order,
        LossWeights(config.loss.lm, config.loss.ul, config.loss.ln),
        unlikely_epsilon=config.fidelity.unlikely_epsilon,
        loss_mean=config.fidelity.loss_mean,
        clip_norm=config.clip_norm,
        seed=config.seed,
        micro_batch_size=config.micro_batch_size,
    )


def _open(job: Job) -> None:
    open_run(job.folder, job.config)
    if job.training.mixture is not None:
        save_mixture(job.training, job.folder / MIXTURE_FILE)
    elif job.config.few_shot != "all":
        save_few_shot(job.training.examples, few_shot_path(job.folder, job.config))


def _fit(
    jobs: Sequence[Job], members: "Sequence[Member]", method: "Method", model: "nn.Module",
    prompt_tokenizer: "PromptTokenizer", device: "torch.device",
) -> float:  # fmt: skip
    """Seconds that the training took."""
    import time
    from functools import partial

    import torch

    from tfew.models.build import memory_bytes, uses_autocast
    from tfew.training.joint_training import JointTraining, restore_together

    first = jobs[0].config
    mixed = uses_autocast(first, device, method)
    training = JointTraining(
        model,
        members,
        first.engine,
        prompt_tokenizer.pad_id,
        memory_bytes(first),
        partial(torch.autocast, device.type, torch.bfloat16, enabled=mixed),
    )
    start = restore_together(members) if all(job.config.resume for job in jobs) else 0
    going_on = f" from step {start} on" if start else ""
    log.info(f"{len(jobs)} runs are trained together{going_on}: {', '.join(job.folder.name for job in jobs)}.")
    started = time.monotonic()
    training.run(start, min(job.config.checkpoint_every for job in jobs))
    return time.monotonic() - started


def _complete(
    job: Job, member: "Member", method: "Method", model: "nn.Module",
    prompt_tokenizer: "PromptTokenizer", base_parameters: int, seconds: float,
) -> None:  # fmt: skip
    """Adapter, evaluation and record, as a run alone has them; `seconds`: its share of the training."""
    from tfew.models.adapters_io import save_adapter
    from tfew.models.build import base_of
    from tfew.ranking.evaluation import evaluate_model
    from tfew.runs.metrics_file import final_loss
    from tfew.training.fit import Fitted

    config, folder, evaluation = job.config, job.folder, job.evaluation
    weights = {name: vector.detach() for name, vector in member.weights.items()}
    method.restore(model, weights)
    prompt_tokenizer = replace(prompt_tokenizer, max_tokens=config.max_tokens)
    adapter_bytes = save_adapter(folder, method.stored(model), resolved(config.method), base_of(config))
    evaluated = evaluate_model(config, method, model, prompt_tokenizer, evaluation, folder) if evaluation else None
    fitted = Fitted(member.steps, member.tokens_seen, seconds, final_loss(folder / METRICS_FILE))
    finish(
        folder, config, "train", method_name(config), method, model, base_parameters, evaluated, fitted, adapter_bytes,
        job.training.mixture,
    )  # fmt: skip


def _check(configs: Sequence[DictConfig], folders: Sequence[Path]) -> None:
    """That the runs are different ones which can share a model and batches."""
    first = configs[0]
    if first.run_dir is not None:
        raise UserError(
            f"run_dir={first.run_dir} is the folder of one run, and train_together= makes several: use runs=."
        )
    if first.logger._target_ is not None:
        raise UserError("train_together= writes metrics.csv for each run and knows no other logger: use logger=csv.")
    if first.trainer.devices != 1:
        raise UserError(f"train_together= trains on one device: say trainer.devices=1, not {first.trainer.devices}.")
    if any(config.folds is not None for config in configs):
        raise UserError("train_together= trains each run once, and folds= several times: say folds=null.")
    twice = [folder.name for number, folder in enumerate(folders) if folder in folders[:number]]
    if twice:
        raise UserError(f"train_together= names the same run twice ({twice[0]}).")
    for config in configs[1:]:
        ours, theirs = ({key: resolved(c)[key] for key in SHARED} for c in (config, first))
        if unlike := differences(ours, theirs):
            raise UserError(
                f"Runs that are trained together share model, method and the way they are computed, and these differ"
                f" ({'; '.join(unlike[:3])})."
            )


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
