"""The Ray cluster that replicas run on: reached or started, measured, and left as it was found.

Ray is imported inside functions only, and comes with the extra `ray`. A Ray of our own (`local`)
asks for a token that only this process and its children know, since it listens on every interface;
Ray ends it within half a minute once this process is gone, `kill -9` included.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kardiabench.errors import ConfigError, PreflightError

INSTALL = "Ray is not installed; install it with: pip install 'kardiabench[ray]'"
#: Of one replica. Less than a whole: replicas on every processor would leave none for other work
#: of the cluster, which would wait for ever.
_NUM_CPUS = 0.5
#: Seconds until a cluster answers: Ray itself would try for minutes where nothing listens.
_REACH = 10.0
_ADDRESS = "give local, auto, HOST:PORT or ray://HOST:PORT to --ray"
_RESERVED = {"CPU": "num_cpus", "GPU": "num_gpus", "object_store_memory": "memory"}


@dataclass(frozen=True)
class Shape:
    """What one replica takes of a node, under Ray's names: `CPU`, `GPU`, `memory` (bytes), others.

    `gpus` is what it takes where the cluster has GPUs and the user gave no number.
    """

    asked: Mapping[str, float]
    gpus: int = 1

    def on(self, totals: Mapping[str, float]) -> dict[str, float]:
        """What it takes of a cluster that has `totals`."""
        gpus = self.gpus if totals.get("GPU", 0) > 0 else 0
        takes = {"CPU": _NUM_CPUS, "GPU": gpus, **self.asked}
        return {name: amount for name, amount in takes.items() if amount > 0}


def parse_shape(given: Mapping[str, Any], extra: Mapping[str, object]) -> Shape:
    """The shape that `--replica-arg`s give; `extra` are the model's (tensor parallelism).

    Raises `ConfigError` for what Ray could not give.
    """
    asked: dict[str, float] = {}
    for name, value in given.items():
        if name in _RESERVED:
            raise ConfigError(f"--replica-arg {name}: write {_RESERVED[name]}={value}")
        asked[{"num_cpus": "CPU", "num_gpus": "GPU"}.get(name, name)] = _amount(name, value)
    return Shape(asked, _parallel(extra, "tensor") * _parallel(extra, "pipeline"))


def _amount(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"--replica-arg {name}={value}: give a number, for example {name}=1")
    if value < 0 or (name == "num_gpus" and value > 1 and value != int(value)):
        raise ConfigError(
            f"--replica-arg {name}={value}: give 0 or more, and GPUs above 1 as a whole number"
        )
    return value


def _parallel(extra: Mapping[str, object], kind: str) -> int:
    size = extra.get(f"{kind}_parallel_size", 1)
    return size if isinstance(size, int) and size > 0 else 1


@dataclass
class Cluster:
    """A connection to a cluster; `close` undoes what was done to have it."""

    ray: Any
    address: str
    #: Whether this connection was made here: one that the program had before is left alone.
    ours: bool

    @property
    def nodes(self) -> list[Mapping[str, float]]:
        """What each living node has in all, under Ray's names."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    @property
    def totals(self) -> dict[str, float]:
        """The sum over the nodes."""
        nodes = self.nodes
        names = {name for node in nodes for name in node}
        return {name: sum(node.get(name, 0) for node in nodes) for name in names}

    def check_room(self, takes: Mapping[str, float], replicas: int) -> None:
        """Raise `PreflightError` when so many replicas could never stand there together."""
        room = sum(_room(node, takes) for node in self.nodes)
        if room < replicas:
            raise PreflightError(
                f"--replicas {replicas}: the Ray cluster has room for {room}, since a replica "
                f"takes {_in_words(takes)} of one node and there are {self._nodes_in_words(takes)};"
                " ask for fewer, add nodes, or change what a replica takes with --replica-arg"
            )

    def threads(self, takes: Mapping[str, float], replicas: int) -> int:
        """Of the cluster's processors, one replica's share; its `num_cpus` where it has whole."""
        share = max(takes.get("CPU", 0), self.totals.get("CPU", 1) // replicas)
        return max(1, int(takes["CPU"] if takes.get("CPU", 0) >= 1 else share))

    def close(self) -> None:
        """End a Ray of our own, or leave the cluster; nothing that others started ends."""
        if self.ours:
            self.ray.shutdown()

    def _nodes_in_words(self, takes: Mapping[str, float]) -> str:
        nodes = [_in_words({name: node.get(name, 0) for name in takes}) for node in self.nodes]
        kinds = ", ".join(f"{nodes.count(kind)} with {kind}" for kind in dict.fromkeys(nodes))
        return f"{len(nodes)} nodes: {kinds}" if len(nodes) != 1 else f"1 node with {nodes[0]}"


def _room(node: Mapping[str, float], takes: Mapping[str, float]) -> int:
    return min(
        (int(node.get(name, 0) / amount + 1e-9) for name, amount in takes.items()), default=0
    )


def _in_words(amounts: Mapping[str, float]) -> str:
    return " and ".join(f"{name} {amount:g}" for name, amount in sorted(amounts.items()))


def connect(address: str) -> Cluster:
    """Start a Ray on this machine (`local`) or reach the cluster at `address`.

    Raises `PreflightError` where Ray is not installed or the cluster cannot be reached.
    """
    ray = _import_ray()
    if ray.is_initialized():
        return Cluster(ray, address, ours=False)
    arguments: dict[str, Any] = {"address": address}
    if address == "local":
        arguments |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        _private()
    else:
        _check_reach(address)
    try:
        with _signals_kept():
            ray.init(**arguments, logging_level=logging.CRITICAL, log_to_driver=False)
    except Exception as error:
        raise PreflightError(_refusal(address, error)) from error
    _quiet()
    return Cluster(ray, address, ours=True)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise PreflightError(INSTALL) from error
    return ray


def _private() -> None:
    """Before a Ray of our own starts: strangers on the network could otherwise run code in it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _check_reach(address: str) -> None:
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise PreflightError(f"--ray {address}: this is no address; {_ADDRESS}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH).close()
    except OSError as error:
        raise PreflightError(
            f"--ray {address}: nothing answers there ({error}); check that the cluster runs "
            f"(ray status), or {_ADDRESS}"
        ) from error


def _refusal(address: str, error: Exception) -> str:
    why = " ".join(str(error).split()) or type(error).__name__
    what = "Ray cannot start on this machine" if address == "local" else f"--ray {address}"
    return f"{what}: {why[:500]}; check the cluster (ray status), or {_ADDRESS}"


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself, which is how a run is told to stop."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _quiet() -> None:
    """Ray prints what befalls workers to standard output, which is for results (`--json`).

    There is no option; its own debugger stops the printing so.
    """
    from ray._private import worker

    worker._worker_logs_enabled = False


def ray_options(takes: Mapping[str, float]) -> dict[str, Any]:
    """`takes` as the options of a Ray actor."""
    rest = {k: v for k, v in takes.items() if k not in ("CPU", "GPU", "memory")}
    return {
        "num_cpus": takes.get("CPU", 0),
        "num_gpus": takes.get("GPU", 0),
        **({"memory": int(takes["memory"])} if "memory" in takes else {}),
        **({"resources": rest} if rest else {}),
    }
