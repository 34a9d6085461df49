"""The end of a hub, by ``shutdown`` and at interpreter exit."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from cartows import Client, Hub, HubClosed
from cartows.client.connection import Connection
from cartows.client.transport import PlainTransport
from cartows.handler.admission import Admission
from cartows.handler.registration import Registration
from cartows.hub.capacity import Slot
from tests.hub.conftest import Join, Peer
from tests.support.waiting import wait_until


def test_a_second_shutdown_waits_for_the_first(join: Join) -> None:
    hub = Hub()
    join(hub)
    first = threading.Thread(target=hub.shutdown, args=(1.0,))
    first.start()
    wait_until(lambda: hub.closed)
    hub.shutdown(10)
    assert hub.present_clients() == []
    first.join(10)


def check_advised(peer: Peer) -> None:
    advice = peer.message()
    assert (advice["type"], advice["data"]["code"], advice["data"]["reconnect"]) == ("disconnect", 1012, True)
    assert peer.close_code() == 1012


def test_a_client_that_the_hub_thread_has_not_come_to_is_advised_as_well(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs()
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        leave.wait(10)

    join(hub)
    hub._pipeline.queue.put_control(hold)
    assert entered.wait(10)
    waiting = join(hub, greet=False)
    ending = threading.Thread(target=hub.shutdown, args=(1.0,))
    ending.start()
    check_advised(waiting)
    leave.set()
    ending.join(10)


def test_a_client_that_connects_while_the_hub_ends_is_advised_as_well() -> None:
    hub = Hub()
    hub.start()
    hub.shutdown(0.2)
    mine, theirs = socket.socketpair()
    connection = Connection(PlainTransport(mine), threading.Lock(), hub.options)
    registration = Registration(hub, hub.logger)
    client = registration.make(Client, connection, Admission({}, None, Slot(None), 0))
    reader = threading.Thread(target=client.read_pump)
    reader.start()
    with theirs:
        registration.enter(client)
        check_advised(Peer(theirs, client))
        reader.join(10)
    assert not reader.is_alive()


def test_shutdown_sends_what_was_accepted_then_the_closing_frames_and_ends_every_thread(
    hubs: Callable[..., Hub], join: Join
) -> None:
    hub = hubs(send_queue_size=5000)
    peers = [join(hub) for _ in range(20)]
    for n in range(200):
        assert hub.broadcast("tick", {"n": n}).accepted
    ends: list[tuple[int, dict[str, Any], int]] = []

    def listen(peer: Peer) -> None:
        count = 0
        while (message := peer.message())["type"] == "tick":
            count += 1
        code = peer.close_code()
        peer.sock.sendall(b"\x88\x82\0\0\0\0" + code.to_bytes(2, "big"))
        ends.append((count, message["data"], code))

    threads = [threading.Thread(target=listen, args=(peer,)) for peer in peers]
    for thread in threads:
        thread.start()
    hub.shutdown(5)
    for thread in threads:
        thread.join(10)
    assert [(count, code) for count, _, code in ends] == [(200, 1012)] * 20
    assert all(advice["code"] == 1012 and advice["reconnect"] for _, advice, _ in ends)
    assert len({advice["retry_after_ms"] for _, advice, _ in ends}) > 1, "the times at which they reconnect must be spread"
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("cartows")])
    assert hub.client_count() == 0
    hub.shutdown()
    with pytest.raises(HubClosed):
        hub.broadcast("late")
    with pytest.raises(HubClosed):
        hub.start()


def test_shutdown_keeps_to_its_time_with_peers_that_neither_read_nor_answer(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs(send_queue_size=10_000, send_queue_bytes=100_000_000)
    peers = [join(hub) for _ in range(5)]
    for _ in range(100):
        hub.broadcast("x", "." * 20_000)
    began = time.monotonic()
    hub.shutdown(0.5)
    assert time.monotonic() - began < 2.0
    wait_until(lambda: all(peer.client.connection.closed for peer in peers))


AT_EXIT = """
import os, socket, sys, threading
from cartows import Client, Hub
from cartows.client.connection import Connection
from cartows.client.transport import PlainTransport
hub = Hub()
client = Client(hub, Connection(PlainTransport(socket.socket(fileno=int(sys.argv[1]))), threading.Lock(), hub.options), "c")
threading.Thread(target=client.read_pump, daemon=True).start()
hub.register_client(client)
for n in range(50):
    hub.broadcast("tick", "." * 5000)
"""


def test_at_interpreter_exit_what_was_accepted_is_sent_and_then_the_closing_frames() -> None:
    mine, theirs = socket.socketpair()
    with mine, theirs:
        arguments = [sys.executable, "-c", AT_EXIT, str(theirs.fileno())]
        with subprocess.Popen(arguments, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE) as process:
            theirs.close()
            peer = Peer(mine, None)  # type: ignore[arg-type]
            types = [peer.message()["type"] for _ in range(52)]
            assert types == ["connected", *["tick"] * 50, "disconnect"]
            assert peer.close_code() == 1012
            mine.close()
            assert process.wait(10) == 0
            assert process.stderr is not None
            assert b"Traceback" not in process.stderr.read()
