"""A small Hugging Face hub on 127.0.0.1, for the real clients: huggingface_hub, transformers, datasets.

    with HubServer() as hub:
        commit = hub.add("owner/name", {"config.json": b"{}", "model.bin": weights})          # or kind="datasets"
        subprocess.run(command, env=hub.environment(cache))

It speaks what the clients ask: file metadata and content (`/{repo}/resolve/{revision}/{file}`, large files through a
redirect to another host, ranges), repository facts, trees and paths (`/api/...`), and the hub's error codes. Accidents
are set per file (`cut`, `stall`, `corrupt`) or per repository (`gate`). `hub.requests` is what was asked, in order.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".bin", ".safetensors", ".parquet", ".png", ".jpg", ".tgz", ".zip", ".tar")
"""Endings that the hub keeps as large files: known by sha256, served by another host."""


@dataclass
class Repository:
    files: dict[str, bytes]
    commit: str
    token: str | None = None
    """The one token that may read it; None lets everybody."""
    code: str = ""
    """The hub's error code for the others."""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None
    token: str | None
    host: str
    proxied: bool


@dataclass
class Accidents:
    cut: dict[bytes, list[int]] = field(default_factory=dict)
    stall: dict[bytes, int] = field(default_factory=dict)
    corrupt: set[bytes] = field(default_factory=set)


