"""Turns the libraries' errors about the Hub into messages with cause and remedy."""

import errno

from tfew.errors import UserError
from tfew.files.hub import chain

TOKEN_HELP = "log in with `hf auth login`, or set HF_TOKEN"


def cannot_be_loaded(knob: str, path: str, reason: object) -> UserError:
    """The error for a model or tokenizer that this setting names."""
    return UserError(
        f"{knob}={path} cannot be loaded: {reason} Name a local folder with {knob}=, or use model=tiny, which needs no"
        " download."
    )


def explain(error: BaseException, id: str, kind: str = "models") -> str | None:
    """One clause, without its full stop, on why a download from repository `id` failed; None: not a Hub error.

    The most specific exception of the whole chain is used.
    """
    found = [clause for one in chain(error) if (clause := _explain_one(one, id, kind)) is not None]
    return min(found)[1] if found else None


def _explain_one(error: BaseException, id: str, kind: str) -> tuple[int, str] | None:
    """The clause, and how unspecific it is (0: the actual cause)."""
    from huggingface_hub import constants, errors

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return 0, (
            f"the disk is full: make room, or set HF_HOME (now {constants.HF_HOME}) to a larger place; files that came"
            " whole are kept, and run the same command again to continue with the others"
        )
    if isinstance(error, errors.GatedRepoError) or "is a gated" in str(error):  # datasets says it in its own words
        return 0, _explain_gated(id, kind)
    if isinstance(error, errors.RevisionNotFoundError):
        return 1, "there is no such revision: `main`, a tag, or a commit in full"
    if isinstance(error, errors.HfHubHTTPError):
        return _explain_status(error, kind)
    if isinstance(error, errors.HTTPError):
        return 4, f"the connection to the Hub broke ({str(error) or type(error).__name__}): try again later"
    if "Consistency check failed" in str(error):
        return 3, "a file came incompletely: try again, files that came whole are kept"
    return None


def _explain_gated(id: str, kind: str) -> str:
    from huggingface_hub import constants, get_token

    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'datasets' else ''}{id}"
    if get_token() is None:
        return f"its owner asks to accept conditions: do so on {page}, and {TOKEN_HELP}"
    return f"its owner asks to accept conditions, which the account of your token has not done: do so on {page}"


def _explain_status(error: object, kind: str) -> tuple[int, str]:
    from huggingface_hub import constants, errors, get_token

    assert isinstance(error, errors.HfHubHTTPError)
    status = error.response.status_code
    said = f"{error.response.headers.get('X-Error-Message', '')} {error}"
    if "Invalid credentials" in said or "Invalid username or password" in said:
        if get_token() is not None:
            return 0, f"the Hub does not accept your token, which may have expired: {TOKEN_HELP} anew, or unset it"
        return 0, f"the Hub asks who you are: {TOKEN_HELP}"
    if isinstance(error, errors.RepositoryNotFoundError):
        seen = "" if get_token() is None else " of your token"
        return 1, f"the Hub has no such {kind[:-1]}, or it is private and not shown to the account{seen}: {TOKEN_HELP}"
    if isinstance(error, errors.EntryNotFoundError):
        return 2, f"a file is not there ({error.response.url.path})"
    if status == 429:
        return 1, f"the Hub has had too many requests from here (429): wait a few minutes, or {TOKEN_HELP}"
    if status >= 500:
        return 1, f"the Hub is out of order (it answers {status}, {constants.ENDPOINT}): try again later"
    return 3, f"the Hub answers {status} ({' '.join(str(error).split())[:200]})"
