"""Shutdown of a worker: accepted events are sent, every client is closed for restart, and none is waited for."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.conftest import Serve
from tests.support.harness import FLASK, FLASK_ATTACHED, GTHREAD, GTHREAD_ATTACHED, GTHREAD_TLS, SYNC, Kind, event_ids
from tests.support.process import children
from tests.support.raw_client import TEXT, Closed, Frame, Json
from tests.support.waiting import DEADLINE, wait_until

RESTART = 1012

# From SIGTERM until the last process is gone, in seconds.
IN_TIME = 3.0

GUNICORN = (GTHREAD, GTHREAD_ATTACHED, GTHREAD_TLS, SYNC)


def check_restart_close(messages: list[Json], closed: Closed) -> list[Json]:
    """Check the `disconnect` message and the close frame; return the messages before."""
    assert closed.code == RESTART, (messages[-2:], closed)
    *before, advice = messages
    assert advice["type"] == "disconnect"
    data = advice["data"]
    assert data["code"] == RESTART
    assert data["reconnect"] is True
    assert isinstance(data["retry_after_ms"], int) and data["retry_after_ms"] >= 0
    assert isinstance(data["reason"], str)
    assert not [message for message in before if message["type"] == "disconnect"]
    return before


def texts(frames: list[Frame]) -> list[Json]:
    return [frame.json for frame in frames if frame.opcode == TEXT]


@pytest.mark.parametrize(
    ("kind", "sockets"), [(GTHREAD, 500), (GTHREAD_ATTACHED, 500), (GTHREAD_TLS, 60), (SYNC, 500)], ids=str
)
def test_sigterm_with_many_sockets_open(serve: Serve, kind: Kind, sockets: int) -> None:
    server = serve(kind=kind, threads=sockets + 4 if kind.attached else None, fresh=True)
    raws = [server.upgraded() for _ in range(sockets)]
    server.publish("broadcast", "last.event")
    server.signal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as clock:
        took = clock.submit(server.await_exit)
        for raw in raws:
            frames, closed = raw.ended()
            (event,) = check_restart_close(texts(frames), closed)
            assert event["type"] == "last.event"
        assert took.result() <= IN_TIME


@pytest.mark.parametrize("kind", GUNICORN, ids=str)
def test_peers_that_do_not_answer_the_close_frame_are_not_waited_for(serve: Serve, kind: Kind) -> None:
    server = serve(kind=kind, fresh=True)
    raws = [server.upgraded() for _ in range(10)]
    server.signal(signal.SIGTERM)
    took = server.await_exit(2 * DEADLINE)
    for raw in raws:
        frames, closed = raw.ended()
        assert check_restart_close(texts(frames), closed) == []
    assert took <= IN_TIME


@pytest.mark.parametrize("kind", GUNICORN, ids=str)
def test_accepted_events_are_sent_before_the_close(serve: Serve, kind: Kind) -> None:
    server = serve(kind=kind, fresh=True)
    peers = [server.connect(max_queue=None) for _ in range(10)]
    assert server.flood(300) == 300
    server.signal(signal.SIGTERM)
    for peer in peers:
        events = check_restart_close(*peer.ended())
        assert [event["data"]["task"]["number"] for event in events] == list(range(300))
        assert event_ids(events) == list(range(event_ids(events)[0], event_ids(events)[0] + 300))
    assert server.await_exit() <= IN_TIME


@pytest.mark.parametrize("kind", GUNICORN, ids=str)
def test_stalled_clients_are_not_waited_for(serve: Serve, kind: Kind) -> None:
    server = serve(kind=kind, fresh=True, config={"CARTOWS_WRITE_BUFFER": 8192})
    for _ in range(5):
        server.upgraded(receive_buffer=4096)
    peer = server.connect(compression=None)
    assert server.flood(20, 10_000) == 20
    server.signal(signal.SIGTERM)
    assert len(check_restart_close(*peer.ended())) == 20
    assert server.await_exit(2 * DEADLINE) <= IN_TIME


@pytest.mark.parametrize("kind", GUNICORN, ids=str)
def test_a_worker_without_clients_ends_at_once(serve: Serve, kind: Kind) -> None:
    server = serve(kind=kind, fresh=True)
    server.connect().close()
    server.await_clients(0)
    server.signal(signal.SIGTERM)
    assert server.await_exit() <= IN_TIME


@pytest.mark.parametrize("kind", [GTHREAD, GTHREAD_ATTACHED, SYNC, FLASK, FLASK_ATTACHED], ids=str)
def test_ctrl_c_closes_clients_for_restart(serve: Serve, kind: Kind) -> None:
    server = serve(kind=kind, fresh=True)
    peers = [server.connect() for _ in range(5)]
    server.signal(signal.SIGINT)
    for peer in peers:
        assert check_restart_close(*peer.ended()) == []
    assert server.await_exit() <= IN_TIME


@pytest.mark.parametrize("kind", [FLASK, FLASK_ATTACHED], ids=str)
def test_flask_run_ends_on_sigterm_without_closing_frames(serve: Serve, kind: Kind) -> None:
    """Its process dies of the signal; the kernel closes the connections, and clients reconnect."""
    server = serve(kind=kind, fresh=True)
    peers = [server.connect() for _ in range(5)]
    server.signal(signal.SIGTERM)
    for peer in peers:
        messages, closed = peer.ended()
        assert messages == [] or messages[-1]["type"] == "disconnect"
        assert closed.code in (1006, RESTART)
    assert server.await_exit() <= IN_TIME


@pytest.mark.parametrize("kind", [GTHREAD, GTHREAD_ATTACHED, SYNC], ids=str)
def test_a_reload_moves_clients_to_the_new_worker(serve: Serve, kind: Kind) -> None:
    server = serve(kind=kind, fresh=True)
    (old,) = server.pids
    peers = [server.connect() for _ in range(5)]
    server.signal(signal.SIGHUP)
    for peer in peers:
        check_restart_close(*peer.ended())
    wait_until(lambda: old not in children(server.process.pid), "the old worker to go")
    server.pids = wait_until(lambda: children(server.process.pid), "the new worker")
    server.record_idle()
    peer = server.connect()
    assert server.get("/remote/process").json["pid"] == server.pid != old
    server.publish("broadcast", "app.refreshed")
    assert peer.receive()["type"] == "app.refreshed"
    peer.close()
    server.await_clients(0)
    server.record_idle()


@pytest.mark.parametrize("kind", [GTHREAD, SYNC], ids=str)
def test_a_worker_that_reaches_max_requests_closes_its_clients_for_restart(serve: Serve, kind: Kind) -> None:
    """``--max-requests`` ends a worker from within."""
    server = serve(kind=kind, fresh=True, arguments=("--max-requests", "40"))
    (old,) = server.pids
    peer = server.connect()

    def ask() -> bool:
        server.get("/remote/process")
        return old not in children(server.process.pid)

    wait_until(ask, "the worker to end")
    check_restart_close(*peer.ended())
    server.pids = wait_until(lambda: children(server.process.pid), "the new worker")
    server.signal(signal.SIGTERM)
    server.await_exit()
