"""Tests whether this project reproduces the paper on your machine: T0-3B, pre-trained (IA)³ vectors, three data sets.

    python scripts/accept.py vectors=runs/NAME                 vectors of a run of +experiment=pretrain_ia3
    python scripts/accept.py vectors=t03b_ia3_finish.pt        the authors' (github.com/r-three/t-few)
    python scripts/accept.py vectors=... data_dir=DIR          other settings go to every run           (make accept)
    python scripts/accept.py vectors=... anyway=true           even if model or data are not the paper's

Checks model, vectors, rows and templates first, prints an estimate of the cost, makes the runs
(configs/sweep/accept.yaml; finished ones are skipped) and ends with our results beside the paper's. Exit code 1 if a
run failed, or if a difference is larger than the interquartile range of our own seeds and templates.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from tfew.cli import run_script
from tfew.comparison.tables import as_text
from tfew.config import checked, compose, local_path, resolved
from tfew.convert import convert
from tfew.data.templates import load_templates, select_templates
from tfew.errors import UserError
from tfew.models.adapters_io import adapter_description, load_weights
from tfew.paper.__main__ import finished_runs
from tfew.paper.table import Cell, make_table
from tfew.runs.identity import model_name
from tfew.sweep.job_list import planned_jobs
from tfew.task import eval_task, load_spec, train_task

SWEEP = "accept"
PAPER_MODEL = "t0_3b"
TEMPLATES = {"rte": 10, "cb": 15, "copa": 12}  # those of the original task; facts of the official eval_template.py
TABLE, ROW = "8", "(IA)^3 + pre-training (PT)"
SHAPE = ("d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads", "tie_word_embeddings")
HOURS_A_RUN = 1  # on the paper's 48 GB A6000 (appendix A)
BYTES = {"cuda": 2, "cpu": 4}  # of a frozen weight: bfloat16 on a GPU
OWN_OPTIONS = ("vectors", "anyway")
RELEASED = "t03b_ia3_finish.pt of github.com/r-three/t-few, pretrained_checkpoints"


def main(arguments: Sequence[str]) -> int:
    """The exit code; raises UserError before anything is trained."""
    if "--help" in arguments:
        print(__doc__)
        return 0
    pairs = [argument.partition("=") for argument in arguments]
    own = {key: value for key, _, value in pairs if key in OWN_OPTIONS}
    overrides = ["".join(pair) for pair in pairs if pair[0] not in OWN_OPTIONS]
    if "vectors" not in own:
        raise UserError(f"vectors= is missing: a run folder of pre-trained (IA)³ vectors, or the authors' {RELEASED}.")
    configs = [checked(compose(*job)) for job in planned_jobs(SWEEP, overrides)]
    unlike = [*_check_model(configs[0]), *_check_data(configs)]
    if unlike and own.get("anyway") != "true":
        raise UserError(
            f"This is not what the paper measured: {'; '.join(unlike)}. To go on all the same: anyway=true."
        )
    vectors = _vectors(Path(own["vectors"]).expanduser(), configs[0], overrides)
    _check_vectors(vectors, configs[0])
    _say_what_it_takes(configs)
    command = [sys.executable, "-m", "tfew.train", "-m", f"+sweep={SWEEP}", f"init_adapter={vectors}", *overrides]
    if code := subprocess.run(command, check=False).returncode:
        return code
    return _compare(configs[0])


def _check_model(config: DictConfig) -> list[str]:
    """In words, what the model has of another shape than the paper's; nothing of its weights is loaded."""
    ours, paper = _arch(config), resolved(compose(f"model={PAPER_MODEL}").model.arch)
    unlike = [f"{key} {ours[key]} instead of {paper[key]}" for key in SHAPE if ours[key] != paper[key]]
    print(f"Model    {model_name(config)}: {', '.join(unlike) or 'of the shape of ' + PAPER_MODEL}")
    return [f"model {model_name(config)} has {', '.join(unlike)}"] if unlike else []


def _arch(config: DictConfig) -> dict[str, Any]:
    """`model.arch` with the shape that the checkpoint really has, where there is one."""
    if config.model.path is None:
        return resolved(config.model.arch)
    from tfew.models.backbone import checkpoint_config

    checkpoint = checkpoint_config(local_path(config.model.path), config.model.revision, config.trust_remote_code)
    return {**resolved(config.model.arch), **{key: getattr(checkpoint, key, None) for key in SHAPE}}


