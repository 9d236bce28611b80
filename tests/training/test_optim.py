"""Schedule and clipping against their closed forms."""

import pytest
import torch

from tfew.training.optim import clip_gradients, linear_decay_with_warmup


def learning_rates(steps: int, ratio: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-3)
    schedule = linear_decay_with_warmup(optimizer, steps, ratio)
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return [*rates, schedule.get_last_lr()[0]]


def test_the_papers_schedule() -> None:
    rates = learning_rates(1000, 0.06)
    assert rates[0] == 0  # the first step moves nothing
    assert rates[30] == pytest.approx(1.5e-3)
    assert rates[60] == pytest.approx(3e-3)
    assert rates[530] == pytest.approx(3e-3 * 470 / 940)
    assert rates[1000] == 0
    assert max(rates) == rates[60]


def test_warm_up_is_a_float_and_not_rounded() -> None:
    rates = learning_rates(20, 0.06)  # 1.2 steps of warm-up
    assert rates[1] == pytest.approx(3e-3 / 1.2)
    assert rates[2] == pytest.approx(3e-3 * 18 / 18.8)


def test_no_warm_up() -> None:
    assert learning_rates(10, 0.0)[0] == pytest.approx(3e-3)


def test_clipping_scales_all_gradients_together() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert clip_gradients(parameters, 1.0).item() == pytest.approx(5.0)
    torch.testing.assert_close(parameters[0].grad, torch.tensor([0.6, 0.0]))
    torch.testing.assert_close(parameters[1].grad, torch.tensor([0.8]))
