"""Prompt tuning (Lester et al. 2021; paper section 4.1): learned embeddings prepended to those of a frozen T5.

As in the official code, encoder and decoder each have a prompt: 10 of width 2048 in both are 40,960 parameters. The
encoder's states at the prompt are kept, so cross-attention sees them; the decoder's are dropped before the output
head. T5 counts relative positions from the first prompt token on.

Implemented by hooks on the two stacks, not by a subclass: transformers looks up by the exact class what a stack can
record (hidden states, attentions), and a subclass made after loading would silently lose that.
Uncertain: the official sampling of initial rows is known to be "uniform over 3..5002", but not whether it can draw a
row twice; here it can.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.mt5.modeling_mt5 import MT5Stack
from transformers.models.t5.modeling_t5 import T5Stack
from transformers.models.umt5.modeling_umt5 import UMT5Stack

from tfew.errors import UserError
from tfew.methods.base import Method
from tfew.methods.peft_format import PeftAdapter, common_config

STACKS = (T5Stack, MT5Stack, UMT5Stack)
PROMPTS = ("encoder.prompt", "decoder.prompt")  # as stored, and in peft's order
PEFT_KEY = "prompt_embeddings"
ARGUMENTS = ("input_ids", "attention_mask", "encoder_hidden_states", "encoder_attention_mask")  # in the stacks' order


class PromptTuning(Method):
    """`length` prompt embeddings for each stack, initialised from embedding rows `first_row` to `last_row`."""

    merges = False
    may_be_zero = ("first_row",)

    def __init__(self, length: int, first_row: int, last_row: int) -> None:
        self.length = length
        self.first_row = first_row
        self.last_row = last_row

    def attach(self, model: nn.Module) -> None:
        for stack in _stacks(model):
            stack.prompt = nn.Parameter(self._sampled_rows(model, stack))
            stack.register_forward_pre_hook(_put_in_front, with_kwargs=True)
            if stack.is_decoder:
                stack.register_forward_hook(_cut_off, with_kwargs=True)

    def _sampled_rows(self, model: nn.Module, stack: nn.Module) -> Tensor:
        """`[length, D]` float32: input embeddings of token ids drawn uniformly; small ids are common tokens."""
        embeddings = getattr(stack, "embed_tokens", None)
        rows = embeddings.num_embeddings if isinstance(embeddings, nn.Embedding) else 0
        end = min(self.last_row + 1, rows)
        if end <= self.first_row:
            raise UserError(
                f"{type(model).__name__} has no input embeddings {self.first_row} to {self.last_row}"
                f" (it has {rows} rows) to start a prompt from; prompt tuning (method=prompt_10, method=prompt_100)"
                " cannot be used on it, or lower method.first_row."
            )
        weight = embeddings.weight.detach()  # type: ignore[union-attr]
        where = "meta" if weight.is_meta else "cpu"  # drawn on the CPU, whatever device the model is on
        ids = torch.randint(self.first_row, end, (self.length,), device=where).to(weight.device)
        return weight[ids].to(torch.float32, copy=True)

    peft_types = ("MULTITASK_PROMPT_TUNING", "PROMPT_TUNING")

    def to_peft(self, model: nn.Module) -> PeftAdapter:
        """peft's multitask prompts with one task whose factors are ones (its forward needs `task_ids`, all zero).

        peft's PROMPT_TUNING saves a prompt for the decoder but does not use it (peft 0.21,
        `PeftModelForSeq2SeqLM.forward`); the multitask kind uses both. It keeps the decoder's states at the prompt in
        its output. Embeddings `[2 length, D]`: the encoder's, then the decoder's.
        """
        stored = self.stored(model)
        config: Any = model.config
        shape = {
            "num_virtual_tokens": self.length,
            "num_transformer_submodules": len(PROMPTS),
            "token_dim": config.d_model,
            "num_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "num_tasks": 1,
            "num_ranks": 1,
            "prompt_tuning_init": "RANDOM",
        }
        prompts = torch.cat([stored[name] for name in PROMPTS])
        ones = {
            "prefix_task_cols": prompts.new_ones(1, len(prompts), 1),
            "prefix_task_rows": prompts.new_ones(1, 1, prompts.shape[1]),
        }
        return PeftAdapter(common_config(self.peft_types[0], model) | shape, {PEFT_KEY: prompts, **ones})

    @classmethod
    def from_peft(
        cls, arguments: Mapping[str, Any], adapter: PeftAdapter, model: nn.Module, fused_queries: str
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        if adapter.config["peft_type"] != cls.peft_types[0]:
            raise UserError(
                f"peft uses the encoder's half only of a {adapter.config['peft_type']} adapter, and prompt tuning has a"
                f" prompt in the decoder, too: it can take peft's {cls.peft_types[0]} with one task."
            )
        prompts = _combined(adapter.tensors)
        if prompts is None:
            found = {name: list(tensor.shape) for name, tensor in adapter.tensors.items()}
            raise UserError(
                f"This adapter holds {found}; prompt tuning needs {PEFT_KEY} [2 x length, width],"
                " prefix_task_cols [1, 2 x length, ranks] and prefix_task_rows [1, ranks, width]."
            )
        halves = prompts.chunk(len(PROMPTS))
        return {**arguments, "length": len(halves[0])}, dict(zip(PROMPTS, halves, strict=True))


def _combined(tensors: Mapping[str, Tensor]) -> Tensor | None:
    """`[2 length, D]`: shared embeddings times the one task's low-rank factors; None if shapes do not fit."""
    try:
        shared, columns, rows = (tensors[n].float() for n in (PEFT_KEY, "prefix_task_cols", "prefix_task_rows"))
        factors = (columns @ rows).squeeze(0)
    except (KeyError, RuntimeError):
        return None
    fits = shared.ndim == 2 and shared.shape == factors.shape and len(shared) % len(PROMPTS) == 0
    return shared * factors if fits else None


