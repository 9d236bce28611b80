"""Several runs trained in one process: `python -m tfew.train +experiment=rte train_together=5`.

Each run has the settings, folder, record and adapter of a separate run, and counts as finished for a separate command.
The runs share the frozen model and, in training, the batches (`tfew.training.joint_training`).
"""

import logging
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig

from tfew.config import check_logger, checked, compose, resolved, warn_of_single_step
from tfew.dataset_config import complete
from tfew.errors import UserError
from tfew.ranking.baselines import Guesses, guess
from tfew.runs.identity import differences, method_name, resolved_with_hashes, run_name, run_path
from tfew.runs.noted import keep_to, note_commits, note_rows, note_sample
from tfew.runs.records import RunRecord, load_record
from tfew.runs.run_folder import METRICS_FILE, already_finished, asked_for, open_run, remove_leftovers, saved_settings
from tfew.runs.run_lock import lock_run
from tfew.schema import Example
from tfew.settings import EvaluationSettings, settings
from tfew.task import Task, eval_task, save_training_rows, train_task

if TYPE_CHECKING:
    from tfew.models.loaded_model import Trainable
    from tfew.training.joint_training import Member

log = logging.getLogger(__name__)
SEEDS = (0, 1, 32, 42, 1024)  # the paper's
SHARED = ("model", "method", "trainer", "engine", "memory_gb", "logger")  # equal for all: one model, one computation


@dataclass(frozen=True)
class Job:
    """One run that is still to be made."""

    config: DictConfig
    folder: Path
    training: Task
    evaluation: Task | None

    @property
    def rows(self) -> dict[str, Sequence[Example]]:
        return {"training": self.training.examples, "evaluation": self.evaluation.examples if self.evaluation else []}


def settings_of_each(overrides: Sequence[str], together: Any) -> list[DictConfig]:
    """The settings of each run: the command line's, overridden by its own; `together` as in configs/train.yaml."""
    if isinstance(together, int) and not isinstance(together, bool) and 1 <= together <= len(SEEDS):
        together = SEEDS[:together]
    if isinstance(together, int | str) or not isinstance(together, Sequence | ListConfig) or not len(together):
        raise UserError(
            f"train_together={together} is neither a number from 1 to {len(SEEDS)}, nor a list of seeds, [0, 1, 7],"
            " nor of each run's settings, ['dataset=ONE', 'dataset=TWO shots=16']."
        )
    runs = [[f"few_shot_seed={entry}"] if isinstance(entry, int) else shlex.split(str(entry)) for entry in together]
    if bad := [override for run in runs for override in run if "=" not in override]:
        raise UserError(f"train_together= holds {bad[0]!r}, which is neither a seed nor a setting (KEY=VALUE).")
    common = [override for override in overrides if _key(override) != "train_together"]
    return [compose(*(o for o in common if _key(o) not in map(_key, run)), *run, "train_together=null") for run in runs]


def train_together(configs: Sequence[DictConfig]) -> list[RunRecord]:
    """Makes the unfinished runs together, and returns the records of all."""
    configs = [complete(checked(config)) for config in configs]
    folders = [run_path(config, run_name(config)) for config in configs]
    _check(configs, folders)
    check_logger(configs[0])
    with ExitStack() as locks:
        jobs = []
        for config, folder in zip(configs, folders, strict=True):
            if not _is_finished(config, folder):
                locks.enter_context(lock_run(folder))
                if not _is_finished(config, folder):  # another process may have finished it meanwhile
                    if config.resume and (saved := saved_settings(folder)) is not None:
                        keep_to(config, saved)
                    warn_of_single_step(config)
                    job = Job(config, folder, train_task(config), eval_task(config))
                    note_commits(config)
                    note_rows(config, **job.rows)
                    jobs.append(job)
        if jobs:
            _train_jobs(jobs)
    made = {job.folder for job in jobs}
    asked_for.update({folder: folder in made for folder in folders})
    records = [load_record(folder) for folder in folders]
    for folder in folders:
        remove_leftovers(folder)
    return records


