"""Every architecture of `tests.architectures`: both engines against one unpadded sequence at a time."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.architectures import ENCODER_DECODER, NAMES, decoder, one_of_each_kind, tiny
from tfew.data.tokenization import TokenizedPrompt, collate
from tfew.errors import UserError
from tfew.schema import Batch
from tfew.scoring.context import Context
from tfew.scoring.score import DECODER_ONLY, PACKED, PLAIN, scoring_mode, token_logprob, way_of_scoring
from tfew.scoring.text_config import decoder_start_id

# what cannot be scored in rows that hold several choices, and why
STATES_RUN_ON = {
    "bailing_hybrid", "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "kimi_linear", "lfm2",
    "lfm2_moe", "lfm3", "mamba", "mamba2", "minimax", "olmo_hybrid", "qwen3_5", "qwen3_5_text", "qwen3_next",
    "recurrent_gemma", "rwkv", "xlstm", "zamba2",
}  # fmt: skip
GO_BY_PLACE = {  # ALiBi, windows and scales by a token's place in its row, masks and positions that cannot be given
    "bart-decoder", "bloom", "deepseek_v32", "falcon-rw", "gpt_neo", "llama4_text", "moshi", "mpt", "openai-gpt",
    "prophetnet-decoder", "roberta", "roformer", "trocr-decoder", "trocr", "whisper",
}  # fmt: skip
CROWDED_EXPERTS = {"nllb-moe", "switch_transformers"}
OTHER_DECODERS = {"encoder-decoder", "fsmt", "prophetnet"}
ONE_WAY_ONLY = STATES_RUN_ON | GO_BY_PLACE | CROWDED_EXPERTS | OTHER_DECODERS
REFUSED = {"xlnet": "come after them", "paligemma": "come after them", "llama4": "on text alone"}
SCORED = [name for name in NAMES if name not in REFUSED]
TOLERANCE = 2e-5


def tokens(count: int, generator: torch.Generator) -> list[int]:
    return torch.randint(3, 150, (count,), generator=generator).tolist()


def made(inputs: list[list[int]], choices: list[list[list[int]]]) -> Batch:
    return collate([TokenizedPrompt(i, c, 0, 0, 0) for i, c in zip(inputs, choices, strict=True)], pad_id=0)


def long_batch() -> Batch:
    """Inputs longer and shorter than the windows of 8 tokens; choices that begin alike for longer and shorter."""
    generator = torch.Generator().manual_seed(3)
    four, seven = tokens(4, generator), tokens(7, generator)
    inputs = [[*tokens(length, generator), 1] for length in (21, 3, 12)]
    choices = [
        [[*four, *tokens(3, generator), 1], [*four[:2], 9, 1], [*four, 1]],
        [[*tokens(2, generator), 1], [1]],
        [[*seven, *tokens(5, generator), 1], [*seven, 11, 1], [*seven[:3], 1], [8, 1]],
    ]
    return made(inputs, choices)


def batch_with_context() -> Batch:
    generator = torch.Generator().manual_seed(4)
    shared = tokens(24, generator)
    inputs = [[*shared, *tokens(length, generator), 1] for length in (2, 5, 9)]
    return made(inputs, [[[*tokens(3, generator), 1], [*tokens(2, generator), 1]] for _ in inputs])


def one_at_a_time(model: Any, batch: Batch) -> Tensor:
    """transformers' own logits of each input and choice, without padding, masks or a cache."""
    logprob_BCT = torch.zeros(batch.choice_mask.shape)
    for b, c in batch.choice_mask.any(-1).nonzero().tolist():
        prompt = batch.input_ids[b, batch.input_mask[b]]
        choice = batch.choice_ids[b, c, batch.choice_mask[b, c]]
        if model.config.is_encoder_decoder:
            start = torch.tensor([decoder_start_id(model)])
            decoded = torch.cat([start, choice[:-1]])[None]
            logits = model(input_ids=prompt[None], decoder_input_ids=decoded, use_cache=False).logits[0]
        else:
            logits = model(input_ids=torch.cat([prompt, choice])[None], use_cache=False).logits[0]
            logits = logits[len(prompt) - 1 : -1]
        logprob_BCT[b, c, : len(choice)] = logits.float().log_softmax(-1).gather(1, choice[:, None])[:, 0]
    return logprob_BCT


def gradient(model: Any, batch: Batch, engine: str) -> Tensor:
    model.zero_grad()
    weights = torch.linspace(1, 2, batch.choice_mask.numel()).view_as(batch.choice_mask)
    (token_logprob(model, batch, engine) * weights).sum().backward()
    of_embeddings: Tensor = model.get_input_embeddings().weight.grad
    return of_embeddings / of_embeddings.abs().max()


