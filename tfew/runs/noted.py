"""What a run records about its model and data: commits on the Hub, and digests of the base's weights and of the rows.

It is stored in the settings, so that they identify the same files later, but does not change a run's name: the same
run on another day is the same run.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tfew.errors import UserError
from tfew.files.hub import hub_id
from tfew.files.hub_errors import cannot_be_loaded
from tfew.files.hub_files import DATASETS, MODELS, commit_of, known_commit
from tfew.runs.model_source import model_source, tokenizer_revision
from tfew.schema import Example

COMMIT, TOKENIZER_COMMIT, SAMPLE = "commit", "tokenizer_commit", "weights_sample_sha256"
ROWS = "rows_sha256"  # by what they are for
ADDRESS = re.compile(" at 0x[0-9a-fA-F]+")  # in memory, of a cell that is an object, such as an image
OF_MODEL = (COMMIT, TOKENIZER_COMMIT, SAMPLE)
REVISIONS = {COMMIT: ("revision",), TOKENIZER_COMMIT: ("tokenizer_revision", "tokenizer")}  # keys set instead


def is_noted(key: str) -> bool:
    """Whether a dotted key of the settings is one of these records."""
    group, _, last = key.rpartition(".")
    of_data = group.startswith("dataset.") and key.endswith(f".hub.{COMMIT}")
    return (group == "model" and last in OF_MODEL) or of_data or group == ROWS


def note_commits(config: DictConfig) -> None:
    """Records, in place, the commits of the model, the tokenizer and the data that were loaded from the Hub.

    Raises UserError if the model's is unknown.
    """
    note_model_commits(config)
    for key, hub in hub_sections(config):
        found = known_commit(DATASETS, str(hub.id), str(hub.revision))
        if found is not None and not hub.get(COMMIT):
            note(config, f"{key}.{COMMIT}", found)


def note_model_commits(config: DictConfig) -> None:
    model, source = config.model, model_source(config)
    if source.local_gguf is None and hub_id(model.path) and not model.get(COMMIT):
        try:
            commit = _commit("model.path", model.path, source.revision)
        except UserError as error:
            raise error if source.package is None else source.package.not_installed_error(source.name) from error
        note(config, f"model.{COMMIT}", commit)
    if hub_id(model.tokenizer) and model.tokenizer != model.path and not model.get(TOKENIZER_COMMIT):
        revision = tokenizer_revision(config)
        note(config, f"model.{TOKENIZER_COMMIT}", _commit("model.tokenizer", model.tokenizer, revision))


def note_sample(config: DictConfig, sha256: str) -> None:
    """Records the digest of the base's weights; raises UserError if the settings of a run have another one."""
    before = config.model.get(SAMPLE)
    if before not in (None, sha256):
        raise UserError(
            f"The weights of {config.model.path or config.model.name} are not those that this run was begun with (a"
            f" digest of a sample of them is {sha256[:12]}, and was {before[:12]}): restore them, or start a new run."
        )
    note(config, f"model.{SAMPLE}", sha256)


def note_rows(config: DictConfig, **rows: Sequence[Example]) -> None:
    """Records a digest of these rows; raises UserError if the run to resume was begun with others."""
    for use, examples in rows.items():
        ordered = (replace(example, fields=dict(sorted(example.fields.items()))) for example in examples)
        text = ADDRESS.sub("", "\n".join(map(repr, ordered)))
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        if (before := OmegaConf.select(config, f"{ROWS}.{use}")) not in (None, digest):
            raise UserError(
                f"The {use} rows of {config.dataset.name} are not those that this run was begun with (sha256"
                f" {digest[:12]}, and was {before[:12]}): restore their files, or start over with overwrite=true."
            )
        note(config, f"{ROWS}.{use}", digest)


def note(config: DictConfig, key: str, value: Any) -> None:
    OmegaConf.update(config, key, value, force_add=True)


def keep_to(config: DictConfig, saved: Mapping[str, Any]) -> None:
    """Copies into `config`, in place, what an unfinished run with these settings has recorded."""
    if saved.get(ROWS):
        note(config, ROWS, saved[ROWS])
    if saved["dataset"].get("held_out"):  # how an earlier version drew them
        OmegaConf.update(config, "dataset.held_out", saved["dataset"]["held_out"], merge=False)
    for key in OF_MODEL:
        if (value := saved["model"].get(key)) is not None:
            note(config, f"model.{key}", value)
    theirs = dict(hub_sections(OmegaConf.create({"dataset": saved["dataset"]})))
    for key, _ in hub_sections(config):
        if key in theirs and theirs[key].get(COMMIT) is not None:
            note(config, f"{key}.{COMMIT}", theirs[key][COMMIT])


def noted_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Dotted keys that both have recorded, with different values."""
    flat_ours, flat_theirs = (dict(_noted(settings)) for settings in (ours, theirs))
    return [
        f"{key}: {flat_theirs[key]} there, {flat_ours[key]} here"
        for key in sorted(flat_ours.keys() & flat_theirs.keys())
        if flat_ours[key] != flat_theirs[key]
    ]


def _noted(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _noted(value, f"{prefix}{key}.")
        elif value is not None and is_noted(f"{prefix}{key}"):
            yield f"{prefix}{key}", value


def hub_sections(config: DictConfig) -> Iterator[tuple[str, Any]]:
    """Key and section `hub` of the data set, or of each member of a mixture, if it has one."""
    members = config.dataset.get("members")
    for key in ["dataset"] if members is None else [f"dataset.members.{name}" for name in members]:
        hub = OmegaConf.select(config, f"{key}.hub")
        if hub is not None and hub.get("id") is not None:
            yield f"{key}.hub", hub


def _commit(knob: str, path: str, revision: str) -> str:
    try:
        return commit_of(MODELS, path, revision)
    except UserError as error:
        raise cannot_be_loaded(knob, path, error) from error
