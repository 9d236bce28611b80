"""Xet storage, in which the Hub keeps the large files of most repositories, and plain HTTP where it cannot be loaded.

huggingface_hub goes to it, by the package hf_xet, wherever that is installed and the Hub names it. It is on other hosts
than the Hub's pages, so a firewall may let one through and not the other; hf_xet then tries for minutes and gives up.
The Hub has the same files over HTTP (up to 50 GB each).
"""

import logging
import os
import re
from collections.abc import Callable
from typing import TypeVar

from tfew.files.hub import chain

log = logging.getLogger(__name__)
T = TypeVar("T")

# of hf_xet, for a host that does not answer: half a minute in all, and not six; whoever sets them himself knows better
PATIENCE = {"HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "2", "HF_XET_CLIENT_CONNECT_TIMEOUT": "10s"}
OF_XET = re.compile(r"\bCAS\b|[Xx]et\b|xet-(read|write)-token|^(Task|Network) error: ")  # in what hf_xet raises


def or_over_http(call: Callable[[], T], what: str) -> T:
    """What `call` returns; where Xet storage cannot be loaded, it is made once more without, as is all that follows."""
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
    """What went wrong with Xet storage; None where something else did, or it is not used."""
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
