"""Log-probabilities of single tokens from hidden states; the full logits tensor is never materialised.

    log p(v | h) = h . W[v] - log sum_u exp(h . W[u])

Logits are computed for a few states at a time. The gradient of the second part for the state, sum_u p(u) W[u] `[D]`, is
computed in the same pass if it will be needed, so that nothing of width V is saved. A head that is trained, or is more
than a matrix, recomputes its logits for the backward pass.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from tfew.scoring.output_head import Head

LOGIT_BYTES = 2**25  # of the logits in memory at a time: enough for efficient matrix products, small beside any model


def token_logprob_of_states(
    state_MD: Tensor, head: Head, state_P: Tensor, token_P: Tensor, by_softmax: bool = False
) -> Tensor:
    """`[P]` float32: the log-probability of `token_P` after the states that `state_P` numbers.

    Both parts come from the same logits with the same rounding, so the result is never above 0. `by_softmax`: without
    gradients, by torch's log_softmax, as others score decoder-only models. With about 50,000 tokens on a CPU its sum is
    off by 1e-5, always in the same direction, which over a choice of ten tokens would make a visible difference.
    """
    order_P = state_P.argsort(stable=True)
    states_P, tokens_P = state_P[order_P], token_P[order_P]
    rows = max(1, LOGIT_BYTES // (4 * len(head.weight)))
    grad = torch.is_grad_enabled()
    if grad and state_MD.requires_grad and _is_frozen(head):
        logprob_P: Tensor = _FrozenHead.apply(state_MD, head.weight, states_P, tokens_P, rows)
        return logprob_P[order_P.argsort()]
    parts = []
    for start, here in _pieces(states_P, len(state_MD), rows):
        arguments = (head, state_MD[start : start + rows], states_P[here] - start, tokens_P[here], by_softmax)
        parts.append(checkpoint(_of_logits, *arguments, use_reentrant=False) if grad else _of_logits(*arguments))
    return torch.cat(parts)[order_P.argsort()]


def _pieces(states_P: Tensor, states: int, rows: int) -> Iterator[tuple[int, slice]]:
    """First state of each piece of `rows` states, and the slice of the sorted `states_P` that are in it."""
    starts = torch.arange(0, states + rows, rows, device=states_P.device)
    bounds = torch.searchsorted(states_P, starts).tolist()
    for number, start in enumerate(range(0, states, rows)):
        yield start, slice(bounds[number], bounds[number + 1])


def _is_frozen(head: Head) -> bool:
    """Whether the head is only a matrix, and not trained."""
    if not (type(head) is nn.Linear and head.bias is None):
        return False
    return not (head._forward_hooks or head._forward_pre_hooks or head.weight.requires_grad)


def _of_logits(head: Head, state_MD: Tensor, state_P: Tensor, token_P: Tensor, by_softmax: bool) -> Tensor:
    logit_MV = head(state_MD).float()
    if by_softmax:
        return logit_MV.log_softmax(-1)[state_P, token_P]
    return logit_MV[state_P, token_P] - logit_MV.logsumexp(-1)[state_P]


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, state_MD: Tensor, weight_VD: Tensor, states_P: Tensor, tokens_P: Tensor, rows: int) -> Tensor:
        parts, slopes = [], []
        for start, here in _pieces(states_P, len(state_MD), rows):
            logits = linear(state_MD[start : start + rows], weight_VD).float()
            at_P = states_P[here] - start
            logit_P = logits[at_P, tokens_P[here]]
            top = logits.amax(-1, keepdim=True)
            share = logits.sub_(top).exp_()
            total = share.sum(-1, keepdim=True)
            parts.append(logit_P - (top + total.log())[at_P, 0])
            slopes.append((share.div_(total).to(weight_VD.dtype) @ weight_VD).to(state_MD.dtype))
        ctx.save_for_backward(torch.cat(slopes), weight_VD, states_P, tokens_P)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        slope_MD, weight_VD, states_P, tokens_P = ctx.saved_tensors
        (gradient_P,) = gradients
        of_state_M = gradient_P.new_zeros(len(slope_MD)).index_add(0, states_P, gradient_P)
        gradient_MD = -of_state_M[:, None] * slope_MD
        gradient_MD.index_add_(0, states_P, gradient_P[:, None] * weight_VD[tokens_P])
        return gradient_MD.to(slope_MD.dtype), None, None, None, None
