"""A Hugging Face Hub on the loopback, as far as pushing a model and loading it again need it.

Repositories have branches of commits; a commit maps names to contents. Small text goes up within the commit, anything
else by Git LFS (one PUT, or several parts) or, where `speaks_xet`, by Xet, which is the client's default.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.hub import xet

WRITE, READ, STRANGER = "hf_" + "w" * 34, "hf_" + "r" * 34, "hf_" + "s" * 34
"""Tokens: two of `ada`, who is in the organisation `lab`; one of `bob`."""
_ACCOUNTS = {WRITE: ("ada", ["lab"], "write"), READ: ("ada", ["lab"], "read"), STRANGER: ("bob", [], "write")}


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class Dropped(Exception):
    """The connection ends without an answer."""


@dataclass
class File:
    content: bytes
    lfs: bool

    @property
    def git_sha1(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass
class Commit:
    sha: str
    title: str
    files: dict[str, File]


@dataclass
class Repository:
    private: bool
    branches: dict[str, list[Commit]] = field(default_factory=dict)

    def commit(self, revision: str) -> Commit:
        if revision in self.branches:
            return self.branches[revision][-1]
        for one in (commit for commits in self.branches.values() for commit in commits):
            if one.sha == revision:
                return one
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def add(self, revision: str, title: str, files: dict[str, File]) -> Commit:
        before = self.branches.setdefault(revision, [])
        content = json.dumps([revision, len(before), title, sorted((name, one.sha256) for name, one in files.items())])
        before.append(Commit(hashlib.sha1(content.encode()).hexdigest(), title, files))
        return before[-1]


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = tuple[int, bytes, dict[str, str]]


def plain(values: Any, status: int = 200) -> Answer:
    return status, json.dumps(values).encode(), {"content-type": "application/json"}


class Hub:
    """The server. Use as a context; `url` is its address."""

    def __init__(self, *, part_size: int | None = None, speaks_xet: bool = False) -> None:
        """`part_size`: LFS files go up in parts of so many bytes."""
        self.repositories: dict[str, Repository] = {}
        self.stored: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.requests: list[tuple[str, str]] = []
        self.tokens: list[str] = []
        self.xorbs: dict[str, bytes] = {}
        self.meddle: Callable[[str, str], int | None] = lambda method, path: None
        """Called with each request before it is answered; an error's status, or None. It may raise `Dropped`."""
        self.part_size, self.speaks_xet = part_size, speaks_xet
        self._lock = threading.RLock()
        self._port = 0
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Hub:
        self.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, at the same address as before."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), _handler(self))
        self._server.daemon_threads = True
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Close the port; connections that are open end at their next request."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def paths(self, method: str) -> list[str]:
        """Of the requests so far."""
        return [path for one, path in self.requests if one == method]

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """What is on a branch, without what each new repository has."""
        found = self.repositories[repo_id].commit(revision).files
        return {name: one.content for name, one in found.items() if name != ".gitattributes"}

    def answer(self, request: Request) -> Answer:
        with self._lock:
            if self._server is None:
                raise Dropped
            self.requests.append((request.method, request.path))
            status = self.meddle(request.method, request.path)
            if status is not None:
                raise Refused(status, "not today")
            for pattern, what in _ROUTES:
                match = re.fullmatch(pattern, request.path)
                if match is not None:
                    return what(self, request, *match.groups())
        raise Refused(404, f"nothing at {request.path}")

    def _account(self, request: Request) -> tuple[str, list[str], str] | None:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if not token:
            return None
        assert kind == "Bearer"
        self.tokens.append(token)
        if token not in _ACCOUNTS:
            raise Refused(401, "Invalid username or password.")
        return _ACCOUNTS[token]

    def _repository(self, request: Request, repo_id: str, *, write: bool = False) -> Repository:
        account, found = self._account(request), self.repositories.get(repo_id)
        names = [] if account is None else [account[0], *account[1]]
        inside = repo_id.partition("/")[0] in names
        if found is None or (found.private and not inside):
            raise Refused(404 if account else 401, "Repository not found", "RepoNotFound")
        if write and not (inside and account is not None and account[2] == "write"):
            raise Refused(403, "You have no right to write here")
        return found

    def whoami(self, request: Request) -> Answer:
        account = self._account(request)
        if account is None:
            raise Refused(401, "Unauthorized")
        name, organisations, role = account
        orgs = [{"type": "org", "name": one} for one in organisations]
        return plain({"type": "user", "name": name, "orgs": orgs, "auth": {"accessToken": {"role": role}}})

    def create(self, request: Request) -> Answer:
        account, values = self._account(request), request.json
        if account is None:
            raise Refused(401, "Unauthorized")
        owner = values.get("organization") or account[0]
        if owner not in (account[0], *account[1]) or account[2] != "write":
            raise Refused(403, f"You don't have the rights to create a model under the namespace {owner!r}")
        repo_id = f"{owner}/{values['name']}"
        url = f"{self.url}/{repo_id}"
        if repo_id in self.repositories:
            return plain({"error": "You already created this model repo", "url": url}, 409)
        private = values["visibility"] == "private" if "visibility" in values else bool(values.get("private"))
        self.repositories[repo_id] = Repository(private)
        attributes = {".gitattributes": File(b"*.safetensors filter=lfs\n", lfs=False)}
        self.repositories[repo_id].add("main", "initial commit", attributes)
        return plain({"url": url, "name": repo_id, "id": repo_id})

    def validate(self, request: Request) -> Answer:
        front = request.json["content"].split("---\n")
        errors, warnings = [], []
        try:
            values = yaml.safe_load(front[1]) if len(front) > 2 else {}
            if "license" not in values:
                warnings.append({"message": "no license"})
            if not isinstance(values.get("license", "mit"), str):
                errors.append({"message": '"license" must be a string'})
        except yaml.YAMLError:
            errors.append({"message": "not YAML"})
        return plain({"errors": errors, "warnings": warnings}, 400 if errors else 200)

    def info(self, request: Request, repo_id: str, revision: str | None = None) -> Answer:
        repository = self._repository(request, repo_id)
        commit = repository.commit(unquote(revision or "main"))
        siblings: list[dict[str, Any]] = [{"rfilename": name} for name in commit.files]
        if request.query.get("blobs"):
            siblings = [_entry(name, one, "rfilename") for name, one in commit.files.items()]
        return plain({
            "_id": "1", "id": repo_id, "modelId": repo_id, "sha": commit.sha, "private": repository.private, "tags": [],
            "downloads": 0, "likes": 0, "siblings": siblings,
        })  # fmt: skip

    def tree(self, request: Request, repo_id: str, revision: str, folder: str | None = None) -> Answer:
        commit = self._repository(request, repo_id).commit(unquote(revision))
        below = f"{folder}/" if folder else ""
        inside = {name: one for name, one in commit.files.items() if name.startswith(below)}
        found = [{"type": "file", **_entry(name, one, "path")} for name, one in inside.items()]
        if not found:
            raise Refused(404, f"{folder} does not exist", "EntryNotFound")
        return plain(found)

    def branch(self, request: Request, repo_id: str, name: str) -> Answer:
        repository = self._repository(request, repo_id, write=True)
        if unquote(name) in repository.branches:
            raise Refused(409, "Reference already exists")
        start = repository.commit(request.json.get("startingPoint") or "main")
        repository.branches[unquote(name)] = [start]
        return plain({})

    def preupload(self, request: Request, repo_id: str, revision: str) -> Answer:
        commit = self._repository(request, repo_id, write=True).commit(unquote(revision))
        answers = []
        for one in request.json["files"]:
            text = b"\0" not in base64.b64decode(one["sample"]) and one["size"] < 10_000_000
            there = commit.files.get(one["path"])
            oid = None if there is None else there.sha256 if there.lfs else there.git_sha1
            mode = "regular" if text and not one["path"].endswith(".safetensors") else "lfs"
            answers.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return plain({"files": answers})

    def batch(self, request: Request, repo_id: str) -> Answer:
        self._repository(request, repo_id, write=True)
        objects: list[dict[str, Any]] = []
        for one in request.json["objects"]:
            oid, size = one["oid"], one["size"]
            objects.append({"oid": oid, "size": size})
            if oid in self.stored:
                continue
            upload: dict[str, Any] = {"href": f"{self.url}/storage/{oid}"}
            if self.part_size is not None and size > self.part_size:
                count = -(-size // self.part_size)
                urls = {str(number + 1): f"{self.url}/storage/{oid}/{number + 1}" for number in range(count)}
                upload = {"href": f"{self.url}/complete/{oid}", "header": {"chunk_size": str(self.part_size), **urls}}
            verify = {"href": f"{self.url}/{repo_id}.git/info/lfs/verify"}
            objects[-1]["actions"] = {"upload": upload, "verify": verify}
        return plain({"transfer": "basic", "objects": objects})

    def put(self, request: Request, oid: str, part: str | None = None) -> Answer:
        if part is not None:
            self.parts.setdefault(oid, {})[int(part)] = request.body
            return 200, b"", {"etag": f'"{part}"'}
        self._store(oid, request.body)
        return 200, b"", {}

    def complete(self, request: Request, oid: str) -> Answer:
        parts = self.parts.pop(oid)
        self._store(oid, b"".join(parts[one["partNumber"]] for one in request.json["parts"]))
        return plain({})

    def _store(self, oid: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != oid:
            raise Refused(400, "not what was announced")
        self.stored[oid] = content

    def verify(self, request: Request, repo_id: str) -> Answer:
        self._repository(request, repo_id, write=True)
        values = request.json
        if len(self.stored.get(values["oid"], b"")) != values["size"]:
            raise Refused(404, "not in the storage")
        return plain({})

    def commit(self, request: Request, repo_id: str, revision: str) -> Answer:
        repository = self._repository(request, repo_id, write=True)
        before = repository.commit(unquote(revision))
        files, title = dict(before.files), ""
        for line in request.body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, before.sha):
                    raise Refused(412, "A commit has happened since. Please refresh and try again.")
            elif key == "deletedFile":
                del files[value["path"]]
            elif key == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), lfs=False)
            else:
                content = self.stored.get(value["oid"])
                if content is None:
                    raise Refused(400, f"{value['path']} is not in the storage")
                files[value["path"]] = File(content, lfs=True)
        done = repository.add(unquote(revision), title, files)
        url = f"{self.url}/{repo_id}/commit/{done.sha}"
        return plain({"success": True, "commitOid": done.sha, "commitUrl": url, "hookOutput": ""})

    def resolve(self, request: Request, repo_id: str, revision: str, name: str) -> Answer:
        commit = self._repository(request, repo_id).commit(unquote(revision))
        file = commit.files.get(unquote(name))
        if file is None:
            raise Refused(404, f"{name} is not there", "EntryNotFound")
        etag = file.sha256 if file.lfs else file.git_sha1
        return 200, file.content, {"etag": f'"{etag}"', "x-repo-commit": commit.sha}

    def xet_token(self, request: Request, repo_id: str, revision: str) -> Answer:
        self._repository(request, repo_id, write=True)
        if not self.speaks_xet:
            raise Refused(404, "no Xet here")
        url, ends = f"{self.url}/cas", 4_000_000_000
        status, body, headers = plain({"accessToken": "xet", "exp": ends, "casUrl": url})
        headers |= {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(ends)}
        return status, body, headers

    def cas(self, request: Request, what: str) -> Answer:
        """Xet's storage, in the first version of its protocol, to which the client falls back."""
        if request.method == "POST" and what.startswith("v1/xorbs/"):
            self.xorbs[what.rpartition("/")[2]] = request.body
            return plain({"was_inserted": True})
        if request.method == "POST" and what == "v1/shards":
            for oid, content in xet.files(request.body, self.xorbs).items():
                self._store(oid, content)
            return plain({"result": 1})
        raise Refused(404, "not known")


