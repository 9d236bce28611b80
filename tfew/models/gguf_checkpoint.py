"""Converts a GGUF file to an ordinary checkpoint: transformers reads it once, and the result is cached.

Reading takes most of a minute, since all tensors are dequantised (to float32, which is lossless). So weights,
config and tokenizer are cached in HF_HOME/tfew/gguf/SHA256, named by the file's checksum, and loaded from there.

transformers silently drops tensors that it does not use (the factors of Llama 3's positions, `rope_freqs`), and falls
back to GPT-2's pre-tokenizer if it does not know the file's own; both cases are checked here.
"""

import copy
import logging
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from tokenizers import pre_tokenizers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GgufConfig
from transformers.integrations.gguf.reader import read_gguf_metadata

from tfew.environment.versions import check_versions, require
from tfew.errors import UserError, shorten_list
from tfew.files.checksums import file_sha256, from_checked_json, to_checked_json
from tfew.files.file_lock import waiting_lock
from tfew.models.backbone import give_own_head, has_own_head, quiet_loading

log = logging.getLogger(__name__)
T = TypeVar("T")

FORMAT_VERSION = 1
MANIFEST = "converted.json"  # written last: checksums of the other files
NO_TOKENIZER = "no_tokenizer"  # key: why the file's tokenizer cannot be used
# `tokenizer.ggml.pre`, the way a byte-level vocabulary's text is split, by llama.cpp's names (its llama-vocab.cpp)
LIKE_GPT2 = {"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "roberta-bpe", "mellum"}
LIKE_GPT2_WITH_SINGLE_DIGITS = {
    "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"
}  # fmt: skip


def converted(file: Path, sha256: str) -> Path:
    """The folder of the checkpoint converted from this GGUF file with this checksum; created if missing.

    Raises UserError for a file that is damaged or not GGUF, or whose model cannot be read completely.
    """
    check_versions()
    require(f"{file}", "gguf")
    return _converted(file, sha256)


@cache
def _converted(file: Path, sha256: str) -> Path:
    folder = cache_folder() / sha256
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with waiting_lock(folder.with_suffix(".lock")):
            if not _is_whole(folder):
                _convert(file, folder)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}): set HF_HOME to another place."
        ) from error
    return folder


def cache_folder() -> Path:
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "tfew" / "gguf"


def why_no_tokenizer(folder: Path) -> str | None:
    """Why a converted checkpoint lacks the tokenizer of its file; None if it has it."""
    reason = from_checked_json((folder / MANIFEST).read_text(encoding="utf-8")).get(NO_TOKENIZER)
    return None if reason is None else str(reason)


def _is_whole(folder: Path) -> bool:
    """Whether all files are present and unchanged, and were written by this version of transformers."""
    if not (folder / MANIFEST).is_file():
        return False
    try:
        manifest = from_checked_json((folder / MANIFEST).read_text(encoding="utf-8"))
        if (manifest["format_version"], manifest["transformers"]) != (FORMAT_VERSION, transformers.__version__):
            return False
        if all(file_sha256(folder / name) == sha256 for name, sha256 in manifest["files"].items()):
            return True
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        pass
    log.info(f"Note: {folder} is damaged and will be rebuilt.")
    return False


