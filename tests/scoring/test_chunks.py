"""Grouping of examples by length: the groups, and that results do not change."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from tests.architectures import tiny
from tests.models import ragged_batch
from tfew.costs.dry_run import without_numbers
from tfew.scoring import chunks
from tfew.scoring.chunks import length_groups
from tfew.scoring.score import DECODER_ONLY, SEQ2SEQ, token_logprob, way_of_scoring


def padded(groups: list[list[int]], lengths: list[int], pass_tokens: int) -> int:
    return sum(len(group) * max(lengths[place] for place in group) + pass_tokens for group in groups)


def every_way(lengths: list[int]) -> list[list[list[int]]]:
    """All ways to cut the rows, the longest first, into groups."""
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    found = []
    for cuts in range(2 ** (len(order) - 1)):
        edges = [0, *(place + 1 for place in range(len(order) - 1) if cuts >> place & 1), len(order)]
        found.append([order[start:end] for start, end in pairwise(edges)])
    return found


@pytest.mark.parametrize("pass_tokens", [0, 5, 40, 10_000])
@pytest.mark.parametrize("seed", range(5))
def test_no_other_groups_have_less_padding(seed: int, pass_tokens: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 60, (8,), generator=generator).tolist()
    groups = length_groups(lengths, pass_tokens)
    assert sorted(place for group in groups for place in group) == list(range(8))
    least = min(padded(way, lengths, pass_tokens) for way in every_way(lengths))
    assert padded(groups, lengths, pass_tokens) == least
    if pass_tokens == 10_000:
        assert len(groups) == 1


def test_one_row_is_one_group() -> None:
    assert length_groups([7], 64) == [[0]]


@pytest.mark.parametrize(
    ("name", "way"), [("stablelm", DECODER_ONLY), ("biogpt", DECODER_ONLY), ("bart", SEQ2SEQ), ("umt5", SEQ2SEQ)]
)
def test_groups_change_neither_scores_nor_gradients(name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny(name).eval(), ragged_batch(5, examples=9)
    assert way_of_scoring(model, batch, "fast") == way
    token_logprob(model, batch)  # what is tried out once a model
    calls = []
    first_layer = next(module for module in model.get_decoder().modules() if isinstance(module, torch.nn.ModuleList))[0]
    first_layer.register_forward_pre_hook(lambda *_: calls.append(1))

    def scored(pass_tokens: int) -> tuple[torch.Tensor, list[torch.Tensor], int]:
        monkeypatch.setitem(chunks.PASS_TOKENS, "cpu", pass_tokens)
        model.zero_grad()
        calls.clear()
        logprob = token_logprob(model, batch)
        (logprob * torch.linspace(0, 1, logprob.numel()).view_as(logprob)).sum().backward()
        return logprob.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None], len(calls)

    at_once, gradients, one = scored(10_000)
    in_groups, others, several = scored(0)
    assert one == 1
    assert several > 3
    torch.testing.assert_close(in_groups, at_once, atol=2e-5, rtol=1e-5)
    assert len(others) == len(gradients) > 5
    for mine, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "stablelm", "bart"])
def test_a_group_without_choices_scores_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where choices are scored in parts, and some examples have few."""
    monkeypatch.setitem(chunks.PASS_TOKENS, "cpu", 0)
    model, batch = tiny(name).eval(), ragged_batch(5, examples=6)
    with torch.no_grad():
        expected = token_logprob(model, batch)
        gone = batch.choice_mask.clone()
        gone[::2] = False
        scored = token_logprob(model, replace(batch, choice_mask=gone))
    assert not scored[::2].any()
    torch.testing.assert_close(scored[1::2], expected[1::2], atol=2e-5, rtol=1e-5)


def test_a_forecast_for_a_gpu_has_the_gpus_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """There only the weights are on the device, and without numbers; the batch is on the CPU."""
    batch = ragged_batch(5, examples=6)
    asked: list[int] = []
    monkeypatch.setattr(chunks, "length_groups", lambda lengths, pass_tokens: asked.append(pass_tokens) or [])
    for device in ("cpu", "cuda"):
        model = without_numbers(tiny("llama"), torch.device(device))
        chunks.in_groups_of_like_length(lambda part: part.choice_mask.float(), batch, model)
    assert asked == [chunks.PASS_TOKENS["cpu"], chunks.PASS_TOKENS["cuda"]]
