"""A local stand-in for the W&B backend: enough of its GraphQL and file calls for runs, artifacts, lineage and downloads.

It keeps what it receives, so that tests can ask for it, and fails on request: dead, slow, or answering 500.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.server
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlparse

KEY = "5tand1n" + "0123456789abcdef" * 2 + "0"
"""The key that the server accepts; planted, so that tests can look for it where it must not be."""

ENTITY = "me"
"""The account's default entity."""

Answer = dict[str, Any]
_OPERATIONS: dict[str, Callable[[WandbStandIn, Answer], Answer]] = {}


def _operation(*names: str) -> Callable[[Callable[[Any, Answer], Answer]], Callable[[Any, Answer], Answer]]:
    """Make a method the answer to GraphQL operations."""

    def register(method: Callable[[Any, Answer], Answer]) -> Callable[[Any, Answer], Answer]:
        _OPERATIONS.update(dict.fromkeys(names, method))
        return method

    return register


@dataclass
class Run:
    """What the server knows of a run."""

    entity: str
    project: str
    id: str
    group: str | None = None
    job_type: str | None = None
    name: str | None = None
    host: str | None = None
    program: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    state: str = "running"
    lines: dict[str, dict[int, str]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    used: list[Artifact] = field(default_factory=list)
    logged: list[Artifact] = field(default_factory=list)

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows that were logged, in order, without W&B's own columns."""
        lines = self.lines.get("wandb-history.jsonl", {})
        rows = [json.loads(lines[offset]) for offset in sorted(lines)]
        return [{name: value for name, value in row.items() if not name.startswith("_")} for row in rows]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """What ``define_metric`` said: ``{"1": name}`` or ``{"2": pattern, "5": number of the step metric}``."""
        return list(self.config.get("_wandb", {}).get("value", {}).get("m", []))

    @property
    def values(self) -> dict[str, Any]:
        """The config without W&B's own entry."""
        return {name: entry["value"] for name, entry in self.config.items() if name != "_wandb"}


@dataclass(eq=False)
class Artifact:
    """One version of an artifact."""

    id: str
    entity: str
    project: str
    name: str
    type: str
    digest: str
    metadata: str
    made_by: Run
    aliases: list[str] = field(default_factory=list)
    number: int | None = None
    manifest: str | None = None


class WandbStandIn:
    """The server; use it through :func:`serve`.

    Attributes
    ----------
    runs : dict of str to Run
        By id, in order of their first call.
    artifacts : list of Artifact
        Committed versions, in order.
    views : dict
        Saved dashboards by entity, project and name, each with ``id``, ``displayName`` and ``spec`` (JSON).
    bodies : list of bytes
        The body of every request.
    calls : list of str
        The name of every GraphQL operation and the path of every other request.
    unknown : set of str
        GraphQL operations that it does not know.
    dead, status, delay_seconds
        Faults: connections are dropped; this HTTP status is answered; every answer waits.
    on_call : callable or None
        Called with the name of each request before it is answered; may set a fault.
    """

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.artifacts: list[Artifact] = []
        self.views: dict[tuple[str, str, str], Answer] = {}
        self.bodies: list[bytes] = []
        self.calls: list[str] = []
        self.unknown: set[str] = set()
        self.dead = False
        self.status: int | None = None
        self.delay_seconds = 0.0
        self.on_call: Callable[[str], None] | None = None
        self._drafts: dict[str, Artifact] = {}
        self._stored: dict[str, bytes] = {}
        self._lock = threading.RLock()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def find(self, name: str, *, project: str = "bccp", entity: str = ENTITY) -> Artifact | None:
        """The committed artifact ``name:alias``, or None."""
        name, _, alias = name.partition(":")
        for artifact in self.artifacts:
            known = (*artifact.aliases, f"v{artifact.number}")
            if (artifact.entity, artifact.project, artifact.name) == (entity, project, name) and (alias or "latest") in known:
                return artifact
        return None

    def files(self, artifact: Artifact) -> dict[str, bytes]:
        """An artifact's files."""
        contents = json.loads(self._stored[f"manifest-{artifact.manifest}"])["contents"]
        return {path: self._stored[_place(entry["digest"])] for path, entry in contents.items()}

    def edges(self) -> set[tuple[str, str, str]]:
        """The lineage: (artifact, ``into``, job type) and (job type, ``made``, artifact)."""
        edges = set()
        for run in self.runs.values():
            edges |= {(artifact.name, "into", str(run.job_type)) for artifact in run.used}
            edges |= {(str(run.job_type), "made", artifact.name) for artifact in run.logged}
        return edges

    @contextmanager
    def started(self) -> Iterator[WandbStandIn]:
        """Serve on loopback within the block."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield self
        finally:
            self.dead = True  # also for connections that clients keep open
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def answer(self, command: str, path: str, body: bytes, key: str) -> tuple[int, bytes] | None:
        """Status and body of an answer; None drops the connection."""
        name = path
        if path.endswith("/graphql"):
            request = json.loads(body)
            name = request.get("operationName") or re.findall(r"(?:query|mutation)\s+(\w+)", request["query"])[0]
        with self._lock:
            self.calls.append(name)
            self.bodies.append(body)
            if self.on_call:
                self.on_call(name)
        if self.delay_seconds:
            time.sleep(self.delay_seconds)
        if self.dead:
            return None
        if self.status:
            return self.status, b'{"error": "as asked for"}'
        with self._lock:
            if path.endswith("/graphql"):
                if key != KEY:
                    return 401, b'{"errors": [{"message": "invalid key"}]}'
                operation = _OPERATIONS.get(name)
                if operation is None:
                    self.unknown.add(name)
                    return 200, json.dumps({"data": None, "errors": [{"message": f"unknown operation {name}"}]}).encode()
                return 200, json.dumps({"data": operation(self, request.get("variables") or {})}).encode()
            if path.startswith("/store/"):
                return self._store(command, path.removeprefix("/store/"), body)
            if path.endswith("/file_stream"):
                self._stream(path, json.loads(body))
                return 200, b"{}"
        return 404, b"{}"

    # files

    def _store(self, command: str, place: str, body: bytes) -> tuple[int, bytes]:
        if command != "PUT":
            return (200, self._stored[place]) if place in self._stored else (404, b"")
        self._stored[place] = body
        if place.startswith("run-"):
            _, run, name = place.split("-", 2)
            self.runs[run].files[name] = body
        return 200, b""

    def _stream(self, path: str, said: dict[str, Any]) -> None:
        run = self.runs[path.split("/")[-2]]
        for name, chunk in said.get("files", {}).items():
            kept = run.lines.setdefault(name, {})
            kept |= {chunk["offset"] + number: line for number, line in enumerate(chunk["content"])}
            if name == "wandb-summary.json":
                run.summary = json.loads(chunk["content"][-1])
        if said.get("complete"):
            run.state = "finished" if said.get("exitcode") == 0 else "failed"

    def _upload(self, place: str, **more: Any) -> dict[str, Any]:
        return {"uploadUrl": f"{self.url}/store/{place}", "uploadHeaders": [], **more}

    # account and server

    @_operation("Viewer", "GetDefaultEntity")
    def _viewer(self, given: Answer) -> Answer:
        about = {"id": "u", "entity": ENTITY, "username": ENTITY, "name": ENTITY, "email": "", "flags": "{}", "admin": False}
        return {"viewer": about | {"teams": {"edges": []}}}

    @_operation("ServerFeaturesQuery", "ServerInfo")
    def _server_info(self, given: Answer) -> Answer:
        return {"serverInfo": {"features": [], "cliVersionInfo": {"max_cli_version": "0.99.0"}, "latestLocalVersionInfo": None}}

    # runs

    @_operation("UpsertBucket")
    def _upsert_run(self, given: Answer) -> Answer:
        new = given["name"] not in self.runs
        run = self.runs.setdefault(given["name"], Run(given["entity"] or ENTITY, given["project"], given["name"]))
        known = {"group": "groupName", "job_type": "jobType", "name": "displayName", "host": "host", "program": "program"}
        for attribute, name in known.items():
            setattr(run, attribute, given.get(name) or getattr(run, attribute))
        run.config = json.loads(given.get("config") or "null") or run.config
        return {"upsertBucket": {"inserted": new, "bucket": _about_run(run) | {"historyLineCount": 0}}}

    @_operation("Run", "GetRun", "RunByName")
    def _read_run(self, given: Answer) -> Answer:
        run = self.runs.get(given.get("name") or given.get("run") or "")
        return {"project": {"internalId": _PROJECT_ID, "run": run and self._whole_run(run)}}

    @_operation("Runs")
    def _read_runs(self, given: Answer) -> Answer:
        wanted = json.loads(given["filters"])
        assert set(wanted) <= {"group"}
        place = (given["entity"], given["project"])
        found = [r for r in self.runs.values() if (r.entity, r.project) == place and wanted.get("group") in (None, r.group)]
        edges = [{"node": self._whole_run(run), "cursor": run.id} for run in found]
        about = {"internalId": _PROJECT_ID, "runCount": len(found), "readOnly": False}
        return {"project": about | {"runs": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}}}

    @_operation("DeleteRun")
    def _delete_run(self, given: Answer) -> Answer:
        self.runs = {name: run for name, run in self.runs.items() if _about_run(run)["id"] != given["id"]}
        return {"deleteRun": {"clientMutationId": None}}

    @_operation("DeleteArtifact")
    def _delete_artifact(self, given: Answer) -> Answer:
        (gone,) = (artifact for artifact in self.artifacts if artifact.id == given["input"]["artifactID"])
        assert given["input"]["deleteAliases"]  # else one with an alias stays
        self.artifacts.remove(gone)
        return {"deleteArtifact": {"artifact": {"id": gone.id}}}

    def _whole_run(self, run: Run) -> Answer:
        about = _about_run(run) | {
            "__typename": "Run",
            "projectId": "1",
            "state": run.state,
            "config": json.dumps(run.config),
            "summaryMetrics": json.dumps(run.summary),
            "group": run.group,
            "jobType": run.job_type,
            "user": {"name": run.entity, "username": run.entity},
            "tags": [],
            "readOnly": False,
            "createdAt": _TIME,
            "heartbeatAt": _TIME,
            "systemMetrics": "{}",
            "historyLineCount": 0,
        }
        return about | dict.fromkeys(["commit", "notes", "historyKeys"])

    @_operation("RunResumeStatus")
    def _resume(self, given: Answer) -> Answer:
        run = self.runs.get(given["name"])
        if run is None:
            return {"model": {"bucket": None}}
        counts = {f"{kind}LineCount": len(run.lines.get(file, {})) for kind, file in _STREAMS.items()}
        tails = {f"{kind}Tail": json.dumps(_last(run.lines.get(_STREAMS[kind], {}))) for kind in ("history", "events")}
        own = run.config.get("_wandb", {}).get("value", {})
        about = _about_run(run) | counts | tails
        about |= {"summaryMetrics": json.dumps(run.summary), "tags": [], "notes": None, "wandbConfig": json.dumps({"t": own.get("t")})}
        return {"model": {"id": "P1", "name": run.project, "entity": {"id": "E1", "name": run.entity}, "bucket": about}}

    @_operation("RunStoppedStatus")
    def _stopped(self, given: Answer) -> Answer:
        return {"project": {"run": {"stopped": False}}}

    @_operation("CreateRunFiles")
    def _create_run_files(self, given: Answer) -> Answer:
        files = [{"name": name} | self._upload(f"run-{given['run']}-{name}") for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    # dashboards

    @_operation("View")
    def _read_view(self, given: Answer) -> Answer:
        entity, project = given["entityName"], given["projectName"]
        if not any((run.entity, run.project) == (entity, project) for run in self.runs.values()):
            return {"project": None}
        found = self.views.get((entity, project, given["viewName"]))
        return {"project": {"allViews": {"edges": [{"node": found}] if found else []}}}

    @_operation("UpsertView2")
    def _upsert_view(self, given: Answer) -> Answer:
        known = next((place for place, view in self.views.items() if view["id"] == given.get("id")), None)
        place = known or (given["entityName"], given["projectName"], given["name"])
        assert known or place not in self.views  # the real one makes another
        identity = self.views[place]["id"] if known else f"V{len(self.views)}"
        self.views[place] = {"id": identity, "displayName": given["displayName"], "spec": given["spec"]}
        return {"upsertView": {"view": {"id": identity, "name": place[2]}, "inserted": not known}}

    # artifacts

    @_operation("ArtifactType")
    def _artifact_type(self, given: Answer) -> Answer:
        found = self._find(given)
        return {"project": {"artifact": found and {"artifactType": {"name": found.type}}}}

    @_operation("CreateArtifact")
    def _create_artifact(self, given: Answer) -> Answer:
        new = given["input"]
        run, name, digest = self.runs[new["runName"]], new["artifactCollectionName"], new["digest"]
        entity = new["entityName"] or ENTITY
        aliases = [entry["alias"] for entry in new.get("aliases") or []]
        line = [a for a in self.artifacts if (a.entity, a.project, a.name) == (entity, new["projectName"], name)]
        same = [a for a in line if a.digest == digest]
        if same:  # the same content is the same version
            self._logged(same[0], run, aliases)
            return {"createArtifact": {"artifact": {"id": same[0].id, "state": "COMMITTED", "artifactSequence": _latest(line)}}}
        key = _encoded(f"Artifact:{len(self._drafts) + 1}")
        self._drafts[key] = Artifact(
            key, entity, new["projectName"], name, new["artifactTypeName"], digest, new.get("metadata") or "{}", run, aliases
        )
        return {"createArtifact": {"artifact": {"id": key, "state": "PENDING", "artifactSequence": _latest(line)}}}

    @_operation("CreateArtifactManifest")
    def _create_manifest(self, given: Answer) -> Answer:
        draft = self._drafts[given["artifactID"]]
        draft.manifest = draft.manifest or _encoded(f"Manifest:{draft.id}")
        about = {"id": draft.manifest, "file": {"id": draft.manifest} | self._upload(f"manifest-{draft.manifest}")}
        return {"createArtifactManifest": {"artifactManifest": about}}

    @_operation("CreateArtifactFiles")
    def _create_files(self, given: Answer) -> Answer:
        nodes = [
            {"storagePath": entry["md5"], "artifact": {"id": entry["artifactID"]}}
            | self._upload(_place(entry["md5"]), uploadMultipartUrls=None)
            for entry in given["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    @_operation("CommitArtifact")
    def _commit(self, given: Answer) -> Answer:
        draft = self._drafts[given["artifactID"]]
        draft.number = sum((a.entity, a.project, a.name) == (draft.entity, draft.project, draft.name) for a in self.artifacts)
        self.artifacts.append(draft)
        self._logged(draft, draft.made_by, draft.aliases)
        return {"commitArtifact": {"artifact": {"id": draft.id, "digest": draft.digest}}}

    def _logged(self, artifact: Artifact, run: Run, aliases: list[str]) -> None:
        """An alias is of one version of a name at a time."""
        for other in self.artifacts:
            if (other.entity, other.project, other.name) == (artifact.entity, artifact.project, artifact.name):
                other.aliases = [alias for alias in other.aliases if alias not in aliases]
        artifact.aliases = [*artifact.aliases, *aliases]
        if artifact not in run.logged:
            run.logged.append(artifact)

    @_operation("ArtifactByID")
    def _by_id(self, given: Answer) -> Answer:
        return {"artifact": _about_artifact(self._drafts[given["id"]])}

    @_operation("ArtifactMembershipByName")
    def _by_name(self, given: Answer) -> Answer:
        found = self._find(given)
        if found is None:
            return {"project": {"artifactCollectionMembership": None}}
        about = _about_artifact(found)
        membership = {"__typename": "ArtifactCollectionMembership", "id": f"M{found.id}", "createdAt": _TIME, "artifact": about}
        shared = {"versionIndex": found.number, "aliases": about["aliases"], "artifactCollection": about["artifactSequence"]}
        return {"project": {"artifactCollectionMembership": membership | shared}}

    @_operation("UseArtifact")
    def _use_artifact(self, given: Answer) -> Answer:
        given = given.get("input") or given
        artifact, run = self._drafts[given["artifactID"]], self.runs[given["runName"]]
        if artifact not in run.used:
            run.used.append(artifact)
        return {"useArtifact": {"artifact": _about_artifact(artifact)}}

    @_operation("FetchArtifactManifest", "ArtifactManifest")
    def _manifest(self, given: Answer) -> Answer:
        artifact = self._drafts[given.get("id") or given["artifact_id"]]
        file = {"directUrl": f"{self.url}/store/manifest-{artifact.manifest}"}
        return {"artifact": {"currentManifest": {"__typename": "ArtifactManifest", "file": file}}}

    @_operation("GetArtifactMembershipFileUrls")
    def _file_urls(self, given: Answer) -> Answer:
        found = self._find(given | {"name": f"{given['collection']}:{given['alias']}"})
        assert found is not None
        contents = json.loads(self._stored[f"manifest-{found.manifest}"])["contents"]
        nodes = [
            {"__typename": "File", "name": path, "directUrl": f"{self.url}/store/{_place(entry['digest'])}"}
            for path, entry in contents.items()
        ]
        page = {"pageInfo": {"__typename": "PageInfo", "hasNextPage": False, "endCursor": None}}
        files = page | {"edges": [{"node": node, "cursor": node["name"]} for node in nodes]}
        return {"project": {"artifactCollection": {"__typename": "ArtifactSequence", "artifactMembership": {"files": files}}}}

    def _find(self, given: Answer) -> Artifact | None:
        return self.find(given["name"], project=given["project"], entity=given["entity"])


_TIME = "2026-01-01T00:00:00Z"
_STREAMS = {"history": "wandb-history.jsonl", "events": "wandb-events.jsonl", "log": "output.log"}
_PROJECT_ID = base64.b64encode(b"ProjectInternalId:1").decode()


def _encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _place(md5: str) -> str:
    return "file-" + md5.replace("/", "_").replace("+", "-")


def _latest(line: list[Artifact]) -> Answer:
    return {"latestArtifact": {"id": line[-1].id} if line else None}


def _last(lines: dict[int, str]) -> list[str]:
    return [lines[max(lines)]] if lines else []


def _about_project(entity: str, project: str) -> Answer:
    return {"__typename": "Project", "id": "P1", "internalId": _PROJECT_ID, "name": project, "entity": {"id": "E1", "name": entity}}


def _about_run(run: Run) -> Answer:
    about = {"id": base64.b64encode(f"Run:v1:{run.id}:{run.project}:{run.entity}".encode()).decode(), "name": run.id}
    return about | {
        "displayName": run.name,
        "description": None,
        "sweepName": None,
        "config": json.dumps(run.config),
        "project": _about_project(run.entity, run.project),
    }


def _about_artifact(artifact: Artifact) -> Answer:
    sequence = {"__typename": "ArtifactSequence", "name": artifact.name, "project": _about_project(artifact.entity, artifact.project)}
    aliases = [*artifact.aliases] if artifact.number is None else [*artifact.aliases, f"v{artifact.number}"]
    return {
        "__typename": "Artifact",
        "id": artifact.id,
        "artifactSequence": sequence,
        "versionIndex": artifact.number,
        "artifactType": {"name": artifact.type},
        "description": None,
        "metadata": artifact.metadata,
        "ttlDurationSeconds": -2,
        "ttlIsInherited": True,
        "tags": [],
        "historyStep": None,
        "state": "PENDING" if artifact.number is None else "COMMITTED",
        "size": 1,
        "digest": artifact.digest,
        "commitHash": "c",
        "fileCount": 1,
        "createdAt": _TIME,
        "updatedAt": _TIME,
        "aliases": [{"__typename": "ArtifactAlias", "id": f"alias-{a}", "alias": a, "artifactCollection": sequence} for a in aliases],
    }


def _handler(stand_in: WandbStandIn) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):  # clients that are killed, or that give up
                super().handle()

        def body(self) -> bytes:
            data = b""
            if length := self.headers.get("Content-Length"):
                data = self.rfile.read(int(length))
            elif self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline().strip(), 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

        def answer(self) -> None:
            _, _, login = self.headers.get("Authorization", "").partition(" ")
            key = base64.b64decode(login).decode().partition(":")[2] if login else ""
            answered = stand_in.answer(self.command, urlparse(self.path).path, self.body(), key)
            if answered is None:
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
                return
            status, data = answered
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_HEAD = answer  # noqa: N815 (names that http.server asks for)

    return Handler
