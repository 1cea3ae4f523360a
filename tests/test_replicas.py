"""Replicas on a Ray cluster of two nodes: the run is that of one machine, whatever is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
from cli_process import Cli, Result, until

from kardiabench.contracts import ModelOptions
from kardiabench.errors import ConfigError, PreflightError
from kardiabench.models.local import ray_cluster
from kardiabench.models.replicas import Replicas, replicated
from kardiabench.plugins import load_registry
from kardiabench.records import ChatRequest, Completion, Message

PLUGIN = str(Path(__file__).with_name("replica_plugin.py"))
RUN = ("run", "--model", "echo/one", "--dataset", "sample", "--no-rubric", "--no-cache")
RUN += ("--plugin", PLUGIN)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one processor; replicas that ask for `seat` have one place on each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        head = _node() | {"_system_config": _NOTICES_SOON}
        made = Cluster(initialize_head=True, head_node_args=head)
        made.add_node(**_node(seat=1))
        yield made
        made.shutdown()


#: A node that answers no more is given up after two seconds, not twenty.
_NOTICES_SOON = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}


def _node(**resources: float) -> dict[str, Any]:
    return {"num_cpus": 1, "include_dashboard": False, "resources": {"seat": 1} | resources}


def _run(cli: Cli, out: str, *more: object, **extra: object) -> Result:
    return cli(*_command(out, *more, **extra), RAY_AUTH_MODE="disabled")


def _command(out: str, *more: object, **extra: object) -> list[object]:
    args = [part for key, value in extra.items() for part in ("--model-arg", f"{key}={value}")]
    return [*RUN, "--out", out, *args, *more]


def _spread(cluster: Any, replicas: int = 2) -> list[object]:
    return ["--ray", cluster.address, "--replicas", replicas, "--replica-arg", "seat=1"]


def _replies(cli: Cli, run: str) -> dict[str, str]:
    lines = [line["reply"] for line in cli.lines("replies.jsonl", run)]
    assert max(Counter(line["turn_id"] for line in lines).values()) == 1
    return {line["turn_id"]: line["text"] for line in lines}


def _asked(log: Path) -> dict[str, set[int]]:
    """The processes that answered each turn."""
    found: dict[str, set[int]] = {}
    for line in log.read_text().splitlines() if log.exists() else []:
        turn, pid = line.split()
        found.setdefault(turn, set()).add(int(pid))
    return found


def _workers(log: Path) -> set[int]:
    return {pid for pids in _asked(log).values() for pid in pids}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The run of one machine, without Ray."""
    cli = Cli.in_folder(tmp_path_factory.mktemp("alone"))
    assert _run(cli, "alone").rc == 0
    return cli


def _assert_same(cli: Cli, run: str, alone: Cli) -> None:
    assert _replies(cli, run) == _replies(alone, "alone")
    summary, expected = (json.loads(c.summary(r)) for c, r in ((cli, run), (alone, "alone")))
    assert summary == expected


def _without_args(manifest: dict[str, Any]) -> dict[str, Any]:
    return {"model": manifest["model"], "protocol": manifest["protocol"]}


def test_a_run_on_replicas_is_the_run_of_one_machine(cli: Cli, alone: Cli, cluster: Any) -> None:
    log = cli.folder / "log"
    done = _run(cli, "spread", *_spread(cluster), "--model-arg", f"log={log}", "--json")
    assert done.rc == 0, done.err
    json.loads(done.out)  # nothing of Ray's in between
    _assert_same(cli, "spread", alone)
    assert len(_workers(log)) == 2
    assert os.getpid() not in _workers(log)
    manifests = [
        json.loads((c.folder / run / "manifest.json").read_text())
        for c, run in ((cli, "spread"), (alone, "alone"))
    ]
    assert _without_args(manifests[0]) == _without_args(manifests[1])


def test_a_killed_worker_and_a_lost_node_cost_nothing(cli: Cli, alone: Cli, cluster: Any) -> None:
    log, spare = cli.folder / "log", cluster.add_node(**_node())
    command = _command("out", *_spread(cluster, 3), log=log, seconds=0.25)
    started = cli.start(*command, RAY_AUTH_MODE="disabled")
    until(lambda: len(_workers(log)) == 3 or not started.alive)
    os.kill(min(_workers(log)), signal.SIGKILL)
    until(lambda: len(_workers(log)) == 4 or not started.alive)
    cluster.remove_node(spare, allow_graceful=False)
    done = started.wait()
    assert done.rc == 0, done.err
    _assert_same(cli, "out", alone)
    assert done.err.count("was lost") == 2, done.err
    assert set(_asked(log)) == set(_replies(cli, "out"))
    cluster.wait_for_nodes()  # until the cluster itself has noticed


