"""Tiny models and batches made in process, with seeds."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from tfew.config import compose, resolved
from tfew.data.tokenization import TokenizedPrompt, collate
from tfew.methods.base import attach
from tfew.methods.ia3 import IA3
from tfew.models.backbone import random_model
from tfew.models.method_builder import make_method
from tfew.schema import Batch
from tfew.settings import TrainingSettings, settings

ARCH = {
    "init_seed": 0,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "dropout_rate": 0.1,
    "tie_word_embeddings": False,
}


def tiny_t5(feed_forward: str = "gated-gelu", rows: int = 128) -> nn.Module:
    """T5 v1.1 like T0 (gated, head of its own), or with feed_forward="relu" the first T5's feed-forward."""
    return random_model({**ARCH, "vocab_size": rows, "feed_forward_proj": feed_forward}, rows)


def t5_of_t0_3b_shape() -> nn.Module:
    """T0-3B's shape without its memory."""
    config = T5Config(
        d_model=2048, d_kv=64, d_ff=5120, num_layers=24, num_heads=32, vocab_size=32128, feed_forward_proj="gated-gelu"
    )
    with torch.device("meta"):
        return T5ForConditionalGeneration(config)


def ia3() -> IA3:
    method = make_method(resolved(compose("method=ia3").method))
    assert isinstance(method, IA3)
    return method


def with_ia3(model: nn.Module, seed: int = 0, spread: float = 0.3) -> nn.Module:
    """The model with (IA)³ vectors that are not neutral."""
    attach(ia3(), model)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += spread * torch.randn(parameter.shape, generator=generator)
    return model


def ragged_batch(seed: int = 0, examples: int = 5) -> Batch:
    """Inputs of 3 to 12 tokens, 1 to 4 choices of 1 to 6 tokens, all different; eos (1) ends each."""
    generator = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    def tokens(length: int) -> list[int]:
        return [*torch.randint(2, 100, (length - 1,), generator=generator).tolist(), 1]

    items = []
    for position in range(examples):
        choices = [tokens(number(1, 6)) for _ in range(1 + position % 4)]
        items.append(TokenizedPrompt(tokens(number(3, 12)), choices, number(0, len(choices) - 1), 0, 0))
    return collate(items, pad_id=0)


def training_settings(**changes: Any) -> TrainingSettings:
    """Those of configs/train.yaml with these changes."""
    return replace(settings(TrainingSettings, compose()), **changes)
