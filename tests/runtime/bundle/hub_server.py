"""A local server with the hub's endpoints that huggingface_hub uses for bundles: repositories in memory, and faults."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

# The hub stores binary or large files with LFS, so that their bytes come from another address.
LFS_SUFFIXES = (".onnx", ".data", ".npz")
WRITE_TOKEN = "hf_writes_and_reads"


def commit_of(files: Mapping[str, bytes]) -> str:
    """The hash of a commit, from its content."""
    digest = hashlib.sha1()
    for path, data in sorted(files.items()):
        digest.update(path.encode() + b"\0" + hashlib.sha256(data).digest())
    return digest.hexdigest()


@dataclass
class Repository:
    """Commits, and the branches and tags that name them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    private: bool = False

    def add(self, files: Mapping[str, bytes], revision: str = "main") -> str:
        """Put a commit on a branch."""
        commit = commit_of(files)
        self.commits[commit] = dict(files)
        self.revisions[revision] = commit
        return commit


@dataclass
class HubServer:
    """Repositories by ORG/NAME, the requests, and the faults to inject.

    Attributes:
        asked: method, path and headers of each request.
        cut_after: file -> number of bytes of its body after which the connection breaks, once.
        status: if not 0, the status of every answer.
        fail_writes: if not 0, the status of every answer to POST and PUT.
        yaml_warning: the server's warning about a README.
        slow_s: seconds to wait before each file's body.
        stored: hash -> uploaded LFS object.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    cut_after: dict[str, int] = field(default_factory=dict)
    status: int = 0
    fail_writes: int = 0
    yaml_warning: str = ""
    slow_s: float = 0.0
    stored: dict[str, bytes] = field(default_factory=dict)
    url: str = ""

    def add(self, repo: str, folder: Path, **changed: bytes) -> str:
        """Put a folder's files on main of a repository; return the commit. `changed` replaces files, by path."""
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return self.repositories.setdefault(repo, Repository()).add(files | changed)

    @property
    def storage_url(self) -> str:
        """The same server under another host name, because the hub's storage has another host."""
        return self.url.replace("127.0.0.1", "localhost")

    def paths(self, method: str) -> list[str]:
        """The requested paths of a method."""
        return [path for asked, path, _ in self.asked if asked == method]


@contextlib.contextmanager
def hub_server() -> Iterator[HubServer]:
    """A server at server.url while the block runs."""
    state = HubServer()

    class Handler(_Handler):
        hub = state

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes, and the second would wait 40 ms

    def log_message(self, format: str, *args: object) -> None:
        """Write no log."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.asked.append((self.command, self.path, dict(self.headers.items())))
        if self.hub.status:
            self._send(self.hub.status, b"{}")
            return
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if self.command in ("HEAD", "GET"):
            self._read(parts)
        else:
            self._write(parts)

    def _send(self, status: int, data: bytes, headers: Mapping[str, str] = {}, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | dict(headers)).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode())

    @property
    def token(self) -> str | None:
        """The request's token."""
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def _read(self, parts: list[str]) -> None:
        if parts[0] == "storage":
            repo, commit, path = "/".join(parts[1:3]), parts[3], "/".join(parts[4:])
            self._file(self.hub.repositories[repo].commits[commit][path], path, {})
        elif parts[:2] == ["api", "models"]:
            self._model("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main")
        else:
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))

    def _repository(self, repo: str) -> Repository | None:
        found = self.hub.repositories.get(repo)
        if found is None or (found.private and self.token != WRITE_TOKEN):
            self._send(401, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
            return None
        return found

    def _commit(self, found: Repository, revision: str) -> str | None:
        commit = revision if revision in found.commits else found.revisions.get(revision)
        if commit is None:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        return commit

    def _model(self, repo: str, revision: str) -> None:
        if (found := self._repository(repo)) and (commit := self._commit(found, revision)):
            siblings = [{"rfilename": path, "size": len(data)} for path, data in found.commits[commit].items()]
            told = {"id": repo, "modelId": repo, "sha": commit, "private": found.private, "siblings": siblings}
            self._json({**told, "tags": [], "downloads": 0})

    def _resolve(self, repo: str, revision: str, path: str) -> None:
        if not (found := self._repository(repo)) or not (commit := self._commit(found, revision)):
            return
        data = found.commits[commit].get(path)
        if data is None:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if path.endswith(LFS_SUFFIXES):
            etag = hashlib.sha256(data).hexdigest()
            linked = {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
            place = f"{self.hub.storage_url}/storage/{repo}/{commit}/{path}"
            self._send(302, b"", headers | linked | {"Location": place})
        else:
            self._file(data, path, headers | {"ETag": f'"{hashlib.sha1(data).hexdigest()}"'})

    def _file(self, data: bytes, path: str, headers: Mapping[str, str]) -> None:
        asked = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        start = int(asked[0] or 0)
        status, ranged = (206, {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}) if start else (200, {})
        if self.command == "HEAD":
            self._send(200, b"", headers, len(data))
            return
        if self.hub.slow_s:
            time.sleep(self.hub.slow_s)
        rest, cut = data[start:], self.hub.cut_after.pop(path, None)
        if cut is None:
            self._send(status, rest, {**headers, **ranged})
            return
        self._send(status, rest[:cut], {**headers, **ranged}, len(rest))
        self.close_connection = True

    def _write(self, parts: list[str]) -> None:
        if self.hub.fail_writes:
            self._send(self.hub.fail_writes, b"{}")
        elif parts == ["api", "validate-yaml"]:
            warned = [{"message": self.hub.yaml_warning}] if self.hub.yaml_warning else []
            self._json({"errors": [], "warnings": warned})
        elif parts[:1] == ["upload"]:
            self.hub.stored[parts[1]] = self.body
            self._send(200, b"")
        elif self.token != WRITE_TOKEN:
            self._json({"error": "this token may not write"}, 403)
        elif parts == ["api", "repos", "create"]:
            told = json.loads(self.body)
            repo = f"{told['organization']}/{told['name']}" if told.get("organization") else told["name"]
            self.hub.repositories[repo] = Repository(
                private=bool(told.get("private")) or told.get("visibility") == "private"
            )
            self.hub.repositories[repo].add({".gitattributes": b""})
            self._json({"url": f"{self.hub.url}/{repo}", "id": repo, "name": repo})
        elif parts[-3:] == ["lfs", "objects", "batch"]:
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.hub.storage_url}/upload/{one['oid']}"}}}
                for one in json.loads(self.body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})
        elif parts[4] == "preupload":
            self._json({"files": [self._mode(one["path"]) for one in json.loads(self.body)["files"]]})
        else:
            self._take("/".join(parts[2:4]))

    def _mode(self, path: str) -> dict[str, Any]:
        return {"path": path, "uploadMode": "lfs" if path.endswith(LFS_SUFFIXES) else "regular", "shouldIgnore": False}

    def _take(self, repo: str) -> None:
        """Receive a commit, with one JSON object per line."""
        found = self.hub.repositories[repo]
        files = dict(found.commits[found.revisions["main"]])
        for line in self.body.splitlines():
            told = json.loads(line)
            if told["key"] == "file":
                files[told["value"]["path"]] = base64.b64decode(told["value"]["content"])
            elif told["key"] == "lfsFile":
                files[told["value"]["path"]] = self.hub.stored[told["value"]["oid"]]
        commit = found.add(files)
        self._json({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{repo}/commit/{commit}"})
