"""A local Hub: as much of its protocol as huggingface_hub and datasets use, with faults on request.

Repositories are commits in memory. Files of weights go through LFS: their content comes from another host name, as on
the real Hub. `requests` holds what was asked, in order.
"""

import base64
import hashlib
import json
import re
import socket
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS = (".bin", ".safetensors", ".gguf", ".parquet", ".pt")
RESOLVE = re.compile(r"/(?:(datasets)/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)")
API = re.compile(
    r"/api/(models|datasets)/([\w.-]+/[\w.-]+?)"
    r"(?:/(revision|tree|paths-info|preupload|commits?|xet-(?:read|write)-token)/([^/]+)(?:/(.*))?)?"
)
DISCUSSIONS = re.compile(r"/api/models/([\w.-]+/[\w.-]+)/discussions")
CONTENT = re.compile(r"/content/([0-9a-f]{64})")
PULLED = "pull-request"  # for refs/pr/1, whose slashes would be others
NOT_FOUND = {"RepoNotFound": 401, "GatedRepo": 403, "RevisionNotFound": 404, "EntryNotFound": 404}


@dataclass
class Repository:
    """`commits`: files of each, oldest first; the branch main is at the last. `pulled`: of a bot's pull request."""

    kind: str  # models | datasets
    id: str
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    pulled: dict[str, dict[str, bytes]] = field(default_factory=dict)
    token: str | None = None  # that its files are shown for: a gated repository
    private: bool = False
    xet: str | None = None  # the address of the Xet storage that its LFS files are said to be in; "": no token for it

    def commit(self, files: dict[str, bytes]) -> str:
        """Adds files to those of the last commit; returns the name of the new one."""
        whole = {**(self.files(self.head) if self.commits else {}), **files}
        known = json.dumps([self.id, len(self.commits), {name: _sha256(data) for name, data in whole.items()}])
        name = hashlib.sha1(known.encode()).hexdigest()
        self.commits[name] = whole
        return name

    def pull_request(self, files: dict[str, bytes]) -> None:
        """As a bot makes one for weights that are pickles: their safetensors, on top of main."""
        self.pulled = {hashlib.sha1(self.head.encode()).hexdigest(): {**self.files(self.head), **files}}

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    def files(self, revision: str) -> dict[str, bytes]:
        return {**self.commits, **self.pulled}[self.named(revision)]

    def named(self, revision: str) -> str:
        """Raises StopIteration for a revision that there is not."""
        if revision == PULLED:
            return next(iter(self.pulled))
        return (
            self.head if revision == "main" else next(name for name in self.commits | self.pulled if name == revision)
        )


@dataclass
class Fault:
    """`what` befalls requests to this path: a status, "drop", "cut" (in the midst of the body), or seconds of delay."""

    path: str  # a regular expression, searched in "METHOD /path"
    what: Any
    times: int = 10**6
    retry_after: int = 0


