"""Replays a recorded official trajectory through this project's own training step, number by number.

    python scripts/check_fidelity.py ../shared/golden/official_trajectory

The folder holds `tensors.safetensors` and `expected.json`: a tiny frozen model, batches, and for each variant of the
loss the values that the authors' code computed at every step. The `FewShotModule` that training uses (scoring, losses,
Adafactor, schedule, clipping, Lightning's loop) is run on them, from the checkout that contains this file, whatever is
installed. Prints the package's path and the largest differences; exits 1 if one exceeds TOLERANCES.
"""

import json
import math
import re
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import T5Config, T5ForConditionalGeneration

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tfew
from tfew.config import compose, resolved
from tfew.methods.base import adapter_parameters, attach
from tfew.models.backbone import give_own_head
from tfew.models.build import make_optimizer
from tfew.models.method_builder import make_method
from tfew.schema import Batch
from tfew.scoring.losses import LossConfig, counts
from tfew.scoring.score import ENGINES, rank_scores, scoring_mode, token_logprob
from tfew.settings import TrainingSettings
from tfew.settings import settings as settings_of
from tfew.training.fit import quiet_lightning
from tfew.training.module import FewShotModule

FIDELITY = 1e-4  # largest accepted difference from the recording
VECTOR = ".ia3"
RECORDED = {
    "optimizer.lr": r"\blr ([\d.e-]+)",
    "warmup_ratio": r"warmup over ([\d.]+)\s*\*\s*steps",
    "clip_norm": r"clipped at ([\d.]+)",
    "optimizer.weight_decay": r"weight_decay=([\d.]+)",
}
# float32 numbers that are added in another order differ by up to 4e-6 in losses and norms and 3e-7 in vectors
TOLERANCES = {
    **dict.fromkeys(("ranking, score of the label", "ranking, best other score", "ranking, predicted choice"), 1e-4),
    **dict.fromkeys(("lm_loss", "mc_loss", "unlikely_loss", "loss"), 1e-4),
    **dict.fromkeys(("grad_norm", "first gradient", "final vectors"), 1e-5),
    "lr": 1e-8,
}
TERMS = {"lm_loss": "lm_loss", "mc_loss": "ln_loss", "unlikely_loss": "ul_loss", "loss": "loss"}


def check(folder: Path) -> dict[str, dict[str, float]]:
    """Largest absolute difference per variant and quantity, with either engine."""
    expected = json.loads((folder / "expected.json").read_text())
    tensors = load_file(folder / "tensors.safetensors")
    batches = [make_batch(tensors, step, expected["pad_token_id"]) for step in range(expected["steps"])]
    return {
        name if engine == ENGINES[0] else f"{name}, engine={engine}": replay(
            name, variant, expected, tensors, batches, engine
        )
        for engine in ENGINES
        for name, variant in expected["variants"].items()
    }


def replay(
    name: str,
    variant: Mapping[str, Any],
    expected: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    batches: list[Batch],
    engine: Any = ENGINES[0],
) -> dict[str, float]:
    config = compose("fidelity=official", *_recorded_settings(expected["optimizer"]))
    model = make_model(expected["model_config"], tensors)
    attach(make_method(resolved(config.method)), model)
    settings = variant["settings"]
    ranking = _compare_ranking(model, batches, settings["length_norm"], variant["before_training"], engine)

    recorder = _Recorder(variant["log"], settings, epsilon=config.fidelity.unlikely_epsilon)
    module = FewShotModule(
        model,
        lambda parameters: make_optimizer(config, parameters),
        LossConfig(
            {"lm": 1, "ul": settings["unlikely_loss"], "ln": settings["mc_loss"]}, config.fidelity.unlikely_epsilon
        ),
        replace(
            settings_of(TrainingSettings, config), steps=expected["steps"], seed=expected.get("seed", 0), engine=engine
        ),
    ).train()
    with quiet_lightning():
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=expected["steps"],
            callbacks=[recorder],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]

    vectors = adapter_parameters(model)
    return {
        **ranking,
        **recorder.differences,
        "first gradient": _compare(tensors, f"{name}.grad0.", recorder.first_gradient),
        "final vectors": _compare(tensors, f"{name}.final.", vectors),
    }


def _recorded_settings(optimizer: str) -> list[str]:
    """Learning rate, warm-up and clipping, as the recording's own line names them."""
    found = []
    for key, pattern in RECORDED.items():
        match = re.search(pattern, optimizer)
        if match is None:
            sys.exit(f"expected.json does not say {key} in a form that is known here: {optimizer!r}")
        found.append(f"{key}={match[1]}")
    return found


