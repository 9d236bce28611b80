"""Loads the frozen model and its tokenizer, and rejects a model that does not match its files.

transformers 5 silently loses an untied output head (T0, Flan-T5, T5 v1.1) in three ways: `load_state_dict`
into a model built from a config, `tie_weights()`, `resize_token_embeddings()`. Versions 5.0 always scale T5's decoder
output, before 5.15 T5 has no SDPA, and before 5.24 a cache (of prefixes and contexts) has another name and would be
ignored. So the version, the head and the keys are checked on every load.
"""

import json
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.models.t5.modeling_t5 import T5Attention

from tfew.config import local_path
from tfew.environment.versions import check_versions
from tfew.errors import UserError, shorten_list
from tfew.files.hub_errors import cannot_be_loaded
from tfew.files.hub_files import model_folder
from tfew.placement.position_table import position_tables
from tfew.scoring.text_config import text_config

log = logging.getLogger(__name__)
# transformers replaces functions of its own classes while it makes a model
loading_lock = threading.RLock()
INITS = ("t5", "look_up")
# what transformers raises for files of other content: a pickle of more than tensors, a value of another type
UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, UnpicklingError, StrictDataclassError)
LIKE_LOGIT, POSITION_LOGIT = 5.0, 4.0  # attention to a token's like, and spread over distances, of random weights
ROWS_MULTIPLE = 128  # T5's embeddings are padded to it: 32,100 pieces, 32,128 rows


def is_encoder_decoder(path: str, revision: str, trusted: str | None = None) -> bool:
    return bool(checkpoint_config(path, revision, trusted).is_encoder_decoder)


def checkpoint_config(path: str, revision: str, trusted: str | None = None) -> Any:
    """Loads a checkpoint's configuration, without its weights.

    `trusted`, here and below: the one checkpoint whose own Python code may be run.
    """
    return _from_pretrained(AutoConfig, path, revision, "model.path", trusted)


def load_tokenizer(path: str | None, revision: str, decoder_only: bool = False, trusted: str | None = None) -> Any:
    """The tokenizer at `path`, a folder or Hub id; None gives ByT5's byte tokenizer, which needs no files."""
    if path is None:
        from transformers import ByT5Tokenizer  # not for every start: imports sentencepiece

        tokenizer = ByT5Tokenizer()
    else:
        tokenizer = _from_pretrained(AutoTokenizer, path, revision, "model.tokenizer", trusted)
    if not decoder_only:
        _end_in_eos(tokenizer, path)
    tokenizer.model_max_length = 10**9  # tfew.data.loader truncates, and counts truncations
    return tokenizer


def _end_in_eos(tokenizer: Any, path: str | None) -> None:
    """Makes the tokenizer append end-of-text, as T-Few does for the inputs and choices of an encoder-decoder.

    T5Gemma's tokenizer does not append it, but prepends start-of-text, with which its decoder begins in any case.
    """
    eos = tokenizer.eos_token_id
    if eos is None:
        raise UserError(
            f"The tokenizer {path} has no end-of-text token, in which an encoder-decoder's inputs and choices end: name"
            " another with model.tokenizer=, or set eos_token in its tokenizer_config.json."
        )
    if tokenizer("x")["input_ids"][-1:] == [eos]:
        return
    tokenizer.add_bos_token, tokenizer.add_eos_token = False, True
    if tokenizer("x")["input_ids"][-1:] != [eos]:
        raise UserError(
            f"The tokenizer {path} does not end a text with its end-of-text token, which every choice needs."
        )
    log.info(f"Note: the tokenizer {path} adds no end-of-text by itself; here it ends inputs and choices.")


