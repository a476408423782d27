"""A small server that speaks the Hugging Face hub's protocol for dataset repositories, with faults on demand.

Files are answered as the hub answers large ones: a redirect to another host that states size and sha256, and there the
bytes, with ranges.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """One dataset repository and how its server behaves."""

    repository: str
    files: dict[str, bytes]
    cut: Counter[str] = field(default_factory=Counter)
    """How many more times the connection breaks in the middle of a file."""
    damaged: set[str] = field(default_factory=set)
    """Files whose bytes are not those of their sha256."""
    refuse: tuple[int, str] | None = None
    """Status and X-Error-Code of every answer, e.g. (401, "GatedRepo")."""
    token: str = ""
    """Only with this token are answers given; without it as `refuse`."""
    requests: list[tuple[str, str]] = field(default_factory=list)

    def fetched(self) -> list[str]:
        """Files whose bytes were asked for, in order."""
        return [path for method, path in self.requests if method == "GET" and path in self.files]


class Handler(BaseHTTPRequestHandler):
    """Answers of one `Hub`."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *arguments: object) -> None:
        """Keep the tests' output clean."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        path = unquote(url.path)
        hub = self.hub
        known = hub.token and self.headers.get("Authorization") == f"Bearer {hub.token}"
        if hub.refuse and not known and not path.startswith("/cdn/"):  # addresses there are secret, not guarded
            status, code = hub.refuse
            headers = {"X-Error-Code": code} if code else {}
            return self._send(status, b"{}", headers | {"X-Error-Message": "Access is restricted"})
        api, plain = f"/api/datasets/{hub.repository}", f"/datasets/{hub.repository}/resolve/{COMMIT}/"
        if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            return self._json({"id": hub.repository, "sha": COMMIT, "siblings": [{"rfilename": f} for f in hub.files]})
        if path.startswith(f"{api}/tree/{COMMIT}"):
            folder = path.removeprefix(f"{api}/tree/{COMMIT}").strip("/")
            return self._tree(folder, "true" in parse_qs(url.query.lower()).get("recursive", []))
        if path == f"{api}/paths-info/{COMMIT}":
            wanted = parse_qs(body.decode()).get("paths", [])
            wanted = wanted or (json.loads(body)["paths"] if body.startswith(b"{") else [])
            return self._json([self._file(name) for name in wanted if name in hub.files])
        if path.startswith("/cdn/"):
            return self._bytes(path.removeprefix("/cdn/"))
        if path.startswith(plain):
            return self._redirect(path.removeprefix(plain))
        code = {"revision": "RevisionNotFound", "resolve": "EntryNotFound"}
        found = next((own for word, own in code.items() if f"/{word}/" in path), "RepoNotFound")
        self._send(404, b"{}", {"X-Error-Code": found})

    def _tree(self, folder: str, recursive: bool) -> None:
        prefix = f"{folder}/" if folder else ""
        inside = [name for name in self.hub.files if name.startswith(prefix)]
        if folder and not inside:
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        below = {f"{prefix}{name.removeprefix(prefix).split('/')[0]}" for name in inside}
        if recursive:
            below |= {name.rsplit("/", n)[0] for name in inside for n in range(name.count("/") + 1)}
        folders = sorted(path for path in below - set(inside) if path > prefix)
        entries = [{"type": "directory", "path": path, "oid": COMMIT, "size": 0} for path in folders]
        self._json(entries + [self._file(name) for name in inside if name in below])

    def _file(self, name: str) -> dict[str, object]:
        content = self.hub.files[name]
        lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return {"type": "file", "path": name, "oid": COMMIT, "size": len(content), "lfs": lfs}

    def _redirect(self, name: str) -> None:
        content = self.hub.files.get(name)
        if content is None:
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        stated = {"X-Repo-Commit": COMMIT, "X-Linked-Etag": etag, "X-Linked-Size": str(len(content))}
        self._send(
            302,
            b"",
            stated
            | {"Location": f"http://localhost:{self.headers['Host'].partition(':')[2]}/cdn/{name}", "ETag": etag},
        )

    def _bytes(self, name: str) -> None:
        hub, content = self.hub, self.hub.files[name]
        if self.command == "GET":
            hub.requests.append((self.command, name))
        if name in hub.damaged:
            content = content[:-9] + bytes(byte ^ 1 for byte in content[-9:])
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        part, stated = content[start:], {"Accept-Ranges": "bytes"}
        if start:
            stated["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.command == "GET" and hub.cut[name] > 0:
            hub.cut[name] -= 1
            self._send(206 if start else 200, part[: len(part) // 2], stated, length=len(part))
            self.close_connection = True
            return self.connection.close()
        self._send(206 if start else 200, part, stated)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, length: int | None = None) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.wfile.flush()


class Serving:
    """`with Serving(hub) as address:` answers on 127.0.0.1 until the block ends."""

    def __init__(self, hub: Hub) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Handler,), {"hub": hub}))
        self._server.daemon_threads = True

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
