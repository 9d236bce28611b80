"""Incomplete tokenizers and checkpoints: an error message, or the missing part is added."""

import json
import logging
from pathlib import Path

import pytest
from transformers import GemmaTokenizer, PreTrainedTokenizerFast

from tfew.errors import UserError
from tfew.models.backbone import load_tokenizer
from tfew.models.shapes import shape_at

VOCABULARY = ["<pad>", "<eos>", "<bos>", "<unk>", "a", "b", "▁", "▁a", "ab"]


def saved_gemma_tokenizer(folder: Path) -> str:
    """As T5Gemma has it: start-of-text before a text, nothing behind it."""
    vocabulary = {token: number for number, token in enumerate(VOCABULARY)}
    tokenizer = GemmaTokenizer(vocab=vocabulary, merges=[("▁", "a"), ("a", "b")], add_bos_token=True)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_an_encoder_decoder_s_texts_end_in_end_of_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved_gemma_tokenizer(tmp_path)
    as_it_is = load_tokenizer(path, "main", decoder_only=True)
    assert as_it_is("ab a")["input_ids"] == [2, 8, 7]
    with caplog.at_level(logging.INFO, logger="tfew"):
        tokenizer = load_tokenizer(path, "main")
    assert tokenizer("ab a")["input_ids"] == [8, 7, 1]
    assert tokenizer(["ab", "a"])["input_ids"] == [[8, 1], [4, 1]]
    assert tokenizer("ab", add_special_tokens=False)["input_ids"] == [8]
    assert "adds no end-of-text by itself" in caplog.text


def test_a_tokenizer_without_end_of_text(tmp_path: Path) -> None:
    path = saved_gemma_tokenizer(tmp_path)
    bare = PreTrainedTokenizerFast(tokenizer_file=f"{path}/tokenizer.json", pad_token="<pad>")
    bare.eos_token = None
    bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(
        UserError, match=r"bare has no end-of-text token.*model\.tokenizer=.*eos_token in its tokenizer_c"
    ):
        load_tokenizer(str(tmp_path / "bare"), "main")


@pytest.mark.parametrize("values", [{"hidden_size": "wide"}, {"num_hidden_layers": None}, {"rope_parameters": 3}])
def test_a_configuration_with_values_of_another_type(values: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **values}))
    with pytest.raises(UserError, match=r"cannot be loaded"):
        shape_at(str(tmp_path), "main")
