"""Whether the Hugging Face Hub can be reached, answered quickly.

The libraries retry a dead connection for most of a minute. Here one attempt is made: if it fails, they are switched to
offline mode, in which cached copies are used and a missing one is an error at once.
"""

import functools
import logging
import os
import re
import socket
import sys
from pathlib import Path
from urllib.parse import urlparse

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECONDS = 3.0  # then only cached copies are used
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@functools.cache
def reachable() -> bool:
    """Whether the Hub answers; if not, logs it once. A proxy counts as reachable, an explicit offline mode does not."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    endpoint = urlparse(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    port = endpoint.port or (443 if endpoint.scheme == "https" else 80)
    try:
        socket.create_connection((endpoint.hostname or "", port), timeout=CONNECT_TIMEOUT_SECONDS).close()
    except OSError as error:
        log.info(f"The Hub ({endpoint.hostname}) cannot be reached ({error}); using cached copies only.")
        _go_offline()
        return False
    return True


def _go_offline() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported ...
    for module, name in (
        ("huggingface_hub.constants", "HF_HUB_OFFLINE"),
        ("datasets.config", "HF_HUB_OFFLINE"),
    ):
        if module in sys.modules:  # ... so a module that is already imported must be changed, too
            setattr(sys.modules[module], name, True)


def hub_id(path: str | None) -> str | None:
    """`path` if it is the id of a model on the Hub and not a local folder."""
    return path if path and HUB_ID.fullmatch(path) and not Path(path).exists() else None