class HubServer:
    """A hub in a thread of this process."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[Request] = []
        self.accidents = Accidents()
        self.stalled = threading.Event()
        self._release = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._release.set()
        self._server.shutdown()
        self._server.server_close()

    def add(self, repo: str, files: dict[str, bytes], *, kind: str = "models") -> str:
        """Put files into a repository, as its only commit; the commit."""
        told = json.dumps([[name, hashlib.sha256(data).hexdigest()] for name, data in sorted(files.items())])
        commit = hashlib.sha1(f"{kind}/{repo} {told}".encode()).hexdigest()
        self.repositories[kind, repo] = Repository(dict(files), commit)
        return commit

    def gate(self, repo: str, *, token: str, kind: str = "models", code: str = "GatedRepo") -> None:
        """Let only this token read a repository."""
        self.repositories[kind, repo].token, self.repositories[kind, repo].code = token, code

    def cut(self, content: bytes, *, after: int, times: int = 1) -> None:
        """Close the connection after so many bytes of a content, so many times."""
        self.accidents.cut[content] = [after] * times

    def stall(self, content: bytes, *, after: int) -> None:
        """Fall silent, once, after so many bytes of a content; `stalled` is set then."""
        self.accidents.stall[content] = after

    def corrupt(self, content: bytes, *, mended: bool = False) -> None:
        """Serve a content with another last byte, or rightly again."""
        (self.accidents.corrupt.discard if mended else self.accidents.corrupt.add)(content)

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Environment of a client process: this hub, its own cache, no token of the machine."""
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        outside = {key: value for key, value in outside.items() if not key.lower().endswith("_proxy")}
        return {**outside, "HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **more}

    def asked(self, method: str, ending: str) -> list[Request]:
        """Requests of a method whose path ends so."""
        return [one for one in self.requests if one.method == method and one.path.endswith(ending)]

    def fetched(self, repo: str, *, kind: str = "models") -> list[str]:
        """Large files of a repository whose bytes were asked for, in order."""
        names = {f"/cdn/{etag(name, data)}": name for name, data in self.repositories[kind, repo].files.items()}
        return [names[one.path] for one in self.requests if one.method == "GET" and one.path in names]

    def body_of(self, content: bytes) -> bytes:
        """What is sent for a content."""
        return content[:-1] + bytes([content[-1] ^ 1]) if content in self.accidents.corrupt else content


def is_large(name: str) -> bool:
    return name.endswith(LARGE)


def etag(name: str, content: bytes) -> str:
    """As the hub has it: sha256 of large files, git's hash of the others."""
    if is_large(name):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Refused(Exception):
    """An answer with the hub's error headers."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            url = urlsplit(self.path)
            self.query = parse_qs(url.query)
            length = int(self.headers.get("Content-Length") or 0)
            self.sent_in = self.rfile.read(length)
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            host = (self.headers.get("Host") or "").partition(":")[0]
            path = unquote(url.path)
            hub.requests.append(
                Request(self.command, path, self.headers.get("Range"), token, host, self.path.startswith("http"))
            )
            try:
                self._route(path, token)
            except Refused as error:
                self._send(
                    error.status,
                    {"X-Error-Code": error.code, "X-Error-Message": error.message},
                    json.dumps({"error": error.message}).encode(),
                )
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def _route(self, path: str, token: str | None) -> None:
            if match := re.fullmatch(r"/cdn/(\w{64})", path):
                return self._content(match[1])
            if match := re.fullmatch(r"/(datasets/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
                kind = "datasets" if match[1] else "models"
                return self._resolve(self._repository(kind, match[2], match[3], token), match[4])
            if match := re.fullmatch(
                r"/api/(models|datasets)/([\w.-]+/[\w.-]+)(?:/(revision|tree|paths-info)/(.+))?", path
            ):
                kind, repo, what, rest = match.groups()
                revision, _, folder = (rest or "main").partition("/")
                repository = self._repository(kind, repo, revision, token)
                return self._api(repo, repository, what or "revision", folder)
            raise Refused(404, "", f"nothing at {path}")

        def _repository(self, kind: str, repo: str, revision: str, token: str | None) -> Repository:
            found = hub.repositories.get((kind, repo))
            if found is None:
                raise Refused(401 if token is None else 404, "RepoNotFound", "Repository not found")
            if found.token is not None and token != found.token:
                told = f"Access to {kind[:-1]} {repo} is restricted. You must be authenticated to access it."
                raise Refused(401 if token is None else 403, found.code, told)
            if revision not in ("main", found.commit):
                raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return found

        def _resolve(self, repository: Repository, name: str) -> None:
            facts = {"X-Repo-Commit": repository.commit}
            if name not in repository.files:
                raise Refused(404, "EntryNotFound", "Entry not found")
            content = repository.files[name]
            if not is_large(name):
                return self._file(content, {**facts, "ETag": f'"{etag(name, content)}"'})
            sum_ = hashlib.sha256(content).hexdigest()
            linked = {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{sum_}"'}
            self._send(302, {**facts, **linked, "Location": f"http://localhost:{hub.port}/cdn/{sum_}"}, b"")

        def _content(self, sum_: str) -> None:
            for repository in hub.repositories.values():
                for content in repository.files.values():
                    if hashlib.sha256(content).hexdigest() == sum_:
                        return self._file(content, {"ETag": f'"{sum_}"'})
            raise Refused(404, "", "no such content")

        def _file(self, content: bytes, headers: dict[str, str]) -> None:
            body, status = hub.body_of(content), 200
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if wanted:
                first, last = int(wanted[1]), int(wanted[2] or len(body) - 1)
                if first >= len(body):
                    return self._send(416, {"Content-Range": f"bytes */{len(body)}"}, b"")
                last = min(last, len(body) - 1)
                headers = {**headers, "Content-Range": f"bytes {first}-{last}/{len(body)}"}
                body, status = body[first : last + 1], 206
            self._send(status, {**headers, "Accept-Ranges": "bytes"}, body, accident=content)

        def _send(self, status: int, headers: dict[str, str], body: bytes, *, accident: bytes | None = None) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            cuts = hub.accidents.cut.get(accident) if accident else None
            if cuts and len(body) > cuts[0]:
                self.wfile.write(body[: cuts.pop(0)])
                self.close_connection = True
            elif accident in hub.accidents.stall:
                self.wfile.write(body[: hub.accidents.stall.pop(accident)])
                self.wfile.flush()
                hub.stalled.set()
                hub._release.wait()
                self.close_connection = True
            else:
                self.wfile.write(body)

        def _api(self, repo: str, repository: Repository, what: str, folder: str) -> None:
            entries = [_entry(name, content) for name, content in sorted(repository.files.items())]
            if what == "revision":
                siblings = [
                    {
                        "rfilename": one["path"],
                        **({"size": one["size"], "blobId": one["oid"]} if "blobs" in self.query else {}),
                        **(
                            {"lfs": {"sha256": one["lfs"]["oid"], "size": one["size"], "pointerSize": 134}}
                            if "blobs" in self.query and "lfs" in one
                            else {}
                        ),
                    }
                    for one in entries
                ]
                return self._json({"id": repo, "sha": repository.commit, "siblings": siblings, "private": False})
            if what == "tree":
                deep = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
                return self._json(_tree(entries, folder, deep=deep))
            asked = json.loads(self.sent_in) if self.sent_in.startswith(b"{") else parse_qs(self.sent_in.decode())
            asked = [path.strip("/") for path in asked["paths"]]
            every = {one["path"]: one for one in _tree(entries, "", deep=True)}
            self._json([every[path] for path in asked if path in every])

        def _json(self, value: object) -> None:
            self._send(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    return Handler


def _entry(name: str, content: bytes) -> dict:
    entry = {"type": "file", "path": name, "size": len(content), "oid": etag("", content)}
    if is_large(name):
        entry["lfs"] = {"oid": etag(name, content), "size": len(content), "pointerSize": 134}
    return entry


def _tree(entries: list[dict], folder: str, *, deep: bool) -> list[dict]:
    inside = [one for one in entries if not folder or one["path"].startswith(f"{folder}/")]
    if folder and not inside:
        raise Refused(404, "EntryNotFound", f"{folder} does not exist")
    folders = {
        str(parent) for one in inside for parent in Path(one["path"]).parents if str(parent) not in (".", folder)
    }
    found = [{"type": "directory", "path": path, "size": 0, "oid": etag("", path.encode())} for path in sorted(folders)]
    found += inside
    depth = len(Path(folder).parts)
    return [one for one in found if deep or len(Path(one["path"]).parts) == depth + 1]
