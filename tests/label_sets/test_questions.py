"""Questions that share an input give the losses, scores and gradients of prompts of their own, and compute it once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.architectures import tiny
from tests.models import tiny_t5
from tfew.data.tokenization import TokenizedPrompt, collate
from tfew.label_sets.questions import by_question, own_texts
from tfew.ranking.rank_classification import rank_classify
from tfew.schema import Batch, Prediction, Prompt
from tfew.scoring.losses import LossConfig, counts, loss_terms
from tfew.scoring.score import token_logprob

LOSSES = [{"lm": 1, "ul": 1, "ln": 1}, {"lm": 1}, {"ln": 1}]
LABELS = 3
NO, YES, END = 90, 91, 1


def item(seed: int, answers: tuple[int, ...], length: int) -> TokenizedPrompt:
    """Tokens of a row with three labels, of one to three tokens, before no and yes."""
    random = torch.Generator().manual_seed(seed)
    text = torch.randint(5, 80, (length,), generator=random).tolist()
    words = [[20], [30, 31], [40, 41, 42]]
    choices = [[*label, answer, END] for label in words for answer in (NO, YES)]
    return TokenizedPrompt(text, choices, -1, 0, 0, labels=answers)


ITEMS = [item(0, (0, 1, 1), 7), item(1, (1, 0, 0), 4), item(2, (0, 0, 0), 9)]


def apart(items: list[TokenizedPrompt]) -> Batch:
    """Every question as a prompt of its own."""
    prompts = []
    for one in items:
        for place, label in enumerate(one.labels):
            own = one.choice_ids[2 * place : 2 * place + 2]
            prompts.append(replace(one, choice_ids=own, label=label, labels=()))
    return collate(prompts, 0)


def scored_alone(items: list[TokenizedPrompt]) -> Tensor:
    """`[B K, 2, T]`, true at the tokens behind a label's own: worked out by hand."""
    batch = apart(items)
    mask = batch.choice_mask.clone()
    for row in range(len(batch)):
        mask[row, :, : row % LABELS + 1] = False
    return mask


def model_of(kind: str) -> Any:
    model: Any = tiny_t5() if kind == "encoder_decoder" else tiny("llama")
    return model.eval()


@pytest.fixture(params=["encoder_decoder", "decoder_only"])
def model(request: pytest.FixtureRequest) -> Any:
    return model_of(request.param)


@pytest.mark.parametrize("weights", LOSSES, ids=lambda weights: "_".join(weights))
@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_losses_and_gradients_are_those_of_separate_prompts(model: Any, engine: str, weights: Any) -> None:
    loss, together, separate = LossConfig(weights), collate(ITEMS, 0), apart(ITEMS)
    mask = scored_alone(ITEMS)
    alone = replace(separate, choice_mask=mask)
    assert counts(together) == counts(alone)
    found = gradients(model, lambda: loss_terms(token_logprob(model, together, engine), together, loss, counts(alone)))
    expected = gradients(
        model, lambda: loss_terms(token_logprob(model, separate, "plain") * mask, alone, loss, counts(alone))
    )
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-5, rtol=1e-3)


def gradients(model: Any, terms: Any) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    loss = terms()["loss"]
    loss.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.item(), grads


def test_right_choices_alone_give_the_same_lm_loss(model: Any) -> None:
    batch, loss = collate(ITEMS, 0), LossConfig({"lm": 1})
    right = batch.right_choices()
    assert right.choice_ids.shape[1] == LABELS
    terms = [loss_terms(token_logprob(model, some), some, loss, counts(some))["loss"] for some in (batch, right)]
    assert terms[0].item() == pytest.approx(terms[1].item(), abs=1e-6)


def test_parts_of_a_batch_are_scored_alike(model: Any) -> None:
    batch = collate(ITEMS, 0)
    whole, chunks = token_logprob(model, batch), token_logprob(model, batch, parts=2)
    torch.testing.assert_close(whole, chunks, atol=1e-5, rtol=1e-4)
    (first, second) = batch.split(2)
    torch.testing.assert_close(whole[:2], token_logprob(model, first), atol=1e-5, rtol=1e-4)
    assert first.label.shape == (2, LABELS)
    assert second.scored_mask is not None


def prompts(known: bool = True) -> list[Prompt]:
    names = ("a", "b", "c")
    choices = tuple(f"{name}: {answer}" for name in names for answer in ("no", "yes"))
    return [
        Prompt("d", "t", idx, f"text {idx}", choices, None, questions=names, answers=one.labels if known else None)
        for idx, one in enumerate(ITEMS)
    ]


