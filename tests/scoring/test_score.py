"""Scores against transformers' own loss, one example and one choice at a time."""

import pytest
import torch

from tests.models import ragged_batch, tiny_t5, with_ia3
from tfew.scoring.score import rank_scores, scoring_mode, token_logprob


@pytest.mark.parametrize("feed_forward", ["gated-gelu", "relu"])
def test_scores_equal_transformers_own_loss(feed_forward: str) -> None:
    model = with_ia3(tiny_t5(feed_forward))
    batch = ragged_batch(examples=6)
    with scoring_mode(model):
        logprob = token_logprob(model, batch)
        sums = rank_scores(logprob, batch.choice_mask, "sum")
        means = rank_scores(logprob, batch.choice_mask, "token")
        for b in range(len(batch)):
            input_ids = batch.input_ids[b, batch.input_mask[b]][None]
            for c in range(batch.choice_ids.shape[1]):
                choice = batch.choice_ids[b, c, batch.choice_mask[b, c]][None]
                if choice.numel() == 0:
                    assert means[b, c] == sums[b, c] == float("-inf")
                    continue
                loss = model(input_ids=input_ids, labels=choice).loss
                assert means[b, c].item() == pytest.approx(-loss.item(), abs=1e-5)
                assert sums[b, c].item() == pytest.approx(-loss.item() * choice.numel(), abs=1e-4)


def test_token_logprob_is_zero_where_there_is_no_token() -> None:
    batch = ragged_batch(examples=6)
    with scoring_mode(model := tiny_t5()):
        logprob = token_logprob(model, batch)
    assert logprob.dtype == torch.float32
    assert (logprob[~batch.choice_mask] == 0).all()
    assert (logprob[batch.choice_mask] < 0).all()


def test_scores_do_not_depend_on_batch_mates_or_padding() -> None:
    model = with_ia3(tiny_t5())
    batch = ragged_batch(examples=6)
    with scoring_mode(model):
        together = rank_scores(token_logprob(model, batch), batch.choice_mask, "token")
        for size in (1, 2, 4):
            parts = [rank_scores(token_logprob(model, part), part.choice_mask, "token") for part in batch.split(size)]
            torch.testing.assert_close(torch.cat(parts), together, atol=1e-5, rtol=0)


def test_dropout_is_on_in_training_and_off_in_scoring() -> None:
    model, batch = tiny_t5().train(), ragged_batch()
    with scoring_mode(model):
        torch.testing.assert_close(token_logprob(model, batch), token_logprob(model, batch), atol=0, rtol=0)
    assert model.training
    assert not torch.equal(token_logprob(model, batch), token_logprob(model, batch))


def test_a_norm_that_does_not_exist_is_refused() -> None:
    batch = ragged_batch()
    with pytest.raises(ValueError, match="'mean' is neither"):
        rank_scores(torch.zeros(batch.choice_mask.shape), batch.choice_mask, "mean")
