"""A small stand-in for W&B's server on the loopback interface: it answers its client and notes what that sends."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789abcdef0123456789abcdef01234567"
_PROJECT = {"id": "p", "name": "rm", "internalId": "UHJvamVjdDox", "entity": {"id": "e", "name": "me"}}


class WandbServer:
    """What was sent, and what is answered."""

    def __init__(self) -> None:
        self.operations: list[tuple[str, dict[str, Any]]] = []
        """GraphQL operations by name, with their variables."""
        self.streams: list[tuple[str, dict[str, Any]]] = []
        """Lines of runs: the path, and what it got."""
        self.uploads: dict[str, bytes] = {}
        self.projects: set[str] | None = None
        """Those that are there; None: every one."""
        self.views: dict[str, dict[str, Any]] = {}
        """Saved workspaces and reports by their id."""
        self.commands: list[list[dict[str, Any]]] = []
        """What an agent of a sweep is told, one heartbeat after the other."""
        self.answers: dict[str, Callable[[dict[str, Any]], Any]] = {}
        """Answers that a test gives itself, by operation."""
        self.url = ""

    def sent(self, name: str) -> list[dict[str, Any]]:
        """The variables of all operations of this name."""
        return [variables for operation, variables in self.operations if operation == name]

    @staticmethod
    def _project(name: str, entity: str) -> dict[str, Any]:
        return {
            "__typename": "Project", "id": "p", "name": name, "entityName": entity, "createdAt": "2026-01-01T00:00:00Z",
            "isBenchmark": False, "user": None,
        }  # fmt: skip

    def answer(self, name: str, query: str, values: dict[str, Any]) -> Any:
        """The data of an operation; empty for what the tests do not need."""
        if name in self.answers:
            return self.answers[name](values)
        project = {**_PROJECT, "name": values.get("project") or values.get("projectName") or "rm"}
        if name == "UpsertBucket":
            bucket = {
                "id": "UnVu", "name": values.get("name") or "x", "displayName": values.get("displayName"),
                "description": None, "config": None, "sweepName": None, "historyLineCount": 0, "project": project,
            }  # fmt: skip
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if name == "CreateRunFiles":
            files = [{"name": one, "uploadUrl": f"{self.url}/up/{one}"} for one in values["files"]]
            return {"createRunFiles": {"runID": "UnVu", "uploadHeaders": [], "files": files}}
        if name == "CreateArtifact":
            # As one whose content is there already: nothing is uploaded.
            artifact = {"id": "QXJ0", "state": "COMMITTED", "artifactSequence": {"id": "s", "latestArtifact": None}}
            return {"createArtifact": {"artifact": artifact}}
        if name == "Heartbeat":
            commands = self.commands.pop(0) if self.commands else []
            return {"agentHeartbeat": {"agent": {"id": "a"}, "commands": json.dumps(commands)}}
        if name == "GetProject":
            missing = self.projects is not None and values["name"] not in self.projects
            return {"project": None if missing else self._project(values["name"], values["entity"])}
        if name == "GetProjects":
            nodes = [{"node": self._project(one, values["entity"])} for one in self.projects or {"rm"}]
            return {"models": {"pageInfo": {"endCursor": None, "hasNextPage": False}, "edges": nodes}}
        if name == "ProjectInternalId":
            return {"project": {"id": "p", "internalId": _PROJECT["internalId"]}}
        if name in ("View", "ProjectViews"):
            wanted = values.get("viewType", "runs"), values.get("viewName")
            found = [one for one in self.views.values() if wanted in ((one["type"], one["name"]), (one["type"], None))]
            edges = [{"node": _view(one), "cursor": one["id"]} for one in found]
            return {"project": {"allViews": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}}}
        if name in ("UpsertView2", "upsertView"):
            number = values.get("id") or f"Vmlldzo{len(self.views)}"
            self.views[number] = {**values, "id": number}
            place = {"id": "p", "name": values["projectName"], "entityName": values["entityName"]}
            view = {**self.views[number], "project": place, "updatedAt": "2026-01-01T00:00:00Z"}
            return {"upsertView": {"view": view, "inserted": not values.get("id")}}
        known = {
            "GetDefaultEntity": {"viewer": {"id": "u", "entity": "me"}},
            "Viewer": {"viewer": {
                "id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}, "email": "me@x",
            }},
            "ServerFeaturesQuery": {"serverInfo": {"features": []}},
            "RunResumeStatus": {"model": None},
            "ArtifactType": {"project": None},
            "ArtifactByID": {"artifact": {
                "__typename": "Artifact", "id": "QXJ0", "versionIndex": 0, "description": None, "metadata": None,
                "artifactSequence": {"__typename": "ArtifactSequence", "name": "model", "project": None},
                "artifactType": {"name": "model"}, "ttlDurationSeconds": -1, "ttlIsInherited": False, "tags": [],
                "historyStep": None, "state": "COMMITTED", "size": 1, "digest": "d", "commitHash": "c", "fileCount": 1,
                "createdAt": "2026-01-01T00:00:00Z", "updatedAt": None, "aliases": [],
            }},
            "CreateAgent": {"createAgent": {"agent": {"id": "a"}}},
            "OrganizationCoreWeaveOrganizationID": {"entity": {"organization": None}},
            "UseArtifact": {"useArtifact": {"artifact": {"id": "QXJ0"}}},
        }  # fmt: skip
        return known.get(name, {})


def _view(values: dict[str, Any]) -> dict[str, Any]:
    """A saved view, as it is listed."""
    shown = ("id", "name", "displayName", "description", "spec")
    times = dict.fromkeys(("createdAt", "updatedAt"), "2026-01-01T00:00:00Z")
    return {**{key: values[key] for key in shown}, "user": None, **times}


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """A server that runs in a thread."""
    state = WandbServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            content = self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.headers.get("content-encoding") == "gzip":
                content = gzip.decompress(content)
            reply: Any = {}
            if self.path == "/graphql":
                asked = json.loads(content)
                found = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
                name, values = found[1] if found else "?", asked.get("variables") or {}
                state.operations.append((name, values))
                reply = {"data": state.answer(name, asked["query"], values)}
            elif self.path.endswith("/file_stream"):
                state.streams.append((self.path, json.loads(content)))
                reply = {"exitcode": None, "limits": {}}
            else:
                state.uploads[self.path] = content
            body = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = _do

        def log_message(self, format: str, *args: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that has ended closes its connections."""

    server = Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
