"""Builds a method from the keys of its YAML, checked against the signature of its class."""

from collections.abc import Mapping, Sequence
from inspect import isabstract, signature
from typing import Any, get_type_hints

from hydra.utils import get_class

from tfew.errors import UserError
from tfew.files.untrusted import validated
from tfew.methods.base import Method

# keys of a method's YAML that are not its arguments: its name and the recipe that train.yaml takes from it
NOT_ARGUMENTS = ("name", "_target_", "steps", "lr", "scale_parameter")


def make_method(description: Mapping[str, Any]) -> Method:
    """`description`: all keys of the YAML; raises UserError for an invalid class or invalid arguments."""
    arguments = method_arguments(description)
    try:
        kind = get_class(description["_target_"])
    except Exception as error:
        raise UserError(f"There is no method {description['_target_']!r} (method._target_).") from error
    if not issubclass(kind, Method) or isabstract(kind):
        raise UserError(f"method._target_={description['_target_']} is not a tfew.methods.base.Method.")
    _check_arguments(kind, arguments)
    return kind(**arguments)


def method_arguments(description: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's arguments among the keys of a method's YAML."""
    return {key: value for key, value in description.items() if key not in NOT_ARGUMENTS}


def _check_arguments(kind: type[Method], arguments: Mapping[str, Any]) -> None:
    """Checks names and types of a method's arguments, from a user or a file, against the constructor's signature."""
    known = get_type_hints(kind.__init__)
    known.pop("return", None)
    needed = {name for name, argument in signature(kind).parameters.items() if argument.default is argument.empty}
    if wrong := sorted((arguments.keys() - known.keys()) | (needed - arguments.keys())):
        raise UserError(
            f"unknown or missing keys of method.: {', '.join(wrong)}; {kind.__name__} takes"
            f" {', '.join(known) or 'nothing'}."
        )
    for name, value in arguments.items():
        hint = known[name]
        least = 0 if name in kind.may_be_zero else 1
        good = {
            bool: (isinstance(value, bool), "true or false"),
            int: (type(value) is int and value >= least, f"a whole number of at least {least}"),
            float: (type(value) in (int, float), "a number"),
            str: (isinstance(value, str), "text"),
            Sequence[str]: (_is_list_of_text(value), "a list of names, such as [a,b]"),
            Sequence[str] | None: (value is None or _is_list_of_text(value), "a list of names, such as [a,b]"),
        }.get(hint, (True, ""))
        if not good[0]:
            raise UserError(f"method.{name}={value} is not {good[1]}.")
        try:
            validated(value, hint)
        except ValueError as error:
            raise UserError(f"method.{name}={value} has the wrong type ({error}).") from error


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
