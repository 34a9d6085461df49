"""Peers that vanish: the heartbeat detects them, disconnects them with 3012, and frees all of their resources."""

from __future__ import annotations

import sys

import pytest

from tests.integration.conftest import Serve
from tests.support.clients import Peer
from tests.support.harness import FLASK, GTHREAD, GTHREAD_ATTACHED, GTHREAD_TLS, Server
from tests.support.raw_client import PING
from tests.support.waiting import wait_until

# A fast heartbeat. On a busy machine the ratio of the two matters more than their size.
FAST_HEARTBEAT = {"CARTOWS_PING_PERIOD": 0.3, "CARTOWS_PONG_WAIT": 0.9, "CARTOWS_WRITE_WAIT": 0.9}

NO_PONG = 3012

pulled = pytest.mark.skipif(sys.platform != "linux", reason="pulls the cable with a socket filter of Linux")


@pytest.fixture(params=[GTHREAD, GTHREAD_ATTACHED, GTHREAD_TLS, FLASK], ids=str)
def server(serve: Serve, request: pytest.FixtureRequest) -> Server:
    return serve(kind=request.param, config=FAST_HEARTBEAT)


def check_alive(server: Server, peer: Peer) -> None:
    assert peer.ask({"type": "ping"})["type"] == "pong"
    assert server.received(peer) == [[]]


def test_the_greeting_names_the_ping_interval(server: Server) -> None:
    assert server.connect().hello["data"]["ping_interval_ms"] == 300


def test_a_client_is_pinged_and_disconnected_when_it_does_not_answer(server: Server) -> None:
    answering = server.connect()  # it sends nothing but pongs
    start = len(server.log())
    for _ in range(2):  # twice the pong wait: a client that answers stays connected
        silent = server.upgraded()
        assert silent.frame(pings=True).opcode == PING
        _, closed = silent.ended()
        assert closed.code == NO_PONG
    check_alive(server, answering)
    server.await_clients(1)
    assert len(server.app_log(start)) == 2, server.app_log(start)


def await_gone(server: Server, others: int = 0) -> None:
    server.await_clients(others)
    if not others:
        server.await_idle()


@pulled
def test_a_pulled_cable_leaves_no_resources(server: Server) -> None:
    for _ in range(5):
        server.upgraded().unplug()
    server.publish("broadcast", "app.refreshed")
    # Before any of them is closed here: the server has to detect it by itself.
    await_gone(server)


@pulled
def test_a_pulled_cable_in_the_middle_of_a_flood_leaves_no_resources(serve: Serve) -> None:
    """More than the kernel buffers: a frame is cut, a writer waits, and the close frame cannot be sent at all."""
    server = serve(kind=GTHREAD, config={**FAST_HEARTBEAT, "CARTOWS_WRITE_BUFFER": 16_384})
    answering = server.connect(compression=None)
    for _ in range(5):
        server.upgraded().unplug()
    assert server.flood(20, 10_000) == 20
    messages = [answering.receive() for _ in range(20)]
    assert [message["data"]["task"]["number"] for message in messages] == list(range(20))
    await_gone(server, 1)
    check_alive(server, answering)
    answering.close()
    await_gone(server)


def test_a_client_that_neither_reads_nor_answers_leaves_no_resources(server: Server) -> None:
    for _ in range(3):
        server.upgraded(receive_buffer=4096)
    server.flood(100, 10_000)
    await_gone(server)


def test_a_slow_handler_does_not_cost_its_client_the_connection(serve: Serve) -> None:
    """The pong deadline is suspended while the app's handler runs, since no pong is read meanwhile."""
    server = serve("raw_protocol", kind=GTHREAD, config=FAST_HEARTBEAT)
    busy = server.connect(greeted=False)
    busy.send("wait")
    wait_until(lambda: server.get("/waiting").json == 1, "the handler")
    for _ in range(2):
        assert server.upgraded(greeted=False).ended()[1].code == NO_PONG
    server.post("/release", None)
    assert busy.frame() == "released"
    busy.send("hello")
    assert busy.frame() == "HELLO"
