"""Labels and probabilities for new rows: `python -m tfew.predict adapter=runs/NAME input=new.csv output=labels.csv`."""

import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from tfew.cli import command
from tfew.config import check_adapters, check_path_names
from tfew.decisions.request import THRESHOLDS, DecisionSettings
from tfew.errors import UserError, unknown_value_error
from tfew.files.hub_adapter import local_adapter
from tfew.files.partial_file import PartialFile, check_output_file
from tfew.pieces.input_files import InputFile, absolute, find_files, names_many
from tfew.pieces.piece_output import PieceOutput, is_folder
from tfew.pieces.worker_choice import WorkerChoice
from tfew.prediction.result_rows import ResultRows, bad_rows_file, kind_of_output, review_file, suggestions_file
from tfew.prediction.tasks_file import Folders, task_folders
from tfew.runs.records import load_record
from tfew.runs.run_folder import finished_settings
from tfew.settings import settings
from tfew.tables.byte_lines import STDIO
from tfew.tables.stream import FILE_FORMATS

if TYPE_CHECKING:
    from tfew.prediction.bulk_predict import BulkPrediction, Progress
    from tfew.prediction.predictor import FindRun
    from tfew.prediction.suggestions import Suggestions

log = logging.getLogger("tfew.predict")  # __name__ is __main__ under python -m
HEAD_BYTES = 2**16  # of the input, to recognise it when resuming
PATHS = ("adapter", "model.path", "model.tokenizer")  # made absolute, since workers may run in other folders


def predict(config: DictConfig, overrides: Sequence[str] = ()) -> "Progress":
    """Labels the rows of `config.input` into `config.output`; `overrides`: of the command line."""
    source, target = str(config.input), str(config.output)
    wanted = _check_settings(config)
    label: Callable[[Folders], Progress]
    if config.ray is not None or config.trainer.devices != 1 or names_many(source) or is_folder(target):
        label = partial(_in_pieces, config, overrides, wanted, *_check_pieces(config, source, target))
    else:
        _check(config, source, target)
        label = partial(_in_one_piece, config, overrides)
    folders = None if config.adapters is None else task_folders(Path(str(config.adapters)).expanduser())

    # heavy imports only now, after the request was checked
    from tfew.devices.cpu import free_cores_only

    with free_cores_only(config.trainer.accelerator):
        progress = label(folders)
    for folder in [config.adapter] if folders is None else folders.values():
        if folder is not None:
            _warn_of_weak_adapter(local_adapter(folder))
    return progress


def _in_one_piece(config: DictConfig, overrides: Sequence[str], folders: Folders) -> "Progress":
    from tfew.prediction.bulk_predict import BulkPrediction
    from tfew.prediction.doubt import doubt_lines, drift_references
    from tfew.prediction.input_rows import InputForm, check_columns
    from tfew.prediction.label_summary import print_summary
    from tfew.prediction.predictor import load_predictor
    from tfew.prediction.saved_run import saved_run

    source, target = str(config.input), str(config.output)
    find_run = partial(saved_run, config, overrides)
    predictor = load_predictor(find_run, config.adapter if folders is None else folders, config.merge)
    started = time.monotonic()
    stream = InputForm.of(predictor, config.format).open(source if source == STDIO else str(Path(source).expanduser()))
    try:
        if noted := list(stream.notes):
            log.info(f"{_named(source)}: {'; '.join(noted)}.")
        check_columns(predictor, stream, _named(source), None if folders is None else str(config.task_column))
        labels = None if folders is not None else next(iter(predictor.tasks.values())).labels
        has = {"sets": config.sets is not None, "bounds": predictor.shortlist is not None}
        result_rows = partial(ResultRows, kind_of_output(target), stream.columns, labels, **has)
        labelling = BulkPrediction(
            predictor,
            stream,
            result_rows(),
            name=_named(source),
            task_column=None if folders is None else str(config.task_column),
            skip=config.bad_rows == "skip",
            at_once=source == STDIO,
            review=result_rows(for_review=True),
            references=drift_references(predictor.tasks) if config.drift and predictor.shortlist is None else {},
        )
        suggestions = _suggestions(config, find_run, target)
        labelling.before_finish = None if suggestions is None else suggestions.write
        progress = _run(config, labelling, source, target)
        if late := [note for note in stream.notes if note not in noted]:
            log.info(f"{_named(source)}: {'; '.join(late)}.")
    finally:
        stream.close()
    doubt = list(doubt_lines(progress, labelling, None if target == STDIO else Path(target)))
    bad_rows = bad_rows_file(Path(target))
    print_summary(progress, labelling.results.left_out, doubt, target, bad_rows, time.monotonic() - started)
    for line in [] if suggestions is None else suggestions.lines():
        print(f"  {line}")
    return progress


