"""A handshake byte by byte: what it costs is decided by the web server, which reads a request before any app code runs."""

from __future__ import annotations

import contextlib
import http.client
import threading

import pytest
from gunicorn.workers import gthread

from tests.hostile.stand import APP, CONFIG, target_of
from tests.hostile.wire import said
from tests.integration.conftest import Serve
from tests.support.clients import Raw
from tests.support.harness import HOST
from tests.support.process import wait_for

POOL = 4


def test_clients_that_are_connected_do_not_need_the_threads_that_slow_handshakes_hold(serve: Serve) -> None:
    """gthread does not limit the time a request takes to arrive: with its threads held, HTTP waits, and clients do not."""
    server = serve(APP, config=CONFIG, threads=POOL)
    client = server.connect()
    waiting: list[int] = []

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            waiting.append(target_of(server).http("GET", "/"))

    drips = [server.raw() for _ in range(POOL)]
    for drip in drips:
        drip.send(b"GET /ws HTTP/1.1\r\nHost: ")
    pool_is_held(drips)
    asker = threading.Thread(target=ask)
    asker.start()
    try:
        for _ in range(10):
            for drip in drips:
                drip.send(b"x")
            assert client.ask({"type": "ping"})["type"] == "pong"
            assert client.ask({"type": "echo", "data": [1]})["type"] == "echoed"
    finally:
        for drip in drips:
            drip.reset()
        asker.join()
    assert waiting == [200], "whoever waited is answered once the slow ones are gone"
    server.publish("broadcast", "after")
    assert client.receive()["type"] == "after"


@pytest.mark.skipif(
    not hasattr(gthread, "DEFAULT_WORKER_DATA_TIMEOUT"), reason="this gunicorn waits for the first byte for ever"
)
def test_connections_that_say_nothing_are_ended_and_hold_no_thread_for_long(serve: Serve) -> None:
    server = serve(APP, config=CONFIG, threads=POOL)
    client = server.connect()
    silent = [server.raw() for _ in range(POOL)]
    assert target_of(server).http("GET", "/") == 200, "whoever says something is served, with the whole pool waiting"
    assert [raw.rest() for raw in silent] == [b""] * POOL, "and who does not is closed"
    assert client.ask({"type": "ping"})["type"] == "pong"


def pool_is_held(drips: list[Raw]) -> None:
    """Wait until the server has taken every byte: it has read what it was sent, and sits in `recv`."""
    import fcntl
    import struct
    import termios

    def unread() -> int:
        # What the peer's kernel has not acknowledged; the server's own reading does not show from here.
        return sum(struct.unpack("i", fcntl.ioctl(drip.socket, termios.TIOCOUTQ, bytes(4)))[0] for drip in drips)

    wait_for(lambda: unread() == 0, "the first bytes to arrive")


def test_a_handshake_byte_by_byte_is_a_handshake(serve: Serve) -> None:
    server = serve(APP, config=CONFIG, threads=POOL)
    raw = server.raw()
    for byte in raw.handshake("/ws"):
        raw.send(bytes([byte]))
    assert raw.response().status == 101
    assert raw.receive()["type"] == "connected"
    for byte in said({"type": "ping"}):
        raw.send(bytes([byte]))
    assert raw.receive()["type"] == "pong"
    assert raw.host == HOST
