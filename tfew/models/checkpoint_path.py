"""Resolves the source of a run's model (`tfew.runs.model_source`) to what can be loaded: a folder or a Hub id."""

from pathlib import Path

from tfew.config import local_path
from tfew.environment.versions import require
from tfew.errors import UserError
from tfew.files import hub
from tfew.files.checksums import file_sha256
from tfew.files.hub_files import MODELS, commit_of, fetch
from tfew.models.gguf_checkpoint import converted, why_no_tokenizer
from tfew.runs.model_source import ModelSource

WEIGHT_FILES = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip


def checkpoint_path(source: ModelSource) -> str | None:
    """`model.path`, or the folder that the model's GGUF file was converted to; None: random weights.

    Raises UserError if the model is in a Python package that is not installed, and cannot be had from the Hub either.
    """
    file = source.local_gguf
    if file is None and source.path is not None and source.gguf_file is not None:
        require(f"model.gguf_file={source.gguf_file}", "gguf")
        file = _from_hub(source.path, source.gguf_file, source.revision)
        return str(converted(file, file_sha256(file)))
    if file is not None:
        sha256 = source.gguf_sha256()
        assert sha256 is not None
        return str(converted(file, sha256))
    if source.package is not None and not _is_on_hub(source):
        raise source.package.not_installed_error(source.name)
    return source.path


def tokenizer_path(source: ModelSource, named: str | None) -> str | None:
    """`model.tokenizer` (`named`), else the checkpoint's own; None: bytes."""
    if named is not None:
        return named
    path = checkpoint_path(source)
    if path != source.path and path is not None and (reason := why_no_tokenizer(Path(path))) is not None:
        raise UserError(
            f"The GGUF file {source.local_gguf or source.gguf_file} {reason}: name the model's tokenizer with"
            " model.tokenizer=."
        )
    return path


def is_at_hand(source: ModelSource) -> bool:
    """Whether the weights are local or random; makes no request to the Hub."""
    file = source.local_gguf
    if file is not None:
        return file.is_file()
    if source.path is None or Path(local_path(source.path)).is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache

    names = WEIGHT_FILES if source.gguf_file is None else (source.gguf_file,)
    cached = (try_to_load_from_cache(source.path, name, revision=source.revision) for name in names)
    return any(isinstance(path, str) for path in cached)


def _is_on_hub(source: ModelSource) -> bool:
    from huggingface_hub import try_to_load_from_cache

    if Path(str(source.path)).is_dir() or hub.reachable():
        return True
    cached = try_to_load_from_cache(str(source.path), "config.json", revision=source.revision)
    return isinstance(cached, str)


def _from_hub(path: str, file: str, revision: str) -> Path:
    commit = commit_of(MODELS, path, revision)
    try:
        (found,) = fetch(MODELS, path, commit, [file])
    except UserError as error:
        raise UserError(f"model.path={path} model.gguf_file={file}: {error}") from error
    return found
