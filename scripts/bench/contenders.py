"""The contenders in scoring and training, each written as its users would write it.

official    the recipe of the authors' code: the encoder once, its output repeated for every choice, batches padded and
            in the order of the data; attention by SDPA, which the authors did not have. Of a decoder-only model: each
            choice behind its input, all in one padded batch
peft        HF peft's (IA)³ and a loop over the choices, each with its whole input
ours        tfew's engine; evaluation in batches of like length

lm-evaluation-harness runs in its own environment: `scripts/bench/harness.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from scripts.bench.workload import make_model
from tfew.config import compose, resolved
from tfew.data.tokenization import TokenizedPrompt, collate
from tfew.kernels.dropout import fast_dropout
from tfew.methods.base import adapter_parameters, attach
from tfew.models.method_builder import make_method
from tfew.schema import Batch
from tfew.scoring.context import Context
from tfew.scoring.losses import T_FEW, counts, loss_terms
from tfew.scoring.score import rank_scores, scoring_mode, token_logprob

BATCH = 16  # examples scored at a time
Logprob = Callable[[nn.Module, Batch], Tensor]


def official(model: nn.Module, batch: Batch) -> Tensor:
    return token_logprob(model, batch, "plain")


def ours(model: nn.Module, batch: Batch, context: Context | None = None) -> Tensor:
    return token_logprob(model, batch, "fast", context=context)


def peft(model: Any, batch: Batch) -> Tensor:
    """One call of the model for each choice's place; what is absent or padding counts for nothing."""
    if not model.config.is_encoder_decoder:
        return _peft_decoder_only(model, batch)
    logprob_CBT = []
    for c in range(batch.choice_ids.shape[1]):
        target_BT, mask_BT = batch.choice_ids[:, c], batch.choice_mask[:, c]
        decoder_BT = model.prepare_decoder_input_ids_from_labels(target_BT)
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.input_mask.long()}
        logits = model(**inputs, decoder_input_ids=decoder_BT).logits
        logprob = logits.log_softmax(-1).gather(-1, target_BT[..., None])[..., 0]
        logprob_CBT.append(logprob * mask_BT)
    return torch.stack(logprob_CBT, dim=1)


def _peft_decoder_only(model: Any, batch: Batch) -> Tensor:
    length_B = batch.input_mask.sum(-1)
    logprob_CBT = []
    for c in range(batch.choice_ids.shape[1]):
        target_BT, mask_BT = batch.choice_ids[:, c], batch.choice_mask[:, c]
        place_BT = length_B[:, None] + torch.arange(target_BT.shape[1])
        ids_BL = torch.zeros(len(batch), int(place_BT.max()) + 1, dtype=torch.long)
        ids_BL[:, : batch.input_ids.shape[1]] = batch.input_ids
        ids_BL.scatter_(1, place_BT, target_BT)
        is_token_BL = torch.arange(ids_BL.shape[1]) < (length_B + mask_BT.sum(-1))[:, None]
        logits = model(input_ids=ids_BL, attention_mask=is_token_BL.long()).logits
        before_BTV = (place_BT - 1)[..., None].expand(-1, -1, logits.shape[-1])
        logprob = logits.gather(1, before_BTV).log_softmax(-1).gather(-1, target_BT[..., None])[..., 0]
        logprob_CBT.append(logprob * mask_BT)
    return torch.stack(logprob_CBT, dim=1)


CONTENDERS: dict[str, Logprob] = {"official": official, "peft": peft, "ours": ours}


def prepared(name: str, shape: str) -> nn.Module:
    """The model with (IA)³ as this contender attaches it; weights are seeded, so all score alike."""
    model: Any = make_model(shape)
    if name != "peft":
        attach(make_method(resolved(compose("method=ia3").method)), model)
        return model
    from peft import IA3Config, get_peft_model

    names = ["k", "v", "wo"] if model.config.is_encoder_decoder else ["k_proj", "v_proj", "down_proj"]
    task_type = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    config = IA3Config(task_type=task_type, target_modules=names, feedforward_modules=names[2:])
    return get_peft_model(model, config)


def batches(name: str, items: Sequence[TokenizedPrompt], pad_id: int) -> Iterator[Batch]:
    if name == "ours":
        items = sorted(items, key=lambda item: -item.length)
    for start in range(0, len(items), BATCH):
        yield collate(items[start : start + BATCH], pad_id)


def score(name: str, model: nn.Module, items: Sequence[TokenizedPrompt], pad_id: int) -> list[list[float]]:
    logprob = partial(ours, context=Context()) if name == "ours" else CONTENDERS[name]
    with scoring_mode(model):
        return [
            scores
            for batch in batches(name, items, pad_id)
            for scores in rank_scores(logprob(model, batch), batch.choice_mask, "token").tolist()
        ]


def training_step(name: str, model: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer) -> float:
    model.train()
    optimizer.zero_grad()
    with fast_dropout(batch.label.device) if name == "ours" else nullcontext():
        terms = loss_terms(CONTENDERS[name](model, batch), batch, T_FEW, counts(batch))
        terms["loss"].backward()
    torch.nn.utils.clip_grad_norm_(list(adapter_parameters(model).values()), 1.0)
    optimizer.step()
    return terms["loss"].item()


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(adapter_parameters(model).values(), lr=3e-3)