def make_model(arch: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    model = T5ForConditionalGeneration(T5Config(**arch, decoder_start_token_id=0))
    give_own_head(model)
    base = {key.removeprefix("base."): value for key, value in tensors.items() if key.startswith("base.")}
    model.load_state_dict(base, strict=False)
    wrong = [key for key, value in model.state_dict().items() if key in base and not torch.equal(value, base[key])]
    if wrong or not base.keys() <= model.state_dict().keys():
        sys.exit(
            f"The recorded weights do not fit the recorded model: {wrong or base.keys() - model.state_dict().keys()}"
        )
    return model.eval()


def make_batch(tensors: Mapping[str, Tensor], step: int, pad: int) -> Batch:
    input_ids = tensors[f"batch.{step}.input_ids"].long()
    choice_ids = tensors[f"batch.{step}.answer_choices_ids"].long()
    label = tensors[f"batch.{step}.labels"].long()
    return Batch(input_ids, input_ids != pad, choice_ids, choice_ids != pad, label)


def _compare_ranking(
    model: nn.Module, batches: list[Batch], length_norm: int, expected: Mapping[str, list[float]], engine: str
) -> dict[str, float]:
    """The recorded scores are negative log-probabilities, lowest best, of the first examples in order.

    A recorded prediction agrees if it is our best choice too, ties included: the gap is our score of our best choice
    minus our score of theirs.
    """
    of_label, best_other, of_prediction, best = [], [], [], []
    predictions = iter(expected["prediction"])
    for batch in batches:
        with scoring_mode(model):
            norm = "token" if length_norm else "sum"
            scores_BC = rank_scores(token_logprob(model, batch, engine), batch.choice_mask, norm)
        for scores_C, label, predicted in zip(scores_BC, batch.label, predictions, strict=False):
            others = torch.arange(len(scores_C)) != label
            of_label.append(-scores_C[label])
            best_other.append(-scores_C[others].max())
            of_prediction.append(scores_C[int(predicted)])
            best.append(scores_C.max())
    return {
        "ranking, score of the label": _gap(torch.stack(of_label), torch.tensor(expected["score_of_label"])),
        "ranking, best other score": _gap(torch.stack(best_other), torch.tensor(expected["best_other_score"])),
        "ranking, predicted choice": _gap(torch.stack(best), torch.stack(of_prediction)),
    }


class _Recorder(pl.Callback):
    """Compares each step with the log; keeps the gradient that the first optimiser step sees."""

    def __init__(self, log: list[Mapping[str, float]], settings: Mapping[str, float], epsilon: float) -> None:
        self.recorded, self.epsilon, self.has_ul = log, epsilon, bool(settings["unlikely_loss"])
        terms = {"mc_loss", "unlikely_loss"} & {name for name, weight in settings.items() if weight}
        self.names = {"loss", *terms, *({"lm_loss"} if terms else set())}  # lm_only logs `loss` alone
        self.differences: dict[str, float] = {}
        self.first_gradient: dict[str, Tensor] = {}

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if trainer.global_step == 0:
            vectors = adapter_parameters(pl_module.model)  # type: ignore[arg-type]
            self.first_gradient = {name: p.grad.clone() for name, p in vectors.items() if p.grad is not None}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        recorded = self.recorded[batch_idx]
        constant = _recorded_constant(batch, self.epsilon) if self.has_ul else 0.0
        for theirs in sorted(self.names):
            shift = constant if theirs in ("unlikely_loss", "loss") else 0.0
            self._note(theirs, metrics[TERMS[theirs]] + shift - recorded[theirs])
        self._note("grad_norm", metrics["grad_norm"] - recorded["grad_norm"])
        self._note("lr", metrics["lr"] - recorded["lr"])

    def _note(self, name: str, difference: float) -> None:
        pair = torch.tensor([self.differences.get(name, 0.0), abs(difference)])
        self.differences[name] = float(pair.max())  # keeps a NaN


def _recorded_constant(batch: Batch, epsilon: float) -> float:
    """The official unlikelihood term keeps -log(1 + epsilon) in its numerator for each position that does not count."""
    wrong_tokens = counts(batch).wrong_tokens
    return -math.log(1 + epsilon) * (batch.choice_ids.numel() - wrong_tokens) / wrong_tokens


def _compare(tensors: Mapping[str, Tensor], prefix: str, ours: Mapping[str, Tensor]) -> float:
    recorded = {key.removeprefix(prefix) + VECTOR: t for key, t in tensors.items() if key.startswith(prefix)}
    if recorded.keys() != ours.keys():
        sys.exit(f"{prefix}*: recorded and own vectors differ: {sorted(recorded.keys() ^ ours.keys())}")
    gaps = [_gap(ours[name].detach().flatten(), tensor.flatten()) for name, tensor in recorded.items()]
    return float(torch.tensor(gaps).max())  # torch's maximum keeps a NaN


def _gap(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max())


def beyond(differences: Mapping[str, float]) -> list[str]:
    """The quantities that are further from the recording than their tolerance; one that is no number is, too."""
    return [name for name, value in differences.items() if not value <= TOLERANCES[name]]


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with expected.json and tensors.safetensors")
    folder = parser.parse_args().folder
    if not (folder / "expected.json").is_file():
        parser.error(f"{folder} has no expected.json: give a folder with a recording, such as the one in tests/golden")
    print(f"tfew of {Path(tfew.__file__).parent}")
    table = check(folder)
    for variant, differences in table.items():
        print(variant)
        for name, value in differences.items():
            verdict = f"  BEYOND {TOLERANCES[name]:.0e}" if name in beyond(differences) else ""
            print(f"  {name:<32} {value:.2e}{verdict}")
    worst = float(torch.tensor([value for row in table.values() for value in row.values()]).max())  # keeps a NaN
    bad = sum(len(beyond(differences)) for differences in table.values())
    print(f"largest difference {worst:.2e}, {f'{bad} BEYOND' if bad else 'all within'} the tolerance of their quantity")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