def test_scores_are_those_of_separate_prompts(model: Any) -> None:
    separate = apart(ITEMS)
    mask = scored_alone(ITEMS)
    with torch.no_grad():
        expected = (token_logprob(model, separate, "plain") * mask).sum(-1)
        ranked = list(
            rank_classify(
                lambda batch: token_logprob(model, batch),
                [collate(ITEMS, 0)],
                prompts(),
                "sum",
                torch.device("cpu"),
                {},
            )
        )
    answers = [
        own for prompt, found in zip(prompts(), ranked, strict=True) for _, (own,) in by_question(prompt, [found])
    ]
    assert [answer.question for answer in answers] == ["a", "b", "c"] * 3
    assert [answer.label for answer in answers] == [label for one in ITEMS for label in one.labels]
    torch.testing.assert_close(torch.tensor([a.scores for a in answers]), expected, atol=1e-5, rtol=1e-4)
    assert [answer.tokens for answer in answers] == [(2, 2)] * 9
    assert [answer.predicted for answer in answers] == expected.argmax(-1).tolist()
    assert {answer.characters for answer in answers} == {(2, 3)}


def test_what_is_scored_of_a_choice() -> None:
    assert own_texts(prompts()[0]) == ["no", "yes"] * 3
    assert own_texts(replace(prompts()[0], questions=())) == list(prompts()[0].choices)
    mask = collate(ITEMS, 0).scored_mask
    assert mask is not None
    assert mask.flatten(0, 1)[:, :].sum(-1).tolist() == [2] * 18
    same = replace(ITEMS[0], choice_ids=[[20, 1], [20, 1]], labels=(0,))
    assert collate([same], 0).scored_mask.sum().item() == 2, "choices that are the same keep a token each"  # type: ignore[union-attr]
    assert collate([replace(ITEMS[0], labels=(), label=1)], 0).scored_mask is None


def test_prompts_with_other_numbers_of_questions_are_predicted_together_and_never_trained() -> None:
    one = TokenizedPrompt([5, 6], [[7, 1], [8, 1]], -1, 0, 0)
    batch = collate([replace(ITEMS[0], labels=(-1,) * LABELS), one], 0)
    assert batch.label.tolist() == [-1, -1]
    with pytest.raises(ValueError, match="different numbers of questions"):
        collate([ITEMS[0], replace(one, label=1)], 0)


@contextmanager
def counted(module: Any) -> Iterator[list[int]]:
    """Places of the rows that go through this module, call by call."""
    seen: list[int] = []

    def count(_: Any, args: Any, kwargs: Any) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        seen.append(ids.numel())

    handle = module.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def test_an_encoder_reads_each_text_once_for_all_labels() -> None:
    model, batch, separate = model_of("encoder_decoder"), collate(ITEMS, 0), apart(ITEMS)
    token_logprob(model, batch, "plain")  # tries itself on the model once
    for some, texts in ((batch, 1), (separate, LABELS)):
        with counted(model.get_encoder()) as seen:
            token_logprob(model, some, "plain")
        assert seen == [texts * len(ITEMS) * batch.input_ids.shape[1]]
    # the fast engine puts hooks aside: it counts packed tokens by the embeddings that it looks up
    with counted_embeddings(model.get_encoder()) as looked_up:
        token_logprob(model, batch, "fast")
    assert looked_up == [sum(len(one.input_ids) for one in ITEMS)]


def test_a_decoder_reads_each_text_once_for_all_labels() -> None:
    model, batch = model_of("decoder_only"), collate(ITEMS, 0)
    token_logprob(model, batch, "fast")  # tries itself on the model once
    with counted(model.base_model) as seen:
        token_logprob(model, batch, "fast")
    prefixes = sum(len(words) for words in ([20], [30, 31], [40, 41, 42])) + 2 * LABELS
    assert seen == [sum(len(one.input_ids) for one in ITEMS) + len(ITEMS) * prefixes]
    with counted(model.base_model) as seen:
        token_logprob(model, batch, "plain")
    assert sum(seen) > 2 * LABELS * sum(len(one.input_ids) for one in ITEMS)


@contextmanager
def counted_embeddings(encoder: Any) -> Iterator[list[int]]:
    seen: list[int] = []
    handle = encoder.get_input_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0].numel()))
    try:
        yield seen
    finally:
        handle.remove()


def test_predictions_of_one_label_are_written_as_before() -> None:
    line = '{"dataset": "d", "template": "t", "idx": 3, "label": 1, "predicted": 0, "scores": [-0.5, -1.0],'
    old = line + ' "tokens": [2, 3], "characters": null, "bytes": null, "unconditional": null, "contexts": 1}'
    assert Prediction.from_json(old).to_json() == old
    new = replace(Prediction.from_json(old), question="billing")
    assert Prediction.from_json(new.to_json()) == new
