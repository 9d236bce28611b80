"""FISH mask and intrinsic SAID against explicit loops and matrices, and their guarantees in a training run."""

import copy
import inspect
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from transformers.optimization import Adafactor

from tests.models import ragged_batch, t5_of_t0_3b_shape, tiny_t5
from tfew.config import compose, resolved
from tfew.errors import UserError
from tfew.methods.base import Method, adapter_parameters, attach
from tfew.methods.fish import FISH, fisher_scores, top_positions
from tfew.methods.said import SAID, SharedVector, fastfood, hadamard_matrix, power_of_two, walsh_hadamard
from tfew.models.backbone import give_own_head
from tfew.models.method_builder import NOT_ARGUMENTS, make_method
from tfew.schema import Batch
from tfew.scoring.losses import T_FEW, counts, loss_terms
from tfew.scoring.score import scoring_mode, token_logprob

EXAMPLES = 4


def fish() -> FISH:
    return FISH(keep=0.01)


def said() -> SAID:
    return SAID(dimensions=200, seed=0)


def toy_loss(model: nn.Module, batch: Batch) -> Tensor:
    return loss_terms(token_logprob(model, batch), batch, T_FEW, counts(batch))["loss"]


def single_losses(model: nn.Module) -> Iterator[Tensor]:
    return (toy_loss(model, ragged_batch(seed, examples=1)) for seed in range(EXAMPLES))


def ready(method: Method, model: nn.Module) -> nn.Module:
    """The model as it stands when training begins."""
    attach(method, model)
    if method.needs_mask:
        method.compute_mask(model, single_losses(model))
    return model


