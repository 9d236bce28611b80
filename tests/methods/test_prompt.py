"""Prompt and prefix tuning against the bare model fed by hand, and against the paper's counts."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    ByT5Tokenizer,
    MT5Config,
    MT5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from tests.models import ARCH, ragged_batch, t5_of_t0_3b_shape, tiny_t5
from tfew.errors import UserError
from tfew.methods.base import Method, adapter_parameters, attach
from tfew.methods.prefix import FoldedPrefix, PrefixTuning, fit_error
from tfew.methods.prompt import PromptTuning
from tfew.schema import Batch
from tfew.scoring.score import scoring_mode, token_logprob

CONFIGS = Path(__file__).parents[2] / "configs" / "method"
COMMON = {k: v for k, v in ARCH.items() if k != "init_seed"} | {"vocab_size": 128, "decoder_start_token_id": 0}
PREFIX_LENGTH = 3
PROMPT_LENGTH = 4


def prompt() -> PromptTuning:
    return PromptTuning(PROMPT_LENGTH, first_row=3, last_row=5002)


def prefix(fit_steps: int = 5, fit_lr: float = 3e-3) -> PrefixTuning:
    return PrefixTuning(PREFIX_LENGTH, 24, "Question:", "Answer:", fit_steps, fit_lr)


both = pytest.mark.parametrize("make", [prompt, prefix])


def attached(method: Method, model: nn.Module | None = None, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = model if model is not None else tiny_t5()
    attach(method, model)
    return model


def logprob(model: nn.Module, batch: Batch | None = None) -> Tensor:
    with scoring_mode(model):
        return token_logprob(model, batch if batch is not None else ragged_batch())


def ids(length: int, rows: int = 2, seed: int = 0) -> Tensor:
    return torch.randint(2, 100, (rows, length), generator=torch.Generator().manual_seed(seed))


def mt5(**shape: Any) -> nn.Module:
    torch.manual_seed(0)
    return MT5ForConditionalGeneration(MT5Config(**COMMON | shape)).eval()


def umt5() -> nn.Module:
    torch.manual_seed(0)
    return UMT5ForConditionalGeneration(UMT5Config(**COMMON)).eval()


def bart() -> nn.Module:
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=100, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24,
        )
    )  # fmt: skip


# --- both


@pytest.mark.parametrize(
    ("name", "trained", "stored"),
    [
        ("prompt_10", 40_960, 40_960),
        ("prompt_100", 409_600, 409_600),
        ("prefix", 154_449_408, 589_824),  # 24 * 3 layers * 2 tokens * (key, value) * 2048
    ],
)
def test_counts_are_the_papers(name: str, trained: int, stored: int) -> None:
    description = OmegaConf.load(CONFIGS / f"{name}.yaml")
    assert description.name == name
    arguments = {k: v for k, v in description.items() if k not in ("name", "steps", "lr", "scale_parameter")}
    method = hydra.utils.instantiate(arguments)
    model = t5_of_t0_3b_shape()
    attach(method, model)
    assert method.trained_count(model) == trained
    assert method.stored_count(model) == stored
    assert method.stored_bytes(model) == 4 * stored
    assert all(p.device.type == "meta" for p in model.parameters())


@both
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_stored_and_restored_scores_the_same_and_not_like_the_base(make: Callable[[], Method], attention: str) -> None:
    method, fresh = make(), tiny_t5()
    model: Any = tiny_t5()
    model.set_attn_implementation(attention)
    base = logprob(model)
    attached(method, model)
    weights = {name: tensor.clone() for name, tensor in method.stored(model).items()}
    attached(method, fresh, seed=1)
    assert (logprob(fresh) - logprob(model)).abs().max() > 1e-3
    method.restore(fresh, weights)
    torch.testing.assert_close(logprob(fresh), logprob(model), atol=1e-5, rtol=0)
    assert (logprob(fresh) - base).abs().max() > 1e-2
    again = method.stored(fresh)
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], weights[name]) for name in weights)


@both
def test_weights_that_do_not_fit_are_refused(make: Callable[[], Method]) -> None:
    method = make()
    model = attached(method)
    weights = dict(method.stored(model))
    name = next(iter(weights))
    with pytest.raises(UserError, match="does not fit"):
        method.restore(model, {**weights, name: weights[name][:-1]})


@both
def test_only_the_promised_parameters_move(make: Callable[[], Method]) -> None:
    model = tiny_t5().train()
    before = copy.deepcopy(model.state_dict())
    attached(make(), model)
    start = {name: p.detach().clone() for name, p in adapter_parameters(model).items()}
    _two_steps(model)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not start.keys() & before.keys()
    assert all((p != start[name]).any() for name, p in adapter_parameters(model).items())


@both
def test_padding_changes_nothing(make: Callable[[], Method]) -> None:
    """Each row alone, without padding, scores as in the ragged batch."""
    model, batch = attached(make()), ragged_batch()
    together = logprob(model, batch)
    for row in range(len(batch.input_ids)):
        length = int(batch.input_mask[row].sum())
        alone = copy.copy(batch)
        for field, value in vars(batch).items():
            if value is not None:
                object.__setattr__(alone, field, value[row : row + 1])
        object.__setattr__(alone, "input_ids", batch.input_ids[row : row + 1, :length])
        object.__setattr__(alone, "input_mask", batch.input_mask[row : row + 1, :length])
        torch.testing.assert_close(logprob(model, alone)[0], together[row], atol=1e-5, rtol=0)


@both
def test_bf16_base_keeps_float32_parameters(make: Callable[[], Method]) -> None:
    model = attached(make(), tiny_t5().to(torch.bfloat16))
    assert {p.dtype for p in adapter_parameters(model).values()} == {torch.float32}
    token_logprob(model, ragged_batch()).sum().backward()
    gradients = [p.grad for p in adapter_parameters(model).values()]
    assert all(g is not None and g.dtype == torch.float32 and (g != 0).any() for g in gradients)


@both
def test_a_deep_copy_is_a_model_of_its_own(make: Callable[[], Method]) -> None:
    model = attached(make())
    before = logprob(model)
    twin = copy.deepcopy(model)
    torch.testing.assert_close(logprob(twin), before, atol=0, rtol=0)
    with torch.no_grad():
        for parameter in adapter_parameters(twin).values():
            parameter.mul_(-2)
    assert (logprob(twin) - before).abs().max() > 1e-3
    torch.testing.assert_close(logprob(model), before, atol=0, rtol=0)


@both
def test_generation_with_a_cache_is_generation_without(make: Callable[[], Method]) -> None:
    # as many layers in both stacks: transformers sizes the cache by the encoder's, and fails on the bare tiny_t5 too
    model: Any = attached(make(), mt5(num_decoder_layers=2))
    options = {"input_ids": ids(7), "max_new_tokens": 6, "do_sample": False, "output_logits": True}
    with scoring_mode(model):
        runs = [model.generate(**options, use_cache=c, return_dict_in_generate=True) for c in (True, False)]
    torch.testing.assert_close(runs[0].logits, runs[1].logits, atol=1e-4, rtol=0)


def _two_steps(model: nn.Module) -> None:
    optimizer = torch.optim.Adam(adapter_parameters(model).values(), lr=0.01)
    for seed in range(2):
        optimizer.zero_grad()
        token_logprob(model, ragged_batch(seed)).sum().neg().backward()
        optimizer.step()


# --- prompt tuning


@pytest.mark.parametrize("base", [tiny_t5, mt5, umt5])
def test_prompt_equals_embeddings_put_in_front_by_hand(base: Callable[[], Any]) -> None:
    bare, model = base(), attached(prompt(), base())
    batch = ragged_batch()
    weights = adapter_parameters(model)
    for row in range(len(batch.input_ids)):
        mask = batch.input_mask[row : row + 1]
        for choice in batch.choice_mask[row].any(-1).nonzero().flatten().tolist():
            target = batch.choice_ids[row, choice][batch.choice_mask[row, choice]]
            decoder_ids = torch.cat([torch.tensor([0]), target[:-1]])
            with torch.no_grad():
                output = bare(
                    inputs_embeds=_in_front(bare, weights["encoder.prompt"], batch.input_ids[row]),
                    attention_mask=torch.cat([torch.ones(1, PROMPT_LENGTH, dtype=mask.dtype), mask], dim=1),
                    decoder_inputs_embeds=_in_front(bare, weights["decoder.prompt"], decoder_ids),
                )
            logits = output.logits[0, PROMPT_LENGTH:]
            expected = logits.log_softmax(-1)[range(len(target)), target]
            ours = logprob(model, batch)[row, choice, : len(target)]
            torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def _in_front(model: Any, prompt_PD: Tensor, token_ids: Tensor) -> Tensor:
    return torch.cat([prompt_PD.detach(), model.get_input_embeddings()(token_ids)])[None]


def test_prompts_start_as_rows_of_common_tokens() -> None:
    model: Any = tiny_t5(rows=128)
    attached(PromptTuning(200, first_row=3, last_row=9), model)
    rows = model.get_input_embeddings().weight
    for name in ("encoder.prompt", "decoder.prompt"):
        started = adapter_parameters(model)[name]
        same = (started[:, None] == rows[None]).all(-1)
        assert bool(same.any(1).all())
        assert set(same.nonzero()[:, 1].tolist()) == set(range(3, 10))


def test_prompt_draws_differ_between_stacks_and_seeds() -> None:
    one, other = (adapter_parameters(attached(prompt(), seed=seed)) for seed in (0, 1))
    assert not torch.equal(one["encoder.prompt"], one["decoder.prompt"])
    assert not torch.equal(one["encoder.prompt"], other["encoder.prompt"])


def test_prompt_leaves_what_a_model_can_record() -> None:
    model: Any = attached(prompt())
    output = model(input_ids=ids(7), decoder_input_ids=ids(5), output_hidden_states=True)
    assert len(output.encoder_hidden_states) == 3
    assert output.logits.shape[:2] == (2, 5)


def test_prompt_refuses_what_has_no_embeddings_to_sample() -> None:
    model: Any = tiny_t5()
    model.encoder.embed_tokens = nn.Identity()
    with pytest.raises(UserError, match=r"T5ForConditionalGeneration has no input embeddings .*method=prompt_10"):
        attach(prompt(), model)
    with pytest.raises(UserError, match=r"200 to 300 \(it has 128 rows\).*method.first_row"):
        attach(PromptTuning(2, 200, 300), tiny_t5())


@both
@pytest.mark.parametrize("other", [bart, lambda: nn.Linear(2, 2)])
def test_models_of_another_kind_are_refused_by_name(make: Callable[[], Method], other: Callable[[], nn.Module]) -> None:
    model = other()
    with pytest.raises(UserError, match=rf"\(method=pr.*{type(model).__name__}"):
        attach(make(), model)


# --- prefix tuning


@pytest.mark.parametrize("base", [tiny_t5, mt5])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_prefix_equals_tokens_that_really_come_first(base: Callable[[], Any], attention: str) -> None:
    """The bare model reads P more tokens; their keys and values, put in as prefixes, must stand in for them.

    One example, as the encoder's later layers have other keys for the same tokens in another text. The lengths pass
    the first distances that T5 counts one by one (8 in the encoder, 16 in the decoder), so positions are proved too.
    """
    bare, model, method = base(), base(), prefix()
    for each in (bare, model):
        each.set_attn_implementation(attention)
    encoder_ids, decoder_ids = ids(PREFIX_LENGTH + 30, rows=1), ids(PREFIX_LENGTH + 25, rows=1, seed=1)
    states, output = _keys_and_values(bare, encoder_ids, decoder_ids)
    attached(method, model)
    weights = {}
    for name in method.stored(model):
        layer, _, part = name.rpartition(".prefix.")
        weights[name] = states[f"{layer}.{part[0]}"][0, :PREFIX_LENGTH]
    method.restore(model, weights)
    with torch.no_grad():
        ours = model(input_ids=encoder_ids[:, PREFIX_LENGTH:], decoder_input_ids=decoder_ids[:, PREFIX_LENGTH:])
    for field in ("encoder_last_hidden_state", "logits"):
        torch.testing.assert_close(ours[field], output[field][:, PREFIX_LENGTH:], atol=1e-4, rtol=0)


def _keys_and_values(model: Any, encoder_ids: Tensor, decoder_ids: Tensor) -> tuple[dict[str, Tensor], Any]:
    """What every k and v layer gives, `[B, L, inner]` by its name, and the model's output."""
    states: dict[str, Tensor] = {}
    handles = []
    for name, module in model.named_modules():
        if name.endswith((".k", ".v")):
            handles.append(module.register_forward_hook(lambda m, a, out, name=name: states.update({name: out})))
    with torch.no_grad():
        output = model(input_ids=encoder_ids, decoder_input_ids=decoder_ids)
    for handle in handles:
        handle.remove()
    return states, output