def _model(
    cluster: Any, replicas: int = 2, *, plugins: Sequence[str] = (PLUGIN,), **extra: Any
) -> Replicas:
    options = ModelOptions(extra=extra)
    model = load_registry([PLUGIN]).open_model("echo/one", options)
    address = cluster.address if cluster else "local"
    return replicated(
        model,
        options,
        address=address,
        replicas=replicas,
        resources={"seat": 1},
        plugins=plugins,
    )


def _requests(*turns: str) -> list[ChatRequest]:
    return [ChatRequest((Message("user", "Hello."),), turn, "p") for turn in turns]


def _complete(model: Replicas, *dialogues: list[str]) -> list[list[Completion]]:
    async def ask() -> list[list[Completion]]:
        try:
            return await asyncio.gather(*(model.complete(_requests(*d)) for d in dialogues))
        finally:
            await model.aclose()

    return asyncio.run(ask())


def _refused(model: Replicas) -> str:
    async def check() -> None:
        try:
            await model.preflight()
        finally:
            await model.aclose()

    with pytest.raises(PreflightError) as refused:
        asyncio.run(check())
    return str(refused.value)


def test_it_is_the_model_of_one_replica(cluster: Any) -> None:
    one, model = load_registry([PLUGIN]).open_model("echo/one"), _model(cluster, 2)
    assert model.identity == {**one.identity}
    assert (model.name, model.batch_size, model.is_local) == ("echo/one", 1, True)
    assert model.dialogues_at_once == 2 * one.dialogues_at_once  # type: ignore[attr-defined]


def test_a_dialogue_goes_to_one_replica_and_dialogues_to_all(cluster: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    dialogues = [[f"{d}/{n}" for n in range(3)] for d in "abcd"]
    answers = _complete(_model(cluster, log=str(log), seconds=0.1), *dialogues)
    assert [[a.status for a in one] for one in answers] == [["ok"] * 3] * 4
    pids = [set.union(*(_asked(log)[turn] for turn in dialogue)) for dialogue in dialogues]
    assert [len(p) for p in pids] == [1] * 4
    assert Counter(min(p) for p in pids).most_common()[0][1] == 2


def test_a_dialogue_stays_where_its_first_turn_was(cluster: Any, tmp_path: Path) -> None:
    """In `free` mode turns come one by one, and what a replica has read it need not read again."""
    log = tmp_path / "log"
    model = _model(cluster, log=str(log), seconds=0.02)

    async def ask(dialogue: str) -> None:
        for turn in range(5):
            await model.complete(_requests(f"{dialogue}/{turn}"))

    async def all_of_them() -> None:
        await asyncio.gather(*map(ask, "abcdef"))
        await model.aclose()

    asyncio.run(all_of_them())
    pids = [{p for n in range(5) for p in _asked(log)[f"{d}/{n}"]} for d in "abcdef"]
    assert [len(p) for p in pids] == [1] * 6
    assert len(set.union(*pids)) == 2


def test_a_dialogue_that_no_replica_survives_is_an_error_and_the_rest_goes_on(
    cluster: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    model = _model(cluster, die_at="bad/1", seconds=0.1)
    bad, *good = _complete(model, ["bad/0", "bad/1"], *([f"{d}/0"] * 2 for d in "abcdef"))
    assert {answer.status for answer in bad} == {"error"}
    assert bad[0].detail.startswith("internal: 3 replicas in a row were lost over this dialogue")
    assert {answer.status for one in good for answer in one} == {"ok"}
    assert capfd.readouterr().out == ""


def test_replicas_that_the_cluster_has_no_room_for_are_refused_at_once(cluster: Any) -> None:
    said = _refused(_model(cluster, 3))
    assert "--replicas 3: the Ray cluster has room for 2" in said
    assert "2 nodes: 2 with CPU 1 and seat 1" in said


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ({"refuse": "no weights in /nowhere; give a folder"}, "no weights in /nowhere"),
        ({"crash": True}, "its process ended"),
    ],
)
def test_a_replica_that_cannot_start_is_one_sentence(
    cluster: Any, extra: dict[str, Any], why: str
) -> None:
    said = _refused(_model(cluster, **extra))
    assert "cannot start: " in said
    assert why in said
    assert "\n" not in said
    assert len(said) < 400
    (answers,) = _complete(_model(cluster, **extra), ["a/0"])
    assert answers[0].detail.startswith("replica: replica ")


def test_a_plugin_file_that_a_node_lacks_is_told(cluster: Any) -> None:
    said = _refused(_model(cluster, plugins=["/not/there.py"]))
    assert "--plugin /not/there.py: there is no such file" in said


def test_a_plugin_that_a_node_lacks_is_told(cluster: Any) -> None:
    said = _refused(_model(cluster, plugins=[]))
    assert "nothing that is installed there provides echo/one" in said


