"""Incomplete tokenizers and checkpoints, texts too long for them: an error message, or the missing part is added."""

import json
import logging
import re
from pathlib import Path

import pytest
from transformers import GemmaTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tests.made_tokenizers import make_tokenizer
from tfew.config import compose
from tfew.errors import UserError
from tfew.evaluate import evaluate
from tfew.models.backbone import load_tokenizer
from tfew.models.shapes import shape_at
from tfew.prediction.predictor import Predictor
from tfew.train import train

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


def test_a_text_longer_than_the_table_of_positions_is_refused_before_the_start(made_data: Path, tmp_path: Path) -> None:
    config = GPT2Config(n_embd=32, n_head=4, n_layer=2, n_positions=48, vocab_size=384, bos_token_id=1, eos_token_id=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    make_tokenizer("gpt2").save_pretrained(tmp_path / "base")
    given = [
        "+experiment=cb", "templates=single", "templates.name='can we infer'", "few_shot=draw", "shots=8", "steps=1",
        "batch_size=4", "eval_rows=4", "trainer=cpu", f"model.path={tmp_path}/base", f"data_dir={made_data}",
        f"runs={tmp_path}/runs",
    ]  # fmt: skip
    message = r"An input with its choice takes \d+ positions, and GPT2LMHeadModel has 48: set max_tokens=(\d+) or less"
    with pytest.raises(UserError, match=message) as refused:
        train(compose(*given))
    assert not (tmp_path / "runs").exists() or not [*(tmp_path / "runs").rglob("adapter*")]
    enough = int(re.findall(r"max_tokens=(\d+)", str(refused.value))[0])
    for engine, more in (("plain", 1), ("fast", 2)):  # only the plain engine reads a choice's last token
        with pytest.raises(UserError, match=message):
            train(compose(*given, f"max_tokens={enough + more}", f"engine={engine}"))
    record = train(compose(*given, f"max_tokens={enough + 1}"))
    longer = (f"adapter={record.folder}", "max_tokens=256")
    with pytest.raises(UserError, match=message):
        evaluate(compose(*given[:5], *given[7:], *longer, config_name="evaluate"))
    predictor = Predictor.load(record.folder, "trainer=cpu", "max_tokens=256")
    with pytest.raises(UserError, match=message):
        predictor({"premise": "long " * 50, "hypothesis": "x"})
