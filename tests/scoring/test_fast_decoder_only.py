"""Decoder-only models: choices scored as continuations, and (IA)³ trained on fused and separate projections."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    ByT5Tokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from tests.models import ragged_batch, with_ia3
from tfew.config import compose
from tfew.errors import UserError
from tfew.scoring.score import scoring_mode, token_logprob
from tfew.train import train

SIZE: dict[str, Any] = {"vocab_size": 384, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
WIDE: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, **SIZE}


def make(kind: str) -> nn.Module:
    torch.manual_seed(0)
    made = {
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_head=4, n_layer=2, n_positions=512, **SIZE)),
        "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(intermediate_size=48, **WIDE)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(intermediate_size=48, **WIDE)),
        "opt": lambda: OPTForCausalLM(OPTConfig(ffn_dim=48, word_embed_proj_dim=32, dropout=0.0, **WIDE)),
    }
    return made[kind]().eval()


KINDS = ("gpt2", "gpt_neox", "llama", "opt")
VECTORS = {"gpt2": 2 * (64 + 128), "gpt_neox": 2 * (64 + 48), "llama": 2 * (64 + 48), "opt": 2 * (64 + 48)}


@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_one_unpadded_sequence_at_a_time(kind: str) -> None:
    model, batch = with_ia3(make(kind)), ragged_batch(examples=5)
    with scoring_mode(model):
        logprob = token_logprob(model, batch)
        for b, c in batch.choice_mask.any(-1).nonzero().tolist():
            prompt = batch.input_ids[b, batch.input_mask[b]]
            choice = batch.choice_ids[b, c, batch.choice_mask[b, c]]
            logits = model(input_ids=torch.cat([prompt, choice])[None]).logits[0]
            expected = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, choice[:, None])[:, 0]
            torch.testing.assert_close(logprob[b, c, : len(choice)], expected, atol=1e-5, rtol=1e-5)
    assert (logprob[~batch.choice_mask] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_ia3_scales_keys_and_values_and_never_queries(kind: str) -> None:
    model = with_ia3(make(kind))
    vectors = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in vectors.values()) == VECTORS[kind]
    for layer in model.modules():
        if hasattr(layer, "ia3_positions"):
            factors = layer.ia3_vector()
            heads, size = (4, 8) if kind == "gpt_neox" else (1, 32)
            queries, keys, values = factors.view(heads, 3, size).unbind(1)
            assert (queries == 1).all()
            assert (keys != 1).all()
            assert (values != 1).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["ia3", "lora"])
def test_trains_and_ranks(kind: str, method: str, made_data: Path, tmp_path: Path) -> None:
    make(kind).save_pretrained(tmp_path / "model")
    ByT5Tokenizer().save_pretrained(tmp_path / "model")
    record = train(
        compose(
            "+experiment=cb", f"model.path={tmp_path}/model", f"method={method}", f"data_dir={made_data}", "shots=8",
            "few_shot=draw", "steps=3", "templates=single", "templates.name='can we infer'", "trainer=cpu",
            f"runs={tmp_path}/runs",
        )
    )  # fmt: skip
    assert record.counts["prompts"] == 12
    if method == "ia3":
        assert record.parameters["trainable"] == VECTORS[kind]
    rows = (tmp_path / "runs" / record.name / "metrics.csv").read_text().splitlines()
    assert len(rows) == 4


def test_what_a_method_cannot_do_here_is_refused_by_name(made_data: Path, tmp_path: Path) -> None:
    make("gpt2").save_pretrained(tmp_path / "model")
    ByT5Tokenizer().save_pretrained(tmp_path / "model")
    common = ("+experiment=cb", f"model.path={tmp_path}/model", f"data_dir={made_data}", "few_shot=draw", "shots=8")
    for method in ("prompt_10", "prefix", "adapter", "compacter"):
        with pytest.raises(UserError, match=r"GPT2LMHeadModel"):
            train(compose(*common, f"method={method}", "trainer=cpu", f"runs={tmp_path}/runs"))
    assert not (tmp_path / "runs").exists()
