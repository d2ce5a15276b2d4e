"""A Hub on this machine: the routes that huggingface_hub uses, and every way to answer wrongly.

Large files are redirected to another origin, as the real Hub does it: the same server, under the
name `localhost`. Nothing here is the package's own.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin")  # what the Hub keeps outside of Git


@dataclass(frozen=True)
class Answer:
    """What will be sent."""

    status: int
    headers: Mapping[str, str]
    body: bytes | Iterator[bytes] = b""
    length: int | None = None  # announced; None for the body's own


@dataclass
class Request:
    """What was asked, and how many bytes of a body went out."""

    method: str
    path: str
    host: str
    headers: Mapping[str, str]
    sent: int = 0


@dataclass
class Rule:
    """A wrong answer, for the first requests whose method and path match."""

    pattern: str
    change: Callable[[Answer], Answer]
    times: int


@dataclass
class Hub:
    """What the server has."""

    models: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)  # by commit
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    port: int = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def put(self, model: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Make a commit of all of a model's files, and return its hash."""
        content = b"".join(name.encode() + files[name] for name in sorted(files))
        commit = hashlib.sha1(model.encode() + content).hexdigest()
        self.models.setdefault(model, {})[commit] = dict(files)
        self.branches.setdefault(model, {})[branch] = commit
        return commit

    def wrong(self, pattern: str, change: Callable[[Answer], Answer], times: int = 1000) -> None:
        self.rules.append(Rule(pattern, change, times))

    def fail(
        self,
        pattern: str,
        status: int,
        times: int = 1000,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.wrong(pattern, lambda _: Answer(status, headers or {}, b"{}"), times)

    def paths(self, pattern: str = "") -> list[str]:
        """Return what was asked for, as "GET /path"."""
        found = (f"{request.method} {request.path}" for request in self.requests)
        return [line for line in found if re.search(pattern, line)]

    def sent(self, pattern: str = "") -> int:
        """Return the bytes of bodies that were sent for requests that match."""
        return sum(r.sent for r in self.requests if re.search(pattern, f"{r.method} {r.path}"))

    # ---- Right answers

    def answer(self, request: Request) -> Answer:
        path = urlsplit(request.path).path
        if path.startswith("/cdn/"):
            return self._blob(path.removeprefix("/cdn/"), request)
        if found := re.fullmatch(r"/api/models/(.+?)(?:/revision/(.+))?", path):
            return self._list(found[1], unquote(found[2] or "main"))
        if found := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            return self._file(found[1], unquote(found[2]), unquote(found[3]), request)
        return Answer(404, {})

    def _commit(self, model: str, revision: str) -> str | Answer:
        if model not in self.models:
            return Answer(404, {"X-Error-Code": "RepoNotFound"}, b'{"error":"not found"}')
        commit = self.branches[model].get(revision, revision)
        if commit not in self.models[model]:
            return Answer(404, {"X-Error-Code": "RevisionNotFound"}, b'{"error":"no revision"}')
        return commit

    def _list(self, model: str, revision: str) -> Answer:
        commit = self._commit(model, revision)
        if isinstance(commit, Answer):
            return commit
        entries = []
        for name, content in self.models[model][commit].items():
            entry: dict[str, Any] = {
                "rfilename": name,
                "size": len(content),
                "blobId": git(content),
            }
            if name.endswith(LARGE):
                entry["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 134}
            entries.append(entry)
        body = json.dumps({"id": model, "sha": commit, "siblings": entries}).encode()
        return Answer(200, {"Content-Type": "application/json"}, body)

    def _file(self, model: str, revision: str, name: str, request: Request) -> Answer:
        commit = self._commit(model, revision)
        if isinstance(commit, Answer):
            return commit
        content = self.models[model][commit].get(name)
        if content is None:
            return Answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        if not name.endswith(LARGE):
            headers = {"ETag": f'"{git(content)}"', "X-Repo-Commit": commit}
            return Answer(200, headers, content)
        digest = sha256(content)
        headers = {
            "X-Repo-Commit": commit,
            "X-Linked-Etag": f'"{digest}"',
            "X-Linked-Size": str(len(content)),
            "Location": f"http://localhost:{self.port}/cdn/{digest}",
        }
        return Answer(302, headers)

    def _blob(self, digest: str, request: Request) -> Answer:
        every = (
            c
            for commits in self.models.values()
            for files in commits.values()
            for c in files.values()
        )
        content = next(content for content in every if sha256(content) == digest)
        headers = {"ETag": f'"{digest[:32]}"', "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if asked is None or request.headers.get("If-Range", headers["ETag"]) != headers["ETag"]:
            return Answer(200, headers, content)
        start, end = int(asked[1]), int(asked[2] or len(content) - 1)
        part = content[start : end + 1]
        if not part:
            return Answer(416, {"Content-Range": f"bytes */{len(content)}"})
        told = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
        return Answer(206, headers | {"Content-Range": told}, part)

    # ---- Sent, right or wrong

    def reply(self, request: Request) -> Answer:
        self.requests.append(request)
        answer = self.answer(request)
        for rule in self.rules:
            if rule.times and re.search(rule.pattern, f"{request.method} {request.path}"):
                rule.times -= 1
                return rule.change(answer)
        return answer


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git(content: bytes) -> str:
    """Return Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def serve(hub: Hub) -> ThreadingHTTPServer:
    """Start a server in the background; `shutdown` and `server_close` end it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            host = self.headers.get("Host", "")
            request = Request(self.command, self.path, host, dict(self.headers))
            answer = hub.reply(request)
            body = answer.body
            if isinstance(body, bytes):
                length = len(body) if answer.length is None else answer.length
                body = iter((body,))
                self._start(answer, {"Content-Length": str(length)})
                self.close_connection |= answer.length is not None
            else:
                self._start(answer, {"Connection": "close"})
            if self.command != "HEAD":
                self._send(request, body)

        do_HEAD = do_GET

        def _start(self, answer: Answer, more: Mapping[str, str]) -> None:
            self.send_response(answer.status)
            for name, value in {**answer.headers, **more}.items():
                self.send_header(name, value)
            self.end_headers()

        def _send(self, request: Request, body: Iterator[bytes]) -> None:
            try:
                for chunk in body:
                    self.wfile.write(chunk)
                    request.sent += len(chunk)
            except OSError:  # the other side had enough
                self.close_connection = True

        def log_message(self, *_: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None: ...

    server = Server(("127.0.0.1", 0), Handler)
    hub.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


def changed(**fields: Any) -> Callable[[Answer], Answer]:
    """Return what replaces fields of an answer."""
    return lambda answer: replace(answer, **fields)


def with_headers(**headers: str) -> Callable[[Answer], Answer]:
    """Return what replaces headers of an answer; names have _ for -."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda answer: replace(answer, headers={**answer.headers, **named})
