"""Xet storage, in which the Hub keeps the large files of most repositories, with fallback to plain HTTP.

huggingface_hub uses it, through the package hf_xet, if that is installed and the Hub names it. It is on other hosts
than the Hub's pages, so a firewall may allow one and not the other; hf_xet then tries for minutes and gives up.
The Hub serves the same files over HTTP (up to 50 GB each).
"""

import logging
import os
import re
from collections.abc import Callable
from typing import TypeVar

from tfew.files.hub import chain

log = logging.getLogger(__name__)
T = TypeVar("T")

# settings of hf_xet for a host that does not answer: half a minute in all, not six; a user's own values take precedence
PATIENCE = {"HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "2", "HF_XET_CLIENT_CONNECT_TIMEOUT": "10s"}
OF_XET = re.compile(r"\bCAS\b|[Xx]et\b|xet-(read|write)-token|^(Task|Network) error: ")  # in errors of hf_xet


def or_over_http(call: Callable[[], T], what: str) -> T:
    """Calls `call` and returns its result; if Xet storage fails, retries without it, as do all later calls."""
    from huggingface_hub import constants

    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    try:
        return call()
    except Exception as error:
        if (reason := xet_trouble(error)) is None:
            raise
        log.info(f"{what}: Xet storage cannot be loaded ({reason}); over HTTP instead, as HF_HUB_DISABLE_XET=1 does.")
        constants.HF_HUB_DISABLE_XET = True
    return call()


def xet_trouble(error: BaseException) -> str | None:
    """The reason why Xet storage failed; None for any other error, or if it is not used."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_DISABLE_XET:
        return None
    for one in chain(error):
        if isinstance(one, HfHubHTTPError):
            if "/xet-" in one.response.url.path:
                return f"the Hub answers {one.response.status_code} when asked for the way there"
        elif isinstance(one, RuntimeError | OSError) and OF_XET.search(str(one)):
            return " ".join(str(one).split())[:200]
    return None
