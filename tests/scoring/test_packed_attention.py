"""Decoder-only models on packed tokens, against rows with padding and against the plain engine."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.architectures import ENCODER_DECODER, one_of_each_kind, tiny
from tests.models import ragged_batch, with_ia3
from tests.scoring.test_architectures import ONE_WAY_ONLY, SCORED, long_batch
from tests.scoring.test_engines import gradients, lively
from tfew.data.tokenization import TokenizedPrompt, collate
from tfew.schema import Batch
from tfew.scoring import chunks, fast_decoder_only, packed_attention
from tfew.scoring.packed_attention import WITHIN_ROWS
from tfew.scoring.prefix_layout import Sees, own_prefixes
from tfew.scoring.score import plain_token_logprob, scoring_mode, token_logprob

# their attention does not look transformers' functions up, is not torch's own, or makes masks of its own
IN_PADDED_ROWS = {
    "biogpt", "doge", "falcon-40b", "falcon-7b", "flint", "gemma2", "gpt_neox_japanese", "gpt_oss", "granite_swa",
    "granitemoe_swa", "megatron-bert", "mimo_v2_flash", "stablelm", "stablelm-parallel", "vaultgemma", "xglm",
}  # fmt: skip
DECODERS = [name for name in SCORED if name not in ENCODER_DECODER and name not in ONE_WAY_ONLY]


def is_packed(model: Any) -> bool:
    return fast_decoder_only._try(model, plain_token_logprob, 0).packed


def tokens_of_choices(batch: Batch) -> list[list[list[int]]]:
    return [
        [choice[mask].tolist() for choice, mask in zip(choices, masks, strict=True)]
        for choices, masks in zip(batch.choice_ids, batch.choice_mask, strict=True)
    ]


def tokens_seen(model: Any) -> list[int]:
    """Appended to with each call of the model's first feed-forward: the number of tokens, padding included."""
    found: list[int] = []
    layer = next(module for name, module in model.named_modules() if name.endswith(("mlp", "up_proj", "fc1")))
    layer.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].shape[:-1].numel()))
    return found


@pytest.mark.parametrize("name", one_of_each_kind(DECODERS))
def test_which_architectures_are_computed_without_padding(name: str) -> None:
    assert is_packed(tiny(name).eval()) == (name not in IN_PADDED_ROWS)


