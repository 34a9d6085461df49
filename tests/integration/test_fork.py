"""Preloading masters and more than one worker."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Serve
from tests.support.harness import BOTH_WAYS, FLASK, GTHREAD, GTHREAD_ATTACHED, SYNC, Kind
from tests.support.waiting import wait_until


@pytest.mark.parametrize("kind", [GTHREAD, GTHREAD_ATTACHED, SYNC], ids=str)
@pytest.mark.parametrize("app", ["quickstart", "preloaded", "isolation"])
def test_a_preloaded_app_serves(serve: Serve, kind: Kind, app: str) -> None:
    """Threads do not survive a fork: a hub that had some in the master starts new ones in the worker."""
    server = serve(app, kind=kind, arguments=("--preload",))
    peers = [server.connect() for _ in range(3)]
    server.publish("broadcast", "app.refreshed")
    assert [peer.receive()["type"] for peer in peers] == ["app.refreshed"] * 3
    assert peers[0].ask({"type": "ping"})["type"] == "pong"
    server.await_clients(3)


def test_the_master_of_a_preloaded_app_keeps_no_client(serve: Serve) -> None:
    from tests.support import process

    server = serve("preloaded", kind=GTHREAD, arguments=("--preload",))
    before = process.fds(server.process.pid)
    server.connect()
    assert process.fds(server.process.pid) == before


def warnings(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith(("WARNING", "ERROR", "CRITICAL")) and "worker" in line]


@pytest.mark.parametrize("arguments", [(), ("--preload",)], ids=["", "preload"])
@pytest.mark.parametrize("kind", [GTHREAD, SYNC], ids=str)
def test_more_than_one_worker_without_a_broker_is_warned_about_at_start(
    serve: Serve, kind: Kind, arguments: tuple[str, ...]
) -> None:
    server = serve(kind=kind, workers=2, arguments=arguments, fresh=True)
    lines = wait_until(lambda: warnings(server.app_log()), lambda: f"a warning:\n{server.log()}")
    assert 1 <= len(lines) <= 2
    # The warning names the problem and the remedy.
    assert "event" in lines[0] and ("--workers" in lines[0] or "-w" in lines[0])
    # A worker misses a signal to stop while it boots: both must be up.
    seen: set[int] = set()

    def both() -> bool:
        seen.add(server.get("/remote/process").json["pid"])
        return len(seen) == 2

    wait_until(both, "both workers to answer")


@pytest.mark.parametrize("kind", [*BOTH_WAYS, SYNC, FLASK], ids=str)
def test_one_worker_is_not_warned_about(serve: Serve, kind: Kind) -> None:
    server = serve(kind=kind, fresh=True)
    server.connect()
    assert [line for line in server.app_log() if not line.startswith("INFO")] == []