def test_prefix_equals_attention_written_out() -> None:
    """Encoder self-attention by head and query: one softmax over prefix and tokens, the prefix at -P .. -1."""
    model: Any = attached(prefix())
    attention = model.encoder.block[0].layer[0].SelfAttention
    key_PI, value_PI = (tensor.detach() for tensor in attention.prefix())
    x = torch.randn(1, 5, model.config.d_model, generator=torch.Generator().manual_seed(0))
    heads, width = model.config.num_heads, model.config.d_kv
    queries = x[0] @ attention.q.weight.T
    keys = torch.cat([key_PI, x[0] @ attention.k.weight.T])
    values = torch.cat([value_PI, x[0] @ attention.v.weight.T])
    expected = torch.zeros(5, heads * width)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for i in range(5):
            scores = []
            for j in range(PREFIX_LENGTH + 5):
                distance = (j - PREFIX_LENGTH) - i  # below 8 each distance has a bucket; the ones ahead start at 16
                bucket = abs(distance) + (16 if distance > 0 else 0)
                bias = attention.relative_attention_bias.weight[bucket, head]
                scores.append(queries[i, part] @ keys[j, part] + bias)
            expected[i, part] = torch.stack(scores).softmax(0) @ values[:, part]
    with torch.no_grad():
        ours, *_ = attention(x)
        torch.testing.assert_close(ours, (expected @ attention.o.weight.T)[None], atol=1e-5, rtol=0)


