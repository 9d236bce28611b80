"""Frozen weights in 8 and 4 bits (`model.dtype=int8|nf4`), against the same model with their decoded values."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.architectures import tiny
from tests.models import ragged_batch
from tfew.config import CONFIGS, checked, compose, resolved
from tfew.costs.memory_forecast import make_plan
from tfew.errors import UserError
from tfew.methods.base import adapter_parameters, attach
from tfew.models.build import build_blueprint, build_for_scoring, build_method, build_tokenizer
from tfew.models.method_builder import make_method
from tfew.models.quantization import QUANTIZED, QuantizedLinear, decoded, quantizable, quantize, saved_bytes
from tfew.scoring.score import ENGINES, token_logprob

pytest.importorskip("torchao", reason="torchao is not installed (make test_quantized)")
CPU = torch.device("cpu")
METHODS = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))

T5_ALONE = {"adapter", "compacter", "compacter_pp", "prefix", "prompt_10", "prompt_100"}
FOR_WIDTH_64 = {"compacter": ["method.reduction=16"], "compacter_pp": ["method.reduction=16"]}


def method_of(name: str) -> Any:
    return make_method(resolved(compose(f"method={name}", *FOR_WIDTH_64.get(name, [])).method))


def pair(model: str, kind: str) -> tuple[nn.Module, nn.Module]:
    """The quantised model, and an ordinary one that has the decoded values."""
    quantised = tiny(model)
    dense = copy.deepcopy(quantised)
    quantize(quantised, kind, CPU)
    with torch.no_grad():
        for name, layer in quantised.named_modules():
            if isinstance(layer, QuantizedLinear):
                dense.get_submodule(name).weight.copy_(decoded(layer.weight))  # type: ignore[operator, union-attr]
    return quantised, dense


def with_method(model: nn.Module, name: str) -> nn.Module:
    torch.manual_seed(0)
    attach(method_of(name), model)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("kind", QUANTIZED)
@pytest.mark.parametrize("model", ["t5", "llama"])
def test_decoded_values_are_near_those_of_the_base_but_not_the_same(model: str, kind: str) -> None:
    """int8: at most half a step of 1/127 of the row's largest value. nf4: half the widest gap between two levels."""
    base, (quantised, _) = tiny(model), pair(model, kind)
    layers = [(name, layer) for name, layer in quantised.named_modules() if isinstance(layer, QuantizedLinear)]
    assert len(layers) == len(list(quantizable(base)))
    for name, layer in layers:
        weight = base.get_submodule(name).weight.detach()  # type: ignore[union-attr]
        error = (decoded(layer.weight) - weight).abs()  # type: ignore[operator]
        if kind == "int8":
            assert (error <= 1.001 * weight.abs().amax(1, keepdim=True) / 127 / 2).all()  # type: ignore[operator]
        else:  # the gap between -1 and -0.6962 times the block's largest value, which 8 bits round
            assert error.max() <= 1.02 * (1 - 0.6962) / 2 * weight.abs().max()  # type: ignore[operator]
        assert 0 < error.mean() < 0.1 * weight.abs().mean()  # type: ignore[operator]


@pytest.mark.parametrize("kind", QUANTIZED)
@pytest.mark.parametrize("model", ["t5", "llama"])
@pytest.mark.parametrize("name", [name for name in METHODS if method_of(name).takes_quantized])
def test_scores_and_gradients_are_those_of_the_decoded_values(name: str, model: str, kind: str) -> None:
    if model == "llama" and name in T5_ALONE:
        with pytest.raises(UserError, match="T5"):
            with_method(tiny(model), name)
        return
    quantised, dense = (with_method(one, name) for one in pair(model, kind))
    batch = ragged_batch()
    for engine in ENGINES:
        found, expected = (token_logprob(one, batch, engine) for one in (quantised, dense))
        assert torch.allclose(found, expected, atol=2e-5)
        for one, scores in ((quantised, found), (dense, expected)):
            one.zero_grad()
            scores.sum().backward()
        ours, theirs = adapter_parameters(quantised), adapter_parameters(dense)
        assert ours.keys() == theirs.keys()
        for key, parameter in ours.items():
            assert torch.allclose(parameter.grad, theirs[key].grad, atol=1e-4, rtol=1e-4), key  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in METHODS if not method_of(name).takes_quantized])
def test_methods_that_change_the_weights_are_refused(name: str) -> None:
    config = checked(compose("model=tiny", f"method={name}", "model.dtype=int8", "dataset=rte"))
    with pytest.raises(UserError, match=f"model.dtype=int8 freezes.*method={config.method.name} changes"):
        build_blueprint(config, build_method(config), CPU)