@pytest.mark.parametrize("pass_tokens", [0, 10_000])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_all_tokens_are_computed_at_once_and_no_padding(
    kind: str, pass_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With rows of one length in each group of attention, and with all rows in one group."""
    monkeypatch.setitem(chunks.PASS_TOKENS, "cpu", pass_tokens)
    model, batch = with_ia3(lively(kind)), ragged_batch(5, examples=9)
    assert fast_decoder_only.supports(model, plain_token_logprob)
    seen = tokens_seen(model)
    fast = gradients(model, batch, "fast")
    # a choice's last token is not an input, and common beginnings are computed once
    beginnings = {
        (example, tuple(choice[:end]))
        for example, choices in enumerate(tokens_of_choices(batch))
        for choice in choices
        for end in range(1, len(choice))
    }
    assert seen == [int(batch.input_mask.sum()) + len(beginnings)]
    for key, expected in gradients(model, batch, "plain").items():
        scale = expected.abs().max().item()
        torch.testing.assert_close(fast[key] / scale, expected / scale, atol=1e-4, rtol=0, msg=key)


def test_windows_of_layers_hold_in_every_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """gemma3_text alternates layers with and without a window: a mask for each kind."""
    monkeypatch.setitem(chunks.PASS_TOKENS, "cpu", 0)
    model, batch = tiny("gemma3_text").eval(), long_batch()
    with scoring_mode(model):
        ours = token_logprob(model, batch)
        torch.testing.assert_close(ours, plain_token_logprob(model, batch), atol=2e-5, rtol=0)
    assert any(supported.packed for window, supported in fast_decoder_only._supported[model].items() if window)


def test_an_attention_that_mixes_examples_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then rows with padding are used, and scores stay the same."""
    model, batch = lively("llama"), ragged_batch(5, examples=4)
    right = packed_attention._attend

    def wrong(module: Any, query: Tensor, *others: Any, **settings: Any) -> tuple[Tensor, None]:
        attended, _ = right(module, query, *others, **settings)
        return attended.roll(1, dims=1), None

    monkeypatch.setattr(packed_attention, "_attend", wrong)
    assert not is_packed(model)
    with scoring_mode(model):
        torch.testing.assert_close(token_logprob(model, batch), plain_token_logprob(model, batch), atol=2e-5, rtol=1e-5)


def test_one_long_text_makes_no_long_masks_for_the_others() -> None:
    """For each group of rows one mask, as long as its own longest row."""
    model = lively("llama")
    source = torch.Generator().manual_seed(0)
    inputs = [torch.randint(3, 380, (length,), generator=source).tolist() for length in (200, *[8] * 15)]
    batch = collate([TokenizedPrompt(ids, [[5, 1], [6, 7, 1]], 0, 0, 0) for ids in inputs], pad_id=0)
    sizes: list[int] = []

    def recorded(tree: Any, length_B: Tensor, token_position_M: Tensor, width: int) -> Tensor:
        sizes.append(len(length_B) * width * width)
        return own_prefixes(tree, length_B, token_position_M, width)

    with scoring_mode(model):
        scores = fast_decoder_only._packed(model, batch, Sees(recorded))
        torch.testing.assert_close(scores, plain_token_logprob(model, batch), atol=2e-5, rtol=1e-5)
    assert sum(sizes) < 1.2 * 200**2


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_examples_without_choices_cost_nothing(kind: str) -> None:
    """As where choices are scored in parts; an input of one token would be a row of none."""
    model = lively(kind)
    inputs = [[*range(5, 35)], [9], [8], [*range(7, 30)]]
    batch = collate([TokenizedPrompt(ids, [[5, 1], [6, 7, 1]], 0, 0, 0) for ids in inputs], pad_id=0)
    batch.choice_mask[1:3] = False
    assert fast_decoder_only.supports(model, plain_token_logprob)
    seen = tokens_seen(model)
    with scoring_mode(model):
        scores = token_logprob(model, batch)
        assert seen == [30 + 23 + 2 * 3]
        torch.testing.assert_close(scores, plain_token_logprob(model, batch), atol=2e-5, rtol=1e-5)
        batch.choice_mask[:] = False
        assert not token_logprob(model, batch).any()


def fail(*_: Any) -> None:
    raise RuntimeError("on purpose")


def test_the_models_own_attention_is_put_back_after_an_error() -> None:
    model: Any = lively("llama")
    batch = ragged_batch(5, examples=4)
    assert fast_decoder_only.supports(model, plain_token_logprob)
    hook = model.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"), scoring_mode(model):
        token_logprob(model, batch)
    assert model.config._attn_implementation == WITHIN_ROWS
    hook.remove()
    model.set_attn_implementation("eager")  # after the test of the model, with torch's own
    with scoring_mode(model):
        scores = token_logprob(model, batch)
        torch.testing.assert_close(scores, plain_token_logprob(model, batch), atol=2e-5, rtol=1e-5)
    assert model.config._attn_implementation == "eager"


def test_the_attention_of_other_parts_of_a_model_is_not_touched() -> None:
    model: Any = tiny("llava").eval()
    model.config.vision_config._attn_implementation = "eager"
    assert is_packed(model)
    assert model.config.vision_config._attn_implementation == "eager"
    assert model.config.text_config._attn_implementation == WITHIN_ROWS


def test_layers_that_are_computed_twice_get_padded_rows() -> None:
    """With transformers' gradient checkpointing, the second time is outside `packed_attention`."""
    batch = ragged_batch(5, examples=4)

    def in_training(twice: bool) -> tuple[list[int], dict[str, Tensor]]:
        model: Any = with_ia3(lively("llama"))
        assert fast_decoder_only.supports(model, plain_token_logprob)
        model.train()  # llama has no dropout
        if twice:
            model.activation_checkpointing_enable()
        seen = tokens_seen(model)
        return seen, gradients(model, batch, "fast")

    once, expected = in_training(False)
    twice, found = in_training(True)
    assert len(once) == 1
    assert len(twice) % 2 == 0
    assert sum(twice) > 2 * sum(once)  # padding
    for key, gradient in expected.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found[key] / scale, gradient / scale, atol=1e-4, rtol=0, msg=key)