def _check_pieces(config: DictConfig, source: str, target: str) -> tuple[PieceOutput, list[InputFile]]:
    for key in ("suggest", *THRESHOLDS):
        if config[key] is not None:
            raise UserError(
                f"{key}= writes rows for a person to one file, which several workers or files do not support:"
                " leave it out, or label one file by one process."
            )
    output = PieceOutput(target, config.parts)
    files = find_files(source, config.format)
    output.check(source, files, config.overwrite)
    return output, files


def _in_pieces(
    config: DictConfig, overrides: Sequence[str], wanted: WorkerChoice, output: PieceOutput, files: list[InputFile],
    folders: Folders,
) -> "Progress":  # fmt: skip
    """With several workers, for many files, or into a folder (`tfew.pieces`)."""
    from tfew.pieces.labeller import PieceLabeller, Request
    from tfew.pieces.labelling_job import LabellingJob
    from tfew.prediction.label_summary import print_summary
    from tfew.prediction.predictor import load_predictor
    from tfew.prediction.saved_run import saved_run

    source, target = str(config.input), str(config.output)
    config = config.copy()
    config.trainer.devices = 1  # per worker
    for key in PATHS:
        if (path := OmegaConf.select(config, key)) is not None:
            OmegaConf.update(config, key, absolute(str(path)))
    adapters = config.adapter if folders is None else {name: absolute(path) for name, path in folders.items()}
    load = partial(load_predictor, partial(saved_run, config, list(overrides)), adapters, config.merge)
    task_column = None if folders is None else str(config.task_column)
    skip, has_sets = config.bad_rows == "skip", config.sets is not None
    request = Request(config.format, task_column, skip, output.part_kind, output.store, has_sets)
    workers = wanted.workers(partial(PieceLabeller, load, request), config.trainer.accelerator)
    job = LabellingJob(files, request, workers, source, config.piece_rows)
    started = time.monotonic()
    try:
        progress = output.finished(*job.run(config.resume, config.overwrite))
    finally:
        job.close()
    print_summary(progress, job.left_out, [], target, output.bad_rows, time.monotonic() - started)
    return progress


def _suggestions(config: DictConfig, find_run: "FindRun", target: str) -> "Suggestions | None":
    if config.suggest is None:
        return None
    from tfew.prediction.suggestions import Suggestions

    return Suggestions(find_run(config.adapter), config.suggest, Path(target).expanduser(), kind_of_output(target))


def _warn_of_weak_adapter(folder: Path) -> None:
    """Warns if the run's record shows it no better than a baseline on rows that it was not trained on."""
    if finished_settings(folder) is None:  # an adapter without its run
        return
    metrics = load_record(folder).metrics
    weak = {name: scores["gain"] for name, scores in metrics.get("baselines", {}).items() if scores["gain"]["low"] <= 0}
    if weak:
        name, gain = next(iter(weak.items()))
        guessed = name if name.startswith("every ") else f"the {name}"
        low, high = (100 * gain[end] for end in ("low", "high"))
        log.warning(
            f"Warning: on the held-out rows of its own training {folder} was not significantly better than {guessed}"
            f" (95 % interval of the difference {low:.1f} to {high:.1f} points): check some labels by hand."
        )


