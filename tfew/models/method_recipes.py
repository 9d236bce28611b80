"""Finds the methods of configs/method/ by their arguments, or by their name in HF peft."""

from collections.abc import Mapping
from typing import Any

from hydra.utils import get_class
from omegaconf import OmegaConf

from tfew.environment.config_folder import CONFIGS
from tfew.errors import unknown_value_error
from tfew.models.method_builder import method_arguments


def named_recipe(description: dict[str, Any]) -> dict[str, Any]:
    """The method's YAML with exactly these arguments, if there is one: an adapter file has lengths, but no name."""
    for known in _recipes():
        same = method_arguments(known) == method_arguments(description)
        if same and known["_target_"] == description["_target_"]:
            return known
    return description


def recipe_for_peft(preferred: Mapping[str, Any], peft_type: Any) -> dict[str, Any]:
    """`preferred` if it has this name in peft, else the first method in `configs/method/` that has."""
    plain = [recipe for recipe in _recipes() if "_target_" in recipe and "defaults" not in recipe]  # others vary these
    known: dict[str, Any] = {}
    for recipe in [*reversed(plain), dict(preferred)]:
        known |= dict.fromkeys(get_class(recipe["_target_"]).peft_types, recipe)  # type: ignore[attr-defined]
    if peft_type not in known:
        raise unknown_value_error("peft_type", peft_type, sorted(known), "adapter_config.json")
    return dict(known[peft_type])


def _recipes() -> list[dict[str, Any]]:
    found = []
    for path in sorted((CONFIGS / "method").glob("*.yaml")):
        recipe = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        assert isinstance(recipe, dict)
        found.append({str(key): value for key, value in recipe.items()})
    return found
