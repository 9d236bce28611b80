"""Tiny random models of the architectures that the installed transformers knows, by name, for tests over all of them.

    model = tiny("mistral")          # in eval mode, float32, the same numbers each time
    NAMES                            # every name, with what makes it
    DECODER_ONLY, ENCODER_DECODER    # the names by kind

A name is transformers' `model_type`, or that and a variant. Models have two layers (or as many as a pattern of
different layers needs), width 64, 4 heads, 2 of keys and values if a class supports them, windows of 8 tokens, 160
rows. Default initial weights are so small that attention hardly matters; these have a spread of 0.15, and biases are
not zero.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)
from transformers.pytorch_utils import Conv1D

ROWS, WINDOW, SPREAD = 160, 8, 0.15
# given to every configuration that knows the name
COMMON: dict[str, Any] = {
    "vocab_size": ROWS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 2,
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "intermediate_size": 96, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
    "max_position_embeddings": 128, "sliding_window": WINDOW, "attention_chunk_size": WINDOW,
    "num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "kv_lora_rank": 16, "q_lora_rank": 24, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
    "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_decoder_layers": 2,
    "forced_eos_token_id": None, "scale_embedding": True,
}  # fmt: skip
MAMBA = {"mamba_d_state": 8, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_chunk_size": 4}
LINEAR = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16
}  # fmt: skip
SLIDING_THEN_FULL = {"layer_types": ["sliding_attention", "full_attention"], "use_sliding_window": True}
CHUNKED = {"layer_types": ["chunked_attention", "full_attention"]}
DELTA = {"layer_types": ["linear_attention", "full_attention"], **LINEAR}
ROUTED = {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
FULL_HEADS = {"num_key_value_heads": 4}
# name -> what stands beside COMMON in its configuration
DECODERS: dict[str, dict[str, Any]] = {
    "afmoe": {"layer_types": ["sliding_attention", "full_attention"]}, "apertus": {}, "arcee": {}, "aria_text": {},
    "bamba": {**MAMBA, "attn_layer_indices": [1]}, "biogpt": {}, "bitnet": {}, "bloom": {},
    "codegen": {"rotary_dim": 8}, "cohere": {"logit_scale": 0.25},
    "cohere2": {**SLIDING_THEN_FULL, "logit_scale": 0.25}, "ctrl": {"dff": 96},
    "cwm": SLIDING_THEN_FULL, "deepseek_v2": {**ROUTED, **FULL_HEADS}, "deepseek_v3": {**ROUTED, **FULL_HEADS},
    "deepseek_v32": {**ROUTED, **FULL_HEADS, "index_topk": 64, "index_n_heads": 2, "index_head_dim": 16},
    "diffllama": {}, "doge": {}, "dots1": {**ROUTED, **FULL_HEADS, "n_shared_experts": 1}, "ernie4_5": {},
    "ernie4_5_moe": {}, "exaone4": SLIDING_THEN_FULL, "falcon_h1": {**MAMBA, "mamba_d_ssm": 128},
    "falcon_mamba": {"state_size": 8},
    "flex_olmo": {}, "gemma": {}, "gemma2": {**SLIDING_THEN_FULL, "query_pre_attn_scalar": 16},
    "gemma3_text": {**SLIDING_THEN_FULL, "query_pre_attn_scalar": 16},
    "gemma3n_text": {
        "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": ROWS, "hidden_size_per_layer_input": 8, "laurel_rank": 8,
        "activation_sparsity_pattern": [0.0] * 4, "intermediate_size": [96] * 4, "altup_num_inputs": 2,
    },
    "gemma4_text": {
        **SLIDING_THEN_FULL, "vocab_size_per_layer_input": ROWS, "hidden_size_per_layer_input": 8,
        "num_global_key_value_heads": 2, "global_head_dim": 16, "num_kv_shared_layers": 0,
    },
    "glm": {}, "glm4": {}, "glm4_moe": ROUTED, "glm4_moe_lite": {**ROUTED, **FULL_HEADS},
    "youtu": FULL_HEADS, "minicpm3": FULL_HEADS, "gpt2": {}, "gpt_bigcode": {}, "gpt_neo": {
        "attention_types": [[["global", "local"], 1]], "window_size": WINDOW,
    },
    "gpt_neox": {}, "gpt_neox_japanese": {}, "gpt_oss": SLIDING_THEN_FULL, "gptj": {"rotary_dim": 8},
    "granite": {"logits_scaling": 4.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.5},
    "granitemoe": {"logits_scaling": 4.0}, "granitemoeshared": {"shared_intermediate_size": 32},
    "granitemoehybrid": {**MAMBA, "layer_types": ["mamba", "attention"]}, "helium": {}, "hunyuan_v1_dense": {},
    "hunyuan_v1_moe": {}, "jamba": {"mamba_d_state": 8, "attn_layer_period": 2, "attn_layer_offset": 1},
    "jetmoe": {"kv_channels": 16}, "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1}, "llama": {},
    "llama4_text": {**CHUNKED, "no_rope_layers": [1, 0], "intermediate_size_mlp": 96, "floor_scale": 16},
    "mamba": {"state_size": 8},
    "mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 16, "n_groups": 1, "chunk_size": 4},
    "minimax": {"layer_types": ["linear_attention", "full_attention"], "block_size": 4}, "ministral": SLIDING_THEN_FULL,
    "mistral": {}, "mixtral": {}, "modernbert-decoder": {
        "layer_types": ["sliding_attention", "full_attention"], "local_attention": 2 * WINDOW
    },
    "mpt": {}, "nanochat": {"head_dim": 16}, "nemotron": {}, "olmo": {"clip_qkv": 8.0}, "olmo2": {},
    "olmo3": SLIDING_THEN_FULL, "olmoe": {"clip_qkv": 8.0}, "openai-gpt": {},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64}, "persimmon": {}, "phi": {}, "phi3": {}, "phimoe": {},
    "qwen2": {**SLIDING_THEN_FULL, "max_window_layers": 1}, "qwen2_moe": {}, "qwen3": {}, "qwen3_5_text": DELTA,
    "qwen3_moe": {}, "qwen3_next": DELTA,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "attention_window_size": WINDOW, "lru_width": 64},
    "rwkv": {"attention_hidden_size": 64}, "seed_oss": {}, "smollm3": {"no_rope_layers": [1, 0]}, "stablelm": {},
    "starcoder2": {}, "vaultgemma": {**SLIDING_THEN_FULL, "query_pre_attn_scalar": 16}, "xglm": {"ffn_dim": 96},
    "xlnet": {"d_inner": 96, "d_head": 16},
    "xlstm": {"num_heads": 4, "chunk_size": 4, "qk_dim_factor": 0.5},
    "zamba2": {
        "layers_block_type": ["mamba", "hybrid"], "mamba_d_state": 8, "n_mamba_heads": 8, "mamba_ngroups": 1,
        "attention_head_dim": 32, "adapter_rank": 8, "num_mem_blocks": 1, "chunk_size": 4, "hybrid_layer_ids": [1],
        **FULL_HEADS,
    },
}  # fmt: skip
# those that need nothing but COMMON
PLAIN_DECODERS = [
    "apertus1p5_text", "beam", "bert", "bert-generation", "cohere2_moe", "dory", "ernie", "exaone_moe", "flint",
    "gemma4_unified_text", "granite_swa", "granitemoe_swa", "hrm_text", "hy_v3", "hyperclovax", "jais2", "kolibri1",
    "laguna", "lfm3", "megatron-bert", "mellum", "mimo_v2_flash", "minimax_m2", "ministral3", "moshi", "olmo_hybrid",
    "roberta", "roformer", "solar_open", "trocr", "whisper", "prophetnet",
]  # fmt: skip
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bart-decoder": ("bart", {}),
    "falcon-7b": ("falcon", {"multi_query": True, "new_decoder_architecture": False, "alibi": False}),
    "falcon-40b": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False}),
    "falcon-rw": ("falcon", {"multi_query": False, "new_decoder_architecture": False, "alibi": True, "bias": True}),
    "gpt_bigcode-mha": ("gpt_bigcode", {"multi_query": False}),
    "gpt_neox-serial": ("gpt_neox", {"use_parallel_residual": False}),
    "llama-biased": ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1}),
    "opt-350m": ("opt", {"ffn_dim": 96, "word_embed_proj_dim": 32, "do_layer_norm_before": False}),
    "stablelm-parallel": ("stablelm", {"use_parallel_residual": True, "qk_layernorm": True}),
}
ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    "bart": {}, "bigbird_pegasus": {"attention_type": "original_full"}, "blenderbot": {}, "blenderbot-small": {},
    "fsmt": {"src_vocab_size": ROWS, "tgt_vocab_size": ROWS, "langs": ["en", "de"], "tie_word_embeddings": False},
    "led": {"attention_window": [8, 8], "max_encoder_position_embeddings": 128, "max_decoder_position_embeddings": 128},
    "longt5": {"local_radius": 7}, "m2m_100": {}, "marian": {}, "mbart": {}, "mt5": {}, "mvp": {},
    "nllb-moe": {"encoder_sparse_step": 2, "decoder_sparse_step": 2, "expert_capacity": 64}, "pegasus": {},
    "pegasus_x": {"block_size": 8, "num_global_tokens": 4}, "plbart": {},
    "prophetnet": {"num_encoder_layers": 2, "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4},
    "switch_transformers": {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "expert_capacity": 4},
    "t5": {}, "umt5": {},
}  # fmt: skip
ENCODER_DECODER_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "led-wide": ("led", {"attention_window": [64, 64], "max_encoder_position_embeddings": 128}),
    "longt5-global": (
        "longt5", {"local_radius": 7, "global_block_size": 4, "encoder_attention_type": "transient-global"}
    ),
    "t5-gated": ("t5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "umt5-relu": ("umt5", {"feed_forward_proj": "relu"}),
}  # fmt: skip
VISION = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
DEPTH = {
    "depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 64,
    "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
}  # fmt: skip
SIGLIP, CLIP, PIXTRAL = (
    {"model_type": kind, **VISION} for kind in ("siglip_vision_model", "clip_vision_model", "pixtral")
)
ROPE_PARTS = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
MULTIMODAL_TEXTS: dict[str, dict[str, Any]] = {
    "qwen2_vl_text": {"rope_parameters": ROPE_PARTS},
    "qwen3_vl_text": {"rope_parameters": ROPE_PARTS},
    "mllama_text_model": {"cross_attention_layers": [1], "num_hidden_layers": 3},
}
# name -> its text model, and its vision tower
MULTIMODAL: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": ("gemma3_text", SIGLIP),
    "gemma4": ("gemma4_text", {**VISION, "num_key_value_heads": 2, "head_dim": 16, "position_embedding_size": 16}),
    "idefics3": ("llama", VISION),
    "llama4": (
        "llama4_text", {**VISION, "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32}
    ),
    "llava": ("llama", CLIP),
    "mistral3": ("mistral", PIXTRAL),
    "mllama": ("mllama_text_model", {"hidden_size": 32, "num_hidden_layers": 1, "num_global_layers": 1,
        "attention_heads": 2, "intermediate_size": 32, "vision_output_dim": 64, "image_size": 28,
        "intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1]], "max_num_tiles": 1}),
    "paligemma": ("gemma", SIGLIP),
    "qwen2_vl": ("qwen2_vl_text", {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2}),
    "qwen3_5": ("qwen3_5_text", DEPTH),
    "qwen3_vl": ("qwen3_vl_text", DEPTH),
}  # fmt: skip
MATRICES = (nn.Linear, nn.Embedding, Conv1D)


def known(kind: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """COMMON as far as this class of configuration knows it, and `changes`."""
    names = {field.name for field in fields(kind)} if is_dataclass(kind) else set()
    names |= set(inspect.signature(kind.__init__).parameters) | set(kind.attribute_map)
    changed = {kind.attribute_map.get(key, key) for key in changes}
    return {k: v for k, v in COMMON.items() if k in names and kind.attribute_map.get(k, k) not in changed} | changes


def lively(model: Any) -> nn.Module:
    """With weights by which attention matters to the scores, and biases that are not zero."""
    # T5's relatives make their states small before the head, but those that have a head of their own
    small = hasattr(model.config, "relative_attention_num_buckets")
    small = small and getattr(model.config, "scale_decoder_outputs", True) and model.config.model_type != "mt5"
    tied: set[int] = set()
    with torch.no_grad():
        for module in model.modules():
            for key, parameter in module.named_parameters(recurse=False):
                if id(parameter) in tied:
                    continue
                tied.add(id(parameter))
                if parameter.dim() == 3 or (parameter.dim() == 2 and isinstance(module, MATRICES)):
                    wanted, spread = (
                        1.0 if small and len(parameter) == ROWS and isinstance(module, nn.Embedding) else SPREAD,
                        parameter.std(),
                    )
                    parameter.copy_(wanted * parameter / spread) if spread > 0 else parameter.normal_(std=wanted)
                elif key == "bias" and isinstance(module, (*MATRICES, nn.LayerNorm)):
                    parameter.normal_(std=SPREAD / 3)
    return model.eval()


def seeded(kind: str, settings: Any) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = getattr(transformers, kind)(settings)
    return lively(model)


def decoder(name: str, changes: dict[str, Any]) -> nn.Module:
    kind = CONFIG_MAPPING[name]
    return seeded(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[name], kind(**known(kind, {"is_decoder": True, **changes})))


def multimodal(name: str, text: str, vision: dict[str, Any]) -> nn.Module:
    """A text model, the one that stands under this name above, and a vision tower, of which no image is shown."""
    kind, nested = CONFIG_MAPPING[name], CONFIG_MAPPING[text]
    settings = kind(text_config=known(nested, DECODERS.get(text, MULTIMODAL_TEXTS.get(text, {}))), vision_config=vision)
    return seeded(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[name], settings)


def encoder_decoder(name: str, changes: dict[str, Any]) -> nn.Module:
    kind = CONFIG_MAPPING[name]
    settings = kind(
        **known(kind, changes), **{key: 2 for key in ["decoder_start_token_id"] if key not in known(kind, {})}
    )
    return seeded(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES[name], settings)


def t5gemma(changes: dict[str, Any]) -> nn.Module:
    kind = CONFIG_MAPPING["t5gemma"]
    half = known(kind.sub_configs["encoder"], {**SLIDING_THEN_FULL, "query_pre_attn_scalar": 16, **changes})
    return seeded("T5GemmaForConditionalGeneration", kind(encoder=half, decoder=half, vocab_size=ROWS))


def t5gemma2() -> nn.Module:
    kind = CONFIG_MAPPING["t5gemma2"]
    half = known(kind.sub_configs["decoder"], {**SLIDING_THEN_FULL, "query_pre_attn_scalar": 16})
    encoder = {"text_config": half, "vision_config": SIGLIP}
    settings = kind(encoder=encoder, decoder=half, image_token_index=ROWS - 1, eoi_token_index=ROWS - 2)
    return seeded("T5Gemma2ForConditionalGeneration", settings)


def bert_to_bert() -> nn.Module:
    """The general class for an encoder and a decoder of any kind."""
    kind = CONFIG_MAPPING["bert"]
    encoder, decoder = kind(**known(kind, {"is_decoder": False})), kind(**known(kind, {"is_decoder": True}))
    settings = CONFIG_MAPPING["encoder-decoder"].from_encoder_decoder_configs(encoder, decoder)
    settings.decoder_start_token_id, settings.pad_token_id = 2, 0
    return seeded("EncoderDecoderModel", settings)


DECODER_ONLY: dict[str, Callable[[], nn.Module]] = {
    **{name: partial(decoder, name, changes) for name, changes in DECODERS.items()},
    **{f"{name}-decoder" if name in ENCODER_DECODERS else name: partial(decoder, name, {}) for name in PLAIN_DECODERS},
    **{name: partial(decoder, base, DECODERS.get(base, {}) | changes) for name, (base, changes) in VARIANTS.items()},
    **{name: partial(multimodal, name, text, vision) for name, (text, vision) in MULTIMODAL.items()},
}
ENCODER_DECODER: dict[str, Callable[[], nn.Module]] = {
    **{name: partial(encoder_decoder, name, changes) for name, changes in ENCODER_DECODERS.items()},
    **{
        name: partial(encoder_decoder, base, ENCODER_DECODERS[base] | changes)
        for name, (base, changes) in ENCODER_DECODER_VARIANTS.items()
    },
    "encoder-decoder": bert_to_bert,
    "t5gemma": partial(t5gemma, {}),
    "t5gemma2": t5gemma2,
}
NAMES = {**DECODER_ONLY, **ENCODER_DECODER}


def tiny(name: str) -> nn.Module:
    return NAMES[name]()


FIRST_OF_A_KIND = {  # of structure
    "bart", "bloom", "deepseek_v3", "encoder-decoder", "falcon-40b", "falcon-7b", "gemma3", "gemma3_text", "gpt2",
    "gpt_bigcode", "gpt_neox", "gpt_oss", "jetmoe", "lfm2", "llama", "llama4_text", "mixtral", "nemotron", "olmo2",
    "opt", "phi3", "qwen2_moe", "qwen3", "qwen3_moe", "t5", "t5-gated", "t5gemma",
}  # fmt: skip


def one_of_each_kind(names: Iterable[str], others: pytest.MarkDecorator = pytest.mark.drill) -> list[Any]:
    """For `parametrize`: all of them, of which those that are not the first of their kind of structure are drills, or
    what else `others` says."""
    return [pytest.param(name, marks=() if name in FIRST_OF_A_KIND else others) for name in names]