@pytest.mark.parametrize("name", one_of_each_kind(SCORED, others=pytest.mark.slow))
def test_both_engines_give_what_transformers_gives_for_one_sequence(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, batch = tiny(name), long_batch()
    caplog.set_level("INFO")
    with scoring_mode(model):
        expected = one_at_a_time(model, batch)
        assert expected[batch.choice_mask].std() > 0.05
        for engine in ("fast", "plain"):
            torch.testing.assert_close(token_logprob(model, batch, engine), expected, atol=TOLERANCE, rtol=0)
    way = way_of_scoring(model, batch, "fast")
    assert (way == PLAIN) == (name in ONE_WAY_ONLY)
    assert sum("engine=plain is used" in record.message for record in caplog.records) == (way == PLAIN)


@pytest.mark.parametrize("name", one_of_each_kind(name for name in SCORED if name not in ONE_WAY_ONLY))
def test_gradients_of_both_engines_agree(name: str) -> None:
    model, batch = tiny(name), long_batch()
    torch.testing.assert_close(
        gradient(model, batch, "fast"), gradient(model, batch, "plain"), atol=1e-4, rtol=0, msg=name
    )


@pytest.mark.parametrize(
    "name", one_of_each_kind(name for name in SCORED if name not in ENCODER_DECODER and name not in ONE_WAY_ONLY)
)
def test_a_common_beginning_changes_nothing(name: str) -> None:
    model, batch = tiny(name), batch_with_context()
    with scoring_mode(model):
        expected, context = token_logprob(model, batch, "plain"), Context()
        for part in (batch, batch.part(slice(0, 1))):  # the second time it already exists
            scores = token_logprob(model, part, "fast", context=context)
            torch.testing.assert_close(scores, expected[: len(part)], atol=TOLERANCE, rtol=0)
    assert len(context.ids_K) == (0 if name in {"dory", "mllama"} else 24)


LIMIT = 26
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "factor": 8.0}
ROTARY: dict[str, tuple[str, dict[str, Any]]] = {
    "longrope": ("phi3", {"rope_parameters": {**LONGROPE, "original_max_position_embeddings": LIMIT},
        "original_max_position_embeddings": LIMIT, "sliding_window": None}),
    "dynamic": ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0},
        "max_position_embeddings": LIMIT}),
}  # fmt: skip
for _, settings in ROTARY.values():
    settings["rope_parameters"]["rope_theta"] = 10000.0


def each_in_a_new_model(kind: str, batch: Batch) -> Tensor:
    """`one_at_a_time`, with a new model for each: dynamic angles depend on the longest text that a model has seen."""
    found_BCT = torch.zeros(batch.choice_mask.shape)
    for b, c in batch.choice_mask.any(-1).nonzero().tolist():
        only_BCT = torch.zeros_like(batch.choice_mask)
        only_BCT[b, c] = batch.choice_mask[b, c]
        found_BCT += one_at_a_time(decoder(*ROTARY[kind]), replace(batch, choice_mask=only_BCT))
    return found_BCT


@pytest.mark.parametrize("kind", ROTARY)
def test_a_score_does_not_depend_on_longer_texts_beside_or_before_it(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Rotary angles that change beyond a limit: texts on both sides of it, a longer and a shorter batch in between."""
    model, mixed, beyond = decoder(*ROTARY[kind]), batch_with_context(), batch_with_context().part(slice(2, 3))
    generator = torch.Generator().manual_seed(5)
    at_limit = made([[*tokens(LIMIT - 3, generator), 1]], [[[5, 1], [7, 1]]])
    caplog.set_level("INFO")
    with scoring_mode(model):
        expected = each_in_a_new_model(kind, mixed)
        for engine in ("fast", "plain"):
            for batch, theirs in ((beyond, expected[2:]), (at_limit, None), (mixed, expected), (mixed, expected)):
                scores = token_logprob(model, batch, engine, context=Context())
                theirs = each_in_a_new_model(kind, batch) if theirs is None else theirs
                torch.testing.assert_close(scores, theirs, atol=TOLERANCE, rtol=0)
            context = Context()
            for batch in (made([[*tokens(19, generator), 1]], [[[5, 1]]]), mixed.part(slice(0, 1)), mixed):
                scores = token_logprob(model, batch, engine, context=context)
                torch.testing.assert_close(scores, each_in_a_new_model(kind, batch), atol=TOLERANCE, rtol=0)
    assert [way_of_scoring(model, batch, "fast") for batch in (at_limit, mixed)] == [DECODER_ONLY, PLAIN]
    assert sum("has other rotary positions in texts of more than 26" in r.message for r in caplog.records) == 1


@pytest.mark.parametrize("name", one_of_each_kind(name for name in SCORED if name not in ONE_WAY_ONLY))
def test_bfloat16_differs_by_its_rounding(name: str) -> None:
    exact, batch = tiny(name), long_batch()
    model = tiny(name).to(torch.bfloat16)
    with scoring_mode(exact), scoring_mode(model):
        truth = token_logprob(exact, batch, "plain")
        fast, plain = (token_logprob(model, batch, engine) for engine in ("fast", "plain"))
    assert (fast - truth).abs().mean() < 1.5 * (plain - truth).abs().mean() + 0.01


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_scored_is_refused_in_one_sentence(name: str) -> None:
    model = tiny(name)
    for engine in ("fast", "plain"):
        with pytest.raises(UserError, match=REFUSED[name]), scoring_mode(model):
            token_logprob(model, long_batch(), engine)


def test_t5_keeps_its_own_way() -> None:
    ways = {name: way_of_scoring(tiny(name), long_batch(), "fast") for name in ("t5", "t5-gated", "mt5", "umt5")}
    assert [name for name, way in ways.items() if way == PACKED] == ["t5", "t5-gated", "mt5"]


def test_the_list_is_long() -> None:
    assert len(SCORED) - len(ENCODER_DECODER) > 100
    assert not ONE_WAY_ONLY - {"trocr-decoder", "kimi_linear", "bailing_hybrid"} - set(NAMES)


def test_a_model_in_training_stays_in_training() -> None:
    model: nn.Module = tiny("mistral").train()
    token_logprob(model, long_batch())
    assert model.training
