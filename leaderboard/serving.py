"""A look at a built site over HTTP, on this machine only."""

from __future__ import annotations

import functools
import http.server
from pathlib import Path

from kardiabench.errors import ConfigError

HOST = "127.0.0.1"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files; says nothing of those it served."""

    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".parquet": "application/vnd.apache.parquet",
        ".xml": "application/atom+xml",
        ".bib": "application/x-bibtex",
    }

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Only errors are told."""


def server(site: Path, port: int) -> http.server.ThreadingHTTPServer:
    """A server of the folder `site`; port 0 takes a free one. Raises `ConfigError`."""
    if not (site / "index.html").is_file():
        raise ConfigError(
            f"{site} holds no site; build one with: kardiabench leaderboard build RUNS -o {site}"
        )
    handler = functools.partial(_Quiet, directory=str(site))
    try:
        return http.server.ThreadingHTTPServer((HOST, port), handler)
    except OSError as error:
        raise ConfigError(
            f"port {port} cannot be used ({error.strerror}); give another --port"
        ) from error