class StandIn(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.content: dict[str, bytes] = {}
        self.names: dict[str, str] = {}  # of the files of this content, which a bar shows
        self.valid_tokens = {"hf_good"}
        self.pause = 0.0  # seconds between the tenths of a body: a slow network
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def content_url(self) -> str:
        return f"http://localhost:{self.server_port}"

    def add(self, kind: str, id: str, files: dict[str, bytes], **options: Any) -> Repository:
        repository = self.repositories[kind, id] = Repository(kind, id, **options)
        repository.commit(files)
        return repository

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no matter."""


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _blob_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Refused(Exception):
    pass


class _Handler(BaseHTTPRequestHandler):
    server: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """Not on standard error."""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(f"{self.command} {self.path}")
        if (cut := self._fault()) is None:
            return
        try:
            self._respond(body, cut)
        except _Refused as error:
            code, *words = error.args
            message = words[0] if words else code
            self._send(NOT_FOUND.get(code, 401), message.encode(), {"X-Error-Code": code, "X-Error-Message": message})

    def _fault(self) -> bool | None:
        """Whether the body is to be cut; None where nothing more is to be sent."""
        for fault in self.server.faults:
            if not fault.times or not re.search(fault.path, f"{self.command} {self.path}"):
                continue
            fault.times -= 1
            if isinstance(fault.what, float):
                time.sleep(fault.what)
                continue
            if fault.what == "cut":
                return True
            if fault.what == "drop":
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            else:
                more = {"Retry-After": str(fault.retry_after)} if fault.what == 429 else {}
                self._send(fault.what, b"out of order", more)
            return None
        return False

    def _respond(self, body: bytes, cut: bool) -> None:
        path = unquote(urlsplit(self.path).path).replace("refs/pr/1", PULLED)
        if found := CONTENT.fullmatch(path):
            if self.command == "PUT":
                self.server.content[found[1]] = body
                return self._send(200, b"")
            named = {"Content-Disposition": f'inline; filename="{self.server.names.get(found[1], found[1])}";'}
            return self._send_part(self.server.content[found[1]], named, cut)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.server.valid_tokens:
            raise _Refused("InvalidToken", "Invalid credentials in Authorization header")
        if path == "/api/whoami-v2":
            return self._json({"name": "me", "type": "user", "orgs": [], "auth": {"type": "access_token"}})
        if path == "/api/repos/create":
            return self._create(json.loads(body), token)
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._lfs(json.loads(body))
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if found := RESOLVE.fullmatch(path):
            return self._resolve(self._repository(found[1] or "models", found[2], token), found[3], found[4], cut)
        if found := DISCUSSIONS.fullmatch(path):
            return self._json(_discussions(self._repository("models", found[1], token)))
        if found := API.fullmatch(path):
            repository = self._repository(found[1], found[2], token, shows_files=False)
            if (found[3] or "").startswith("xet-"):
                return self._xet_token(repository)
            return self._json(self._api(repository, found[3] or "revision", found[4] or "main", found[5] or "", body))
        raise _Refused("EntryNotFound")

    def _repository(self, kind: str, id: str, token: str, shows_files: bool = True) -> Repository:
        repository = self.server.repositories.get((kind, id))
        if repository is None or (repository.private and not token):
            raise _Refused("RepoNotFound", "Repository not found")
        if shows_files and repository.token not in (None, token):
            raise _Refused("GatedRepo", f"Access to {kind} {id} is restricted. You must have access to it.")
        return repository

    def _commit(self, repository: Repository, revision: str) -> str:
        try:
            return repository.named(revision)
        except StopIteration:
            raise _Refused("RevisionNotFound", f"Invalid rev id: {revision}") from None

    def _resolve(self, repository: Repository, revision: str, name: str, cut: bool) -> None:
        commit = self._commit(repository, revision)
        headers = {"X-Repo-Commit": commit}
        data = repository.files(commit).get(name)
        if data is None:
            return self._send(404, b"", {**headers, "X-Error-Code": "EntryNotFound"})
        if not name.endswith(LFS):
            named = {"Content-Disposition": f'inline; filename="{name}";'}
            return self._send_part(data, {**headers, **named, "ETag": f'"{_blob_sha1(data)}"'}, cut)
        sha256 = _sha256(data)
        self.server.content[sha256], self.server.names[sha256] = data, name
        headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(data))}
        if repository.xet is not None:
            route = f"{self.server.url}/api/{repository.kind}/{repository.id}/xet-read-token/{commit}"
            headers |= {"X-Xet-Hash": sha256, "X-Xet-Refresh-Route": route}
        self._send(302, b"", {**headers, "Location": f"{self.server.content_url}/content/{sha256}"})

    def _api(self, repository: Repository, what: str, revision: str, below: str, body: bytes) -> Any:
        if what == "preupload":
            files = json.loads(body)["files"]
            modes = [("lfs" if file["path"].endswith(LFS) else "regular") for file in files]
            return {
                "files": [
                    {"path": f["path"], "uploadMode": m, "shouldIgnore": False}
                    for f, m in zip(files, modes, strict=True)
                ]
            }
        if what == "commit":
            return self._add_commit(repository, body)
        commit = self._commit(repository, revision)
        if what == "commits":
            older = list(repository.commits)[::-1]
            return [_described(name) for name in ([commit] if commit in repository.pulled else []) + older]
        entries = [_entry(name, data) for name, data in repository.files(commit).items()]
        if what == "tree":
            return _tree(entries, f"{below.rstrip('/')}/" if below else "", "recursive=true" in self.path.lower())
        if what == "paths-info":
            form = parse_qs(body.decode()) if not body.startswith(b"{") else json.loads(body)
            return [entry for entry in entries if entry["path"] in form["paths"]]
        return {
            "_id": "0", "id": repository.id, "sha": commit, "private": repository.private, "tags": [],
            "downloads": 0, "likes": 0,
            "gated": "manual" if repository.token else False, "disabled": False, "author": repository.id.split("/")[0],
            "lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z",
            "siblings": [{"rfilename": e["path"], "size": e["size"], "blobId": e["oid"]} for e in entries],
        }  # fmt: skip

    def _create(self, wanted: dict[str, Any], token: str) -> None:
        if not token:
            raise _Refused("InvalidToken", "Invalid username or password.")
        id = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        if ("models", id) in self.server.repositories:
            return self._send(409, json.dumps({"error": "It is there", "url": f"{self.server.url}/{id}"}).encode())
        hidden = bool(wanted.get("private") or wanted.get("visibility") == "private")
        self.server.add("models", id, {}, private=hidden)
        self._json({"url": f"{self.server.url}/{id}", "name": id, "id": "0"})

    def _xet_token(self, repository: Repository) -> None:
        if not repository.xet:
            raise _Refused("EntryNotFound")
        named = {"X-Xet-Cas-Url": repository.xet, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": "9999999999"}
        self._send(200, b"{}", named)

    def _lfs(self, wanted: dict[str, Any]) -> None:
        links = [
            {
                "oid": o["oid"],
                "size": o["size"],
                "actions": {"upload": {"href": f"{self.server.content_url}/content/{o['oid']}"}},
            }
            for o in wanted["objects"]
        ]
        self._json({"transfer": "basic", "objects": links})

    def _add_commit(self, repository: Repository, body: bytes) -> Any:
        files = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.content[value["oid"]]
        name = repository.commit(files)
        return {
            "success": True,
            "commitOid": name,
            "commitUrl": f"{self.server.url}/{repository.id}/commit/{name}",
            "hookOutput": "",
        }

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send_part(self, data: bytes, headers: dict[str, str], cut: bool) -> None:
        if (wanted := self.headers.get("Range")) is None:
            return self._send(200, data, {**headers, "Accept-Ranges": "bytes"}, cut)
        start = int(wanted.removeprefix("bytes=").split("-")[0])
        where = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        self._send(206, data[start:], {**headers, **where}, cut)

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._write(data[: len(data) // 2] if cut else data)
        if cut:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def _write(self, data: bytes) -> None:
        size = max(len(data) // 10, 1) if self.server.pause else len(data)
        for start in range(0, len(data), size or 1):
            self.wfile.write(data[start : start + size])
            time.sleep(self.server.pause)


def _described(commit: str) -> dict[str, Any]:
    return {"id": commit, "authors": [{"user": "me"}], "date": "2026-01-01T00:00:00.000Z", "title": "t", "message": ""}


def _discussions(repository: Repository) -> dict[str, Any]:
    one = {
        "title": "Adding `safetensors` variant of this model", "num": 1, "author": {"name": "SFconvertbot"},
        "createdAt": "2026-01-01T00:00:00.000Z", "status": "open", "isPullRequest": True,
        "repo": {"name": repository.id, "type": "model"},
    }  # fmt: skip
    found = [one] if repository.pulled else []
    return {"discussions": found, "count": len(found), "start": 0, "numClosedDiscussions": 0}


def _tree(entries: list[dict[str, Any]], start: str, recursive: bool) -> list[dict[str, Any]]:
    """Below a folder; without `recursive` only what lies in it itself, folders included."""
    inside = [entry for entry in entries if entry["path"].startswith(start)]
    parts = sorted({entry["path"].removeprefix(start).partition("/")[0] for entry in inside})
    folders = [{"type": "directory", "path": start + part, "oid": "0" * 40, "size": 0} for part in parts]
    names = {entry["path"] for entry in inside}
    folders = [folder for folder in folders if folder["path"] not in names]
    if recursive:
        return folders + inside
    return folders + [entry for entry in inside if "/" not in entry["path"].removeprefix(start)]


def _entry(name: str, data: bytes) -> dict[str, Any]:
    lfs = {"lfs": {"oid": _sha256(data), "size": len(data), "pointerSize": 130}} if name.endswith(LFS) else {}
    return {"type": "file", "path": name, "size": len(data), "oid": _blob_sha1(data), **lfs}
