"""The decoder's start token, against transformers' own shift of labels, and the resulting scores."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    ProphetNetConfig,
    ProphetNetForConditionalGeneration,
    SwitchTransformersConfig,
    SwitchTransformersForConditionalGeneration,
    T5Gemma2Config,
    T5Gemma2ForConditionalGeneration,
    T5GemmaConfig,
    T5GemmaForConditionalGeneration,
)

from tests.models import ragged_batch, tiny_t5
from tfew.errors import UserError
from tfew.scoring.score import token_logprob
from tfew.scoring.text_config import decoder_start_id

GEMMA: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
    "num_key_value_heads": 2, "vocab_size": 128, "query_pre_attn_scalar": 8, "bos_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip


def t5gemma() -> nn.Module:
    return T5GemmaForConditionalGeneration(T5GemmaConfig(encoder=dict(GEMMA), decoder=dict(GEMMA), vocab_size=128))


def t5gemma2() -> nn.Module:
    encoder = {"text_config": dict(GEMMA), "vision_config": VISION}
    tokens = {"image_token_index": 120, "eoi_token_index": 121}
    return T5Gemma2ForConditionalGeneration(
        T5Gemma2Config(encoder=encoder, decoder=dict(GEMMA), vocab_size=128, **tokens)
    )


def switch() -> nn.Module:
    layers = {"num_layers": 2, "num_decoder_layers": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1}
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4, "num_experts": 4, "vocab_size": 128}
    return SwitchTransformersForConditionalGeneration(
        SwitchTransformersConfig(**layers, **sizes, expert_capacity=64, decoder_start_token_id=0)
    )


def prophetnet() -> nn.Module:
    encoder = {"encoder_ffn_dim": 48, "num_encoder_layers": 2, "num_encoder_attention_heads": 4}
    decoder = {"decoder_ffn_dim": 48, "num_decoder_layers": 2, "num_decoder_attention_heads": 4}
    return ProphetNetForConditionalGeneration(
        ProphetNetConfig(vocab_size=128, hidden_size=32, **encoder, **decoder, decoder_start_token_id=3, pad_token_id=0)
    )


def bart() -> nn.Module:
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    layers = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    return BartForConditionalGeneration(BartConfig(vocab_size=128, d_model=32, **heads, **layers))


@pytest.mark.parametrize(("make", "start"), [(t5gemma, 2), (t5gemma2, 2), (switch, 0), (prophetnet, 3), (bart, 2)])
def test_as_transformers_shifts_labels(make: Callable[[], nn.Module], start: int) -> None:
    model: Any = make()
    assert decoder_start_id(model) == start
    assert model.prepare_decoder_input_ids_from_labels(torch.tensor([[5, 6, 1]]))[0].tolist() == [start, 5, 6]


def test_a_checkpoint_that_says_none() -> None:
    model: Any = tiny_t5()
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = None
    assert decoder_start_id(model) == model.config.pad_token_id == 0, "what T5's relatives start from"
    model.config.pad_token_id = None
    with pytest.raises(
        UserError, match=r"T5ForConditionalGeneration does not say .* its config.json needs decoder_start_token_id"
    ):
        decoder_start_id(model)


# ProphetNet's decoder sees how wide its padding is, in transformers itself: 7e-4 in its logits
@pytest.mark.parametrize(
    ("make", "tolerance"), [(t5gemma, 2e-6), (t5gemma2, 2e-6), (switch, 2e-6), (bart, 2e-6), (prophetnet, 1e-3)]
)
def test_scores_are_those_of_one_unpadded_sequence_at_a_time(make: Callable[[], nn.Module], tolerance: float) -> None:
    model: Any = make().eval()
    batch = ragged_batch()
    with torch.no_grad():
        scored_BCT = token_logprob(model, batch, "plain")
        for example, choice in batch.choice_mask.any(-1).nonzero().tolist():
            target_T = batch.choice_ids[example, choice][batch.choice_mask[example, choice]]
            input_L = batch.input_ids[example][batch.input_mask[example]]
            shifted_T = torch.cat([torch.tensor([decoder_start_id(model)]), target_T[:-1]])
            logits_TV = model(input_ids=input_L[None], decoder_input_ids=shifted_T[None]).logits[0]
            alone_T = logits_TV.log_softmax(-1).gather(1, target_T[:, None])[:, 0]
            ours_T = scored_BCT[example, choice, : len(target_T)]
            torch.testing.assert_close(ours_T, alone_T, rtol=0, atol=tolerance)
