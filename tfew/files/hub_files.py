"""Files of the Hub in its cache: resolves a revision to a commit, and downloads that commit's missing files.

Downloads are done here and not by transformers, so that one place knows the commit, shows the bar, retries if the Hub
is busy, and never downloads weights twice: if a model's weights are pickles, transformers would also fetch the
safetensors of a bot's pull request.
"""

import json
import logging
import re
import shutil
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from tfew.errors import UserError, shorten_list
from tfew.files import hub
from tfew.files.hub_errors import explain
from tfew.files.hub_xet import or_over_http

log = logging.getLogger(__name__)
COMMIT = re.compile(r"[0-9a-f]{40}")
MODELS, DATASETS = "models", "datasets"
SMALL = (".json", ".txt", ".model", ".jinja", ".tiktoken")  # of a model: its settings and its tokenizer
WHOLE, INDEX = ("model.safetensors", "pytorch_model.bin"), ".index.json"  # by preference
_commits: dict[tuple[str, str, str], str] = {}  # of revisions, as resolved by this process


def commit_of(kind: str, id: str, revision: str) -> str:
    """The commit of this revision of a repository: from the Hub, asked once, else from the cached copy.

    Raises UserError if there is no such repository or revision, or neither Hub nor copy is available.
    """
    if COMMIT.fullmatch(revision):
        return revision
    key = (kind, id, revision)
    if key not in _commits:
        _commits[key] = _asked(kind, id, revision)
    return _commits[key]


def known_commit(kind: str, id: str, revision: str) -> str | None:
    """The commit that `commit_of` or `note_commit` found earlier in this process."""
    return revision if COMMIT.fullmatch(revision) else _commits.get((kind, id, revision))


def note_commit(kind: str, id: str, revision: str, commit: str) -> None:
    _commits[kind, id, revision] = commit


def model_folder(id: str, revision: str, weights: bool, code: bool = False) -> Path:
    """The folder of a model's files in the cache: settings and tokenizer, its own Python `code`, its `weights`.

    Raises UserError if one of them cannot be loaded.
    """
    commit = commit_of(MODELS, id, revision)
    folder = snapshot(MODELS, id, commit)
    if not hub.reachable():
        return _checked_copy(folder, id, revision, weights)
    sizes = file_sizes(id, commit)
    if sizes is None:  # the Hub no longer answers
        return _checked_copy(folder, id, revision, weights)
    endings = (*SMALL, ".py") if code else SMALL
    small = [name for name in sizes if name.endswith(endings) and (code or "/" not in name or name.endswith(".jinja"))]
    fetch(MODELS, id, commit, [name for name in small if "pytorch_model" not in name and INDEX not in name])
    if weights:
        names = _weights(id, commit, sizes)
        _check_space(id, sum(sizes[name] or 0 for name in names if not (folder / name).is_file()))
        fetch(MODELS, id, commit, names)
    note_branch(MODELS, id, revision, commit)
    return folder


def fetch(kind: str, id: str, commit: str, names: Sequence[str]) -> list[Path]:
    """These files of a commit, from the cache or the Hub; raises UserError with the reason if one cannot be loaded."""
    from huggingface_hub import hf_hub_download

    where: dict[str, Any] = {"repo_type": kind[:-1], "revision": commit, "local_files_only": not hub.reachable()}
    found = []
    for name in names:
        path = snapshot(kind, id, commit) / name
        if path.is_file() and ".." not in path.parts:
            found.append(path)
            continue
        what, call = f"{name} of {id}", partial(hf_hub_download, id, name, **where)
        try:
            found.append(Path(or_over_http(partial(hub.patiently, call, what), what)))
        except Exception as error:  # of a dozen kinds
            raise UserError(f"{name} of {id} cannot be loaded: {explained(error, id, kind)}.") from error
    return found


def explained(error: Exception, id: str, kind: str) -> str:
    if not hub.reachable():
        return f"{hub.why_offline()}, and there is no cached copy"
    return explain(error, id, kind) or " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def _asked(kind: str, id: str, revision: str) -> str:
    from huggingface_hub import HfApi

    cached = _cached_commit(kind, id, revision)
    if not hub.reachable():
        if cached is None:
            raise UserError(
                f"{id} (revision {revision}) is not in the Hub's cache here, and {hub.why_offline()}: connect, or name"
                " a local folder or file instead."
            )
        return cached
    api: Any = HfApi()
    info = api.model_info if kind == MODELS else api.dataset_info
    try:
        found = hub.patiently(lambda: info(id, revision=revision, timeout=hub.ANSWER_TIMEOUT_SECONDS), id)
        return _checked_commit(found.sha, id)
    except Exception as error:
        if cached is not None and hub.passing_trouble(error) is not None:
            log.info(f"Note: {id}: {explained(error, id, kind)}; the cached copy is used, commit {cached[:12]}.")
            return cached
        raise UserError(f"{id} (revision {revision}) cannot be loaded: {explained(error, id, kind)}.") from error


