"""A Hugging Face Hub of one folder: model information, and files at a commit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_ERRORS = {
    "team/gated": (403, "GatedRepo"),
    "team/unknown": (401, "RepoNotFound"),
    "team/old": (404, "RevisionNotFound"),
    "team/broken": (500, ""),
}


class _Server(ThreadingHTTPServer):
    folder: Path
    name: str


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def _answer(self, *, with_body: bool) -> None:
        status, content, headers = self._content(self.path.split("?")[0].strip("/"))
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def _content(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        for wrong, (status, code) in _ERRORS.items():
            if wrong in path:
                return status, b"{}", {"X-Error-Code": code}
        if path.startswith(f"api/models/{self.server.name}") and "/tree/" not in path:
            return 200, self._information(), {}
        file = self.server.folder / path.rsplit("/", 1)[-1]
        if f"{self.server.name}/resolve/" not in path or not file.is_file():
            return 404, b"", {"X-Error-Code": "EntryNotFound"}
        content = file.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        return 200, content, {"ETag": tag, "X-Repo-Commit": COMMIT}

    def _information(self) -> bytes:
        files = [{"rfilename": path.name} for path in sorted(self.server.folder.iterdir())]
        return json.dumps({"id": self.server.name, "sha": COMMIT, "siblings": files}).encode()


@contextmanager
def hub(folder: Path, name: str) -> Iterator[str]:
    """Serve `folder` as the model `name`; gives the address. Other names are errors of the Hub."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.folder, server.name = folder, name
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
