"""Tiny GGUF files, written by the package `gguf` itself as llama.cpp's converter lays them out."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

CHAT_TEMPLATE = "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}{% endfor %}"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["h e", "l l", "he ll", "Ġ Ġ", "Ġ a"]
TOKENS = [*SPECIAL, *bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in MERGES)]
HEADS, KEY_HEADS = 4, 2
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def llama() -> LlamaForCausalLM:
    """Two layers with grouped keys and values, weights seeded; as many tokens as the file's tokenizer has."""
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS, vocab_size=len(TOKENS), max_position_embeddings=64, tie_word_embeddings=True,
        rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
        for name, weight in model.named_parameters():
            weight.data = 0.2 * torch.randn_like(weight) + (1 if "norm" in name else 0)
    return model


def gguf_name(name: str) -> str:
    """A parameter's name in the file."""
    if name.startswith("model.layers."):
        _, _, number, rest = name.split(".", 3)
        return f"blk.{number}.{NAMES[rest.removesuffix('.weight')]}.weight"
    return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries and keys as llama.cpp rotates them: pairs side by side, not in two halves."""
    return weight.reshape(heads, 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def write_llama(
    path: Path,
    quantized: str | Callable[[str], str] = "F32",
    pre: str | None = "smollm",
    extra: Mapping[str, np.ndarray] | None = None,
) -> LlamaForCausalLM:
    """Writes the file and returns the model that is in it; `quantized`: the type of its matrices, by their name."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed (requirements.txt)")
    model = llama()
    writer: Any = gguf.GGUFWriter(path, "llama")
    _write_settings(writer, model.config)
    if pre is not None:
        _write_tokenizer(writer, pre)
    for name, weight in model.named_parameters():
        array = weight.detach().numpy()
        if "q_proj" in name or "k_proj" in name:
            array = interleaved(array, HEADS if "q_proj" in name else KEY_HEADS)
        _write_tensor(gguf, writer, gguf_name(name), array, quantized)
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _write_tensor(gguf: Any, writer: Any, name: str, array: np.ndarray, quantized: str | Callable[[str], str]) -> None:
    wanted = quantized if isinstance(quantized, str) else quantized(name)
    if array.ndim == 1 or wanted == "F32":
        writer.add_tensor(name, array)
        return
    kind = gguf.GGMLQuantizationType[wanted]
    writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)


def _write_settings(writer: Any, config: LlamaConfig) -> None:
    writer.add_name("a small model")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: Any, pre: str) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_merges(MERGES)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
