"""The speed limit: shapes of T5 v1.1, the FLOPs that scoring needs, and the rate of a large matrix product.

Needs nothing but torch.
"""

import time
from collections.abc import Mapping, Sequence

import torch

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"d_model": 64, "d_ff": 128, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2},
    "small": {"d_model": 512, "d_ff": 1024, "num_layers": 8, "num_decoder_layers": 8, "num_heads": 6},
    "base": {"d_model": 768, "d_ff": 2048, "num_layers": 12, "num_decoder_layers": 12, "num_heads": 12},
    "t0_3b": {"d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_decoder_layers": 24, "num_heads": 32},
    "t0_11b": {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_decoder_layers": 24, "num_heads": 64},
}
ROWS, HEAD_WIDTH = 32128, 64
COMMON = {
    "d_kv": HEAD_WIDTH, "vocab_size": ROWS, "feed_forward_proj": "gated-gelu", "dropout_rate": 0.1,
    "tie_word_embeddings": False,
}  # fmt: skip


DECODER_ONLY: dict[str, dict[str, int]] = {  # Llama's architecture, with grouped keys and values
    "smollm2_tiny": {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 8192,
    },
    "smollm2_135m": {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 49152,
    },
}  # fmt: skip


def useful_flops(shape: str, input_lengths: Sequence[int], prefixes: int, context: int = 0) -> float:
    """Floating-point operations of the matrix products that scoring these needs: no padding, nothing twice.

    Two per multiply-add; `prefixes`: different prefixes of all choices. Attention's products are counted at each
    text's own length; softmax, norms and activations are not counted. A training step of (IA)³ needs twice as many:
    gradients of activations, and none of the frozen weights. `context`: tokens that all inputs of a decoder-only model
    begin with, computed once.
    """
    if shape in DECODER_ONLY:
        return _of_decoder_only(DECODER_ONLY[shape], input_lengths, prefixes, context)
    arch = SHAPES[shape]
    width, inner, wide = arch["d_model"], arch["num_heads"] * HEAD_WIDTH, arch["d_ff"]
    tokens = sum(input_lengths)
    squares = sum(length**2 for length in input_lengths)
    per_example = prefixes / len(input_lengths)
    encoder = tokens * (4 * width * inner + 3 * width * wide) + squares * 2 * inner
    cross = tokens * 2 * width * inner + tokens * per_example * 2 * inner
    decoder = prefixes * (6 * width * inner + 3 * width * wide)
    head = prefixes * width * ROWS
    return 2.0 * (arch["num_layers"] * encoder + arch["num_decoder_layers"] * (cross + decoder) + head)


def _of_decoder_only(arch: Mapping[str, int], input_lengths: Sequence[int], prefixes: int, context: int) -> float:
    """Tokens of inputs see those before them, prefixes of choices all of their input, whose end the empty one is."""
    width, wide, heads = arch["hidden_size"], arch["intermediate_size"], arch["num_attention_heads"]
    of_keys = width // heads * arch["num_key_value_heads"]
    behind = prefixes / len(input_lengths) - 1
    again = (len(input_lengths) - 1) * context  # of all inputs but one
    tokens = sum(length + behind for length in input_lengths) - again
    seen = sum(length * (length + 1) / 2 + behind * length for length in input_lengths) - again * (context + 1) / 2
    layer = tokens * (2 * width * width + 2 * width * of_keys + 3 * width * wide) + seen * 2 * width
    return 2.0 * (arch["num_hidden_layers"] * layer + prefixes * width * arch["vocab_size"])


def matmul_flops_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """The rate of a large matrix product on this device, the best of some: the limit that shares are taken of."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        wait_for(device)
        started = time.perf_counter()
        torch.mm(a, b)
        wait_for(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