def _run(config: DictConfig, labelling: "BulkPrediction", source: str, target: str) -> "Progress":
    if target == STDIO:
        try:
            return labelling.to(sys.stdout)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it again at exit
            sys.exit("Standard output was closed: stopped.")
    from tfew.prediction.bulk_predict import Progress

    path = Path(target).expanduser()
    identity = {"input": _identity(source), "format": config.format, **labelling.predictor.fingerprint()}
    go_on = config.resume and source != STDIO
    sides = (bad_rows_file(path), review_file(path))
    file = PartialFile(path, sides, identity, go_on, config.overwrite)
    try:
        if file.finished:
            file.finish()
            return Progress.from_state(file.state)
        if file.state:
            log.info(f"{target} is unfinished; continuing after row {file.state['place']['row']:,}.")
        return labelling.into(file)
    finally:
        file.close()


def _check_settings(config: DictConfig) -> WorkerChoice:
    """Checks settings; raises UserError for all mistakes that can be found before a model is loaded."""
    if config.adapter is not None and config.adapters is not None:
        raise UserError("adapter= is one task's adapter, adapters= those of many: give one of them.")
    check_path_names(config)
    check_adapters(config)
    if config.bad_rows not in ("stop", "skip"):
        raise unknown_value_error("value", config.bad_rows, ("stop", "skip"), "bad_rows=")
    if config.format is not None and config.format not in FILE_FORMATS:
        raise unknown_value_error("format", config.format, FILE_FORMATS, "format=")
    for key in ("merge", "resume", "overwrite"):
        if not isinstance(config[key], bool):
            raise UserError(f"{key}={config[key]!r} is neither true nor false.")
    settings(DecisionSettings, config).check()
    on_ray = (config.ray, config.ray_actors, config.ray_cpus, config.ray_gpus)
    wanted = WorkerChoice(*on_ray, config.trainer.devices, config.piece_rows)
    wanted.check()
    return wanted


def _check(config: DictConfig, source: str, target: str) -> None:
    """Checks files in the same way."""
    kind_of_output(target)
    _check_suggest(config, target)
    if source != STDIO and not Path(source).expanduser().is_file():
        raise UserError(f"input={source} {'is a folder' if Path(source).is_dir() else 'does not exist'}.")
    if source == STDIO and sys.stdin.isatty():
        what = "JSON lines (or set format=)" if config.format is None else config.format
        log.info(f"Reading {what} from standard input, to its end (Ctrl-D); input=FILE reads a file.")
    if target == STDIO:
        return
    path = Path(target).expanduser()
    unfinished = path.with_name(f"{path.name}.partial.json").is_file()
    if not unfinished:
        for listed in (review_file(path), *([] if config.suggest is None else [suggestions_file(path)])):
            if listed.exists() and not config.overwrite:
                raise UserError(
                    f"{listed} already exists, perhaps with labels filled in: move it, or set overwrite=true."
                )
        check_output_file(path, config.overwrite)
    if source != STDIO and path.exists() and path.samefile(Path(source).expanduser()):
        raise UserError(f"output={target} would overwrite the input: choose another.")


def _check_suggest(config: DictConfig, target: str) -> None:
    count = config.suggest
    if count is None:
        return
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UserError(f"suggest={count} is not a number of rows of at least 1.")
    if config.adapters is not None:
        raise UserError("suggest= names rows for one task's table, and adapters= has many: set adapter=.")
    if target == STDIO:
        raise UserError("suggest= reads the whole output, so it must be a file: set output=FILE.")


def _named(source: str) -> str:
    return "standard input" if source == STDIO else source


def _identity(source: str) -> dict[str, Any]:
    """Identifies an input file when resuming, without reading all of it."""
    if source == STDIO:
        return {}
    path = Path(source).expanduser()
    status = os.stat(path)
    with path.open("rb") as file:
        head = hashlib.sha256(file.read(HEAD_BYTES)).hexdigest()
    return {"bytes": status.st_size, "changed": status.st_mtime_ns, "head_sha256": head}


@command("predict")
def main(config: DictConfig) -> "Progress":
    return predict(config, HydraConfig.get().overrides.task)


if __name__ == "__main__":
    main()
