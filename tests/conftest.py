"""Fixtures that tests of whole commands share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_process import Cli
from hypothesis import settings
from openai_server import Behaviour, OpenAIServer

# A busy machine is slow, not wrong.
settings.register_profile("kardiabench", deadline=None)
settings.load_profile("kardiabench")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache."""
    monkeypatch.setenv("KARDIABENCH_CACHE", str(tmp_path / "own-cache.sqlite"))


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line in an empty folder, with an empty home and cache and no keys."""
    folder = tmp_path / "user"
    folder.mkdir()
    return Cli.in_folder(folder)


@pytest.fixture(scope="session")
def _running_server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def server(_running_server: OpenAIServer) -> OpenAIServer:
    """A local OpenAI-compatible server that answers at once and has seen no request yet."""
    _running_server.delay = 0.0
    _running_server.default = Behaviour()
    _running_server.rule = None
    _running_server.requests.clear()
    _running_server.hits = _running_server.most_at_once = 0
    _running_server._script.clear()
    return _running_server


@pytest.fixture
def api(server: OpenAIServer) -> list[str]:
    """Options of `run` for a model and a rubric judge on the local server, over the sample."""
    return [
        *("run", "--model", "openai/anything", "--api-base", server.url),
        *("--judge-model", "openai/judge", "--judge-api-base", server.url),
        *("--dataset", "sample", "--retries", "0"),
    ]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let torch use one thread, which is faster for models of a few thousand weights."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The learning tests' model, untrained, its span tags special tokens."""
    import tiny_policy

    folder = tmp_path_factory.mktemp("policy")
    return tiny_policy.build_policy(folder, special_tags=True, seed=0)
