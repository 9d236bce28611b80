"""Log-probabilities of single tokens from hidden states, without ever holding all logits at once.

    log p(v | h) = h . W[v] - log sum_u exp(h . W[u])

The first part needs one row of the output head `W [V, D]`. The second is computed for a few states at a time; its
gradient for the state, sum_u p(u) W[u] `[D]`, is made in the same pass where it will be wanted, so that nothing of
width V is kept. A head that is trained, or more than a matrix, makes its logits a second time for the backward pass.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

LOGIT_BYTES = 2**25  # of the logits that are there at a time: enough for full matrix products, small beside any model


def token_logprob_of_states(state_MD: Tensor, head: nn.Module, state_P: Tensor, token_P: Tensor) -> Tensor:
    """`[P]` float32: the log-probability of `token_P` after the states that `state_P` numbers."""
    if _is_frozen(head):
        weight_VD: Any = head.weight
        # products in float32 whatever the type: beside the matrix product they cost nothing
        logit_P = (state_MD[state_P].float() * weight_VD[token_P].float()).sum(-1)
        return logit_P - _log_partition(state_MD, weight_VD)[state_P]
    order_P = state_P.argsort(stable=True)
    states, tokens = state_P[order_P], token_P[order_P]
    rows = max(1, LOGIT_BYTES // (4 * len(head.weight)))  # type: ignore[arg-type]
    parts = []
    for start in range(0, len(state_MD), rows):
        here = slice(*torch.searchsorted(states, states.new_tensor([start, start + rows])).tolist())
        arguments = (head, state_MD[start : start + rows], states[here] - start, tokens[here])
        grad = torch.is_grad_enabled()
        parts.append(checkpoint(_of_logits, *arguments, use_reentrant=False) if grad else _of_logits(*arguments))
    return torch.cat(parts)[order_P.argsort()]


def _is_frozen(head: nn.Module) -> bool:
    """Whether the head is nothing but a matrix that needs no gradient."""
    plain = type(head) is nn.Linear and head.bias is None and not head._forward_hooks and not head._forward_pre_hooks
    return plain and not (head.weight.requires_grad and torch.is_grad_enabled())


def _of_logits(head: nn.Module, state_MD: Tensor, state_P: Tensor, token_P: Tensor) -> Tensor:
    logit_MV = head(state_MD).float()
    return logit_MV[state_P, token_P] - logit_MV.logsumexp(-1)[state_P]


def _log_partition(state_MD: Tensor, weight_VD: Tensor) -> Tensor:
    """`[M]` float32: log sum_v exp(h . W[v])."""
    rows = max(1, LOGIT_BYTES // (4 * len(weight_VD)))
    if state_MD.requires_grad and torch.is_grad_enabled():
        log_partition_M: Tensor = _FrozenHead.apply(state_MD, weight_VD, rows)
        return log_partition_M
    return torch.cat([linear(part, weight_VD).float().logsumexp(-1) for part in state_MD.split(rows)])


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, state_MD: Tensor, weight_VD: Tensor, rows: int) -> Tensor:
        parts, slopes = [], []
        for part in state_MD.split(rows):
            logits = linear(part, weight_VD).float()
            top = logits.amax(-1, keepdim=True)
            share = logits.sub_(top).exp_()
            total = share.sum(-1, keepdim=True)
            parts.append((top + total.log())[:, 0])
            slopes.append((share.div_(total).to(weight_VD.dtype) @ weight_VD).to(state_MD.dtype))
        ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slope_MD,) = ctx.saved_tensors
        return (gradients[0][:, None] * slope_MD).to(slope_MD.dtype), None, None
