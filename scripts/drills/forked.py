"""Runs a command of this project in its own process, forked after the imports, so that it starts quickly."""

import atexit
import importlib
import os
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

COMMANDS = ("train", "evaluate", "predict", "preview", "convert", "cost", "raft_submit", "paper.__main__")
LATER = (
    "models.build", "models.foreign_adapters", "ranking.evaluation", "training.fit", "training.cross_validation",
    "training.joint_training", "prediction.bulk_predict", "prediction.predictor", "together",
)  # fmt: skip


def import_everything() -> None:
    """What commands import as late as they can; one thread, since a fork would miss all others."""
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # its thread may hold the lock of all bars during a fork
    for module in (*COMMANDS, *LATER):
        importlib.import_module(f"tfew.{module}")


def start(
    module: str,
    arguments: Sequence[str],
    out: Path,
    err: Path | None = None,
    prepare: Callable[[], None] = lambda: None,
) -> int:
    """`python -m MODULE ARGUMENTS` with its output in one file, or in two; the process's number.

    `prepare` is called in the new process, before the module.
    """
    child = os.fork()
    if child:
        return child
    status = 1
    atexit._clear()  # the parent's exit handlers, such as removing its temporary folder
    try:
        os.dup2(_opened(out), 1)
        os.dup2(1 if err is None else _opened(err), 2)
        prepare()
        status = _status(module, arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)


def _status(module: str, arguments: Sequence[str]) -> int:
    sys.argv = [module, *arguments]
    for name in (module, f"{module}.__main__"):  # under python -m it is __main__ only
        sys.modules.pop(name, None)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
