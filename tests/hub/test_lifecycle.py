"""The start of a hub: on a thread of its own or the app's, without a thread, and in the child of a fork."""

from __future__ import annotations

import json
import os
import select
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from cartows import Client, Hub
from cartows.client.connection import Connection
from cartows.client.transport import PlainTransport
from tests.hub.conftest import Join, Peer
from tests.support.waiting import wait_until


def test_a_hub_without_a_thread_rejects_and_the_next_broadcast_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name == "cartows-hub":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)
    result = hub.broadcast("x")
    assert not result.accepted
    assert "no thread" in str(result.reason)
    monkeypatch.undo()
    assert hub.broadcast("x").accepted
    hub.shutdown(1)


def test_run_is_the_loop_for_a_thread_of_the_apps_own(join: Join) -> None:
    hub = Hub()
    thread = threading.Thread(target=hub.run)
    thread.start()
    wait_until(lambda: hub._lifecycle.thread is not None)
    peer = join(hub)
    hub.broadcast("x")
    assert peer.message()["type"] == "x"
    with pytest.raises(RuntimeError, match="runs already"):
        hub.run()
    hub.shutdown(0.2)
    thread.join(10)


# Forks -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_starts_with_new_state_and_leaves_the_parents_clients_alone(
    hubs: Callable[..., Hub], join: Join
) -> None:
    hub = hubs()
    peer = join(hub)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        # Nothing here may raise, or a second pytest would continue.
        try:
            found: dict[str, Any] = {
                "clients": hub.client_count(),
                "ended": peer.client.connection.ended,
                "sent": peer.client.send("no"),
            }
            mine, theirs = socket.socketpair()
            client = Client(hub, Connection(PlainTransport(mine), threading.Lock(), hub.options), "child")
            threading.Thread(target=client.read_pump, daemon=True).start()
            hub.register_client(client)
            own = Peer(theirs, client)
            found["greeting"] = own.message()["type"]
            found["id"] = hub.broadcast("in.child").id
            found["received"] = own.message()["type"]
            hub.shutdown(0.5)
        except BaseException as error:
            found = {"error": repr(error)}
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    try:
        assert select.select([reading], [], [], 20)[0], "the child hangs"
        found = json.loads(os.read(reading, 65536))
    finally:
        os.close(reading)
        os.waitpid(pid, 0)
    mine_id = hub.broadcast("in.parent").id
    assert found.pop("id").split(".")[0] != str(mine_id).split(".")[0], "the child has an epoch of its own"
    assert found == {"clients": 0, "ended": True, "sent": False, "greeting": "connected", "received": "in.child"}
    assert peer.message()["type"] == "in.parent", "the child's shutdown must not affect the parent's connection"
    peer.send_text('{"type": "ping"}')
    assert peer.message()["type"] == "pong"
