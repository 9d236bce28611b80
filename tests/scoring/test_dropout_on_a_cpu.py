"""T5 in training on a CPU: attention over rows grouped by length instead of torch's."""

import pytest
import torch
from torch import Tensor, nn
from transformers import MT5Config, MT5ForConditionalGeneration

from tests.models import ARCH, tiny_t5, with_ia3
from tests.scoring.test_engines import BATCHES, CHANGE_ATTENTION, METHODS, attached
from tfew.kernels import attention
from tfew.methods.base import adapter_parameters
from tfew.scoring import fast_t5
from tfew.scoring.losses import T_FEW, counts, loss_terms
from tfew.scoring.score import token_logprob

NEARLY_NEVER = 1e-12  # what drops nothing, but counts as dropout


def mt5() -> nn.Module:
    torch.manual_seed(0)
    return MT5ForConditionalGeneration(MT5Config(**{**ARCH, "vocab_size": 128, "decoder_start_token_id": 0}))


MODELS = {"v1.1": tiny_t5, "first": lambda: tiny_t5("relu"), "mt5": mt5}


def in_training(model: nn.Module, p_of_attention: float) -> nn.Module:
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if type(module) in fast_t5.ATTENTION:
            module.dropout = p_of_attention
    return model


def gradients(model: nn.Module, batch_name: str) -> dict[str, Tensor]:
    batch = BATCHES[batch_name]
    model.zero_grad()
    loss_terms(token_logprob(model, batch), batch, T_FEW, counts(batch))["loss"].backward()
    return {name: parameter.grad.clone() for name, parameter in adapter_parameters(model).items()}


@pytest.mark.parametrize("batch_name", BATCHES)
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_torchs_attention(name: str, batch_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(attention, "keep_mask", lambda like, p: calls.append(p) or torch.ones_like(like).char())
    model = with_ia3(MODELS[name]())
    by_rows = gradients(in_training(model, NEARLY_NEVER), batch_name)
    drawn = len(calls)
    torchs = gradients(in_training(model, 0.0), batch_name)
    assert drawn > 0
    assert len(calls) == drawn  # torch's way drew none
    assert all(gradient.any() for gradient in torchs.values())
    for key in torchs:
        torch.testing.assert_close(by_rows[key], torchs[key], msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("method", [name for name in METHODS if name not in CHANGE_ATTENTION])
def test_every_method_gets_its_whole_gradient(method: str) -> None:
    """Also one that trains relative positions, whatever its way."""
    model = attached(method, tiny_t5())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "keep_mask", lambda like, p: torch.ones_like(like).char())
        by_rows = gradients(in_training(model, NEARLY_NEVER), "shared")
    torchs = gradients(in_training(model, 0.0), "shared")
    assert torchs
    for key in torchs:
        torch.testing.assert_close(by_rows[key], torchs[key], msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.ci
def test_dropout_in_attention_has_the_same_mean() -> None:
    """Half of all probabilities dropped, 300 times: no mean log-probability is 4.5 standard errors from torch's."""
    model = in_training(with_ia3(tiny_t5()), 0.5)
    batch = BATCHES["ragged"]

    def draws() -> Tensor:
        torch.manual_seed(0)
        with torch.no_grad():
            return torch.stack([token_logprob(model, batch)[batch.choice_mask] for _ in range(300)]).double()

    ours = draws()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_t5, "_rows_and_biases", lambda *_: None)
        torchs = draws()
    assert not torch.equal(ours, torchs)
    error = ((ours.var(0) + torchs.var(0)) / len(ours)).sqrt()
    assert ((ours.mean(0) - torchs.mean(0)) / error).abs().max() < 4.5
    torch.testing.assert_close(ours.std(0), torchs.std(0), rtol=0.35, atol=0)


def test_relative_positions_that_are_trained_are_left_to_torch() -> None:
    model = in_training(tiny_t5(), NEARLY_NEVER).requires_grad_(True)
    batch = BATCHES["ragged"]
    token_logprob(model, batch).sum().backward()
    biases = [m.relative_attention_bias for m in model.modules() if getattr(m, "has_relative_attention_bias", False)]
    assert len(biases) == 2
    assert all(bias.weight.grad.any() for bias in biases)
