"""Peers that are gone without a word: found out by the heartbeat, put out with 3012, and nothing left of them."""

from __future__ import annotations

import sys

import pytest

from tests.integration.conftest import Serve
from tests.support.clients import Peer
from tests.support.harness import FLASK, GTHREAD, GTHREAD_ATTACHED, GTHREAD_TLS, Server
from tests.support.raw_client import PING
from tests.support.waiting import wait_until

# A heartbeat in a hurry. The order of magnitude between the two matters more than their size on a busy machine.
HASTE = {"CARTOWS_PING_PERIOD": 0.3, "CARTOWS_PONG_WAIT": 0.9, "CARTOWS_WRITE_WAIT": 0.9}

NO_PONG = 3012

pulled = pytest.mark.skipif(sys.platform != "linux", reason="a cable is pulled with a socket filter of Linux")


@pytest.fixture(params=[GTHREAD, GTHREAD_ATTACHED, GTHREAD_TLS, FLASK], ids=str)
def server(serve: Serve, request: pytest.FixtureRequest) -> Server:
    return serve(kind=request.param, config=HASTE)


def check_alive(server: Server, peer: Peer) -> None:
    assert peer.ask({"type": "ping"})["type"] == "pong"
    assert server.heard(peer) == [[]]


def test_the_interval_is_told(server: Server) -> None:
    assert server.connect().hello["data"]["ping_interval_ms"] == 300


def test_a_client_is_pinged_and_put_out_when_it_does_not_answer(server: Server) -> None:
    lively = server.connect()  # its pongs are all that it sends
    start = len(server.log())
    for _ in range(2):  # twice the patience: the lively one is not put out by then
        mute = server.upgraded()
        assert mute.frame(pings=True).opcode == PING
        _, closed = mute.ended()
        assert closed.code == NO_PONG
    check_alive(server, lively)
    server.await_clients(1)
    assert len(server.app_log(start)) == 2, server.app_log(start)


def gone(server: Server, others: int = 0) -> None:
    server.await_clients(others)
    if not others:
        server.await_idle()


@pulled
def test_a_pulled_cable_leaves_nothing_behind(server: Server) -> None:
    for _ in range(5):
        server.upgraded().unplug()
    server.publish("broadcast", "app.refreshed")
    # before any of them is closed here: the server has to find out by itself
    gone(server)


@pulled
def test_a_pulled_cable_in_the_middle_of_a_flood_leaves_nothing_behind(serve: Serve) -> None:
    """More than the kernel holds: a frame is cut, a writer waits, and the close frame cannot be sent at all."""
    server = serve(kind=GTHREAD, config={**HASTE, "CARTOWS_WRITE_BUFFER": 16_384})
    lively = server.connect(compression=None)
    for _ in range(5):
        server.upgraded().unplug()
    assert server.flood(20, 10_000) == 20
    messages = [lively.receive() for _ in range(20)]
    assert [message["data"]["task"]["number"] for message in messages] == list(range(20))
    gone(server, 1)
    check_alive(server, lively)
    lively.close()
    gone(server)


def test_a_client_that_neither_reads_nor_answers_leaves_nothing_behind(server: Server) -> None:
    for _ in range(3):
        server.upgraded(receive_buffer=4096)
    server.flood(100, 10_000)
    gone(server)


def test_a_handler_that_takes_long_does_not_put_its_client_out(serve: Serve) -> None:
    """The pong deadline stands still while the app's handler runs: nobody reads the pongs meanwhile."""
    server = serve("raw_protocol", kind=GTHREAD, config=HASTE)
    busy = server.connect(greeted=False)
    busy.send("wait")
    wait_until(lambda: server.get("/waiting").json == 1, "the handler")
    for _ in range(2):
        assert server.upgraded(greeted=False).ended()[1].code == NO_PONG
    server.post("/release", None)
    assert busy.frame() == "released"
    busy.send("hello")
    assert busy.frame() == "HELLO"
