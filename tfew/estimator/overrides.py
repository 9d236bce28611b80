"""An estimator's parameters as settings of the command line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfew.config import compose
from tfew.data.cells import is_missing, plain, shown
from tfew.environment.command_line import option_names
from tfew.errors import UserError, unknown_value_error
from tfew.estimator.classes import as_pairs

# parameters whose setting has another name, or whose None is a value of it
RENAMED = {"lr": "optimizer.lr", "random_state": "few_shot_seed"}
NONE_MEANS_NONE = ("folds", "validation")
# settings that the estimator sets itself
OWN = ("data", "dataset", "data_dir", "text", "label", "runs", "run_dir", "resume", "overwrite", "train_together")
MAX_SEED = 2**31 - 1


def as_settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by key. Raises UserError for parameters that the estimator does not accept."""
    for group in ("experiment", "method"):
        if (name := parameters[group]) is not None and name not in (names := option_names(group)):
            raise unknown_value_error(group, name, names, f"{group}=")
    given = {
        RENAMED.get(name, name): _value(name, value)
        for name, value in parameters.items()
        if name not in ("experiment", "model", "settings", "verbose") and (value is not None or name in NONE_MEANS_NONE)
    }
    return {**_model(parameters["model"]), **given, **_others(parameters["settings"], given)}


def held_out(experiment: str) -> dict[str, Any]:
    """`folds` and `validation` of an experiment's own."""
    config = compose(f"+experiment={experiment}")
    return {"folds": config.folds, "validation": config.validation}


def _value(name: str, value: Any) -> Any:
    if name in ("template", "choices"):
        _refuse_references(name, value)
    if name == "choices":
        return _choices(value)
    if name == "random_state":
        return _seed(value)
    return value.item() if isinstance(value, np.generic) else value


def _refuse_references(name: str, value: Any) -> None:
    """Raises UserError for a text that the configuration would read as a reference to another setting."""
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        for part in value:
            _refuse_references(name, part)
    elif "${" in str(value):
        raise UserError(
            f"{name}={shown(value)} holds '${{', which refers to another setting: in a template write {{{{ '$' }}}}"
            " for such a dollar sign, elsewhere leave it out."
        )


def _choices(choices: Any) -> Any:
    if isinstance(choices, Mapping):
        if lacking := [label for label, words in choices.items() if is_missing(plain(words))]:
            raise UserError(f"choices= has no words for the label {shown(lacking[0])}: give some, or leave it out.")
        return as_pairs(dict(choices))
    if isinstance(choices, list | tuple):
        if any(is_missing(plain(words)) for words in choices):
            raise UserError(f"choices={shown(choices)} holds an empty one: give each label words.")
        return list(choices)
    raise UserError(
        f"choices={shown(choices)}: a classifier has the same labels for all rows, so choices are words for them,"
        " {label: words} or a list. Rows with choices of their own are for tfew.api.train."
    )


def _seed(state: Any) -> int:
    """The seed; drawn, if `state` is a generator."""
    if isinstance(state, np.random.RandomState):
        return int(state.randint(MAX_SEED))
    if isinstance(state, np.random.Generator):
        return int(state.integers(MAX_SEED))
    if not isinstance(state, int | np.integer):
        raise UserError(f"random_state={shown(state)} is neither a whole number nor a generator of numpy.")
    return int(state)


def _model(model: str | Path | None) -> dict[str, str]:
    """Settings for a name of the project's list, or for a folder, a file or a Hub repository."""
    if model is None:
        return {}
    if not isinstance(model, str | Path):
        raise UserError(f"model={shown(model)} is neither a name nor a path.")
    names = option_names("model")
    if str(model) in names:
        return {"model": str(model)}
    if "/" not in str(model) and not Path(model).exists():
        raise unknown_value_error("model", model, names, "model=; or a folder, or OWNER/NAME on the Hub")
    return {"model.path": str(model)}


def _others(settings: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """`settings=`, with dots or two underscores in its keys."""
    if settings is None:
        return {}
    if not isinstance(settings, Mapping):
        raise UserError(f"settings={shown(settings)} must be a mapping, as in settings={{'loss': 'lm'}}.")
    others = {str(key).replace("__", "."): value for key, value in settings.items()}
    for key in others:
        if key in given:
            raise UserError(f"settings= names {key}, which is also given as a parameter: give it once.")
        if key in OWN:
            raise UserError(f"settings= names {key}, which a classifier sets itself, from its rows and labels.")
    return others