def _entry(name: str, file: File, key: str) -> dict[str, Any]:
    values: dict[str, Any] = {key: name, "size": len(file.content), "blobId": file.git_sha1, "oid": file.git_sha1}
    if file.lfs:
        # Git holds a pointer; what it is called is not looked at.
        pointer = hashlib.sha1(file.sha256.encode()).hexdigest()
        lfs = {"sha256": file.sha256, "oid": file.sha256, "size": len(file.content), "pointerSize": 134}
        values |= {"blobId": pointer, "oid": pointer, "lfs": lfs}
    return values


_ID = r"([\w.-]+/[\w.-]+)"
_ROUTES: list[tuple[str, Callable[..., Answer]]] = [
    (r"/api/whoami-v2", Hub.whoami),
    (r"/api/repos/create", Hub.create),
    (r"/api/validate-yaml", Hub.validate),
    (rf"/api/models/{_ID}", Hub.info),
    (rf"/api/models/{_ID}/revision/([^/]+)", Hub.info),
    (rf"/api/models/{_ID}/tree/([^/]+)(?:/(.+))?", Hub.tree),
    (rf"/api/models/{_ID}/branch/([^/]+)", Hub.branch),
    (rf"/api/models/{_ID}/preupload/([^/]+)", Hub.preupload),
    (rf"/api/models/{_ID}/commit/([^/]+)", Hub.commit),
    (rf"/api/models/{_ID}/xet-write-token/([^/]+)", Hub.xet_token),
    (rf"/{_ID}\.git/info/lfs/objects/batch", Hub.batch),
    (rf"/{_ID}\.git/info/lfs/verify", Hub.verify),
    (r"/storage/(\w+)(?:/(\d+))?", Hub.put),
    (r"/complete/(\w+)", Hub.complete),
    (rf"/{_ID}/resolve/([^/]+)/(.+)", Hub.resolve),
    (r"/cas/(.+)", Hub.cas),
]


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Headers and body in one packet: else each answer waits for an acknowledgement.
        wbufsize = -1

        def log_message(self, *said: object) -> None:
            pass

        def _body(self) -> bytes:
            if self.headers.get("transfer-encoding", "") != "chunked":
                return self.rfile.read(int(self.headers.get("content-length") or 0))
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found

        def _serve(self) -> None:
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, parts.path, parse_qs(parts.query), headers, self._body())
            try:
                status, body, extra = hub.answer(request)
            except Refused as error:
                status, body, extra = plain({"error": error.message}, error.status)
                extra |= {"x-error-message": error.message, **({"x-error-code": error.code} if error.code else {})}
            except Dropped:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in {**extra, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_POST = do_PUT = _serve

    return Handler
