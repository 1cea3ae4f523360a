"""OpenRLHF: `reward_func` in a Python file, and the HTTP server of its remote reward model.

    --reward.remote_url reward.py   # in it: from trainer.adapters.openrlhf import reward_func

    python -m trainer.adapters.openrlhf --recipe recipe.yaml --port 5000
    --reward.remote_url http://localhost:5000/get_reward

Written for the protocol of OpenRLHF 0.11.2; not run inside OpenRLHF. It hands over the whole text,
prompt and reply with their special tokens, so that span tags may be special and a cut-off reply is
seen. `labels` are turn ids. Rewards are float32 tensors in the function (as OpenRLHF's own), and
the exact numbers over HTTP.

OpenRLHF has no mask. It catches what a reward function raises and goes on without a reward, on
which it then stops with an error of its own; the sentence on standard error says why. The server
answers 503, and OpenRLHF asks up to five times.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from kardiabench.errors import ConfigError, KardiaBenchError
from trainer.adapters.scoring import Adapter, Scored, part_columns, read_stage, shared

_MOST_BYTES = 1 << 28


def reward_func(
    queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str], **_: Any
) -> dict[str, Any]:
    """`rewards`, `scores` and `extra_logs` as float32 tensors, one number a query."""
    import torch

    try:
        scored = score(shared(), queries, prompts, labels)
    except KardiaBenchError as error:
        sys.stderr.write(f"kardiabench: {error}\n")  # OpenRLHF logs it where few look
        raise
    rewards = torch.tensor([one.composite for one in scored], dtype=torch.float32)
    logs = {name: torch.tensor(values) for name, values in part_columns(scored).items()}
    return {"rewards": rewards, "scores": rewards, "extra_logs": logs}


def score(
    adapter: Adapter, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str]
) -> list[Scored]:
    """Score the replies that follow the prompts in `queries`."""
    replies = [reply_of(adapter, *pair) for pair in zip(queries, prompts, strict=True)]
    return adapter.of_texts([str(label) for label in labels], replies)


def reply_of(adapter: Adapter, query: str, prompt: str) -> str:
    """What stands behind `prompt` in `query`, special tokens kept.

    Raises `ConfigError` where the prompt is not its beginning: OpenRLHF cuts prompts that are too
    long, and the policy then saw another turn than the judges.
    """
    for beginning in (prompt, adapter.decoded_again(prompt)):
        if query.startswith(beginning):
            return query[len(beginning) :]
    raise ConfigError(
        "a query does not begin with its prompt, which OpenRLHF cuts where it is too long; raise "
        "its max_len, or set max_prompt_tokens of the recipe and export the rows anew"
    )


class RewardServer(ThreadingHTTPServer):
    """Answers `POST /get_reward`; any path is taken, as OpenRLHF's clients may give any."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, adapter: Adapter, host: str = "127.0.0.1", port: int = 0) -> None:
        self.adapter = adapter
        super().__init__((host, port), _Handler)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}/get_reward"


class _Handler(BaseHTTPRequestHandler):
    server: RewardServer

    def do_POST(self) -> None:
        try:
            queries, prompts, labels = self._asked()
            scored = score(self.server.adapter, queries, prompts, labels)
        except (ValueError, TypeError, KeyError) as error:
            self._answer(400, {"error": f"no request of OpenRLHF: {error}"})
        except ConfigError as error:
            self._fail(400, error)
        except KardiaBenchError as error:
            self._fail(503, error)
        else:
            rewards = [one.composite for one in scored]
            logs = part_columns(scored)
            self._answer(200, {"rewards": rewards, "scores": rewards, "extra_logs": logs})

    def _asked(self) -> tuple[list[str], list[str], list[str]]:
        length = int(self.headers.get("Content-Length", ""))
        if not 0 <= length <= _MOST_BYTES:
            raise ValueError(f"a body of {length} bytes")
        body = json.loads(self.rfile.read(length))
        columns = [body[name] for name in ("query", "prompts", "labels")]
        for column in columns:
            if not isinstance(column, list) or not all(isinstance(v, str) for v in column):
                raise TypeError("query, prompts and labels have to be lists of text")
        if len({len(column) for column in columns}) != 1:
            raise ValueError("query, prompts and labels differ in length")
        return columns[0], columns[1], columns[2]

    def _fail(self, status: int, error: KardiaBenchError) -> None:
        sys.stderr.write(f"kardiabench: {error}\n")
        self._answer(status, {"error": str(error)})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Requests are not logged."""


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m trainer.adapters.openrlhf")
    parser.add_argument("--recipe", help="GRPO recipe. [default: $KARDIABENCH_RECIPE]")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    try:
        adapter = Adapter.of(read_stage(options.recipe, options.overrides))
        server = RewardServer(adapter, options.host, options.port)
    except (KardiaBenchError, OSError) as error:
        sys.exit(f"kardiabench: {error}")
    sys.stderr.write(f"serving rewards at {server.url}\n")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.shutdown()


if __name__ == "__main__":
    main()