def _is_finished(config: DictConfig, folder: Path) -> bool:
    return already_finished(folder, resolved_with_hashes(config), config.overwrite)


def _train_jobs(jobs: Sequence[Job]) -> None:
    """Trains all jobs together; then saves, evaluates and records each job's adapter."""
    # heavy imports only now, after all configurations and data were checked
    from tfew.methods.base import attach
    from tfew.methods.task_bank import without_tasks

    loaded = _build(jobs)
    members = [_member(job, loaded, len(jobs)) for job in jobs]
    guesses = [_guesses(job) for job in jobs]
    for job in jobs:
        note_sample(job.config, str(loaded.base_sample))
        open_run(job.folder, resolved_with_hashes(job.config), job.config.resume, together=True)
        save_training_rows(job.config, job.training, job.folder)
    seconds = _fit(jobs, members, loaded)
    without_tasks(loaded.model)
    attach(loaded.method, loaded.model)
    for job, member, of_job in zip(jobs, members, guesses, strict=True):
        _complete(job, member, loaded, seconds, of_job, len(jobs))


def _guesses(job: Job) -> Guesses:
    return {} if job.evaluation is None or not job.config.baselines else guess(job.training, job.evaluation)


def _build(jobs: Sequence[Job]) -> "Trainable":
    """What the jobs share, from the settings of the first of them; the method is not attached yet."""
    from tfew.checks.finding import report
    from tfew.checks.run_check import check_run, is_checked
    from tfew.costs.lengths import check_lengths
    from tfew.costs.memory_forecast import check_memory
    from tfew.models.build import (
        build_backbone,
        build_blueprint,
        build_device,
        build_execution,
        build_method,
        build_tokenizer,
    )
    from tfew.models.execution import quantize_model
    from tfew.models.loaded_model import Trainable, parameter_count
    from tfew.models.weights_sample import weights_sample_sha256

    first, config = jobs[0], jobs[0].config
    device, method, prompt_tokenizer = build_device(config), build_method(config), build_tokenizer(config)
    blueprint = build_blueprint(config, method, device, len(prompt_tokenizer.tokenizer))
    if is_checked(config.dataset, first.training):
        labels_are_named = config.get("labels") is not None
        report(check_run(first.training, prompt_tokenizer, None, labels_are_named, config.steps, config.batch_size))
    check_lengths(blueprint, prompt_tokenizer, *(task for job in jobs for task in (job.training, job.evaluation)))
    check_memory(blueprint, prompt_tokenizer, first.training, first.evaluation)  # for one job; the others need more
    model = build_backbone(config, prompt_tokenizer.tokenizer, device, method)
    execution = build_execution(config, device, method)
    sample = weights_sample_sha256(model)
    quantize_model(config, model, device)
    return Trainable(model, prompt_tokenizer, execution, parameter_count(model), method, sample)


def _member(job: Job, loaded: "Trainable", jobs: int) -> "Member":
    from torch import nn

    from tfew.data.loader import FewShotDataModule
    from tfew.models.build import build_method, make_optimizer, starting_weights, tokenizer_for
    from tfew.scoring.losses import LossConfig
    from tfew.training.joint_training import Member
    from tfew.training.optim import linear_decay_with_warmup

    config, method, model = job.config, loaded.method, loaded.model
    build_method(config)  # checks it against this run's optimiser
    weights = {name: nn.Parameter(vector) for name, vector in starting_weights(config, method, model).items()}
    optimizer = make_optimizer(config, list(weights.values()))
    data = FewShotDataModule(
        job.training.prompts,
        tokenizer_for(config, loaded.prompt_tokenizer),
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
        LossConfig.from_settings(config.loss, config.fidelity.unlikely_epsilon),
        loss_mean=config.fidelity.loss_mean,
        clip_norm=config.clip_norm,
        seed=config.seed,
        micro_batch_size=config.micro_batch_size,
        trained_together=jobs,
    )


