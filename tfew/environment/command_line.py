"""A command line before anything heavy is imported: `--help`, settings that were renamed, names that are no settings.

`tfew COMMAND` looks at it before it imports the command, and `python -m tfew.COMMAND` before Hydra composes.
"""

import logging
import sys
from collections.abc import Sequence

from tfew.config import check_keys
from tfew.environment.help_text import short_help
from tfew.environment.verbosity import messages_to_stderr
from tfew.environment.versions import check_versions
from tfew.errors import UserError

log = logging.getLogger(__name__)

# renamed settings: {old: new}. The old name works for one more release, with a warning
RENAMED: dict[str, str] = {"method.layers": "method.targets", "method.linears": "method.targets"}
# settings of older adapters that methods still accept, but that no file of configs/method has
FORMER = (
    "method.keys_values", "method.fused_keys_values", "method.feed_forward_linear_branch", "method.feed_forward_first",
    "method.feed_forward_second",
)  # fmt: skip


def check_command_line(config_name: str) -> None:
    """Ends the process after `--help`, and with one sentence for a setting that does not exist.

    Otherwise `sys.argv` holds the settings under their present names.
    """
    messages_to_stderr()
    if {"--help", "-h"} & {*sys.argv[1:]}:
        if sys.argv[1:] != ["--help", "all"]:
            print(short_help(config_name))
            sys.exit()
        sys.argv[1:] = ["--help"]  # Hydra's own
        return
    try:
        check_versions()
        sys.argv[1:] = with_new_names(sys.argv[1:])
        check_keys(sys.argv[1:], config_name)
    except UserError as error:
        sys.exit(str(error))


def with_new_names(arguments: Sequence[str]) -> list[str]:
    """The command line with renamed settings under their new names; warns about each."""
    renamed = []
    for argument in arguments:
        marked, equals, value = argument.partition("=")
        key = marked.lstrip("+~")
        if key in RENAMED:
            log.warning(f"{key}= is now called {RENAMED[key]}=; the next release removes the old name.")
            marked = marked.removesuffix(key) + RENAMED[key]
        if key in FORMER and not marked.startswith("++"):
            log.warning(f"{key}= is the setting of before version 0.3; use method.targets= instead.")
            marked = f"++{key}"
        renamed.append(marked + equals + value)
    return renamed
