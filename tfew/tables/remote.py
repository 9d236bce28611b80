"""Files in an object store or elsewhere on the network (s3://, gs://, https://...), by fsspec, which datasets installs.

The store's own library (s3fs, gcsfs) must be installed; keys and end points are configured as that library expects.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from tfew.errors import UserError

URL = re.compile(r"[a-z][a-z0-9+.-]+://")
BUFFER_BYTES = 2**20


def is_url(path: str) -> bool:
    return URL.match(path) is not None


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system for this URL, and the path there; raises UserError if no library supports it."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
        return system, str(path)
    except (ImportError, ValueError) as error:
        raise UserError(f"{url} cannot be reached: {_one_line(error)}.") from error


def open_url(url: str) -> tuple[BinaryIO, int]:
    """Opens it for reading; also its size in bytes. Raises UserError if it does not exist."""
    system, path = file_system(url)
    with store_errors(url):
        size = int(system.info(path)["size"])
        return io.BufferedReader(system.open(path, "rb"), BUFFER_BYTES), size


@contextmanager
def store_errors(url: str) -> Iterator[None]:
    """Turns a store's errors into one sentence: its libraries raise OSError, and some errors of their own."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{url} does not exist.") from error
    except OSError as error:
        raise UserError(f"{url}: {_one_line(error)}.") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] in ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google"):
            raise UserError(f"{url}: {_one_line(error)}.") from error
        raise


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
