"""Attention with dropout over packed tokens on a CPU, where torch has no fused kernel for it.

torch decomposes it into about twenty operations over padded rows. Here rows of similar length are computed together,
to keep padding small; forward and backward pass are implemented directly, and only the probabilities and one byte per
mask element are saved between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tfew.kernels.dropout import keep_mask

ALIKE = 0.8  # rows are grouped whose key length is at least this share of the longest row's


@dataclass(frozen=True)
class Group:
    """R rows of H heads, Q queries and K keys; `query_index`, `key_index` `[R H Q]`: the packed token and head
    (token * H + head) at each place. `is_key_RK`: where there is a key; None: everywhere.
    """

    shape_RHQK: tuple[int, int, int, int]
    query_index: Tensor
    key_index: Tensor
    is_key_RK: Tensor | None


@dataclass(frozen=True)
class Rows:
    """`query_place`, `key_place` `[E H]`: the place, over all groups, of each packed token and head.

    `key_place` is None if tokens are in several rows; a query counts at its one place only.
    """

    groups: Sequence[Group]
    query_place: Tensor
    key_place: Tensor | None


def rows_of_like_length(query_length_R: Tensor, key_length_R: Tensor, heads: int) -> Rows:
    """Groups of rows that follow one another in packed tokens."""
    order_R = key_length_R.argsort(descending=True, stable=True)
    lengths = key_length_R[order_R].tolist()
    query_first_R, key_first_R = (length_R.cumsum(0) - length_R for length_R in (query_length_R, key_length_R))
    groups: list[Group] = []
    placed: tuple[list[tuple[Tensor, Tensor]], ...] = ([], [])
    start = 0
    while start < len(lengths):
        end = next((i for i in range(start, len(lengths)) if lengths[i] < ALIKE * lengths[start]), len(lengths))
        here = order_R[start:end]
        query_RQ, is_query_RQ = _tokens(query_first_R[here], query_length_R[here])
        key_RK, is_key_RK = _tokens(key_first_R[here], key_length_R[here])
        groups.append(_group(query_RQ, key_RK, heads, None if is_key_RK.all() else is_key_RK))
        for parts, index, is_token in zip(
            placed, (groups[-1].query_index, groups[-1].key_index), (is_query_RQ, is_key_RK), strict=True
        ):
            parts.append((index, is_token[:, None].expand(-1, heads, -1).flatten()))
        start = end
    return Rows(groups, *map(_places, placed))


def rows_with_shared_keys(token_RW: Tensor, place_E: Tensor, heads: int) -> Rows:
    """One group: queries and keys are these tokens; as a query each counts at `place_E`, a place of R W."""
    width = token_RW.shape[1]
    place_EH = (place_E // width * heads)[:, None] + torch.arange(heads)
    return Rows(
        [_group(token_RW, token_RW, heads, None)], (place_EH * width + place_E[:, None] % width).flatten(), None
    )


def _tokens(first_R: Tensor, length_R: Tensor) -> tuple[Tensor, Tensor]:
    """The token at each place of a row, and whether the place holds a token; padding repeats the last."""
    place_W = torch.arange(int(length_R.max()))
    return first_R[:, None] + torch.minimum(place_W, length_R[:, None] - 1), place_W < length_R[:, None]


def _group(query_RQ: Tensor, key_RK: Tensor, heads: int, is_key_RK: Tensor | None) -> Group:
    head_H1 = torch.arange(heads)[:, None]
    query_index, key_index = ((token_RW[:, None] * heads + head_H1).flatten() for token_RW in (query_RQ, key_RK))
    return Group((len(query_RQ), heads, query_RQ.shape[1], key_RK.shape[1]), query_index, key_index, is_key_RK)


def _places(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    index, is_token = map(torch.cat, zip(*parts, strict=True))
    place = is_token.nonzero()[:, 0]
    return torch.empty_like(place).index_copy_(0, index[place], place)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, rows: Rows, biases: Sequence[Tensor | None], p: float,
        scale: float, width: int,
    ) -> Tensor:  # fmt: skip
        ctx.rows, ctx.scale, ctx.width, ctx.kept_share = rows, scale, width, 1 - p
        saved, outputs = [], []
        for group, bias in zip(rows.groups, biases, strict=True):
            query_GQD, key_GKD, value_GKD = _gathered(group, query, key, value, width)
            score_GQK = torch.bmm(query_GQD, key_GKD.transpose(1, 2))
            if scale != 1:
                score_GQK.mul_(scale)
            if bias is not None:
                score_GQK.view(group.shape_RHQK).add_(bias)
            probability_GQK = score_GQK.softmax(-1, dtype=torch.promote_types(query.dtype, torch.float32)).to(
                query.dtype
            )
            mask_GQK = keep_mask(probability_GQK, p)
            outputs.append(torch.bmm(probability_GQK * mask_GQK, value_GKD).view(-1, width))
            saved += [probability_GQK, mask_GQK]
        ctx.save_for_backward(query, key, value, *saved)
        output = torch.cat(outputs).index_select(0, rows.query_place)
        return output.div_(ctx.kept_share).view_as(query)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *saved = ctx.saved_tensors
        rows, width = ctx.rows, ctx.width
        places = sum(len(group.query_index) for group in rows.groups)
        output_gradient = (gradients[0] / ctx.kept_share).view(-1, width)
        by_place = output_gradient.new_zeros(places, width).index_copy_(0, rows.query_place, output_gradient)
        found: tuple[list[Tensor], ...] = ([], [], [])
        for number, (group, output_GQD) in enumerate(
            zip(rows.groups, by_place.split([len(group.query_index) for group in rows.groups]), strict=True)
        ):
            query_GQD, key_GKD, value_GKD = _gathered(group, query, key, value, width)
            probability_GQK, mask_GQK = saved[2 * number : 2 * number + 2]
            output_GQD = output_GQD.view(query_GQD.shape)
            found[2].append(torch.bmm((probability_GQK * mask_GQK).transpose(1, 2), output_GQD).view(-1, width))
            of_probability = torch.bmm(output_GQD, value_GKD.transpose(1, 2)).mul_(mask_GQK)
            of_score = torch._softmax_backward_data(of_probability, probability_GQK, -1, query.dtype)
            if ctx.scale != 1:
                of_score.mul_(ctx.scale)
            if ctx.needs_input_grad[0]:
                found[0].append(torch.bmm(of_score, key_GKD).view(-1, width))
            found[1].append(torch.bmm(of_score.transpose(1, 2), query_GQD).view(-1, width))
        of_query = torch.cat(found[0]).index_select(0, rows.query_place).view_as(query) if found[0] else None
        of_key, of_value = (_of_keys(rows, torch.cat(parts), key) for parts in found[1:])
        return of_query, of_key, of_value, None, None, None, None, None


def _gathered(group: Group, query: Tensor, key: Tensor, value: Tensor, width: int) -> list[Tensor]:
    rows, heads, queries, keys = group.shape_RHQK
    return [
        packed.reshape(-1, width).index_select(0, index).view(rows * heads, count, width)
        for packed, index, count in (
            (query, group.query_index, queries), (key, group.key_index, keys), (value, group.key_index, keys)
        )
    ]  # fmt: skip


def _of_keys(rows: Rows, by_place: Tensor, key: Tensor) -> Tensor:
    """The gradient of packed keys or values from the gradient of all places; padding has none."""
    if rows.key_place is not None:
        return by_place.index_select(0, rows.key_place).view_as(key)
    index = torch.cat([group.key_index for group in rows.groups])
    return (
        by_place.new_zeros(key.numel() // by_place.shape[1], by_place.shape[1])
        .index_add_(0, index, by_place)
        .view_as(key)
    )


def attention_with_dropout(
    query_EX: Tensor, key_FX: Tensor, value_FX: Tensor, rows: Rows, biases: Sequence[Tensor | None], p: float,
    scale: float = 1.0,
) -> Tensor:  # fmt: skip
    """`[E, X]`: `scaled_dot_product_attention` of packed queries with the keys in their row; X: H heads.

    `biases`: added to the scores of each group, `[R or 1, H or 1, Q or 1, K]`, without a gradient; they include the
    attention mask. 0 < p < 1.
    """
    width = query_EX.shape[-1] // rows.groups[0].shape_RHQK[1]
    result: Tensor = _Attention.apply(query_EX, key_FX, value_FX, rows, biases, p, scale, width)
    return result
