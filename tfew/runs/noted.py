"""What a run notes of where its model and data came from: commits of the Hub, and a digest of the base's weights.

It stands among the settings, so that whoever has them has the same files again, but gives a run no other name: the
same run on another day is the same run.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tfew.errors import UserError
from tfew.files.hub import hub_id
from tfew.files.hub_errors import cannot_be_loaded
from tfew.files.hub_files import DATASETS, MODELS, commit_of, known_commit
from tfew.runs.model_source import model_source, tokenizer_revision

COMMIT, TOKENIZER_COMMIT, SAMPLE = "commit", "tokenizer_commit", "weights_sample_sha256"
OF_MODEL = (COMMIT, TOKENIZER_COMMIT, SAMPLE)
REVISIONS = {COMMIT: ("revision",), TOKENIZER_COMMIT: ("tokenizer_revision", "tokenizer")}  # said instead of a commit


def is_noted(key: str) -> bool:
    """Whether a dotted key of the settings is such."""
    group, _, last = key.rpartition(".")
    return (group == "model" and last in OF_MODEL) or (group.startswith("dataset.") and key.endswith(f".hub.{COMMIT}"))


def note_commits(config: DictConfig) -> None:
    """Notes, in place, which commits the model, its tokenizer and the data that were loaded from the Hub are of.

    Raises UserError where the model's cannot be known.
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
    """Notes the digest of the base's weights; raises UserError where the settings, a run's, have another one."""
    before = config.model.get(SAMPLE)
    if before not in (None, sha256):
        raise UserError(
            f"The weights of {config.model.path or config.model.name} are not those that this run was begun with (a"
            f" digest of a sample of them is {sha256[:12]}, and was {before[:12]}): bring them back, or begin anew."
        )
    note(config, f"model.{SAMPLE}", sha256)


def note(config: DictConfig, key: str, value: str | None) -> None:
    OmegaConf.update(config, key, value, force_add=True)


def keep_to(config: DictConfig, saved: Mapping[str, Any]) -> None:
    """Takes over, in place, what an unfinished run with these settings has noted."""
    for key in OF_MODEL:
        if (value := saved["model"].get(key)) is not None:
            note(config, f"model.{key}", value)
    theirs = dict(hub_sections(OmegaConf.create({"dataset": saved["dataset"]})))
    for key, _ in hub_sections(config):
        if key in theirs and theirs[key].get(COMMIT) is not None:
            note(config, f"{key}.{COMMIT}", theirs[key][COMMIT])


def noted_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Dotted keys of what both have noted, and differently."""
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
    """The key and the section `hub` of the data set, or of each member of a mixture, where it has one."""
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
