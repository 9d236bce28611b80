"""Decoder-only models: an input and all its choices in one row, so that the input is computed once.

Behind the input stand the prefixes of its choices, each at the position that it has in its own choice; a mask lets
each see the input and what comes before it in its choice, and nothing else. The row's end is padding.

Not every model lets itself be told positions and masks (ALiBi, windows of attention, recurrent layers), and there are
too many kinds to list. `supports` goes by the configuration where attention is not to all earlier tokens, and else
tries: it scores a few made-up tokens both ways, and a third time with a mask that lets too much be seen. What rounding
does is small beside what a wrong mask does, whatever the model's weights and type.
"""

import inspect
import logging
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from tfew.engine.prefixes import Prefixes, prefixes
from tfew.engine.vocabulary import token_logprob_of_states
from tfew.routing import routed
from tfew.schema import Batch

Mask = Callable[[Prefixes, Tensor, Tensor, int], Tensor]

log = logging.getLogger(__name__)
WINDOWS = ("sliding_window", "window_size", "attention_chunk_size")
# the most that a right mask's difference from the plain way may be of a wrong mask's: in float32, and in less
ROUNDING, COARSE_ROUNDING = 1e-3, 0.1
_fits: "WeakKeyDictionary[nn.Module, bool]" = WeakKeyDictionary()


def supports(model: Any, plain: Callable[[Any, Batch], Tensor]) -> bool:
    """Whether this way gives what `plain` gives with the weights of now, tried once a model; says so where not."""
    if model not in _fits:
        _fits[model] = _attends_to_all(model.config) and _takes_positions(model) and _agrees(model, plain)
        if not _fits[model]:
            log.info(f"Note: {type(model).__name__} cannot score choices behind a shared input; engine=plain is used.")
    return _fits[model]


def token_logprob(model: Any, batch: Batch, sees: Mask | None = None) -> Tensor:
    """`tfew.scoring.token_logprob` of a model that `supports` accepts; `sees`: another mask than the right one."""
    tree = prefixes(batch)
    length_B = batch.input_mask.sum(-1)
    first_M = torch.searchsorted(tree.example_M, torch.arange(len(batch), device=length_B.device))[tree.example_M]
    # the empty prefix is the input itself, so its state is that of the input's last token
    place_M = length_B[tree.example_M] + torch.arange(len(first_M), device=length_B.device) - first_M - 1
    width = int(place_M.max()) + 1
    ids_BK = _widened(batch.input_ids, width)
    position_BK = torch.arange(width, device=ids_BK.device).repeat(len(batch), 1)
    position_BK.masked_fill_(position_BK >= length_B[:, None], 0)  # padding may lie beyond the model's last position
    follows = tree.depth_M > 0
    at = (tree.example_M[follows], place_M[follows])
    ids_BK[at] = tree.last_token_M[follows]
    position_BK[at] = (length_B[tree.example_M] + tree.depth_M - 1)[follows]
    sees_BKK = (sees or _sees)(tree, length_B, place_M, width)
    dtype = _dtype(model)
    mask_B1KK = torch.zeros(sees_BKK.shape, dtype=dtype, device=ids_BK.device)
    mask_B1KK = mask_B1KK.masked_fill(~sees_BKK, torch.finfo(dtype).min)[:, None]
    inputs = {"input_ids": ids_BK, "attention_mask": mask_B1KK, "position_ids": position_BK}
    with routed(batch.task_id):
        state_BKD = model.base_model(**inputs, use_cache=False)[0]
    state_MD = state_BKD[tree.example_M, place_M]
    logprob_P = token_logprob_of_states(state_MD, model.get_output_embeddings(), tree.prefix_P, tree.target_P)
    return logprob_P.new_zeros(batch.choice_mask.shape).masked_scatter(batch.choice_mask, logprob_P)


def _widened(ids_BL: Tensor, width: int) -> Tensor:
    ids_BK = ids_BL.new_zeros(len(ids_BL), width)
    kept = min(width, ids_BL.shape[1])
    ids_BK[:, :kept] = ids_BL[:, :kept]
    return ids_BK


def _sees(tree: Prefixes, length_B: Tensor, place_M: Tensor, width: int) -> Tensor:
    """`[B, K, K]`: which keys (last) a query sees: the input up to itself, and the prefixes of its prefix."""
    place_K = torch.arange(width, device=length_B.device)
    sees_BKK = (place_K <= place_K[:, None]) & (place_K < length_B[:, None, None])
    for t in range(1, tree.prefix_NT.shape[1]):  # what the prefix without its last token sees, and itself
        longer = tree.length_N > t
        before_N, prefix_N = tree.prefix_NT[longer, t - 1], tree.prefix_NT[longer, t]
        example_N, query_N = tree.example_M[prefix_N], place_M[prefix_N]
        sees_BKK[example_N, query_N] = sees_BKK[example_N, place_M[before_N]]
        sees_BKK[example_N, query_N, query_N] = True
    sees_BKK[:, place_K, place_K] = True  # padding must see something
    return sees_BKK


def _sees_all_before(tree: Prefixes, length_B: Tensor, place_M: Tensor, width: int) -> Tensor:
    return torch.ones(len(length_B), width, width, dtype=torch.bool, device=length_B.device).tril()


def _dtype(model: Any) -> torch.dtype:
    dtype: torch.dtype = model.get_input_embeddings().weight.dtype
    return dtype


def _attends_to_all(config: Any) -> bool:
    if getattr(config, "final_logit_softcapping", None):  # the head is applied here as it is
        return False
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windows = any(getattr(config, name, None) for name in WINDOWS) and getattr(config, "use_sliding_window", True)
    return kinds == {"full_attention"} and not windows


def _takes_positions(model: Any) -> bool:
    return "position_ids" in inspect.signature(model.base_model.forward).parameters


def _agrees(model: Any, plain: Callable[[Any, Batch], Tensor]) -> bool:
    batch = _made_up(model.get_input_embeddings().num_embeddings).to(next(model.parameters()).device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            expected = plain(model, batch)
            ours, wrong = (
                (token_logprob(model, batch, sees) - expected).abs().max().item() for sees in (_sees, _sees_all_before)
            )
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return False  # it wants another mask or other positions
    finally:
        model.train(was_training)
    exact = _dtype(model) == torch.float32 and not torch.is_autocast_enabled(batch.input_ids.device.type)
    return bool(ours < (ROUNDING if exact else COARSE_ROUNDING) * wrong)


def _made_up(rows: int) -> Batch:
    """Two inputs of unlike length; choices that share a token, are unlike long, and are more of one input's."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, rows, (40,), generator=generator)
    choice_ids = ids[14:38].view(2, 3, 4).clone()
    choice_ids[:, 1, :2] = choice_ids[:, 0, :2]
    length_BC1 = torch.tensor([[[4], [4], [3]], [[3], [4], [0]]])
    return Batch(
        input_ids=ids[:14].view(2, 7),
        input_mask=torch.arange(7) < torch.tensor([[7], [4]]),
        choice_ids=choice_ids,
        choice_mask=torch.arange(4) < length_BC1,
        label=torch.tensor([0, 1]),
        task_id=torch.tensor([0, 0]),  # for a model that holds many tasks' vectors: those that change nothing
    )