def _stacks(model: nn.Module) -> list[nn.Module]:
    stacks = [getattr(model, name, None) for name in ("encoder", "decoder")]
    found = [stack for stack in stacks if isinstance(stack, STACKS)]
    if len(found) < len(stacks):
        raise UserError(
            f"Prompt tuning (method=prompt_10, method=prompt_100) supports encoder-decoders of T5's kind (T5, mT5,"
            f" UMT5), and {type(model).__name__} is none."
        )
    return found


def _put_in_front(stack: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
    """Pre-forward hook of a stack: prepends the prompt to embeddings and ones to masks (`[B, L]` to `[B, P + L]`)."""
    kwargs = dict(zip(ARGUMENTS, args, strict=False)) | kwargs
    for name in ("attention_mask", "encoder_attention_mask"):
        if kwargs.get(name) is not None:
            kwargs[name] = nn.functional.pad(kwargs[name], (len(stack.prompt), 0), value=1)
    cache = kwargs.get("cache")
    if cache is None or cache.get_seq_length() == 0:  # else a later generation step: the cache holds the prompt already
        embeds_BLD = kwargs.get("inputs_embeds")
        if embeds_BLD is None:
            embeds_BLD = stack.embed_tokens(kwargs["input_ids"])
        prompt_BPD = stack.prompt.to(embeds_BLD.dtype).expand(len(embeds_BLD), -1, -1)
        kwargs |= {"input_ids": None, "inputs_embeds": torch.cat([prompt_BPD, embeds_BLD], dim=1)}
    return (), kwargs


def _cut_off(stack: Any, args: tuple[()], kwargs: dict[str, Any], output: Any) -> None:
    """Forward hook of the decoder: drops the states at the prompt."""
    cache = kwargs.get("cache")
    states_BLD = output.last_hidden_state
    if cache is None or cache.get_seq_length() == states_BLD.shape[1]:  # this call began with the prompt
        output.last_hidden_state = states_BLD[:, len(stack.prompt) :]
