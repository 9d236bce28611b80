"""Dropout on a CPU against its definition, and where it replaces torch's."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tfew.kernels.dropout import dropout, fast_dropout, keep_mask

CPU = torch.device("cpu")


@pytest.mark.parametrize("p", [0.1, 0.5, 0.93])
def test_masks_are_drawn_with_probability_p_and_one_by_one(p: float) -> None:
    kept = keep_mask(torch.empty(1000, 1000), p).double()
    sigma = (p * (1 - p) / kept.numel()) ** 0.5
    assert abs(kept.mean() - (1 - p)) < 5 * sigma + 1 / 65536
    flat = (kept - kept.mean()).flatten() / kept.std()
    for distance in (1, 2, 3, 4, 5, 8, 1000):  # four come from one random number
        assert abs((flat[:-distance] * flat[distance:]).mean()) < 5e-3


def test_what_is_kept_is_scaled_and_its_gradient_goes_where_it_went() -> None:
    x = torch.randn(7, 11, dtype=torch.double, requires_grad=True)
    y = dropout(x, 0.3)
    kept = y != 0
    assert 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(y, torch.where(kept, x / 0.7, 0.0))
    gradient = torch.randn_like(y)
    y.backward(gradient)
    torch.testing.assert_close(x.grad, torch.where(kept, gradient / 0.7, 0.0))


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5])
def test_any_number_of_elements(count: int) -> None:
    assert dropout(torch.ones(count), 0.5).shape == (count,)


def test_a_seed_gives_the_same_masks() -> None:
    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return keep_mask(torch.empty(500), 0.5)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_the_smallest_and_largest_p_that_16_bits_tell() -> None:
    assert keep_mask(torch.empty(4000), 0.0).all()
    assert keep_mask(torch.empty(4000), 1.0 - 1e-9).sum() < 5
    assert dropout(torch.ones(4, dtype=torch.bfloat16), 0.5).dtype == torch.bfloat16


@pytest.mark.parametrize("module", [nn.Dropout(0.5), lambda x: torch.nn.functional.dropout(x, 0.5)])
def test_it_takes_torchs_place_in_any_module_while_it_is_open(module: nn.Module) -> None:
    x = torch.ones(64)

    def drawn(fast: bool) -> torch.Tensor:
        torch.manual_seed(0)
        if not fast:
            return module(x)
        with fast_dropout(CPU):
            return module(x)

    assert not torch.equal(drawn(True), drawn(False))
    mine = drawn(True)
    torch.manual_seed(0)
    assert torch.equal(mine, 2.0 * keep_mask(torch.empty(64), 0.5))


def test_it_leaves_evaluation_other_arguments_and_gpus_to_torch() -> None:
    x = torch.ones(64)
    with fast_dropout(CPU):
        assert nn.Dropout(0.5).eval()(x) is x
        assert not nn.Dropout(1.0)(x).any()
        nn.Dropout(0.5, inplace=True)(x)
    assert set(x.tolist()) == {0.0, 2.0}
    with fast_dropout(torch.device("meta")):
        torch.manual_seed(0)
        here = torch.nn.functional.dropout(torch.ones(64), 0.5)
    torch.manual_seed(0)
    assert torch.equal(here, torch.nn.functional.dropout(torch.ones(64), 0.5))


def test_a_checkpoint_of_activations_draws_the_same_masks_again() -> None:
    x = torch.randn(1000, requires_grad=True)
    layer = nn.Dropout(0.5)
    with fast_dropout(CPU):
        y = checkpoint(lambda z: layer(z * z), x, use_reentrant=False)
        y.sum().backward()
    torch.testing.assert_close(x.grad, torch.where(y != 0, 4 * x.detach(), 0.0))
