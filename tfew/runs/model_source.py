"""Where the base model of a run comes from: a folder, the Hub, a GGUF file, or a Python package that contains one."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from tfew.config import CONFIGS, is_gguf, local_path
from tfew.environment.package_files import package_file, recorded_sha256
from tfew.errors import UserError
from tfew.files.checksums import file_sha256


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file in an installable Python package (`model.package`); `install`: the command that installs it."""

    name: str
    file: str
    install: str

    def not_installed_error(self, model: str) -> UserError:
        """The error if the model (its name) cannot be loaded from the Hub either."""
        return UserError(
            f"model={model} is in the Python package {self.name}, which is not installed, and cannot be loaded from the"
            f" Hub: {self.install} installs it, or name a folder or GGUF file with model.path=."
        )


@dataclass(frozen=True)
class ModelSource:
    """`revision`: branch, tag or commit. `is_named`: `path` and `gguf_file` are those of its file in configs/model;
    only then is `package` used.
    """

    name: str
    path: str | None
    revision: str
    gguf_file: str | None
    is_named: bool
    package: PackagedModel | None

    @property
    def local_gguf(self) -> Path | None:
        """The local GGUF file that the model is read from; None if it comes from elsewhere."""
        if self.path is None:
            return None
        if is_gguf(self.path):
            return Path(self.path)
        if self.gguf_file is not None:
            folder = Path(local_path(self.path))
            return folder / self.gguf_file if folder.is_dir() else None
        return None if self.package is None else package_file(self.package.name, self.package.file)

    def gguf_sha256(self) -> str | None:
        """The local GGUF file's checksum; raises UserError if it differs from the one that its package records."""
        file = self.local_gguf
        if file is None or not file.is_file():
            return None
        state = file.stat()
        sha256 = _sha256(file, state.st_size, state.st_mtime_ns)
        if self.package is not None and recorded_sha256(self.package.name, self.package.file) not in (None, sha256):
            raise UserError(f"{file} is damaged or has been changed: install {self.package.name} again.")
        return sha256


def model_source(config: DictConfig) -> ModelSource:
    """`model=`; settings of older runs lack some of its keys."""
    model = config.model
    name, path, gguf_file = str(model.name), model.path, model.get("gguf_file")
    is_named = path is not None and (path, gguf_file) == _named_source(name)
    package = _packaged(model.get("package")) if is_named else None
    return ModelSource(name, path, model.get("commit") or model.revision, gguf_file, is_named, package)


def tokenizer_revision(config: DictConfig) -> str:
    """The revision of `model.tokenizer`, which may be in another repository than the model."""
    model = config.model
    if model.tokenizer in (None, model.path):
        return model_source(config).revision
    return str(model.get("tokenizer_commit") or model.get("tokenizer_revision") or "main")


def _packaged(package: Mapping[str, str] | None) -> PackagedModel | None:
    if package is None:
        return None
    try:
        return PackagedModel(**package)
    except TypeError as error:
        raise UserError(f"model.package={package} does not have the keys name, file and install.") from error


@cache
def _named_source(name: str) -> tuple[str | None, str | None]:
    """`path` and `gguf_file` of a file in configs/model; each file has its own path, so Hydra is not needed."""
    model = _named_model(name)
    return OmegaConf.select(model, "path"), OmegaConf.select(model, "gguf_file")


@cache
def named_tokenizer(name: str) -> str | None:
    """`tokenizer` of a file in configs/model."""
    found: str | None = OmegaConf.select(_named_model(name), "tokenizer")
    return found


def _named_model(name: str) -> DictConfig:
    """Empty if there is none; a name from untrusted settings cannot lead to another folder."""
    file = CONFIGS / "model" / f"{name}.yaml"
    is_there = file.parent == CONFIGS / "model" and file.is_file()
    found = OmegaConf.load(file) if is_there else OmegaConf.create()
    assert isinstance(found, DictConfig)
    return found


@cache
def _sha256(file: Path, size: int, changed_ns: int) -> str:
    """Cached until the file's size or time changes."""
    return file_sha256(file)