def train(model: nn.Module, rates: list[float]) -> list[float]:
    """Steps with these learning rates as the recipe has them, on one toy batch; returns the losses."""
    optimizer = Adafactor(adapter_parameters(model).values(), lr=0, scale_parameter=True, relative_step=False)
    losses = []
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = toy_loss(model, ragged_batch())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def numbers(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def logprob(model: nn.Module) -> Tensor:
    with scoring_mode(model):
        return token_logprob(model, ragged_batch()).clone()


def t0_3b() -> nn.Module:
    model = t5_of_t0_3b_shape()
    with torch.device("meta"):
        give_own_head(model)
    return model


@pytest.mark.parametrize(
    ("name", "count"), [("fish_02", 5_699_514), ("fish_002", 569_951), ("said_20k", 19_999), ("said_500k", 499_999)]
)
def test_counts_on_t0_3b_and_yaml(name: str, count: int) -> None:
    description = resolved(compose(f"method={name}").method)
    method, model = make_method(description), t0_3b()
    assert description["name"] == name
    assert set(description) - set(NOT_ARGUMENTS) == set(inspect.signature(type(method)).parameters)
    attach(method, model)
    assert method.stored_count(model) == method.trained_count(model) == count
    # a value; FISH also stores where it belongs, as an int32
    assert method.stored_bytes(model) == count * (8 if name.startswith("fish") else 4)


@pytest.mark.parametrize("make", [fish, said])
def test_starts_as_the_same_function_and_its_loss_falls(make: Callable[[], Method]) -> None:
    model = tiny_t5()
    base = logprob(model)
    ready(make(), model)
    torch.testing.assert_close(logprob(model), base, atol=0, rtol=0)
    # SAID starts slowly: Adafactor's step is relative to the vector's size, which is zero
    losses = train(model, [0.2] * 35 if make is said else [0.05] * 15)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("make", [fish, said])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_restored_on_a_fresh_base(make: Callable[[], Method], dtype: torch.dtype) -> None:
    method, model = make(), tiny_t5().to(dtype)
    base = logprob(model)
    ready(method, model)
    train(model, [0.4 if make is said else 0.1] * 10)
    trained, weights = logprob(model), method.stored(model)
    assert sum(t.numel() * t.element_size() for t in weights.values()) == method.stored_bytes(model)
    assert (trained - base).abs().max() > 0.01

    again, fresh = make(), tiny_t5().to(dtype)
    attach(again, fresh)
    again.restore(fresh, weights)
    torch.testing.assert_close(logprob(fresh), trained, atol=0, rtol=0)
    second = again.stored(fresh)
    assert second.keys() == weights.keys()
    assert all(torch.equal(second[name], tensor) for name, tensor in weights.items())


@pytest.mark.slow
def test_fisher_scores_are_mean_squared_gradients_of_single_examples() -> None:
    model = tiny_t5()
    attach(fish(), model)
    scores = fisher_scores(model, single_losses(model))
    assert all(p.grad is None for p in model.parameters())
    for name, parameter in model.named_parameters():
        expected = torch.zeros_like(parameter)
        for loss in single_losses(model):
            (gradient,) = torch.autograd.grad(loss, parameter)
            expected += gradient**2 / EXAMPLES
        torch.testing.assert_close(scores[name], expected, atol=1e-12, rtol=1e-5)


@pytest.mark.parametrize("k", [1, 7, 20, 42, 60])
def test_top_positions_against_sorting_with_ties_by_position(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    shapes = {"a": (4, 5), "b": (10,), "c": (5, 6)}
    # few different values, many ties; among them zero and a denormal number
    values = torch.tensor([0.0, 1e-40, 1e-20, 0.3, 0.30000001192, 2.5e8])
    scores = {n: values[torch.randint(0, 6, s, generator=generator)] for n, s in shapes.items()}
    flat = [(-float(v), position) for position, v in enumerate(torch.cat([s.flatten() for s in scores.values()]))]
    expected = sorted(position for _, position in sorted(flat)[:k])
    found, offset = [], 0
    for name, score in scores.items():
        found += [offset + p for p in top_positions(scores, k).get(name, torch.tensor([])).tolist()]
        offset += score.numel()
    assert found == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fish_moves_only_what_it_keeps(dtype: torch.dtype) -> None:
    method, model = fish(), tiny_t5().to(dtype)
    ready(method, model)
    before = numbers(model)
    train(model, [0, 0.1])
    moved = 0
    for name, parameter in model.named_parameters():
        changed = (parameter.detach() != before[name]).flatten()
        moved += int(changed.sum())
        changed[method.kept.get(name, torch.empty(0, dtype=torch.int64))] = False
        assert not changed.any()
        assert parameter.dtype == dtype
    assert 0 < moved <= method.trained_count(model) == int(0.01 * 64_736)
    assert sum(len(p) for p in method.kept.values()) == method.trained_count(model)


def test_fish_masks_accumulated_gradients() -> None:
    """Micro-batches: the sum of masked gradients is the masked gradient of the sum."""
    method, model, plain = fish(), tiny_t5(), tiny_t5()
    ready(method, model)
    plain.requires_grad_(True)
    for seed in range(2):
        toy_loss(model, ragged_batch(seed)).backward()
        toy_loss(plain, ragged_batch(seed)).backward()
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        mask = torch.zeros_like(theirs).flatten()
        mask[method.kept.get(name, torch.empty(0, dtype=torch.int64))] = 1
        torch.testing.assert_close(ours.grad, theirs.grad * mask.view_as(theirs))


def test_fish_keeps_the_entries_of_a_restored_adapter() -> None:
    method, model = fish(), ready(fish(), tiny_t5())
    weights = {"lm_head.weight.indices": torch.arange(647, dtype=torch.int32), "lm_head.weight.values": torch.ones(647)}
    attach(method, model)
    method.restore(model, weights)
    method.compute_mask(model, iter(()))
    assert torch.equal(method.kept["lm_head.weight"], torch.arange(647))
    assert list(method.kept) == ["lm_head.weight"]


def test_fish_refusals() -> None:
    with pytest.raises(UserError, match=r"optimizer.weight_decay=0.01 would change"):
        fish().check_optimizer({"lr": 1, "weight_decay": 0.01})
    fish().check_optimizer({"weight_decay": 0.0})
    with pytest.raises(UserError, match=r"method.keep=2"):
        FISH(keep=2)
    with pytest.raises(UserError, match=r"method.keep=1e-09 of 64,736 parameters"):
        attach(FISH(keep=1e-9), tiny_t5())
    with pytest.raises(UserError, match=r"optimizer.weight_decay"):
        make_method(resolved(compose("method=fish_02").method)).check_optimizer({"weight_decay": 0.1})


def test_fish_refuses_what_does_not_fit() -> None:
    method, model = fish(), tiny_t5()
    attach(method, model)
    before = numbers(model)
    index, values = torch.arange(647, dtype=torch.int32), torch.zeros(647)

    def file(name: str = "lm_head.weight", index: Tensor = index, values: Tensor = values) -> dict[str, Tensor]:
        return {f"{name}.indices": index, f"{name}.values": values}

    for weights, message in (
        (file("no.such"), r"Only in the file: no.such.indices"),
        (file(values=torch.zeros(5)), r"only in the model: lm_head.weight.values \[647\]"),
        ({"lm_head.weight.values": values}, r"Only in the file"),
        (file(index=index - 1), r"positions do not fit"),
        (file(index=index * 100), r"positions do not fit"),
        (file(index=index.flip(0)), r"positions do not fit"),
        (file(index=index.float()), r"positions do not fit"),
        (file(index=index[:-1], values=values[:-1]), r"holds 646 entries, but method.keep gives 647"),
    ):
        with pytest.raises(UserError, match=message):
            method.restore(model, weights)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def sylvester(size: int) -> Tensor:
    """Entry (i, j) is -1 to the number of ones that i and j have in common in binary."""
    return torch.tensor([[(-1.0) ** (i & j).bit_count() for j in range(size)] for i in range(size)])


@pytest.mark.parametrize("length", [1, 2, 8, 32, 64, 256])
@pytest.mark.parametrize("block", [2, 8, 64])
def test_walsh_hadamard_is_the_sylvester_matrix(length: int, block: int) -> None:
    x = torch.randn(length, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(walsh_hadamard(x, hadamard_matrix(block)), sylvester(length) @ x, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("size", [5, 16, 100])  # the vector of 40 is cut to 8, cut to 16, filled up to 128
def test_fastfood_is_a_product_of_matrices_with_the_true_gradient(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    length = power_of_two(size)
    assert length / 2 < size <= length
    signs = torch.randint(0, 2, (length,), generator=generator) * 2 - 1
    permutation, gaussian = torch.randperm(length, generator=generator), torch.randn(length, generator=generator)
    vector = torch.randn(40, generator=generator, requires_grad=True)
    ray = fastfood(vector, signs.to(torch.int8), permutation, gaussian, size, hadamard_matrix(4))

    h, pi = sylvester(length), torch.eye(length)[permutation]
    enter = torch.eye(length, 40)  # fills up with zeros, or cuts
    matrix = (h @ torch.diag(gaussian) @ pi @ h @ torch.diag(signs.float()) @ enter)[:size]
    matrix = matrix / (length**0.5 * gaussian.norm() * (size / length) ** 0.5)
    torch.testing.assert_close(ray, matrix @ vector, atol=1e-5, rtol=1e-4)
    weight = torch.randn(size, generator=generator)
    (gradient,) = torch.autograd.grad(ray @ weight, vector)
    torch.testing.assert_close(gradient, matrix.T @ weight, atol=1e-5, rtol=1e-4)


def ray(shared: SharedVector, shape: torch.Size, index: int) -> Tensor:
    """The ray of one parameter from its own slice of the constants."""
    start = sum(power_of_two(sum(s)) for s in shared.shapes[:index])
    part = slice(start, start + power_of_two(sum(shape)))
    constants = shared.signs[part], shared.permutation[part], shared.gaussian[part]
    return fastfood(shared.vector, *constants, sum(shape), hadamard_matrix(2))


def with_said(model: nn.Module) -> nn.Module:
    """The model with a shared vector and scales that are not neutral."""
    attach(said(), model)
    generator = torch.Generator().manual_seed(1)
    model.said.vector.data = torch.randn(model.said.vector.shape, generator=generator)
    model.said.scales.data = 1 + 0.5 * torch.randn(model.said.scales.shape, generator=generator)
    return model


@pytest.mark.parametrize("feed_forward", ["gated-gelu", "relu"])
def test_said_equals_plain_weights_with_the_updates_added(feed_forward: str) -> None:
    model, plain = with_said(tiny_t5(feed_forward)), tiny_t5(feed_forward)
    model.said.vector.data *= 0.3  # smaller updates: larger ones magnify what float32 rounds away
    base = logprob(plain)
    for index, parameter in enumerate(plain.parameters()):
        vector, scale = ray(model.said, parameter.shape, index), model.said.scales[index]
        if parameter.ndim == 1:
            parameter.data += (vector * scale).detach()
        else:
            rows = parameter.shape[0]
            update = torch.outer(vector[:rows], vector[rows:]) * scale
            assert torch.linalg.matrix_rank(update) == 1
            parameter.data += update.detach()
    torch.testing.assert_close(logprob(model), logprob(plain), atol=1e-4, rtol=1e-4)
    assert (logprob(model) - base).abs().max() > 0.1


def test_said_leaves_the_base_and_its_names_alone() -> None:
    model = tiny_t5()
    before = copy.deepcopy(model.state_dict())
    attach(said(), model)
    train(model, [0, 1.0])
    after = model.state_dict()
    assert after.keys() - before.keys() == {"said.vector", "said.scales"} == set(adapter_parameters(model))
    assert all(torch.equal(after[name], value) for name, value in before.items())
    # at zero, outer products and scales have no gradient: the layer norms alone start the shared vector
    assert (model.said.vector != 0).any()
    assert torch.equal(model.said.scales, torch.ones_like(model.said.scales))
    train(model, [1.0, 1.0])
    assert (model.said.scales != 1).any()


def test_said_moves_tied_weights_in_all_their_places() -> None:
    model = nn.Module()
    model.embed, model.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
    model.head.weight = model.embed.weight
    attach(SAID(dimensions=20, seed=0), model)
    assert (len(model.said.scales), len(model.said.vector)) == (1, 18)
    model.said.vector.data.fill_(1.0)
    moved = model.embed.weight + model.said.update(0)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.head(x), x @ moved.T)
    torch.testing.assert_close(model.embed(torch.tensor([5, 0])), moved[[5, 0]])
    assert model.head.weight is model.embed.weight
    with pytest.raises(RuntimeError):
        model.head(x[:, :2])
    assert model.head.weight is model.embed.weight  # also after a layer that failed


def test_said_projection_follows_from_seed_and_name_alone() -> None:
    shapes = {"a": torch.Size([6]), "b": torch.Size([6])}
    first, alone, other = SharedVector(4, shapes, 0), SharedVector(4, {"b": shapes["b"]}, 0), SharedVector(4, shapes, 1)
    assert torch.equal(first.gaussian[8:], alone.gaussian)
    assert torch.equal(first.permutation[8:], alone.permutation)
    assert torch.equal(first.signs[8:], alone.signs)
    assert not torch.equal(first.gaussian[:8], first.gaussian[8:])
    assert not torch.equal(first.gaussian, other.gaussian)
    # pinned: adapters that were saved must restore in years to come
    assert first.signs[:8].tolist() == [-1, -1, 1, 1, -1, -1, -1, 1]
    assert first.permutation[:8].tolist() == [2, 1, 6, 4, 5, 7, 3, 0]
    torch.testing.assert_close(first.gaussian[:3], torch.tensor([1.0912, 0.2993, -0.0992]), atol=1e-4, rtol=0)


def test_said_copies_run_their_own_vector() -> None:
    model = with_said(tiny_t5())
    twin, expected = copy.deepcopy(model), logprob(model)
    model.said.vector.data.zero_()
    torch.testing.assert_close(logprob(twin), expected, atol=0, rtol=0)


def test_said_is_exact_under_autocast_and_trains_after_scoring() -> None:
    model = with_said(tiny_t5())
    expected = model.said.update(0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model.said.update(0), expected, atol=0, rtol=0)
    logprob(model)  # inference mode leaves nothing behind that autograd refuses
    toy_loss(model, ragged_batch()).backward()
    assert model.said.vector.grad is not None
    assert all((p.grad != 0).any() for p in adapter_parameters(model).values())


def test_said_refusals() -> None:
    with pytest.raises(UserError, match=r"method.dimensions=67 leaves nothing .* has 66 parameters"):
        attach(SAID(dimensions=67, seed=0), tiny_t5())
    with pytest.raises(UserError, match=r"method=said updates vectors and matrices; Conv1d has weight \[2, 3, 1\]"):
        attach(SAID(dimensions=67, seed=0), nn.Conv1d(3, 2, 1))
    method, model = said(), tiny_t5()
    attach(method, model)
    with pytest.raises(UserError, match=r"only in the model: said.vector \[133\]"):
        method.restore(model, {"said.vector": torch.zeros(5), "said.scales": torch.ones(66)})


def test_small_updates_of_said_are_seen_on_a_float32_base() -> None:
    """A layer under autocast rounds the sum of weight and update to bfloat16. The update is kept on average where the
    weights are float32 (as T0's are), and lost where they were rounded to bfloat16 before."""
    kept = {}
    for dtype in (torch.bfloat16, torch.float32):
        model = tiny_t5().to(dtype).float()
        attach(said(), model)
        torch.nn.init.normal_(model.said.vector, std=1e-3, generator=torch.Generator().manual_seed(0))
        base = [p.detach() for name, p in model.named_parameters() if not name.startswith("said.")]
        pairs = [(p, model.said.update(n).detach()) for n, p in enumerate(base) if p.ndim == 2]
        seen = sum(float((((p + u).bfloat16().float() - p.bfloat16().float()) * u).sum()) for p, u in pairs)
        kept[dtype] = seen / sum(float(u.square().sum()) for _, u in pairs)
    assert kept[torch.bfloat16] < 0.05
    assert kept[torch.float32] == pytest.approx(1, abs=0.2)
    assert SAID.trains_base, "so that models are loaded in float32 on a GPU"