def test_an_engine_that_died_within_its_process_is_a_lost_replica(
    cluster: Any, tmp_path: Path
) -> None:
    model = _model(cluster, engine_dies_at="a/0", once=str(tmp_path / "once"))
    (answers,) = _complete(model, ["a/0", "a/1"])
    assert [answer.status for answer in answers] == ["ok", "ok"]


def test_other_weights_on_a_node_are_told(cluster: Any, tmp_path: Path) -> None:
    shown = tmp_path / "weights"
    shown.write_text("mine")
    model = _model(cluster, shown=str(shown))
    shown.write_text("another's")
    said = _refused(model)
    assert 'echo/one is another model there than here (shown: "another\'s" there' in said


def test_a_cancelled_call_leaves_no_replica_and_the_cluster_as_it_was(
    cluster: Any, tmp_path: Path
) -> None:
    log = tmp_path / "log"

    async def interrupted() -> None:
        model = _model(cluster, log=str(log), seconds=0.2)
        asking = asyncio.create_task(model.complete(_requests(*(f"a/{n}" for n in range(500)))))
        await asyncio.to_thread(until, log.exists)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        await model.aclose()

    asyncio.run(interrupted())
    assert not ray.is_initialized()
    (pid,) = _workers(log)
    until(lambda: not Path(f"/proc/{pid}").exists(), 10)
    (answers,) = _complete(_model(cluster), ["a/0"])  # its place is free again
    assert answers[0].status == "ok"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"num_gpus": 1.5}, "GPUs above 1 as a whole number"),
        ({"num_cpus": "two"}, "give a number"),
        ({"num_cpus": -1}, "give 0 or more"),
        ({"big": True}, "give a number"),
        ({"CPU": 2}, "write num_cpus=2"),
    ],
)
def test_resources_that_ray_cannot_give_are_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        ray_cluster.parse_shape(given, {})


def test_a_replica_takes_the_gpus_that_the_model_is_cut_over() -> None:
    shape = ray_cluster.parse_shape({}, {"tensor_parallel_size": 4, "pipeline_parallel_size": 2})
    assert shape.on({"CPU": 8, "GPU": 16}) == {"CPU": 0.5, "GPU": 8}
    assert shape.on({"CPU": 8}) == {"CPU": 0.5}
    asked = ray_cluster.parse_shape({"num_gpus": 1, "num_cpus": 2, "memory": 9e9, "a": 1}, {})
    takes = asked.on({"CPU": 8})
    assert ray_cluster.ray_options(takes) == {
        "num_cpus": 2,
        "num_gpus": 1,
        "memory": 9_000_000_000,
        "resources": {"a": 1},
    }


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("nonsense", "this is no address"),
        ("127.0.0.1:9", "nothing answers there"),
    ],
)
def test_a_cluster_that_is_not_there_is_one_sentence(address: str, why: str) -> None:
    model = load_registry([PLUGIN]).open_model("echo/one")
    said = _refused(replicated(model, ModelOptions(), address=address, replicas=2, resources={}))
    assert why in said
    assert "--ray" in said
    assert "\n" not in said


def test_without_ray_the_install_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'kardiabench[ray]'" in _refused(_model(None))
    (answers,) = _complete(_model(None), ["a/0"])
    assert answers[0].detail.startswith("install: Ray is not installed")


def test_a_ray_of_its_own_is_gone_afterwards(cli: Cli, alone: Cli) -> None:
    """With two replicas on this machine, by `--replicas` alone, and a token that nobody knows."""
    done = _run_local(cli)
    assert done.rc == 0, done.err
    _assert_same(cli, "out", alone)
    assert not (cli.folder / "home" / ".ray").exists()


def test_transformers_on_replicas_writes_what_it_writes_in_this_process(
    cli: Cli, cluster: Any, tmp_path: Path
) -> None:
    from tiny_models import build

    folder = build(tmp_path / "tiny", context=8192)
    command = ["run", "--model", f"hf/{folder}", "--dataset", "sample", "--limit", "3"]
    command += ["--no-rubric", "--no-cache", "--max-tokens", "12", "--out"]
    here = cli(*command, "here")
    assert here.rc == 0, here.err
    spread = cli(*command, "spread", *_spread(cluster), RAY_AUTH_MODE="disabled")
    assert spread.rc == 0, spread.err
    assert _replies(cli, "spread") == _replies(cli, "here")
    assert cli.summary("spread") == cli.summary("here")


def _run_local(cli: Cli) -> Result:
    kept = {k: v for k, v in cli.env.items() if not k.startswith("RAY_")}
    cli.env.clear()
    cli.env.update(kept)
    return cli(*_command("out", "--replicas", 2))
