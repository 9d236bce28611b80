"""(IA)³ against the paper's counts and against plain weights with the vectors multiplied in."""

import copy

import pytest
import torch
from torch import nn
from transformers import BartConfig, BartForConditionalGeneration

from tests.models import ia3, ragged_batch, t5_of_t0_3b_shape, tiny_t5, with_ia3
from tfew.errors import UserError
from tfew.methods.base import adapter_parameters, attach
from tfew.methods.ia3 import IA3, InputScaled, OutputScaled
from tfew.scoring.score import scoring_mode, token_logprob


def test_parameter_count_is_the_papers() -> None:
    model = t5_of_t0_3b_shape()
    attach(ia3(), model)
    vectors = adapter_parameters(model)
    # section 3.3: encoder L(d_k + d_v + d_ff), decoder L(2 d_k + 2 d_v + d_ff)
    assert sum(p.numel() for p in vectors.values()) == 24 * (2048 * 2 + 5120) + 24 * (4 * 2048 + 5120) == 540_672
    assert len(vectors) == 192


@pytest.mark.parametrize("feed_forward", ["gated-gelu", "relu"])
def test_starts_as_the_same_function_and_then_differs(feed_forward: str) -> None:
    model, batch = tiny_t5(feed_forward), ragged_batch()
    with scoring_mode(model):
        base = token_logprob(model, batch)
        attach(ia3(), model)
        torch.testing.assert_close(token_logprob(model, batch), base, atol=0, rtol=0)
    with scoring_mode(moved := with_ia3(tiny_t5(feed_forward))):
        assert (token_logprob(moved, batch) - base).abs().max() > 0.01


@pytest.mark.parametrize("feed_forward", ["gated-gelu", "relu"])
def test_equals_weights_with_the_vectors_multiplied_in(feed_forward: str) -> None:
    """The paper's merge: rows of k, v and wi_1, and without a gate columns of wo."""
    model, batch = with_ia3(tiny_t5(feed_forward)), ragged_batch()
    merged = tiny_t5(feed_forward)
    for name, module in model.named_modules():
        plain = dict(merged.named_modules())[name]
        if isinstance(module, OutputScaled):
            plain.weight.data = module.weight.data * module.ia3.data[:, None]
        elif isinstance(module, InputScaled):
            plain.weight.data = module.weight.data * module.ia3.data[None, :]
    with scoring_mode(model), scoring_mode(merged):
        ours, theirs = token_logprob(model, batch), token_logprob(merged, batch)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_places_of_the_vectors() -> None:
    gated, plain = with_ia3(tiny_t5()), with_ia3(tiny_t5("relu"))
    ends = {name.split(".", 5)[-1] for name in adapter_parameters(gated)}
    assert ends == {
        "SelfAttention.k.ia3", "SelfAttention.v.ia3", "EncDecAttention.k.ia3", "EncDecAttention.v.ia3",
        "DenseReluDense.wi_1.ia3",
    }  # fmt: skip
    assert {n.split(".", 5)[-1] for n in adapter_parameters(plain)} >= {"DenseReluDense.wo.ia3", "SelfAttention.k.ia3"}
    assert not any("wi" in name for name in adapter_parameters(plain))


def test_bias_is_scaled_too() -> None:
    layer = nn.Linear(3, 2)
    model = nn.Module()
    model.k, model.wi_1 = copy.deepcopy(layer), nn.Linear(3, 2)
    attach(IA3({"outputs": ["k"]}), model)
    model.k.ia3.data = torch.tensor([2.0, -1.0])
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.k(x), layer(x) * torch.tensor([2.0, -1.0]))


def test_bart_is_covered() -> None:
    config = BartConfig(
        vocab_size=100, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24,
    )  # fmt: skip
    model = BartForConditionalGeneration(config)
    attach(ia3(), model)
    assert sum(p.numel() for p in adapter_parameters(model).values()) == (2 * 16 + 24) + (4 * 16 + 24)


def test_only_vectors_move_and_the_base_stays_bit_for_bit() -> None:
    model = tiny_t5()
    before = copy.deepcopy(model.state_dict())
    attach(ia3(), model)
    optimizer = torch.optim.SGD(adapter_parameters(model).values(), lr=0.1)
    for seed in range(2):
        optimizer.zero_grad()
        token_logprob(model, ragged_batch(seed)).sum().neg().backward()
        optimizer.step()
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all((p != 1).any() for p in adapter_parameters(model).values())


def test_bf16_base_keeps_float32_vectors() -> None:
    model = tiny_t5().to(torch.bfloat16)
    attach(ia3(), model)
    assert {p.dtype for p in adapter_parameters(model).values()} == {torch.float32}
    token_logprob(model, ragged_batch()).sum().backward()
    gradients = [p.grad for p in adapter_parameters(model).values()]
    assert all(g is not None and g.dtype == torch.float32 and (g != 0).any() for g in gradients)


def test_names_that_match_nothing_are_an_error_that_lists_near_ones() -> None:
    with pytest.raises(UserError, match=r"is named wi_2 \(method.targets.inputs=\); near matches: .*wi_0"):
        attach(IA3({"outputs": ["k", "v"], "inputs": ["wi_2"]}), tiny_t5())
    with pytest.raises(UserError, match=r"No layer of T5ForConditionalGeneration for keys and values is named key"):
        attach(IA3(keys_values=["key"], fused_keys_values={}), tiny_t5())
    with pytest.raises(UserError, match=r"Unknown layout 'halves' \(method.fused_keys_values.qkv=\)"):
        IA3(fused_keys_values={"qkv": "halves"})


def test_without_hydra_the_defaults_are_those_of_the_yaml() -> None:
    bare = IA3()
    assert vars(bare) == vars(ia3())
    model, composed = tiny_t5(), tiny_t5()
    attach(bare, model)
    attach(ia3(), composed)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert names
    assert names == [name for name, parameter in composed.named_parameters() if parameter.requires_grad]
