"""Rules of configs/backbone for the classes of model families; one file per family.

The keys are names of transformers' classes, so models that share a class share its rule:

    ClassOfAttention:
      fused: qkv_proj         # one matrix makes queries, keys and values ...
      groups: 1               # ... as [queries | keys | values], so many times; or cases, see `number`
      qkv: [Wq, Wk, Wv]       # names of the matrices of queries, keys and values
      keys_values: [kv_proj]  # matrices that make keys and values and nothing else
      heads_first: true       # the norm of keys sees [B, heads, L, D], not [B, L, heads, D]
      allows: [rotary]        # further children that change neither keys nor values, and that no method takes
    ClassOfFeedForward:
      second: dense           # the matrix that the inner activation enters
      first: [up]             # those beside them that make it
      unused: true            # a layer that text alone does not run
      experts: split          # experts whose matrices are 3-D parameters: see `tfew.methods.experts`

`groups: [{when: ATTRIBUTE, is: NUMBER_OR_ATTRIBUTE}, ...]` takes the first case whose attribute of the module is true.
"""

from collections.abc import Mapping
from functools import cache
from operator import attrgetter
from typing import Any

import yaml
from torch import nn

from tfew.environment.config_folder import CONFIGS


@cache
def _rules() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((CONFIGS / "backbone").glob("*.yaml")):
        for name, rule in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            if name in found:
                raise ValueError(f"configs/backbone has two rules for {name}")
            found[name] = rule or {}
    return found


def rule_for(module: nn.Module) -> Mapping[str, Any]:
    """The rule of the module's class; empty if there is none."""
    return next((_rules()[kind.__name__] for kind in type(module).__mro__ if kind.__name__ in _rules()), {})


def number(rule: Any, module: Any) -> int:
    """A number, the (dotted) name of an attribute of the module that is one, or the first case that holds."""
    if isinstance(rule, list):
        rule = next(case["is"] for case in rule if "when" not in case or getattr(module, case["when"]))
    return rule if isinstance(rule, int) else int(attrgetter(rule)(module))