def _fit(jobs: Sequence[Job], members: "Sequence[Member]", loaded: "Trainable") -> float:
    """Trains; returns the seconds it took."""
    import time

    from tfew.training.joint_training import JointTraining, restore_together

    execution = loaded.execution
    training = JointTraining(
        loaded.model,
        members,
        execution.engine,
        loaded.prompt_tokenizer.pad_id,
        execution.memory_bytes,
        execution.autocast,
    )
    start = restore_together(members) if all(job.config.resume for job in jobs) else 0
    continuing = f" from step {start} on" if start else ""
    log.info(f"{len(jobs)} runs are trained together{continuing}: {', '.join(job.folder.name for job in jobs)}.")
    started = time.monotonic()
    training.run(start, min(job.config.checkpoint_every for job in jobs))
    return time.monotonic() - started


def _complete(job: Job, member: "Member", loaded: "Trainable", seconds: float, guesses: Guesses, jobs: int) -> None:
    """Adapter, evaluation and record, as a separate run has them; `seconds`: of the training of all `jobs`."""
    from tfew.models.adapters_io import save_adapter
    from tfew.models.base_check import base_of
    from tfew.models.build import tokenizer_for
    from tfew.ranking.evaluation import evaluate_model
    from tfew.runs.metrics_file import final_loss
    from tfew.summary import RunResult, finish
    from tfew.training.fit import Fitted

    config, folder = job.config, job.folder
    loaded = replace(loaded, prompt_tokenizer=tokenizer_for(config, loaded.prompt_tokenizer))
    loaded.method.restore(loaded.model, {name: vector.detach() for name, vector in member.weights.items()})
    weights = loaded.method.stored(loaded.model)
    rule = loaded.prompt_tokenizer.rule
    adapter_bytes = save_adapter(folder, weights, resolved(config.method), base_of(config), rule)
    evaluated = None
    if job.evaluation is not None:
        evaluation_settings = settings(EvaluationSettings, config).in_full
        evaluated = evaluate_model(loaded, job.evaluation, evaluation_settings, folder, guesses=guesses)
    fitted = Fitted(member.steps, member.tokens_seen, seconds / jobs, final_loss(folder / METRICS_FILE))
    together = member.trained_together
    result = RunResult(
        loaded, evaluated, fitted, adapter_bytes, job.training.mixture, job.evaluation, trained_together=together
    )
    finish(folder, config, "train", method_name(config), result)


def _check(configs: Sequence[DictConfig], folders: Sequence[Path]) -> None:
    """Raises UserError unless the runs differ and can share a model and batches."""
    first = configs[0]
    if first.run_dir is not None:
        raise UserError(
            f"run_dir={first.run_dir} is the folder of one run, and train_together= makes several: use runs=."
        )
    if first.logger._target_ is not None:
        raise UserError("train_together= writes metrics.csv for each run and supports no other logger: use logger=csv.")
    if first.trainer.devices != 1:
        raise UserError(f"train_together= trains on one device: set trainer.devices=1, not {first.trainer.devices}.")
    if any(config.tune for config in configs):
        raise UserError("train_together= trains each run once, and tune=true several times: set tune=false.")
    if any(config.folds is not None for config in configs):
        raise UserError("train_together= trains each run once, and folds= several times: set folds=null.")
    if len(set(map(_questions, configs))) > 1:
        raise UserError(
            "train_together= puts rows of all runs into one batch, where rows with several labels go only beside rows"
            " with as many: train them apart."
        )
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


def _questions(config: DictConfig) -> int:
    """The number of questions (one per label) of a row; 0 if a row has one label."""
    label = config.dataset.get("label")
    return len(label.names) if label is not None and label.get("several") else 0


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
