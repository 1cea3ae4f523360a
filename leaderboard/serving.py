"""A look at a built site over HTTP, on this machine only."""

from __future__ import annotations

import functools
import http.server
import sys
from pathlib import Path
from typing import Any

from kardiabench.errors import ConfigError

HOST = "127.0.0.1"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves the files of a folder and nothing else; says nothing of those it served."""

    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".parquet": "application/vnd.apache.parquet",
        ".xml": "application/atom+xml",
        ".bib": "application/x-bibtex",
    }

    def send_head(self) -> Any:
        """Not what a link leads to outside of the folder, nor a name that no file can have."""
        root = Path(self.directory).resolve()
        try:
            inside = Path(self.translate_path(self.path)).resolve().is_relative_to(root)
        except (OSError, ValueError):
            inside = False
        if not inside:
            self.send_error(404)
            return None
        return super().send_head()

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Only errors are told."""


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up in the middle of a file is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def server(site: Path, port: int) -> http.server.ThreadingHTTPServer:
    """A server of the folder `site`; port 0 takes a free one. Raises `ConfigError`."""
    if not (site / "index.html").is_file():
        raise ConfigError(
            f"{site} holds no site; build one with: kardiabench leaderboard build RUNS -o {site}"
        )
    handler = functools.partial(_Quiet, directory=str(site))
    try:
        return _Server((HOST, port), handler)
    except OSError as error:
        raise ConfigError(
            f"port {port} cannot be used ({error.strerror}); give another --port"
        ) from error
