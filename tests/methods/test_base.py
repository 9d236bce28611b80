"""One behavioural suite over every file of configs/method: requirements on every method."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from transformers import ByT5Tokenizer

from tests.models import ragged_batch, tiny_t5
from tests.test_train import folder
from tfew.config import CONFIGS, compose, resolved
from tfew.cost import cost
from tfew.errors import UserError
from tfew.methods.base import Method, adapter_parameters, attach
from tfew.methods.fish import FISH
from tfew.models.adapters_io import load_weights
from tfew.models.build import make_optimizer
from tfew.models.method_builder import make_method
from tfew.scoring.losses import T_FEW, counts, loss_terms
from tfew.scoring.score import scoring_mode, token_logprob
from tfew.training.module import FewShotModule

METHODS = sorted(path.stem for path in CONFIGS.glob("method/*.yaml"))
NOT_NEUTRAL = {"prompt_10", "prompt_100", "prefix", "adapter", "compacter", "compacter_pp"}
NARROW = {"adapter", "compacter", "compacter_pp"}  # need a smaller reduction on a model this narrow
# trainable parameters on T0-3B's shape: the table of the paper, and where it differs of the official code
ON_T0_3B = {
    "ia3": 540_672, "lora": 9_097_216, "lora_scaling": 2_211_840, "bitfit": 1_331_200, "layernorm": 249_856,
    "adapter": 12_934_144, "compacter": 870_400, "compacter_pp": 560_128, "prompt_10": 40_960, "prompt_100": 409_600,
    "prefix": 589_824, "fish_02": 5_699_514, "fish_002": 569_951, "said_20k": 19_999, "said_500k": 499_999,
    "full": 2_849_757_184,
}  # fmt: skip


def configured(name: str, *overrides: str) -> DictConfig:
    narrow = ["method.reduction=8"] if name in NARROW else []
    return compose(f"method={name}", *narrow, *overrides)


def loss(model: nn.Module, seed: int = 0) -> Tensor:
    batch = ragged_batch(seed)
    return loss_terms(token_logprob(model, batch), batch, T_FEW, counts(batch))["loss"]


def logprob(model: nn.Module) -> Tensor:
    with scoring_mode(model):
        return token_logprob(model, ragged_batch(1))


def ready(name: str, model: nn.Module) -> Method:
    """The method as training has it just before its first step."""
    method = make_method(resolved(configured(name).method))
    torch.manual_seed(0)
    attach(method, model)
    method.initialise(model, ByT5Tokenizer())
    if method.needs_mask:
        method.compute_mask(model, _single_losses(model))
    return method


def _single_losses(model: nn.Module) -> Iterator[Tensor]:
    for seed in range(4):
        yield loss(model, seed)


def train(config: DictConfig, model: nn.Module, rates: list[float]) -> None:
    optimizer = make_optimizer(config, list(adapter_parameters(model).values()))
    for rate in rates:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()


@pytest.mark.parametrize("name", METHODS)
def test_the_function_is_unchanged_at_the_start(name: str) -> None:
    model = tiny_t5()
    base = logprob(model)
    ready(name, model)
    if name in NOT_NEUTRAL:
        assert (logprob(model) - base).abs().max() > 1e-4, "then it belongs into the list of neutral ones"
    else:
        torch.testing.assert_close(logprob(model), base, atol=1e-6, rtol=0)


@pytest.mark.ci
def test_counts_on_t0_3b_are_the_published_ones(capsys: pytest.CaptureFixture[str]) -> None:
    rows = cost(compose("model=t0_3b", "methods=all", config_name="cost"))
    assert {row["method"]: row["trainable"] for row in rows} == ON_T0_3B
    assert {row["total"] for row in rows} == {2_849_757_184}
    assert {row["method"]: row["trained"] for row in rows} == {**ON_T0_3B, "prefix": 154_449_408}
    out = capsys.readouterr().out
    assert "154,449,408 while training" in out
    assert out.partition("\n\n")[2] in (CONFIGS.parent / "docs/reference/methods.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", METHODS)
def test_two_steps_move_what_is_promised_and_nothing_else(name: str) -> None:
    model = tiny_t5()
    ready(name, model)
    config = configured(name)
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    promised = set(adapter_parameters(model))
    train(config, model, [0.0])
    assert all(torch.equal(parameter, before[key]) for key, parameter in model.named_parameters()), "learning rate 0"
    train(config, model, [config.method.lr])
    moved = {key for key, parameter in model.named_parameters() if not torch.equal(parameter, before[key])}
    assert moved
    assert moved <= promised


@pytest.mark.parametrize("name", METHODS)
def test_what_is_stored_is_enough_to_restore(name: str) -> None:
    model = tiny_t5()
    base = logprob(model)
    method = ready(name, model)
    train(configured(name), model, [0.1, 0.1, 0.1])
    stored = {key: tensor.clone() for key, tensor in method.stored(model).items()}
    fresh = tiny_t5()
    again = make_method(resolved(configured(name).method))
    attach(again, fresh)
    again.restore(fresh, copy.deepcopy(stored))
    torch.testing.assert_close(logprob(fresh), logprob(model), atol=1e-4, rtol=1e-4)
    assert (logprob(fresh) - base).abs().max() > 1e-3
    for key, tensor in again.stored(fresh).items():
        assert torch.equal(tensor, stored[key])
    with pytest.raises(UserError, match=r"."):
        again.restore(fresh, {"nothing": torch.ones(1)})


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_bf16_base_works(name: str) -> None:
    model = tiny_t5().to(torch.bfloat16)
    ready(name, model)
    model.zero_grad()
    loss(model).backward()
    gradients = [p.grad for p in adapter_parameters(model).values() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert any((gradient != 0).any() for gradient in gradients)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_the_loss_falls(name: str) -> None:
    """On one batch, at a rate that suits a tiny random model; SAID starts from zero, so relative steps start slowly."""
    model = tiny_t5()
    ready(name, model)
    with scoring_mode(model):
        before = loss(model)
    rate = 0.2 if name.startswith("said") else max(configured(name).method.lr, 0.03)
    train(configured(name), model, [rate] * 35)
    with scoring_mode(model):
        assert loss(model) < before - 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_the_whole_job(name: str, train_tiny: Callable[..., Any]) -> None:
    narrow = ["method.reduction=8"] if name in NARROW else []
    record = train_tiny(f"method={name}", *narrow, "shots=8")
    assert record.method == name
    assert record.config["steps"] == 4
    assert record.config["optimizer"]["lr"] == compose(f"method={name}").method.lr
    assert record.adapter_bytes > 0


def test_recipes_are_the_official_ones() -> None:
    recipes = {name: resolved(compose(f"method={name}").method) for name in METHODS}
    found = {name: (recipe["steps"], recipe["lr"], recipe["scale_parameter"]) for name, recipe in recipes.items()}
    assert found == {
        "full": (300, 3e-4, True), "bitfit": (1000, 3e-4, True), "layernorm": (1000, 3e-4, True),
        "adapter": (500, 3e-3, True), "compacter": (500, 3e-3, True), "compacter_pp": (500, 3e-3, True),
        "prompt_10": (1000, 0.3, False), "prompt_100": (1000, 0.3, False), "prefix": (1000, 1e-2, True),
        "fish_02": (1500, 3e-4, True), "fish_002": (1500, 3e-4, True), "said_20k": (3000, 3e-2, True),
        "said_500k": (3000, 3e-2, True), "lora": (1000, 3e-3, True), "lora_scaling": (1000, 3e-3, True),
        "ia3": (1000, 3e-3, True),
    }  # fmt: skip


def test_lora_is_w_plus_ba_over_rank() -> None:
    model, merged = tiny_t5(), tiny_t5()
    ready("lora", model)
    train(configured("lora"), model, [0.05] * 3)
    for name, layer in model.named_modules():
        if hasattr(layer, "lora_a"):
            a, b = layer.lora_a.detach().double(), layer.lora_b.detach().double()
            assert a.shape[0] == b.shape[1] == 4
            update = sum(torch.outer(b[:, r], a[r]) for r in range(4)) / 4
            merged.get_submodule(name).weight.data += update.float()
    for name, parameter in model.named_parameters():
        if "layer_norm" in name:
            merged.get_parameter(name).data.copy_(parameter)
    torch.testing.assert_close(logprob(model), logprob(merged), atol=1e-4, rtol=1e-4)
    spread = torch.cat([p.detach().flatten() for n, p in fresh_lora().items() if n.endswith("lora_a")]).std()
    assert spread == pytest.approx(0.01, rel=0.1)


def fresh_lora() -> dict[str, nn.Parameter]:
    model = tiny_t5()
    ready("lora", model)
    return adapter_parameters(model)


def test_lora_scaling_is_a_rank_one_pattern_on_the_weight() -> None:
    model, merged = tiny_t5(), tiny_t5()
    ready("lora_scaling", model)
    train(configured("lora_scaling"), model, [0.05] * 3)
    for name, layer in model.named_modules():
        if hasattr(layer, "scale_in"):
            merged.get_submodule(name).weight.data *= torch.outer(layer.scale_out, layer.scale_in).detach()
    torch.testing.assert_close(logprob(model), logprob(merged), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=fish_02", "optimizer.weight_decay=0.1"], "optimizer.weight_decay"),
        (["method=lora", "method.targets=[queries]"], r"is named queries \(method.targets=\)"),
        (["method=lora", "+method.layers=[queries]"], r"is named queries \(method.targets=\)"),
        (["method=bitfit", "method.targets=['*.kk']"], r"is named \*.kk \(method.targets=\)"),
        (["method=ia3", "method.targets={queries: [q]}"], r"method.targets= takes outputs and inputs, not queries"),
        (["method=ia3", "method.targets={}"], r"method.targets={} names no layer"),
        (["method=ia3", "method.targets={inputs: []}"], r"method.targets.inputs= names no layer"),
        (["method=ia3", "method.targets={inputs: wo}"], r"method.targets=.* has the wrong type"),
        (["method=lora", "method.targets=[]"], r"method.targets= names no layer"),
        (["method=ia3", "method.targets={inputs: [qq]}"], r"is named qq \(method.targets.inputs=\)"),
        (["method=adapter", "method.places=[Dense]"], r"method.places"),
        (["method=lora", "method.targets=wo"], r"method.targets=wo is not a list of names, such as \[a,b\]"),
        (["method=lora", "method.rank=abc"], r"method.rank=abc is not a whole number of at least 1"),
        (["method=prompt_10", "method.length=0"], r"method.length=0 is not a whole number of at least 1"),
        (["method=said_20k", "method.seed=-1"], r"method.seed=-1 is not a whole number of at least 0"),
        (["method=lora", "method.layer_norms=2"], r"method.layer_norms=2 is not true or false"),
        (["method=lora", "+method.alpha=3"], r"missing keys of method.: alpha; LoRA takes rank, init_scale"),
        (["method=compacter"], r"method.reduction=16 is the largest that works"),
    ],
)
def test_what_cannot_work_is_refused_by_its_knob(
    overrides: list[str], message: str, train_tiny: Callable[..., Any]
) -> None:
    with pytest.raises(UserError, match=message):
        train_tiny(*overrides)


def test_starting_from_an_adapter_of_other_settings_is_refused(train_tiny: Callable[..., Any]) -> None:
    first = folder(train_tiny("method=said_20k"))
    again = train_tiny("method=said_20k", f"init_adapter={first}", "steps=2")
    assert again.counts["rows"] == 12
    with pytest.raises(UserError, match=r"was made with other settings of method= \(seed: 0 there, 7 here\)"):
        train_tiny("method=said_20k", "method.seed=7", f"init_adapter={first}")


@pytest.mark.slow
def test_a_continued_run_recalls_its_calibration(
    train_tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FISH run is stopped and goes on with the mask that was found, even if another would be found now."""
    whole = train_tiny("method=fish_02", "steps=6", f"run_dir={tmp_path}/whole")
    step, stop = FewShotModule.training_step, 4

    def interrupted(self: FewShotModule, *arguments: Any) -> None:
        if self.global_step == stop:
            raise UserError("stopped")
        step(self, *arguments)

    cut = ("method=fish_02", "steps=6", "checkpoint_every=2", f"run_dir={tmp_path}/cut")
    monkeypatch.setattr(FewShotModule, "training_step", interrupted)
    with pytest.raises(UserError, match="stopped"):
        train_tiny(*cut)
    monkeypatch.setattr(FewShotModule, "training_step", step)
    monkeypatch.setattr(FISH, "compute_mask", None)  # calling it again would fail
    resumed = train_tiny(*cut, "resume=true")
    ours, theirs = load_weights(tmp_path / "cut"), load_weights(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert resumed.metrics == whole.metrics


@pytest.mark.slow
def test_costs_of_a_shape_that_some_methods_cannot_take(capsys: pytest.CaptureFixture[str]) -> None:
    rows = cost(compose("model=tiny", "methods=all", config_name="cost"))
    assert {row["method"] for row in rows if "cannot" in row} == {"compacter", "compacter_pp"}
    assert "Compacter needs the model's width 64" in capsys.readouterr().out
    with pytest.raises(UserError, match="methods=all counts every file of configs/method as it is"):
        cost(compose("model=tiny", "methods=all", "method=lora", config_name="cost"))


class ThrowAway(Method):
    """A method of somebody else's: one class and one YAML."""

    def __init__(self, size: int) -> None:
        self.size = size

    def attach(self, model: nn.Module) -> None:
        model.get_submodule("encoder.final_layer_norm").requires_grad_(True)


def test_a_new_method_is_one_class_and_one_yaml(train_tiny: Callable[..., Any], tmp_path: Path) -> None:
    group = tmp_path / "configs" / "method"
    group.mkdir(parents=True)
    (group / "throw_away.yaml").write_text(
        "name: throw_away\nsteps: 9\nlr: 0.01\nscale_parameter: true\n"
        "_target_: tests.methods.test_base.ThrowAway\nsize: 3\n"
    )
    record = train_tiny(f"hydra.searchpath=[file://{tmp_path}/configs]", "method=throw_away")
    assert (record.method, record.parameters["trainable"]) == ("throw_away", 64)
