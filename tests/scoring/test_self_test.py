"""The choice of engine, and detection of wrong ones: windows, heads that are more than a matrix, start tokens."""

import pytest
import torch

from tests.architectures import DECODERS, WINDOW, decoder, tiny
from tests.scoring.test_architectures import long_batch, made
from tests.scoring.test_engines import lively
from tfew.errors import UserError
from tfew.scoring import fast_decoder_only, fast_encoder_decoder, prefix_layout
from tfew.scoring.output_head import OwnHead, output_head
from tfew.scoring.score import DECODER_ONLY, PLAIN, SEQ2SEQ, plain_token_logprob, scoring_mode, way_of_scoring
from tfew.scoring.self_test import BEYOND, made_up_batch, window_exceeded
from tfew.scoring.text_config import decoder_start_id, text_config, windows

WINDOWED = ["gemma3", "mistral", "gpt_oss", "cohere2", "qwen2", "t5gemma"]


@pytest.mark.parametrize("name", WINDOWED)
def test_a_window_that_is_not_heeded_is_found_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fast_encoder_decoder if name == "t5gemma" else fast_decoder_only
    assert windows(tiny(name)) == [WINDOW]
    monkeypatch.setattr(prefix_layout, "_near", lambda kind, size, position_BK, _: torch.ones((), dtype=torch.bool))
    model = tiny(name)
    assert not engine.supports(model, plain_token_logprob, long_batch())
    monkeypatch.undo()
    assert engine.supports(tiny(name), plain_token_logprob, long_batch())


def test_a_window_that_is_off_by_one_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    right = prefix_layout._size
    monkeypatch.setattr(
        prefix_layout, "_size", lambda model, kind: None if right(model, kind) is None else right(model, kind) + 1
    )
    assert not fast_decoder_only.supports(tiny("mistral"), plain_token_logprob, long_batch())


def test_texts_within_the_window_are_scored_fast_and_longer_ones_plainly(caplog: pytest.LogCaptureFixture) -> None:
    """GPT-Neo's windows go by places of the row, in which choices stand beside one another."""
    model = decoder("gpt_neo", DECODERS["gpt_neo"] | {"window_size": 16})
    caplog.set_level("INFO")
    for _ in range(2):
        assert way_of_scoring(model, made([[5, 6]], [[[7, 1], [8, 1]]]), "fast") == DECODER_ONLY
        assert way_of_scoring(model, long_batch(), "fast") == PLAIN
    notes = [record.message for record in caplog.records]
    assert notes == [
        "Note: GPTNeoForCausalLM cannot score choices behind a shared input in texts of more than 16 tokens, its window"
        " of attention; engine=plain is used."
    ]


def test_choices_side_by_side_count_against_the_window() -> None:
    many = made([[5, 6]], [[[7, c, 1] for c in range(10, 20)]])
    assert window_exceeded(tiny("gpt_neo"), many) == WINDOW
    assert window_exceeded(tiny("llama"), many) == 0


@pytest.mark.parametrize("name", ["gemma3", "t5gemma2"])
def test_what_is_tried_reaches_beyond_the_window(name: str) -> None:
    batch = made_up_batch(tiny(name), 50)
    longest = batch.choice_mask.sum(-1) if name == "t5gemma2" else batch.input_mask.sum(-1)
    assert longest.max() == 50 + BEYOND
    assert made_up_batch(tiny(name)).input_ids.shape[1] == 9


def test_the_text_model_of_a_model_for_pictures_is_asked() -> None:
    model = tiny("gemma3")
    assert getattr(model.config, "sliding_window", None) is None
    assert text_config(model).sliding_window == WINDOW
    assert windows(tiny("led")) == []  # its encoder's alone


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("gemma2", True),
        ("cohere", True),
        ("granite", True),
        ("nanochat", True),
        ("t5gemma", True),
        ("modernbert-decoder", True),
    ]
    + [(name, False) for name in ("llama", "opt", "gemma3", "bart", "falcon-7b")],
)
def test_a_head_that_does_more_than_multiply_is_noticed(name: str, own: bool) -> None:
    model = tiny(name)
    with scoring_mode(model):
        assert isinstance(output_head(model), OwnHead) == own
    assert "forward" not in vars(model.get_decoder()) | vars(model.base_model)


def test_own_head_against_the_model_s_logits() -> None:
    model = tiny("gemma2")
    ids = torch.tensor([[5, 6, 7, 8]])
    with scoring_mode(model):
        states = model.base_model(input_ids=ids)[0]
        torch.testing.assert_close(OwnHead(model)(states[0]), model(input_ids=ids).logits[0], atol=1e-6, rtol=0)
        assert not torch.allclose(model.get_output_embeddings()(states[0]), model(input_ids=ids).logits[0], atol=1e-3)


@pytest.mark.parametrize(
    ("name", "start"), [("bart", 2), ("t5gemma", 1), ("t5gemma2", 1), ("prophetnet", 2), ("switch_transformers", 2)]
)
def test_start_tokens(name: str, start: int) -> None:
    assert decoder_start_id(tiny(name)) == start


def test_start_tokens_fall_back_in_order_and_none_is_refused() -> None:
    model = tiny("switch_transformers")
    model.config.decoder_start_token_id = model.config.bos_token_id = None
    model.generation_config.decoder_start_token_id = 9
    assert decoder_start_id(model) == 9
    model.generation_config = None
    assert decoder_start_id(model) == 0  # padding, as T5's relatives do
    model.config.pad_token_id = None
    with pytest.raises(UserError, match="SwitchTransformersForConditionalGeneration does not say which token"):
        decoder_start_id(model)


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("rwkv", "cannot be given texts that are padded"),
        ("roberta", "cannot be given texts that are padded"),
        ("prophetnet", "cannot be given answers of unlike length at once"),
        ("fsmt", "cannot be given an encoded input"),
        ("switch_transformers", "cannot score choices beside one another"),
        ("bloom", "cannot score choices behind a shared input"),
    ],
)
def test_a_run_says_once_what_it_cannot_do(name: str, note: str, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny(name)
    caplog.set_level("INFO")
    with scoring_mode(model):
        for _ in range(2):
            plain_token_logprob(model, long_batch())
            way_of_scoring(model, long_batch(), "fast")
    assert sum(note in record.message for record in caplog.records) == 1


def test_models_that_are_told_everything_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert way_of_scoring(tiny("bart"), long_batch(), "fast") == SEQ2SEQ
    assert way_of_scoring(lively("llama"), long_batch(), "fast") == DECODER_ONLY
    assert caplog.records == []
