"""Attention with dropout over packed tokens against torch's attention, row by row, and against finite differences."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tfew.kernels import attention
from tfew.kernels.attention import Rows, attention_with_dropout, rows_of_like_length, rows_with_shared_keys
from tfew.kernels.dropout import keep_mask

HEADS, WIDTH = 3, 5
QUERIES, KEYS = torch.tensor([3, 1, 4, 2, 3]), torch.tensor([7, 2, 6, 3, 7])


@pytest.fixture
def nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "keep_mask", lambda like, p: torch.ones(like.shape, dtype=torch.int8))


def packed(tokens: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(int(tokens.sum()), HEADS * WIDTH, dtype=torch.double, generator=generator)
    return values.requires_grad_()


def biases(rows: Rows, position_HQK: Tensor) -> list[Tensor]:
    found = []
    for group in rows.groups:
        bias = position_HQK[None, :, : group.shape_RHQK[2], : group.shape_RHQK[3]]
        if group.is_key_RK is not None:
            bias = bias.expand(len(group.is_key_RK), -1, -1, -1).masked_fill(~group.is_key_RK[:, None, None], -1e30)
        found.append(bias)
    return found


def row_by_row(query: Tensor, key: Tensor, value: Tensor, position_HQK: Tensor, scale: float) -> Tensor:
    found = []
    for q, k, v in zip(
        query.split(QUERIES.tolist()), key.split(KEYS.tolist()), value.split(KEYS.tolist()), strict=True
    ):
        heads = [x.view(len(x), HEADS, WIDTH).transpose(0, 1) for x in (q, k, v)]
        bias = position_HQK[:, : len(q), : len(k)]
        attended = scaled_dot_product_attention(*heads, attn_mask=bias, scale=scale)
        found.append(attended.transpose(0, 1).reshape(len(q), -1))
    return torch.cat(found)


@pytest.mark.parametrize("alike", [0.0, 0.8, 1.0])  # one group, some, one for each length
def test_rows_and_gradients_are_those_of_torchs_attention(
    alike: float, nothing_is_dropped: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "ALIKE", alike)
    inputs = packed(QUERIES, 0), packed(KEYS, 1), packed(KEYS, 2)
    position_HQK = torch.randn(HEADS, 7, 7, dtype=torch.double)
    rows = rows_of_like_length(QUERIES, KEYS, HEADS)
    assert len(rows.groups) == {0.0: 1, 0.8: 3, 1.0: 4}[alike]
    ours = attention_with_dropout(*inputs, rows, biases(rows, position_HQK), 1e-12, scale=0.7)
    theirs = row_by_row(*inputs, position_HQK, 0.7)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(theirs)
    for mine, other in zip(*(torch.autograd.grad((x * weight).sum(), inputs) for x in (ours, theirs)), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.ci
def test_gradients_with_dropout_are_the_finite_differences() -> None:
    rows = rows_of_like_length(QUERIES, KEYS, HEADS)
    bias = biases(rows, torch.randn(HEADS, 7, 7, dtype=torch.double))

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        torch.manual_seed(3)
        return attention_with_dropout(query, key, value, rows, bias, 0.4)

    assert torch.autograd.gradcheck(attend, (packed(QUERIES, 0), packed(KEYS, 1), packed(KEYS, 2)))


def test_probabilities_are_dropped_by_the_masks_drawn() -> None:
    tokens = torch.tensor([6])
    query, key, value = packed(tokens, 0), packed(tokens, 1), packed(tokens, 2)
    torch.manual_seed(5)
    ours = attention_with_dropout(query, key, value, rows_of_like_length(tokens, tokens, HEADS), [None], 0.5)
    torch.manual_seed(5)
    mask_HQK = keep_mask(torch.empty(HEADS, 6, 6), 0.5)
    q, k, v = (x.view(6, HEADS, WIDTH).transpose(0, 1) for x in (query, key, value))
    expected = ((q @ k.transpose(1, 2)).softmax(-1) * mask_HQK / 0.5) @ v
    assert 0 < mask_HQK.sum() < mask_HQK.numel()
    torch.testing.assert_close(ours, expected.transpose(0, 1).reshape(6, -1))


def test_keys_that_stand_in_several_rows_gather_the_gradients_of_all(nothing_is_dropped: None) -> None:
    token_RW, place_E = torch.tensor([[0, 1], [0, 2]]), torch.tensor([0, 1, 3])  # token 0 begins both rows
    tokens = torch.tensor([3])
    inputs = packed(tokens, 0), packed(tokens, 1), packed(tokens, 2)
    causal = torch.zeros(1, 1, 2, 2, dtype=torch.double).masked_fill(torch.ones(2, 2).triu(1).bool(), -1e30)
    rows = rows_with_shared_keys(token_RW, place_E, HEADS)
    ours = attention_with_dropout(*inputs, rows, [causal], 1e-12)
    unpacked = [x[token_RW].unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for x in inputs]
    theirs = scaled_dot_product_attention(*unpacked, is_causal=True, scale=1.0).transpose(1, 2).flatten(2)
    theirs = theirs.flatten(0, 1)[place_E]
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(theirs)
    for mine, other in zip(*(torch.autograd.grad((x * weight).sum(), inputs) for x in (ours, theirs)), strict=True):
        torch.testing.assert_close(mine, other)
