"""The commands `leaderboard build` and `serve`, as their users meet them."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_process import Cli, until
from site_runs import Made, write_run

from kardiabench.errors import ConfigError
from leaderboard.serving import HOST, server

ONE = Made("a/one", 3.0, 0.3, seed=2)


@pytest.fixture
def run(cli: Cli) -> Path:
    return write_run(cli.folder / "run", ONE, limit=2)


def test_build_says_what_is_there_and_what_was_left_out(cli: Cli, run: Path) -> None:
    (cli.folder / "bad").mkdir()
    (cli.folder / "bad" / "manifest.json").write_text("{}")
    done = cli.fast("leaderboard", "build", "run", "bad", "--workers", "1")
    assert done.rc == 0, done.err
    assert "site/index.html: 1 run (1 ranked) of 1 protocol" in done.out
    assert "with the text of sample; licence: CC0" in done.out
    assert "warning: left out bad: " in done.err
    assert (cli.folder / "site" / "index.html").exists()
    strict = cli.fast("leaderboard", "build", "run", "bad", "--workers", "1", "--strict")
    assert strict.rc == 2
    assert strict.err.startswith("kardiabench: bad cannot be shown")


def test_python_m_leaderboard_is_the_same(cli: Cli) -> None:
    ours = cli.fast("leaderboard", "build", "--help")
    command = [sys.executable, "-m", "leaderboard", "build", "--help"]
    theirs = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ours.out.split() == theirs.stdout.split()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--title", ""), "--title must have 1 to 200 characters"),
        (("--title", "x" * 201), "--title must have 1 to 200 characters"),
        (("--url", "javascript:alert(1)"), "is no address"),
        (("--url", 'https://x/"><script>'), "is no address"),
        (("--out", "."), "would be replaced"),
        (("--text-from", "sample"), "give --include-text with it"),
    ],
)
def test_options_that_cannot_be_are_one_sentence(cli, run, options, sentence) -> None:
    done = cli.fast("leaderboard", "build", "run", "--workers", "1", *options)
    assert done.rc == 2
    assert sentence in done.err
    assert done.err.count("\n") == 1


def test_address_and_title_are_on_the_site(cli: Cli, run: Path) -> None:
    options = ("--title", "Ours & theirs", "--url", "https://example.org/board/")
    assert cli.fast("leaderboard", "build", "run", "--workers", "1", *options).rc == 0
    site = cli.folder / "site"
    assert "Ours &amp; theirs" in (site / "index.html").read_text("utf-8")
    assert "https://example.org/board/models/" in (site / "feed.xml").read_text("utf-8")
    assert "https://example.org/board/" in (site / "cite.bib").read_text("utf-8")


def below(pid: int) -> list[int]:
    """The processes that `pid` has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
def test_a_killed_build_leaves_no_process_behind(cli: Cli, run: Path) -> None:
    for number in range(3):
        write_run(cli.folder / f"more-{number}", ONE, limit=2)
    build = cli.start("leaderboard", "build", ".", "--out", "../site", "--workers", "2")
    until(lambda: len(below(build.pid)) >= 3)  # the resource tracker is one of them
    workers = below(build.pid)
    build.kill()
    until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))


# --- serve ----------------------------------------------------------------------------------------


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("<p>here")
    (tmp_path / "secret").write_text("not for you")
    (site / "link").symlink_to(tmp_path / "secret")
    with server(site, 0) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield int(running.server_address[1])
        running.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 200), ("/nothing", 404), ("/%00", 404), ("/link", 404), ("/../secret", 404),
     ("/%2e%2e/secret", 404)],
)  # fmt: skip
def test_only_the_folders_own_files_are_served(port: int, path: str, status: int) -> None:
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status == status
    assert b"not for you" not in answer.read()


def test_a_folder_without_a_site_and_a_port_in_use_are_one_sentence(tmp_path, port) -> None:
    with pytest.raises(ConfigError, match="holds no site"):
        server(tmp_path, 0)
    with pytest.raises(ConfigError, match="give another --port"):
        server(tmp_path / "site", port)
