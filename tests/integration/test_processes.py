"""Broadcasts in processes that serve no client: who is warned, and who is not."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Serve
from tests.support.harness import FLASK, GTHREAD, HOST, SYNC, Kind, Server
from tests.support.raw_client import RawClient
from tests.support.waiting import wait_until

APPS = Path(__file__).parents[1] / "apps"


def warned(server: Server) -> list[int]:
    """Return the processes that were told that their broadcast reaches no client."""
    return [int(pid) for pid in re.findall(r"a broadcast in process (\d+) reaches no client", server.log())]


def await_scheduler(server: Server) -> int:
    """Return the process in which the app's own thread has broadcast."""
    return int(wait_until(lambda: re.findall(r"broadcast by scheduler in process (\d+)", server.log()), "the scheduler")[0])


@pytest.mark.parametrize("kind", [GTHREAD, SYNC], ids=str)
def test_a_thread_in_the_master_of_a_preloaded_app_is_told_that_it_reaches_no_client(serve: Serve, kind: Kind) -> None:
    server = serve("processes", kind=kind, arguments=("--preload",), fresh=True)
    assert await_scheduler(server) == server.process.pid
    wait_until(lambda: warned(server) == [server.process.pid], lambda: f"the warning:\n{server.log()}")


@pytest.mark.parametrize("kind", [GTHREAD, SYNC, FLASK], ids=str)
def test_a_thread_of_a_process_that_serves_is_not_warned(serve: Serve, kind: Kind) -> None:
    server = serve("processes", kind=kind, fresh=True)
    assert await_scheduler(server) in server.pids
    peer = server.connect()
    server.publish("broadcast", "later")
    assert peer.receive()["type"] == "later"
    # Flask's own server makes its socket after the import: until then a broadcast has no one to reach.
    assert kind is FLASK or warned(server) == []


@pytest.mark.parametrize("arguments", [(), ("--preload",)], ids=["", "preload"])
@pytest.mark.parametrize("way", ["forked", "started"])
def test_a_child_of_a_worker_is_told_that_it_reaches_no_client(serve: Serve, way: str, arguments: tuple[str, ...]) -> None:
    server = serve("processes", kind=GTHREAD, arguments=arguments, fresh=True)
    await_scheduler(server)
    pid = server.post(f"/{way}", {}).json["pid"]
    assert pid in warned(server)
    assert not set(server.pids) & set(warned(server))


@pytest.mark.parametrize("way", ["forked", "started"])
def test_a_child_of_flasks_own_server_is_told_that_it_reaches_no_client(serve: Serve, way: str) -> None:
    server = serve("processes", kind=FLASK, fresh=True)
    pid = server.post(f"/{way}", {}).json["pid"]
    assert pid in warned(server)


@pytest.fixture
def forking(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """The port of ``app.run(processes=3)``, and its log."""
    log = tmp_path / "log"
    with log.open("wb") as out:
        server = subprocess.Popen([sys.executable, "processes.py"], cwd=APPS, stdout=out, stderr=out)
    try:
        found = wait_until(lambda: re.findall(r"Running on http://[^:]+:(\d+)", log.read_text()), "the port")
        yield int(found[0]), log
    finally:
        server.terminate()
        server.wait(10)


def test_a_server_that_forks_for_each_request_is_refused_in_words(forking: tuple[int, Path]) -> None:
    port, log = forking
    with RawClient(HOST, port) as client:
        response = client.open("/ws")
    assert response.status == 501
    assert "processes=" in response.json["message"] and "gthread" in response.json["message"]
    wait_until(lambda: "no client can be served: app.run(processes=" in log.read_text(), "the log")