def _convert(file: Path, folder: Path) -> None:
    log.info(f"Converting {file} ({file.stat().st_size / 1e6:,.0f} MB), which is done once and takes a while ...")
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):  # left by a killed process: this one has the lock
        shutil.rmtree(left)
    new = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        new.mkdir()
        no_tokenizer = _write_checkpoint(file, new)
        files = {path.name: file_sha256(path) for path in sorted(new.iterdir())}
        manifest = {"format_version": FORMAT_VERSION, "transformers": transformers.__version__, "files": files}
        (new / MANIFEST).write_text(to_checked_json({**manifest, NO_TOKENIZER: no_tokenizer}), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    log.info(f"Saved as {folder} ({sum(path.stat().st_size for path in folder.iterdir()) / 1e6:,.0f} MB).")


def _write_checkpoint(file: Path, folder: Path) -> str | None:
    """Writes model and tokenizer; if the file's tokenizer cannot be used, writes none and returns why."""
    metadata = _read(file, read_gguf_metadata, str(file))[0]  # checks bounds; gguf's reader does not
    model = _read(file, _load, file)
    _check_all_read(file, model)
    if wrong := [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()]:
        raise UserError(f"{file} is damaged: NaN or infinite weights in {shorten_list(wrong)}.")
    fresh: Any = _fresh(model)
    fresh.save_pretrained(folder)
    if "tokenizer.ggml.tokens" not in metadata:
        return "has no tokenizer"
    tokenizer = _read(file, AutoTokenizer.from_pretrained, file.parent, gguf_file=file.name, local_files_only=True)
    if reason := _split_as_said(tokenizer, metadata):
        return reason
    tokenizer.save_pretrained(folder)
    return None


def _read(file: Path, read: Callable[..., T], *arguments: Any, **options: Any) -> T:
    try:
        return read(*arguments, **options)
    except Exception as error:  # damaged or foreign files raise errors of any type
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{file} is damaged, or no GGUF file of a model that transformers reads: {reason}.") from error


def _load(file: Path) -> nn.Module:
    where = {"gguf_file": file.name, "local_files_only": True}
    is_encoder_decoder = AutoConfig.from_pretrained(file.parent, **where).is_encoder_decoder
    kind = AutoModelForSeq2SeqLM if is_encoder_decoder else AutoModelForCausalLM
    with quiet_loading():
        model, report = kind.from_pretrained(
            file.parent,
            **where,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
    if missing := report["missing_keys"]:
        raise ValueError(f"it lacks {shorten_list(missing)}")
    return model


def _check_all_read(file: Path, model: nn.Module) -> None:
    """Raises UserError if the file has parameters that transformers did not load: the model would be another one."""
    from gguf import GGUFReader

    config: Any = model.config
    read = sum(parameter.numel() for parameter in model.parameters())
    sizes = {tensor.name: math.prod(map(int, tensor.shape)) for tensor in GGUFReader(file).tensors}
    if config.tie_word_embeddings:
        sizes.pop("output.weight", None)
    sizes = {name: size for name, size in sizes.items() if _block(name) < config.num_hidden_layers}
    if sum(sizes.values()) != read:
        extra = [name for name in sizes if not name.startswith(("blk.", "token_embd.", "output"))] or sizes
        raise UserError(
            f"{file} holds {sum(sizes.values()):,} parameters, but transformers loads {read:,} (likely left out:"
            f" {shorten_list(extra, 4)}): scores would be wrong. Use the model's original checkpoint."
        )


def _block(name: str) -> int:
    """Index of the layer, or -1; layers after the last predict further tokens, and transformers does not use them."""
    number = re.match(r"blk\.(\d+)\.", name)
    return int(number[1]) if number else -1


def _fresh(model: nn.Module) -> nn.Module:
    """A copy that transformers can save: it refuses to save a model that was read from a GGUF file."""
    config = copy.deepcopy(model.config)
    vars(config).pop("quantization_config", None)
    kind: Any = type(model)
    with torch.device("meta"):
        fresh = kind(config)
        if has_own_head(config):
            give_own_head(fresh)
    fresh.load_state_dict(model.state_dict(), assign=True)
    fresh.tie_weights()
    return fresh


def _split_as_said(tokenizer: Any, metadata: Mapping[str, Any]) -> str | None:
    """Sets the pre-tokenizer that the file names on a byte-level tokenizer; returns why it cannot, if it cannot.

    transformers falls back to GPT-2's for a pre-tokenizer that it does not know.
    """
    backend, way = tokenizer.backend_tokenizer, metadata.get("tokenizer.ggml.pre")
    if not isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        return None
    if way in LIKE_GPT2_WITH_SINGLE_DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    elif way not in LIKE_GPT2:
        return f"uses a pre-tokenizer ({way}) that transformers does not know"
    return None