def load_model(path: str, revision: str, dtype: torch.dtype | str, trusted: str | None = None) -> nn.Module:
    """Loads an encoder-decoder or decoder-only checkpoint in evaluation mode; raises UserError if it is incomplete.

    With `dtype="auto"` (the file's own), weights are memory-mapped and not read.
    """
    check_versions()
    kind = AutoModelForSeq2SeqLM if is_encoder_decoder(path, revision, trusted) else AutoModelForCausalLM
    options = {"dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True}  # _check_keys refuses them
    model, report = _from_pretrained(kind, path, revision, "model.path", trusted, weights=True, **options)
    _check_keys(path, report)
    check_head(model, path)
    return model


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silences transformers' warning, on each load of such a T5, that its head is untied; `check_head` checks that."""
    with loading_lock:
        level = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        try:
            yield
        finally:
            transformers.logging.set_verbosity(level)
            transformers.logging.enable_progress_bar()


def window_tokens(model: nn.Module) -> int | None:
    """Maximum length of an input, with a choice in a decoder-only model: that of the configuration, and of the table of
    positions; None for relative positions (T5).
    """
    limits = [getattr(text_config(model), "max_position_embeddings", None), position_tables(model)[0]]
    return min((limit for limit in limits if limit is not None), default=None)


def random_model(arch: Mapping[str, Any], rows: int) -> nn.Module:
    """A T5 of this shape with seeded random weights and at least `rows` embedding rows."""
    check_versions()
    with loading_lock, torch.random.fork_rng(devices=[]):
        torch.manual_seed(arch["init_seed"])
        return _t5(arch, rows).eval()


def shape_of(arch: Mapping[str, Any], rows: int = 0) -> nn.Module:
    """The same model on device "meta", without memory for its weights, for counting."""
    with loading_lock, torch.device("meta"):
        return _t5(arch, rows).eval()


def _t5(arch: Mapping[str, Any], rows: int) -> nn.Module:
    arguments = {**arch, "vocab_size": max(arch["vocab_size"], -(-rows // ROWS_MULTIPLE) * ROWS_MULTIPLE)}
    del arguments["init_seed"]
    look_up = arguments.pop("init", INITS[0]) == INITS[1]
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(decoder_start_token_id=0, **arguments))
    give_own_head(model)
    if look_up:
        _start_looking_up(model)
    return model


def _start_looking_up(model: nn.Module) -> None:
    """Initial values with which a small T5 learns to copy from its input in minutes; with T5's own it takes hours.

    Queries start equal to keys, so that a token attends to similar tokens (Trockman and Kolter 2023, "Mimetic
    initialization of self-attention layers"). Position biases start with a wide spread, so that heads attend to
    different distances; from T5's narrow spread they need thousands of steps to matter. The output head starts as the
    scaled embeddings: copying a token is then learned once for all tokens.
    """
    config: Any = model.config
    with torch.no_grad():
        model.lm_head.weight.copy_(model.get_input_embeddings().weight * config.d_model**-0.5)  # type: ignore[operator, union-attr]
        for module in model.modules():
            if not isinstance(module, T5Attention):
                continue
            module.q.weight.normal_(std=(LIKE_LOGIT / (config.d_model * config.d_kv)) ** 0.5)
            module.k.weight.copy_(module.q.weight)
            if module.has_relative_attention_bias:
                module.relative_attention_bias.weight.normal_(std=POSITION_LOGIT)


def give_own_head(model: nn.Module) -> None:
    """Unties `lm_head` from the embeddings: a T5 built from a config is tied regardless of its config."""
    config: Any = model.config
    model.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
    nn.init.normal_(model.lm_head.weight, std=config.d_model**-0.5)
    config.tie_word_embeddings = False


def check_head(model: nn.Module, path: str) -> None:
    """Raises UserError if a model that should have an untied output head has the input embeddings there."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    embeddings = model.get_input_embeddings()  # type: ignore[operator]
    if has_own_head(model.config) and torch.equal(head.weight, embeddings.weight):
        raise UserError(
            f"The output head of {path} (lm_head) was lost on load: it equals the input embeddings, but this kind of"
            " checkpoint (T5 v1.1, T0, Flan-T5) has one of its own. Scores would be wrong; the checkpoint may have"
            " been saved by code that tied the two."
        )


def has_own_head(config: Any) -> bool:
    """Whether the head is untied (`tie_word_embeddings: false`), as in T5 v1.1, T0 and Flan-T5."""
    return getattr(config, "scale_decoder_outputs", None) is False


def is_trusted(path: str, trusted: str | None) -> bool:
    return trusted is not None and local_path(trusted) == local_path(path)


def _from_pretrained(
    kind: Any, path: str, revision: str, knob: str, trusted: str | None, weights: bool = False, **options: Any
) -> Any:
    trust = is_trusted(path, trusted)  # never left open: transformers would ask on a terminal
    folder = Path(local_path(path))
    if not folder.is_dir():
        try:
            folder = model_folder(path, revision, weights, code=trust)
        except UserError as error:
            raise cannot_be_loaded(knob, path, error) from error
    reader = kind if kind is not AutoTokenizer else _tokenizer_class(folder, path)
    try:
        with quiet_loading() if weights else nullcontext():
            return reader.from_pretrained(str(folder), local_files_only=True, trust_remote_code=trust, **options)
    except UNREADABLE as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{knob}={path} brings Python code of its own, which is not run: read it, and if you trust it set"
                f" trust_remote_code={path}."
            ) from error
        raise cannot_be_loaded(knob, path, one_line(error)) from error


def _tokenizer_class(folder: Path, path: str) -> Any:
    """The tokenizer class; a folder with T5's SentencePiece model alone is taken for a T5 tokenizer."""
    if any((folder / name).is_file() for name in ("tokenizer_config.json", "config.json")):
        return AutoTokenizer
    if not (folder / "spiece.model").is_file():
        raise UserError(f"model.tokenizer={path} holds neither tokenizer_config.json nor spiece.model.")
    return transformers.T5Tokenizer


def _check_keys(path: str, report: Mapping[str, Any]) -> None:
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    wrong = [f"{key} {list(file)} instead of {list(model)}" for key, file, model in report["mismatched_keys"]]
    if missing or unexpected or wrong:
        raise UserError(
            f"The checkpoint {path} does not fit its model: in the model but not in the file: {shorten_list(missing)};"
            f" in the file but not in the model: {shorten_list(unexpected)}; of another shape: {shorten_list(wrong)}."
        )


def one_line(error: BaseException) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON: {error}."
    text = " ".join(str(error).split())
    return text if len(text) <= 600 else text[:597] + "..."
