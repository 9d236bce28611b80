"""The loss terms against plain Python in float64, term by term as the paper writes them."""

import math
from dataclasses import replace

import pytest
import torch

from tests.models import ragged_batch
from tfew.schema import Batch
from tfew.scoring.losses import T_FEW, Counts, LossConfig, counts, loss_terms

ALL = T_FEW


def random_logprob(batch: Batch, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logprob = torch.nn.functional.logsigmoid(torch.randn(batch.choice_mask.shape, generator=generator))
    return logprob.double() * batch.choice_mask


def reference(logprob: torch.Tensor, batch: Batch, epsilon: float) -> dict[str, float]:
    """Loops over lists of token log-probabilities; knows nothing of masks or padding."""
    lm: list[float] = []
    ul: list[float] = []
    ln: list[float] = []
    for b in range(len(batch)):
        lengths = batch.choice_mask[b].sum(-1).tolist()
        choices = [logprob[b, c, :length].tolist() for c, length in enumerate(lengths) if length]
        label = int(batch.label[b])
        for c, choice in enumerate(choices):
            if c == label:
                lm += [-value for value in choice]
            else:
                ul += [-math.log(1 - math.exp(value) + epsilon) for value in choice]
        means = [sum(choice) / len(choice) for choice in choices]
        ln.append(-means[label] + math.log(sum(math.exp(mean) for mean in means)))
    return {"lm_loss": sum(lm) / len(lm), "ul_loss": sum(ul) / len(ul), "ln_loss": sum(ln) / len(ln)}


@pytest.mark.parametrize("seed", range(5))
def test_terms_equal_the_paper_written_out(seed: int) -> None:
    batch = ragged_batch(seed, examples=7)
    logprob = random_logprob(batch, seed)
    terms = loss_terms(logprob, batch, ALL, counts(batch))
    expected = reference(logprob, batch, epsilon=0.01)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, abs=1e-12), name
    assert terms["loss"].item() == pytest.approx(sum(expected.values()), abs=1e-12)


def test_weights_choose_the_terms() -> None:
    batch = ragged_batch()
    terms = loss_terms(random_logprob(batch), batch, LossConfig({"lm": 1, "ul": 0, "ln": 2}), counts(batch))
    assert terms.keys() == {"lm_loss", "ln_loss", "loss"}
    torch.testing.assert_close(terms["loss"], terms["lm_loss"] + 2 * terms["ln_loss"])


def test_micro_batches_add_up_to_the_whole_step() -> None:
    batch = ragged_batch(examples=7)
    logprob = random_logprob(batch)
    whole = loss_terms(logprob, batch, ALL, counts(batch))
    for size in (1, 2, 3):
        parts = [
            loss_terms(part_logprob, part, ALL, counts(batch))
            for part, part_logprob in zip(batch.split(size), logprob.split(size), strict=True)
        ]
        for name, value in whole.items():
            torch.testing.assert_close(sum(part[name] for part in parts), value)
    # the check can fail: means of each part's own, averaged, are another number
    averaged = [loss_terms(lp, p, ALL, counts(p)) for p, lp in zip(batch.split(2), logprob.split(2), strict=True)]
    assert abs(sum(part["lm_loss"] for part in averaged) / len(averaged) - whole["lm_loss"]) > 1e-3


def test_one_choice_has_language_modelling_only() -> None:
    batch = ragged_batch(examples=1)
    terms = loss_terms(random_logprob(batch), batch, ALL, counts(batch))
    assert terms["ul_loss"] == 0
    assert terms["ln_loss"] == 0
    assert counts(batch) == Counts(right_tokens=int(batch.choice_mask.sum()), wrong_tokens=0, examples=1)


def test_gradients_are_finite_even_with_absent_choices() -> None:
    batch = ragged_batch(examples=7)
    assert (batch.choice_mask.sum(-1) == 0).any()
    logits = random_logprob(batch).requires_grad_()
    loss_terms(logits * batch.choice_mask, batch, replace(ALL, epsilon=0.0), counts(batch))["loss"].backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[batch.choice_mask] != 0).any()


def test_gradients_by_finite_differences() -> None:
    batch = ragged_batch(examples=4)
    logprob = random_logprob(batch).requires_grad_()

    def loss(values: torch.Tensor) -> torch.Tensor:
        return loss_terms(values * batch.choice_mask, batch, ALL, counts(batch))["loss"]

    assert torch.autograd.gradcheck(loss, logprob)
