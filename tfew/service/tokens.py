"""Who may use the service: named tokens with rights, sent as `Authorization: Bearer TOKEN`."""

import hashlib
import hmac
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tfew.errors import UserError
from tfew.files.regular import read_text

log = logging.getLogger("tfew.service.audit")

PREDICT, MANAGE = "predict", "manage"
RIGHTS = (PREDICT, MANAGE)
LINE = re.compile(r"(?P<name>[\w.-]{1,64}):\s*(?P<token>\S+)(?P<rights>(\s+[a-z]+)+)")
MIN_CHARACTERS = 16
MAX_FILE_BYTES = 10**6
ENVIRONMENT = "env:"
OPEN = {"/", "/healthz"}  # the page, without data; the health check


@dataclass(frozen=True)
class Owner:
    name: str
    rights: frozenset[str]


class Tokens:
    """Keeps only hashes, so that the time of a comparison does not depend on a token's prefix."""

    def __init__(self, owners: Mapping[bytes, Owner]) -> None:
        self._owners = owners

    @classmethod
    def parse(cls, text: str, where: str) -> "Tokens":
        """Parses lines `name: token rights`; skips empty ones and those that begin with #."""
        owners: dict[bytes, Owner] = {}
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            digest, owner = _owner(line.strip(), f"{where}, line {number}")
            if digest in owners or owner.name in {other.name for other in owners.values()}:
                raise UserError(f"{where}, line {number} has a name or a token that already exists.")
            owners[digest] = owner
        if not owners:
            raise UserError(f"{where} holds no token: each line is `name: token rights`, rights being {_known()}.")
        return cls(owners)

    def owner(self, token: str) -> Owner | None:
        """Compares with all tokens, to take constant time."""
        digest = _digest(token)
        found = [owner for own, owner in self._owners.items() if hmac.compare_digest(own, digest)]
        return found[0] if found else None


def load_tokens(source: str) -> Tokens:
    """`token=`: a file, or `env:NAME`, a variable of the environment; raises UserError."""
    if source.startswith(ENVIRONMENT):
        name = source.removeprefix(ENVIRONMENT)
        if not os.environ.get(name):
            raise UserError(f"token={source}: the environment variable {name} is not set.")
        return Tokens.parse(os.environ[name], f"token={source}")
    path = Path(source).expanduser()
    try:
        return Tokens.parse(read_text(path, MAX_FILE_BYTES), f"token={source}")
    except (OSError, ValueError) as error:
        raise UserError(f"token={source} cannot be read ({error}): name a file, or env:NAME.") from error


def _owner(line: str, where: str) -> tuple[bytes, Owner]:
    """Messages never show the line: it may hold a token."""
    match = LINE.fullmatch(line)
    if match is None:
        raise UserError(f"{where} is not `name: token rights`, rights being {_known()}.")
    rights = match["rights"].split()
    if unknown := set(rights) - set(RIGHTS):
        raise UserError(f"{where}: there is no right {sorted(unknown)[0]!r}, only {_known()}.")
    if len(match["token"]) < MIN_CHARACTERS:
        raise UserError(
            f"{where}: a token has at least {MIN_CHARACTERS} characters (`openssl rand -hex 24` makes one)."
        )
    return _digest(match["token"]), Owner(match["name"], frozenset(rights))


def _known() -> str:
    return " and ".join(RIGHTS)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


class TokenMiddleware:
    """ASGI middleware: 401 without a known token, 403 without the right; before the body is read."""

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self.app, self.tokens = app, tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["path"] in OPEN and scope["method"] in ("GET", "HEAD")):
            return await self.app(scope, receive, send)
        kind, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        owner = self.tokens.owner(token.strip()) if kind.lower() == "bearer" else None
        if owner is None:
            return await _refuse(401, "A token is needed: Authorization: Bearer TOKEN.", scope, receive, send)
        right = needed_right(scope["path"], scope["method"])
        if right not in owner.rights:
            return await _refuse(403, f"The token of {owner.name} lacks the right {right!r}.", scope, receive, send)
        scope["tfew.client"] = owner.name
        await self.app(scope, receive, send)


def needed_right(path: str, method: str) -> str:
    return MANAGE if path.startswith("/tasks") and method not in ("GET", "HEAD") else PREDICT


async def _refuse(status: int, why: str, scope: Scope, receive: Receive, send: Send) -> None:
    log.warning(f"{status} for {scope['method']} of {(scope.get('client') or ('?',))[0]}, {scope['tfew.request_id']}")
    headers = {"www-authenticate": "Bearer"} if status == 401 else {}
    await JSONResponse({"detail": why}, status, headers)(scope, receive, send)