def _checked_commit(name: object, id: str) -> str:
    if not COMMIT.fullmatch(str(name)):
        raise ValueError(f"the Hub names no commit of {id}")
    return str(name)


@cache
def file_sizes(id: str, commit: str) -> dict[str, int | None] | None:
    """The files of a model's commit and their sizes; None if the Hub fails and there is a cached copy."""
    from huggingface_hub import HfApi

    try:
        ask = HfApi().model_info
        info = hub.patiently(lambda: ask(id, revision=commit, files_metadata=True), id)
    except Exception as error:  # of a dozen kinds
        if _has_weights(snapshot(MODELS, id, commit)):  # a copy outlives its repository
            log.info(f"Note: {id}: {explained(error, id, MODELS)}; the cached copy is used, commit {commit[:12]}.")
            return None
        raise UserError(f"{id} (commit {commit[:12]}) cannot be loaded: {explained(error, id, MODELS)}.") from error
    return {file.rfilename: file.size for file in info.siblings or ()}


def _weights(id: str, commit: str, names: dict[str, int | None]) -> list[str]:
    """The weight files, in one of the two formats that transformers reads."""
    for whole in WHOLE:
        if whole in names:
            return [whole]
        if whole + INDEX in names:
            (index,) = fetch(MODELS, id, commit, [whole + INDEX])
            return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    gguf = [name for name in names if name.endswith(".gguf")]
    instead = f"set model.gguf_file= ({shorten_list(gguf, 4)})" if gguf else f"there: {shorten_list(names)}"
    raise UserError(f"{id} has no weights as {' or '.join(WHOLE)}: {instead}.")


def _checked_copy(folder: Path, id: str, revision: str, weights: bool) -> Path:
    """The cached copy; raises UserError if weights are needed that are incomplete."""
    if not folder.is_dir():
        raise UserError(f"{id} (revision {revision}) is not in the Hub's cache here, and {hub.why_offline()}.")
    if weights and not _has_weights(folder):
        raise UserError(
            f"The cached copy of {id} lacks weights ({folder}), and {hub.why_offline()}: the download was not finished;"
            " connect, and run the same command again to continue."
        )
    return folder


def _has_weights(folder: Path) -> bool:
    for whole in WHOLE:
        if (folder / whole).is_file():
            return True
        if (index := folder / (whole + INDEX)).is_file():
            parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            return all((folder / part).is_file() for part in parts)
    return False


def _check_space(id: str, bytes_to_come: int) -> None:
    """Logs the size of a download; raises UserError if the disk is too small for it."""
    if not bytes_to_come:
        return
    place = _cache()
    there = next(parent for parent in (place, *place.parents) if parent.is_dir())
    free = shutil.disk_usage(there).free
    if free < bytes_to_come:
        raise UserError(
            f"{id} takes {bytes_to_come / 1e6:,.1f} MB, and {place} has {free / 1e6:,.1f} MB free: make room, or set"
            " HF_HOME to a larger place."
        )
    log.info(f"Downloading {id}, {bytes_to_come / 1e6:,.0f} MB, to {place} ...")


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _repository(kind: str, id: str) -> Path:
    return _cache() / "--".join([kind, *id.split("/")])


def snapshot(kind: str, id: str, commit: str) -> Path:
    return _repository(kind, id) / "snapshots" / commit


def _cached_commit(kind: str, id: str, revision: str) -> str | None:
    """The commit of the branch or tag when its files were last downloaded."""
    path = _repository(kind, id) / "refs" / revision
    if ".." in path.parts or Path(revision).is_absolute():
        return None
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def note_branch(kind: str, id: str, revision: str, commit: str) -> None:
    """Records the branch's commit, as huggingface_hub does for files requested by branch, for use without the Hub."""
    path = _repository(kind, id) / "refs" / revision
    if revision != commit and _cached_commit(kind, id, revision) != commit:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit, encoding="utf-8")