def test_the_decoded_weight_is_not_kept_for_the_backward_pass() -> None:
    layer = QuantizedLinear(256, 256, bias=False)
    layer.weight.requires_grad_(False)
    holder = nn.ModuleDict({"layer": nn.Linear(256, 256, bias=False).requires_grad_(False)})
    holder.get_input_embeddings = holder.get_output_embeddings = lambda: None  # type: ignore[method-assign, assignment]
    quantize(holder, "int8", CPU)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):  # type: ignore[func-returns-value]
        output = holder["layer"](torch.randn(2, 256, requires_grad=True))
    assert sum(kept) < 256 * 256
    output.sum().backward()


@pytest.mark.parametrize("kind", QUANTIZED)
def test_the_forecast_counts_the_bytes_that_are_saved(kind: str) -> None:
    config = checked(compose("model=mini_t0", f"model.dtype={kind}", "dataset=rte"))
    plain = checked(compose("model=mini_t0", "model.dtype=float32", "dataset=rte"))
    ours, full = (make_plan(build_blueprint(c, build_method(c), CPU)).fixed.weight_bytes for c in (config, plain))
    loaded = build_for_scoring(config, build_tokenizer(config))
    layers = [layer for layer in loaded.model.modules() if isinstance(layer, QuantizedLinear)]
    assert layers
    held = sum(
        getattr(layer.weight, name).nbytes
        for layer in layers
        for name in layer.weight.__tensor_flatten__()[0]  # type: ignore[operator]
        if name != "nf4"  # the table of 16 levels
    )
    dense = sum(4 * layer.weight.numel() for layer in layers)
    running = max(4 * layer.weight.numel() for layer in layers)
    assert full - ours == pytest.approx(dense - held - running, rel=0.01)
    assert ours < full


def test_a_model_of_other_layers_is_refused() -> None:
    with pytest.raises(UserError, match=r"model.dtype=nf4 is for models of nn.Linear layers; in GPT2LMHeadModel"):
        quantize(tiny("gpt2"), "nf4", CPU)


def test_the_output_layer_and_the_embeddings_keep_their_dtype() -> None:
    model: Any = tiny("t5")
    quantize(model, "nf4", CPU)
    assert type(model.lm_head) is nn.Linear
    assert all(type(p) is nn.Parameter for n, p in model.named_parameters() if "embed" in n or "norm" in n)
    assert saved_bytes(tiny("t5"), "nf4") > saved_bytes(tiny("t5"), "int8")


def test_without_torchao_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchao", None)
    monkeypatch.setitem(__import__("sys").modules, "torchao.quantization", None)
    with pytest.raises(UserError, match=r'pip install "tfew\[quantized\]"'):
        quantize(tiny("t5"), "int8", CPU)
    monkeypatch.setattr("tfew.models.build.build_backbone", lambda *_: pytest.fail("the model was loaded first"))
    config = checked(compose("model=mini_t0", "model.dtype=int8", "dataset=rte"))
    with pytest.raises(UserError, match=r'pip install "tfew\[quantized\]"'):
        build_for_scoring(config, build_tokenizer(config))


@pytest.mark.parametrize("kind", QUANTIZED)
def test_a_run_trains_saves_and_predicts(kind: str, tmp_path: Path) -> None:
    from tfew.convert import convert, with_base_of_run
    from tfew.prediction.predictor import Predictor
    from tfew.train import train

    rows = "".join(
        f"{text} {number},{label}\n" for label, text in (("yes", "good"), ("no", "bad")) for number in range(8)
    )
    (tmp_path / "rows.csv").write_text("text,label\n" + rows)
    config = checked(
        compose("+experiment=local_mini", f"data={tmp_path / 'rows.csv'}", "label=label", f"model.dtype={kind}",
                f"runs={tmp_path / 'runs'}", "steps=3", "folds=null", "validation=0.25", config_name="train")
    )  # fmt: skip
    record = train(config)
    predictor = Predictor.load(record.folder)
    assert any(isinstance(layer, QuantizedLinear) for layer in predictor.model.modules())
    texts = [{"text": "good 3"}, {"text": "bad 9"}]
    labels = [result.label for result in predictor(texts)]
    assert set(labels) <= {"yes", "no"}
    assert len(Predictor.load(record.folder, "model.dtype=float32")(texts)) == 2  # the same base model
    two = Predictor.load({"one": record.folder, "other": record.folder})
    assert [two(texts, task=task)[0].label for task in ("one", "other")] == labels[:1] * 2
    with pytest.raises(UserError, match="merge=true changes the model's weights"):
        Predictor.load(record.folder, "merge=true")
    given = [f"adapter={record.folder}", "to=merged", f"output={tmp_path / 'plain'}"]
    merged = convert(with_base_of_run(compose(*given, config_name="convert"), given))
    assert (merged / "config.json").is_file()