def _check_data(configs: Sequence[DictConfig]) -> list[str]:
    """Loads all rows and draws all shots; in words, how they differ from the published ones."""
    unlike = []
    for config in configs:
        train_task(config)  # raises where the shots are not the official ones
    for config in {config.dataset.name: config for config in configs}.values():
        name, spec, task = config.dataset.name, load_spec(config), eval_task(config)
        assert task is not None
        templates = len(select_templates(load_templates(spec.prompts), config.templates.use, config.templates.name))
        print(f"Data     {name}: {task.rows} rows, {templates} templates, {config.shots} shots ({config.few_shot})")
        for what, number, right in (("rows", task.rows, spec.rows["eval"]),
                                    ("templates", templates, TEMPLATES.get(name))):  # fmt: skip
            if number != right:
                unlike.append(f"{name} has {number} {what} instead of {right}")
    return unlike


def _vectors(source: Path, config: DictConfig, overrides: Sequence[str]) -> Path:
    """The folder to start from; an official file is converted once, beside the runs."""
    if source.suffix != ".pt":
        return source
    if not source.is_file():
        raise UserError(f"vectors={source} does not exist.")
    target = Path(config.runs) / f"vectors-{source.stem}"
    if not (target / "adapter.json").is_file():
        model = [override for override in overrides if override.startswith("model")]
        options = [f"adapter={source}", "to=tfew", f"output={target}", "method=ia3", *model]
        convert(compose(*options, config_name="convert"))
    return target


def _check_vectors(folder: Path, config: DictConfig) -> None:
    """Raises UserError where they are not vectors of (IA)³ of the number that the model's shape asks for."""
    from tfew.methods.base import attach
    from tfew.models.backbone import shape_of
    from tfew.models.method_builder import make_method

    description = adapter_description(folder)["method"]
    if description["name"] != config.method.name:
        raise UserError(f"vectors={folder} are of method {description['name']}, not {config.method.name}.")
    model, method = shape_of(_arch(config)), make_method(description)
    attach(method, model)
    wanted, there = method.stored_count(model), sum(tensor.numel() for tensor in load_weights(folder).values())
    print(f"Vectors  {folder}: {there:,} numbers")
    if there != wanted:
        raise UserError(f"vectors={folder} hold {there:,} numbers, and {model_name(config)} takes {wanted:,}.")


def _say_what_it_takes(configs: Sequence[DictConfig]) -> None:
    import torch

    from tfew.models.backbone import shape_of

    device = "cuda" if torch.cuda.is_available() and configs[0].trainer.accelerator != "cpu" else "cpu"
    parameters = sum(parameter.numel() for parameter in shape_of(_arch(configs[0])).parameters())
    weights_gb = parameters * BYTES[device] / 1e9
    here = "no GPU is used here"
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        here = f"{torch.cuda.get_device_name()} has {free / 1e9:.1f} GB free of {total / 1e9:.1f}"
    print(f"Memory   {weights_gb:.1f} GB for the weights, and what a step of {configs[0].batch_size} examples takes"
          f" beside (memory_gb= bounds it); {here}")  # fmt: skip
    print(f"Time     {len(configs)} runs; T0-3B on the paper's 48 GB A6000: about {HOURS_A_RUN * len(configs)} hours."
          " Finished runs are skipped, a stopped one continues.", flush=True)  # fmt: skip
    if device == "cuda" and free / 1e9 < weights_gb:
        raise UserError(f"The weights take {weights_gb:.1f} GB, and the GPU has {free / 1e9:.1f} GB free.")


def _compare(config: DictConfig) -> int:
    table = make_table(TABLE, finished_runs(Path(config.runs)), model_name(config))
    cells = {name: table.cells[ROW][name] for name in TEMPLATES if name in table.cells[ROW]}
    runs = ", ".join(f"{name} {cell.runs}" for name, cell in cells.items())
    print(f"\n{table.model}, pre-trained (IA)³ vectors: accuracy in percent, median (IQR) over seeds and templates")
    lines = [["", "ours", "paper", "difference", "within our spread"]]
    for name, cell in cells.items():
        difference = "-" if cell.difference is None else f"{cell.difference:+.1f}"
        verdict = "yes" if _within(cell) else "NO"
        lines.append(
            [name, _median(cell.ours, cell.ours_iqr), _median(cell.paper, cell.paper_iqr), difference, verdict]
        )
    print(as_text(lines) + f"  runs: {runs}. Within our spread: the difference is not larger than our IQR.", flush=True)
    return int(not all(map(_within, cells.values())))


def _within(cell: Cell) -> bool:
    return cell.difference is not None and cell.ours_iqr is not None and abs(cell.difference) <= cell.ours_iqr


def _median(value: float | None, spread: float | None) -> str:
    return "-" if value is None or spread is None else f"{value:.1f} ({spread:.1f})"


if __name__ == "__main__":
    run_script(main)
