"""Handshakes byte by byte. Their cost depends on the web server, which reads a request before any app code runs."""

from __future__ import annotations

import contextlib
import http.client
import threading

import pytest
from gunicorn.workers import gthread

from tests.hostile.own_server import APP, CONFIG, target_of
from tests.hostile.target import json_frame
from tests.integration.conftest import Serve
from tests.support.harness import HOST
from tests.support.raw_client import RawClient
from tests.support.waiting import wait_until

POOL = 4


def test_connected_clients_do_not_need_the_threads_that_slow_handshakes_hold(serve: Serve) -> None:
    """gthread does not limit the time a request takes to arrive: with all threads held HTTP waits, and clients do not."""
    server = serve(APP, config=CONFIG, threads=POOL)
    client = server.connect()
    waiting: list[int] = []

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            waiting.append(target_of(server).http("GET", "/"))

    slow_clients = [server.raw() for _ in range(POOL)]
    for slow in slow_clients:
        slow.send(b"GET /ws HTTP/1.1\r\nHost: ")
    await_held_pool(slow_clients)
    asker = threading.Thread(target=ask)
    asker.start()
    try:
        for _ in range(10):
            for slow in slow_clients:
                slow.send(b"x")
            assert client.ask({"type": "ping"})["type"] == "pong"
            assert client.ask({"type": "echo", "data": [1]})["type"] == "echoed"
    finally:
        for slow in slow_clients:
            slow.reset()
        asker.join()
    assert waiting == [200], "the request that waited is answered once the slow clients are gone"
    server.publish("broadcast", "after")
    assert client.receive()["type"] == "after"


@pytest.mark.skipif(
    not hasattr(gthread, "DEFAULT_WORKER_DATA_TIMEOUT"), reason="this gunicorn waits for the first byte for ever"
)
def test_connections_that_send_nothing_are_closed_and_hold_no_thread_for_long(serve: Serve) -> None:
    server = serve(APP, config=CONFIG, threads=POOL)
    client = server.connect()
    silent = [server.raw() for _ in range(POOL)]
    assert target_of(server).http("GET", "/") == 200, "a client that sends a request is served, with the whole pool waiting"
    assert [raw.rest() for raw in silent] == [b""] * POOL, "and one that does not is closed"
    assert client.ask({"type": "ping"})["type"] == "pong"


def await_held_pool(slow_clients: list[RawClient]) -> None:
    """Wait until the server has received every byte: it has read what it was sent, and blocks in `recv`."""
    import fcntl
    import struct
    import termios

    def unread() -> int:
        # Bytes that the peer's kernel has not acknowledged; whether the server has read them cannot be seen from here.
        return sum(struct.unpack("i", fcntl.ioctl(slow.socket, termios.TIOCOUTQ, bytes(4)))[0] for slow in slow_clients)

    wait_until(lambda: unread() == 0, "the first bytes to arrive")


def test_a_handshake_that_arrives_byte_by_byte_is_accepted(serve: Serve) -> None:
    server = serve(APP, config=CONFIG, threads=POOL)
    raw = server.raw()
    for byte in raw.handshake("/ws"):
        raw.send(bytes([byte]))
    assert raw.response().status == 101
    assert raw.receive()["type"] == "connected"
    for byte in json_frame({"type": "ping"}):
        raw.send(bytes([byte]))
    assert raw.receive()["type"] == "pong"
    assert raw.host == HOST