def test_restored_prefixes_have_no_mlp_and_train_directly() -> None:
    method, model = prefix(), tiny_t5().train()
    attached(method, model)
    assert method.trained_count(model) != method.stored_count(model)
    method.restore(model, method.stored(model))
    assert method.trained_count(model) == method.stored_count(model) == (2 + 3 + 3) * PREFIX_LENGTH * 2 * 32
    before = {name: tensor.clone() for name, tensor in method.stored(model).items()}
    _two_steps(model)
    assert all((tensor != before[name]).any() for name, tensor in method.stored(model).items())
    assert sum(isinstance(module, FoldedPrefix) for module in model.modules()) == 8


def test_initialise_fits_the_texts() -> None:
    """Targets are taken from an untouched model here; the error must fall to a few percent of the random start's."""
    bare, model, method = tiny_t5(rows=384), tiny_t5(rows=384).train(), prefix(fit_steps=300)
    attached(method, model)
    tokenizer = ByT5Tokenizer()
    texts = [torch.tensor([tokenizer(t, add_special_tokens=False)["input_ids"]]) for t in ("Question:", "Answer:")]
    states, _ = _keys_and_values(bare, *texts)
    names = [name.removesuffix(".k") for name in states if name.endswith(".k")]
    targets = {n: (states[f"{n}.k"][0, :PREFIX_LENGTH], states[f"{n}.v"][0, :PREFIX_LENGTH]) for n in names}
    start = fit_error(model, targets).item()
    method.initialise(model, tokenizer)
    assert fit_error(model, targets).item() < 0.02 * start
    assert len(targets) == 8
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_initialise_repeats_short_texts_and_refuses_empty_ones() -> None:
    method = PrefixTuning(5, 24, "ab", "c", fit_steps=1000, fit_lr=3e-3)
    model = attached(method, tiny_t5(rows=384))
    method.initialise(model, ByT5Tokenizer())
    stored = method.stored(model)
    key = stored["encoder.block.0.layer.0.SelfAttention.prefix.key"]
    torch.testing.assert_close(key[[0, 1, 0]], key[[2, 3, 4]], atol=0.05, rtol=0)
    assert (key[0] - key[1]).abs().max() > 0.2
    with pytest.raises(UserError, match=r"method.decoder_text=''"):
        PrefixTuning(2, 8, "a", "", fit_steps=1, fit_lr=1e-3).initialise(model, ByT5Tokenizer())


def test_prefix_refuses_umt5_by_name() -> None:
    with pytest.raises(UserError, match="UMT5ForConditionalGeneration"):
        attach(prefix(), umt5())
