"""A small server that speaks as much of both hubs' HTTP as downloads and uploads need, for one repository o/n."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKENS = ("HF_TOKEN", "MODELSCOPE_API_TOKEN")


@dataclass
class FakeHub:
    kind: str = "datasets"
    """Or "models"."""
    files: dict[str, bytes] = field(default_factory=dict)
    """What is in the repository: listed, downloaded, committed."""
    served: dict[str, bytes] = field(default_factory=dict)
    """What is sent instead, for files that do not arrive as they are listed."""
    revisions: tuple[str, ...] = ("main", "master", COMMIT)
    page_size: int | None = None
    """A server that ignores the page size that is asked for."""
    private: str = ""
    """The token without which nothing is seen."""
    gated: bool = False
    gated_files: bool = False
    """As on the real hub: everybody sees the list, and the files are refused."""
    status: int = 0
    """Answered to everything, if not 0, with this:"""
    answer: bytes = b"no"
    broken: bool = False
    """Half of every file, then the connection ends; half of every upload is read, then too."""
    breaks: int = 0
    """So many large files break off in the middle, and no more."""
    elsewhere: str = ""
    """Files are redirected to this server, and uploads are sent there."""
    hashes: bool = True
    exists: bool = True
    writer: str = ""
    """The token with which one may create and write."""
    stays_public: bool = False
    """A server that creates public repositories whatever is asked."""
    chunk_size: int = 0
    """Large files are asked for in parts of this size."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """The storage of large files, by sha256."""
    parts: dict[str, list[bytes]] = field(default_factory=dict)
    created: list[dict] = field(default_factory=list)
    commits: list[list[str]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    def downloads(self) -> list[str]:
        return [path for path in self.asked if path.startswith("GET") and ("/resolve/" in path or "FilePath=" in path)]

    def uploads(self) -> list[str]:
        return [path for path in self.asked if path.startswith("PUT")]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeHub

    def log_message(self, format, *args): ...

    def do_HEAD(self):
        self.handle_one()

    def do_GET(self):
        self.handle_one()

    def do_POST(self):
        self.handle_one()

    def do_PUT(self):
        self.handle_one()

    def handle_one(self):
        fake, url = self.fake, urlsplit(self.path)
        path, query = unquote(url.path), {name: values[0] for name, values in parse_qs(url.query).items()}
        fake.asked.append(f"{self.command} {self.path}")
        fake.headers.append(dict(self.headers))
        if self.command == "PUT":
            return self.store(path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        prefix = "" if fake.kind == "models" else "/datasets"
        if fake.status:
            self.reply(fake.status, fake.answer)
        elif path in ("/api/repos/create", "/api/v1/models") and self.command == "POST":
            self.create(json.loads(body))
        elif path == "/api/validate-yaml":
            self.reply(200, b'{"errors": [], "warnings": []}')
        elif path.startswith("/complete/"):
            fake.objects[path.removeprefix("/complete/")] = b"".join(fake.parts.pop(path.removeprefix("/complete/")))
            self.reply(200, b"{}")
        elif fake.exists and f"{path}/".startswith(
            (f"/api/{fake.kind}/o/n/", f"{prefix}/o/n/resolve/", f"{prefix}/o/n.git/")
        ):
            self.hugging_face(path, prefix, body)
        elif fake.exists and f"{path}/".startswith((f"/api/v1/{fake.kind}/o/n/", f"/api/v1/repos/{fake.kind}/o/n/")):
            self.model_scope(path, query, body)
        else:
            self.reply(401 if path.startswith(f"/api/{fake.kind}") else 404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def may_write(self) -> bool:
        if self.fake.writer and self.token() == self.fake.writer:
            return True
        self.reply(403, b'{"error": "no"}')
        return False

    def create(self, wanted: dict):
        fake = self.fake
        if not self.may_write():
            return
        fake.created.append(wanted)
        if fake.exists:
            return self.reply(409, json.dumps({"error": "exists", "url": f"{fake.url}/o/n"}).encode())
        private = wanted.get("visibility") == "private" or wanted.get("private") or wanted.get("Visibility") == 1
        fake.exists, fake.private = True, fake.writer if private and not fake.stays_public else ""
        self.reply(200, json.dumps({"url": f"{fake.url}/o/n", "Code": 200, "Data": {}}).encode())

    def hugging_face(self, path: str, prefix: str, body: bytes):
        fake = self.fake
        if fake.gated:
            self.reply(403, b"", {"X-Error-Code": "GatedRepo"})
        elif fake.private and self.token() != fake.private:
            self.reply(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif "/resolve/" in path:
            revision, _, name = path.removeprefix(f"{prefix}/o/n/resolve/").partition("/")
            assert revision == COMMIT
            if fake.gated_files:
                self.reply(401, b"", {"X-Error-Code": "GatedRepo"})
            else:
                self.file(name)
        elif "/tree/" in path:
            lfs = {name: {"oid": sha(data), "size": len(data), "pointerSize": 130} for name, data in fake.files.items()}
            tree = [{"type": "directory", "path": "data", "oid": "0", "size": 0}]
            tree += [{"type": "file", "path": name, "size": len(data), "oid": "0"}
                     | ({"lfs": lfs[name]} if fake.hashes else {}) for name, data in fake.files.items()]  # fmt: skip
            self.reply(200, json.dumps(tree).encode())
        elif "/preupload/" in path:
            self.reply(200, json.dumps({"files": [self.mode(f["path"]) for f in json.loads(body)["files"]]}).encode())
        elif path.endswith("/lfs/objects/batch"):
            if self.may_write():
                self.reply(200, json.dumps(self.batch(json.loads(body))).encode())
        elif "/commit/" in path:
            if self.may_write():
                self.commit([json.loads(line) for line in body.splitlines()])
        elif "/xet-" in path:  # a storage that is not faked here
            self.reply(403, b"{}")
        elif path.partition("/revision/")[2] in (*fake.revisions, ""):
            info = {"id": "o/n", "sha": COMMIT, "private": bool(fake.private), "siblings": []}
            self.reply(200, json.dumps(info).encode())
        else:
            self.reply(404, b"", {"X-Error-Code": "RevisionNotFound"})

    def mode(self, path: str) -> dict:
        lfs, there = path.endswith((".safetensors", ".gguf", ".model")), self.fake.files.get(path)
        git = hashlib.sha1(b"blob %d\0" % len(there) + there).hexdigest() if there is not None else None
        oid = sha(there) if lfs and there is not None else git
        return {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid}

    def batch(self, asked: dict) -> dict:
        """What of the asked objects is still to be sent, and to where."""
        fake, answers = self.fake, []
        for wanted in asked["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            href = f"{fake.elsewhere or fake.url}/storage/{oid}"
            upload: dict = {"href": href}
            if fake.chunk_size:
                count = -(-size // fake.chunk_size)
                fake.parts.setdefault(oid, [b""] * count)
                header = {f"{i + 1}": f"{href}?part={i}" for i in range(count)} | {"chunk_size": str(fake.chunk_size)}
                upload = {"href": f"{fake.url}/complete/{oid}", "header": header}
            answers.append(wanted if oid in fake.objects else {**wanted, "actions": {"upload": upload}})
        return {"transfer": "basic", "objects": answers}

    def store(self, path: str):
        fake, length = self.fake, int(self.headers["Content-Length"])
        if fake.broken:
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        data, oid = self.rfile.read(length), path.removeprefix("/storage/")
        part = parse_qs(urlsplit(self.path).query).get("part")
        if part:
            fake.parts[oid][int(part[0])] = data
        else:
            assert sha(data) == oid
            fake.objects[oid] = data
        self.reply(200, b"", {"ETag": '"e"'})

    def commit(self, lines: list[dict]):
        added = {}
        for line in lines:
            if line["key"] == "file":
                added[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                added[line["value"]["path"]] = self.fake.objects[line["value"]["oid"]]
        self.fake.files |= added
        self.fake.commits.append(sorted(added))
        self.reply(200, json.dumps({"commitUrl": f"{self.fake.url}/o/n/commit/{COMMIT}", "commitOid": COMMIT}).encode())

    def model_scope(self, path: str, query: dict[str, str], body: bytes):
        fake = self.fake
        entries = [{"Type": "tree", "Path": "data"}]
        entries += [{"Type": "blob", "Path": name, "Size": len(data), "Sha256": sha(data) if fake.hashes else ""}
                    for name, data in fake.files.items()]  # fmt: skip
        allowed = not fake.private or (
            self.token() == fake.private and self.headers.get("Cookie") == f"m_session_id={fake.private}"
        )
        if not allowed:
            self.reply(200, b'{"Code": 10010205001, "Success": false, "Data": null}')
        elif path.endswith("/lfs/objects/batch"):
            if self.may_write():
                self.reply(200, json.dumps({"Code": 200, "Data": self.batch(json.loads(body))}).encode())
        elif "/commit/" in path:
            if self.may_write():
                keys = {"normal": "file", "lfs": "lfsFile"}
                self.commit([{"key": keys[a["type"]], "value": a | {"oid": a["sha256"]}}
                             for a in json.loads(body)["actions"]])  # fmt: skip
        elif query.get("Revision", "master") not in fake.revisions:
            self.reply(404, b"{}")
        elif "FilePath" in query:
            self.file(query["FilePath"])
        elif path.endswith("/repo/files"):
            assert fake.kind == "models"
            self.reply(200, json.dumps({"Code": 200, "Success": True, "Data": {"Files": entries}}).encode())
        elif path.endswith("/repo/tree"):
            size, number = int(query["PageSize"]), int(query["PageNumber"])
            page = entries if fake.page_size == 0 else entries[size * (number - 1) : size * number]
            self.reply(200, json.dumps({"Code": 200, "Success": True, "Data": {"Files": page}}).encode())
        else:
            self.reply(200, b'{"Code": 200, "Success": true, "Data": {}}')

    def file(self, name: str):
        fake = self.fake
        data = fake.served.get(name, fake.files[name])
        if fake.elsewhere:
            self.reply(302, b"", {"Location": fake.elsewhere + self.path, "X-Repo-Commit": COMMIT, "ETag": '"e"',
                                  "X-Linked-Size": str(len(data)), "X-Linked-ETag": '"e"'})  # fmt: skip
            return
        broken = fake.broken or (fake.breaks > 0 and len(data) > 1_000_000)
        fake.breaks -= broken and not fake.broken
        headers = {"ETag": f'"{sha(data)}"', "X-Repo-Commit": COMMIT}
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if start and self.command == "GET":
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.reply(206 if start < len(data) else 416, data[start:], headers, broken=broken)
        else:
            self.reply(200, data, headers, broken=broken)

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None, broken: bool = False):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if broken else body)
        self.close_connection = self.close_connection or broken


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def serving(fake: FakeHub, host: str = "127.0.0.1") -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Handler,), {"fake": fake}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def fake_hub(monkeypatch: pytest.MonkeyPatch, folder: Path, kind: str) -> Iterator[FakeHub]:
    """For a fixture: both hubs are this one, the cache is below ``folder``, and no token is known."""
    from huggingface_hub import close_session

    fake = FakeHub(kind)
    for name in (*TOKENS, "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TUNESMITH_CACHE", str(folder / "cache"))
    with serving(fake) as fake.url:
        monkeypatch.setenv("HF_ENDPOINT", fake.url + "/")
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", fake.url)
        yield fake
        close_session()  # the library's connections, which would keep the server's threads


def below(folder: Path) -> dict[str, bytes]:
    """What a reader would find: everything that is not hidden."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in sorted(found.items())
        if not name.startswith(".") and not path.name.startswith(".")
    }
