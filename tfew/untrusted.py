"""Text that a stranger may have sent, as JSON or YAML: data and nothing else, or ValueError.

Python's own reader raises RecursionError on what is nested deeply. YAML's safe loader makes no objects, but an alias
lets a small file stand for one that no memory holds; no file of this project needs any.
"""

import json
from typing import Any

import yaml


def parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_yaml(text: str) -> Any:
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, yaml.SafeLoader)):
            raise ValueError("it has aliases (*name)")
        return yaml.load(text, yaml.SafeLoader)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
