"""A small hub that speaks as the Hugging Face Hub does to upload_folder and hf_hub_download, on this machine alone.

Regular files lie inline in a commit, as the Hub takes small ones; here it takes all so.
"""

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_of_this_test"


class Hub(ThreadingHTTPServer):
    """files: by repository and path, the newest content. private: the repositories that are. requests: what was asked.

    refuse: the path of a request that is answered with 403, if any.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.messages: list[str] = []
        self.requests: list[tuple[str, str]] = []
        self.refuse = ""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Answers(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        path = self._asked()
        body = self._body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._json(401, {"error": "Invalid username or password."})
        if self.server.refuse and self.server.refuse in path:
            return self._json(403, {"error": "Forbidden: you have no write access."})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            if name in self.server.files:
                return self._json(409, {"error": "You already created this model repo", "url": name})
            self.server.files[name] = {}
            if asked.get("visibility") == "private" or asked.get("private"):
                self.server.private.add(name)
            return self._json(200, {"url": f"{self.server.address}/{name}"})
        if path == "/api/validate-yaml":
            return self._json(200, {"errors": [], "warnings": []})
        name, _, what = path.removeprefix("/api/models/").removesuffix("/main").rpartition("/")
        if path.startswith("/api/models/") and name in self.server.files and what in ("preupload", "commit"):
            return self._preupload(body) if what == "preupload" else self._commit(name, body)
        return self._json(404, {"error": f"No {path}"})

    def _preupload(self, body: bytes) -> None:
        files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]
        self._json(200, {"files": files})

    def _commit(self, name: str, body: bytes) -> None:
        added = {}
        for line in body.splitlines():
            record = json.loads(line)
            if record["key"] == "header":
                self.server.messages.append(record["value"]["summary"])
            else:
                assert record["key"] == "file" and record["value"]["encoding"] == "base64", record["key"]
                added[record["value"]["path"]] = base64.b64decode(record["value"]["content"])
        self.server.files[name] |= added
        commit = self._revision(name)
        self._json(
            200,
            {"success": True, "commitOid": commit, "commitUrl": f"{self.server.address}/{name}/commit/{commit}",
             "hookOutput": ""},
        )  # fmt: skip

    def do_HEAD(self) -> None:
        self._resolve(with_body=False)

    def do_GET(self) -> None:
        self._resolve(with_body=True)

    def _resolve(self, with_body: bool) -> None:
        path = self._asked()
        if path.startswith("/api/models/"):
            name, _, _ = path.removeprefix("/api/models/").partition("/revision/")
            if name not in self.server.files:
                return self._json(404, {"error": "Repository not found"}, code="RepoNotFound")
            siblings = [{"rfilename": file} for file in self.server.files[name]]
            return self._json(
                200,
                {"id": name, "sha": self._revision(name), "siblings": siblings, "private": name in self.server.private},
            )
        name, _, rest = path.removeprefix("/").partition("/resolve/")
        held = self.server.files.get(name, {}).get(rest.partition("/")[2])
        if held is None:
            return self._json(404, {"error": "Entry not found"}, code="EntryNotFound")
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(held).hexdigest()}"')
        self.send_header("X-Repo-Commit", self._revision(name))
        self.send_header("Content-Length", str(len(held)))
        self.end_headers()
        if with_body:
            self.wfile.write(held)

    def _revision(self, name: str) -> str:
        files = sorted(self.server.files[name].items())
        return hashlib.sha1(b"".join(path.encode() + content for path, content in files)).hexdigest()

    def _asked(self) -> str:
        path = self.path.partition("?")[0]
        self.server.requests.append((self.command, path))
        return path

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _json(self, status: int, content: dict, code: str = "") -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
