"""A command of this project in a process of its own, forked off after the imports: it starts in a moment."""

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

COMMANDS = ("train", "evaluate", "predict", "preview", "convert")
LATER = (
    "models.build", "models.exchange", "ranking.evaluation", "training.fit", "training.cross_validation",
    "training.joint_training", "prediction.bulk_predict", "prediction.predictor", "together",
)  # fmt: skip


def import_everything() -> None:
    """What commands import as late as they can; one thread, since a fork would miss all others."""
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # its thread may hold the lock of all bars while a fork is made
    for module in (*COMMANDS, *LATER, "paper.__main__"):
        importlib.import_module(f"tfew.{module}")


def start(module: str, arguments: Sequence[str], log: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """`python -m tfew.MODULE ARGUMENTS` with its output in `log`; the process's number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.argv = [module, *arguments]
        prepare()
        status = _status(module)
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _status(module: str) -> int:
    name = "tfew.paper.__main__" if module == "paper" else f"tfew.{module}"
    try:
        importlib.import_module(name).main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
