"""Counted work and seconds against hand calculation, and clocks against a known time."""

import time

import pytest
import torch
from torch import nn

from tfew.costs.speed_forecast import CountedOperations, Speed, Work, _usual_matrix, measure_speed, seconds_per_call

CPU = torch.device("cpu")


def test_operations_are_counted_and_views_are_not() -> None:
    states, matrix = torch.zeros(3, 4), torch.zeros(5, 4)
    with CountedOperations() as counted:
        product = states @ matrix.t()  # a view and a product: [3, 5]
        product.add_(1.0)  # written in place
        product.view(15)[:7]
    assert counted.operations == 2
    assert counted.written_bytes == 4 * (15 + 15)


def test_seconds_are_the_three_parts_of_the_work() -> None:
    work = Work(6e9, 4e6, 100)
    assert Speed(2e9, 1e6, 0.01).seconds(work) == pytest.approx(3 + 4 + 1)
    assert Speed(2e9, 1e6, 0.01, overlaps=True).seconds(work) == pytest.approx(7)
    assert Speed(2e9, 1e6, 0.10, overlaps=True).seconds(work) == pytest.approx(10)
    assert work.of_share(0.5) == Work(3e9, 2e6, 100), "a batch of half the tokens takes as many operations"


def test_the_clock() -> None:
    assert seconds_per_call(lambda: time.sleep(0.02), CPU) == pytest.approx(0.02, rel=0.5)


def test_the_usual_matrix_is_none_of_the_embeddings() -> None:
    model = nn.Sequential(nn.Embedding(1000, 8), nn.Linear(8, 32), nn.Linear(32, 8), nn.Linear(8, 32), nn.LayerNorm(8))
    assert _usual_matrix(model) == (32, 8)
    assert _usual_matrix(nn.LayerNorm(8)) == (256, 256)


def test_products_are_timed_at_their_rate() -> None:
    """Against torch's own timer, of the same product; the machine may be busy with other things meanwhile."""
    from torch.utils.benchmark import Timer

    found = measure_speed(nn.Linear(512, 512), 256, CPU, torch.float32)
    states, matrix = torch.randn(256, 512), torch.randn(512, 512)
    timed = Timer("f(x, w)", globals={"f": nn.functional.linear, "x": states, "w": matrix}).blocked_autorange(
        min_run_time=0.1
    )
    assert found.flops_per_second == pytest.approx(2 * 256 * 512 * 512 / timed.median, rel=3)
    assert found.bytes_per_second > 1e6
    assert 0 < found.operation_seconds < 1e-2
    assert not found.overlaps
