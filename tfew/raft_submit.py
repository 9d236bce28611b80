"""Predictions for RAFT's hidden test labels: `python -m tfew.raft_submit data_dir=DIR output=FOLDER`."""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tfew.cli import command
from tfew.config import CONFIGS
from tfew.errors import UserError, shorten_list, unknown_value_error
from tfew.files.atomic import write_atomically
from tfew.files.regular import read_text
from tfew.files.untrusted import parse_json
from tfew.prediction.submission import check_names, predictions_csv
from tfew.runs.identity import WEIGHT_HASHES
from tfew.runs.records import RECORD_FILE, load_record
from tfew.runs.run_folder import finished_settings
from tfew.settings import EvaluationSettings, settings
from tfew.task import Task, data_folder, load_spec, unlabelled_task

log = logging.getLogger("tfew.raft_submit")  # __name__ is __main__ under python -m
FILE = "predictions.csv"


@dataclass(frozen=True)
class Planned:
    """A task, the run that predicts it, its settings, the rows, and how labels are spelt."""

    name: str
    run: Path
    settings: DictConfig
    rows: Task
    label_names: tuple[str, ...]


def submit(config: DictConfig) -> list[Path]:
    """Writes FOLDER/TASK/predictions.csv for every task; checks everything possible first."""
    names = _tasks(config)
    output = Path(str(config.output)).expanduser()
    missing = [name for name in names if config.overwrite or not (output / name / FILE).is_file()]
    if done := [name for name in names if name not in missing]:
        log.info(f"Already done, and kept (overwrite=true redoes them): {shorten_list(done, len(done))}.")
    planned = [_plan(config, name, run) for name, run in _runs(config, missing).items()]
    for task in planned:
        predicted = _predict(task)
        ids = [example.idx for example in task.rows.examples]
        text = predictions_csv(task.name, predicted, ids, task.label_names)
        write_atomically(output / task.name / FILE, text)
        print(f"{task.name}: {len(ids)} rows by {task.run.name}; {_commonest(predicted)}", flush=True)
    print(f"written: {output}/TASK/{FILE} of {len(names)} tasks", flush=True)
    return [output / name / FILE for name in names]


def _tasks(config: DictConfig) -> list[str]:
    known = sorted(path.stem for path in (CONFIGS / "dataset" / "raft").glob("*.yaml") if path.stem != "base")
    wished = [str(name) for name in config.tasks or known]
    for name in wished:
        if name not in known:
            raise unknown_value_error("task", name, known, "tasks=")
    return wished


def _runs(config: DictConfig, names: list[str]) -> dict[str, Path]:
    """The run of each task: those named in `adapters=`, else each task's last finished run."""
    if config.adapters is not None:
        found = _named_runs(Path(str(config.adapters)).expanduser())
        where = f"adapters={config.adapters}"
    else:
        found, where = {}, f"runs={config.runs}"
        paths = Path(str(config.runs)).expanduser().glob(f"*/{RECORD_FILE}")
        for path in sorted(paths, key=lambda path: path.stat().st_mtime):
            record = load_record(path.parent)
            if record.command == "train" and record.config["dataset"].get("layout"):
                found[record.dataset] = path.parent
    if absent := [name for name in names if name not in found]:
        raise UserError(
            f"{where} has no finished run of {shorten_list(absent, len(absent))}: train with +experiment=raft/TASK, or"
            " name fewer with tasks=."
        )
    return {name: found[name] for name in names}


def _named_runs(path: Path) -> dict[str, Path]:
    try:
        named = parse_json(read_text(path))
        return {str(name): Path(run).expanduser() for name, run in named.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"adapters={path} is not a JSON file of task names and run folders: {error}.") from error


def _plan(config: DictConfig, name: str, run: Path) -> Planned:
    saved = finished_settings(run)
    if saved is None:
        raise UserError(f"{run} is not the folder of a run.")
    saved.pop(WEIGHT_HASHES, None)
    merged = OmegaConf.create({**saved, "trainer": config.trainer})
    for key in ("data_dir", "eval_batch_size", "memory_gb"):
        if config[key] is not None:
            merged[key] = config[key]
    spec = load_spec(merged)
    if spec.name != name or spec.label_names is None:
        raise UserError(f"{run} is a run on {spec.name}, not on {name}.")
    check_names(name, spec.label_names, data_folder(merged))
    return Planned(name, run, merged, unlabelled_task(merged), spec.label_names)


def _predict(task: Planned) -> list[tuple[int, str]]:
    """Id and label of every row."""
    from tfew.models.build import build_for_scoring, build_tokenizer, saved_method
    from tfew.ranking.evaluation import rank

    _, method = saved_method(task.run, task.settings)
    prompt_tokenizer = build_tokenizer(task.settings, adapter=task.run, trains=False)
    loaded = build_for_scoring(task.settings, prompt_tokenizer, method, task.run)
    evaluation = settings(EvaluationSettings, task.settings)
    answers = rank(loaded, task.rows, evaluation).answers
    predictions = [answer.under(evaluation.score.norm) for answer in answers]
    return [(prediction.idx, task.label_names[prediction.predicted]) for prediction in predictions]


def _commonest(predicted: list[tuple[int, Any]]) -> str:
    counts = Counter(label for _, label in predicted).most_common(3)
    return ", ".join(f"{label} {rows}" for label, rows in counts)


main = command("raft_submit")(submit)

if __name__ == "__main__":
    main()
