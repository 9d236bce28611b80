"""Score norms against sums made one choice at a time by transformers' own loss, and from one another."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import ByT5Tokenizer

from tests.models import tiny_t5, with_ia3
from tests.scoring.test_fast_decoder_only import make
from tfew.config import compose
from tfew.data.tokenization import PromptTokenizer, collate
from tfew.evaluate import evaluate
from tfew.ranking.icl import Answer
from tfew.ranking.metrics import summarise
from tfew.ranking.norms import NORMS, available, rescored
from tfew.ranking.rank_classification import rank_classify, unconditional_sums
from tfew.schema import Prediction, Prompt
from tfew.scoring.score import scoring_mode, token_logprob

CHOICES = (("yes", "größer", "no, never"), ("a", "bcd"))
PROMPTS = [Prompt("d", "t", idx, "is it so?" * (idx + 1), choices, 0) for idx, choices in enumerate(CHOICES)]
CPU = torch.device("cpu")


@torch.no_grad()
def slow_sum(model: Any, prompt_tokenizer: PromptTokenizer, text: str, choice: str) -> float:
    """The log-probability of one choice after one text, by transformers' loss or a whole unpadded sequence."""
    item = prompt_tokenizer(Prompt("d", "t", 0, text, (choice,), 0))
    (target,) = item.choice_ids
    if not prompt_tokenizer.decoder_only:
        labels = torch.tensor([target])
        return -float(model(input_ids=torch.tensor([item.input_ids]), labels=labels).loss) * len(target)
    logits = model(input_ids=torch.tensor([[*item.input_ids, *target]])).logits[0].log_softmax(-1)
    return float(sum(logits[len(item.input_ids) - 1 + t, token] for t, token in enumerate(target)))


def slow_score(model: nn.Module, prompt_tokenizer: PromptTokenizer, text: str, choice: str, norm: str) -> float:
    total = slow_sum(model, prompt_tokenizer, text, choice)
    tokens = len(prompt_tokenizer(Prompt("d", "t", 0, text, (choice,), 0)).choice_ids[0])
    return {
        "sum": lambda: total,
        "token": lambda: total / tokens,
        "char": lambda: total / len(choice),
        "byte": lambda: total / len(choice.encode("utf-8")),
        "pmi": lambda: total - slow_sum(model, prompt_tokenizer, "", choice),
    }[norm]()


def ranked(model: nn.Module, prompt_tokenizer: PromptTokenizer, norm: str) -> list[Prediction]:
    def collated(items: Any) -> Any:
        return collate(items, prompt_tokenizer.pad_id)

    def score(batch: Any) -> torch.Tensor:
        return token_logprob(model, batch)

    with scoring_mode(model):
        texts = sorted({choice for choices in CHOICES for choice in choices})
        unconditional = unconditional_sums(score, prompt_tokenizer.tokenize, collated, texts, CPU)
        return list(
            rank_classify(
                score, [collated(prompt_tokenizer.tokenize(PROMPTS))], PROMPTS, norm, CPU, {"d": unconditional}
            )
        )


@pytest.mark.parametrize("kind", ["t5", "llama"])
@pytest.mark.parametrize("norm", NORMS)
def test_each_norm_against_one_choice_at_a_time(norm: str, kind: str) -> None:
    model = with_ia3(tiny_t5(rows=384) if kind == "t5" else make(kind))
    prompt_tokenizer = PromptTokenizer(ByT5Tokenizer(), 64, decoder_only=kind != "t5")
    for prediction, prompt in zip(ranked(model, prompt_tokenizer, norm), PROMPTS, strict=True):
        expected = [slow_score(model, prompt_tokenizer, prompt.input, choice, norm) for choice in prompt.choices]
        assert prediction.scores == pytest.approx(expected, abs=1e-4)
        assert prediction.predicted == max(range(len(expected)), key=expected.__getitem__)


def test_one_pass_gives_all_norms() -> None:
    model, prompt_tokenizer = with_ia3(tiny_t5(rows=384)), PromptTokenizer(ByT5Tokenizer(), 64)
    for made in NORMS:
        for other in NORMS:
            for ours, expected in zip(
                ranked(model, prompt_tokenizer, made), ranked(model, prompt_tokenizer, other), strict=True
            ):
                again = rescored(ours, made, other)
                assert again.scores == pytest.approx(expected.scores, abs=1e-4)
                assert again.predicted == expected.predicted


def test_what_was_not_asked_for_is_not_available() -> None:
    bare = Prediction("d", "t", 0, 0, 0, (-2.0, -3.0), (2, 3))
    assert available(bare) == ("token", "sum")
    with pytest.raises(ValueError, match="'pmi' is none of"):
        rescored(bare, "token", "pmi")
    full = dataclasses.replace(bare, characters=(1, 2), bytes=(1, 4), unconditional=(-1.0, -2.5))
    assert available(full) == NORMS
    assert Prediction.from_json(full.to_json()) == full
    assert Prediction.from_json(bare.to_json()) == bare


def test_accuracy_is_told_under_the_norms_that_all_rows_have() -> None:
    """Of folds with few rows, some have labels enough in common to be scored alone, and others have not."""
    bare = Prediction("d", "t", 0, 0, 0, (-2.0, -3.0), (2, 3), characters=(1, 2), bytes=(1, 4))
    full = dataclasses.replace(bare, idx=1, unconditional=(-1.0, -2.5))
    for rows in ([bare, full], [full, bare]):
        found = summarise([Answer.of(row, "token") for row in rows], "token")["accuracy_by_norm"]
        assert sorted(found) == ["byte", "char", "sum", "token"]
    assert "pmi" in summarise([Answer.of(full, "token")], "token")["accuracy_by_norm"]


def test_a_run_reports_all_norms_of_labels_and_pmi_of_endings_when_asked(made_data: Path, tmp_path: Path) -> None:
    def accuracies(name: str, *overrides: str) -> dict[str, float]:
        told = (*overrides, f"data_dir={made_data}", "model=tiny", "trainer=cpu", f"run_dir={tmp_path}/{name}")
        metrics = evaluate(compose(*told, config_name="evaluate")).metrics
        assert metrics["accuracy"] == metrics["accuracy_by_norm"][dict(o.split("=") for o in overrides)["score.norm"]]
        by_norm: dict[str, float] = metrics["accuracy_by_norm"]
        return by_norm

    labels = accuracies("labels", "+experiment=cb", "score.norm=token")
    assert labels.keys() == set(NORMS)
    assert accuracies("pmi", "+experiment=cb", "score.norm=pmi") == pytest.approx(labels)
    endings = ("+experiment=mini_few_shot", "dataset=mini/ending", "eval_rows=8")
    assert accuracies("endings", *endings, "score.norm=byte").keys() == {"token", "sum", "char", "byte"}
    assert accuracies("endings_pmi", *endings, "score.norm=pmi").keys() == set(NORMS)
