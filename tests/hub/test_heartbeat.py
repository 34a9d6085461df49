"""The heartbeat: pings, silent peers, the expiry of credentials and the start of writers, on socket pairs in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from cartows import Client, Credentials, Hub
from cartows.hub.capacity import Slot, SlotLimits
from tests.hub.conftest import Join, Peer, number
from tests.support.waiting import wait_until


def test_a_silent_peer_is_pinged_and_disconnected_and_leaves_nothing_behind(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs(ping_period=0.1, pong_wait=0.4)
    peer = join(hub)
    assert peer.frame() == (9, b"")
    assert peer.close_code() == 3012
    wait_until(lambda: hub.client_count() == 0 and peer.client.connection.closed)
    wait_until(lambda: not hub._heartbeat._entries)


def test_a_peer_that_answers_pings_stays(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs(ping_period=0.05, pong_wait=1.5)
    peer = join(hub)
    deadline = time.monotonic() + 3.0
    while time.monotonic() < deadline:
        assert peer.frame() == (9, b"")
        peer.send_text("", opcode=10)
    assert hub.client_count() == 1


class Delaying(Client):
    release = threading.Event()

    def handle_incoming_message(self, data: str | bytes) -> None:
        self.release.wait(20)
        super().handle_incoming_message(data)


def test_the_pong_deadline_stands_still_while_a_handler_runs(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs(ping_period=0.05, pong_wait=0.2)
    Delaying.release.clear()
    peer = join(hub, Delaying)
    peer.send_text('{"type": "ping"}')
    for _ in range(10):
        assert peer.frame()[0] == 9
    Delaying.release.set()
    assert peer.message()["type"] == "pong"
    assert hub.client_count() == 1


def test_a_writer_that_cannot_be_started_yet_is_started_later(
    hubs: Callable[..., Hub], join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = hubs(send_queue_size=5000, send_queue_bytes=50_000_000)
    peer = join(hub)
    start, failed = threading.Thread.start, threading.Event()

    def fail(thread: threading.Thread) -> None:
        if thread.name.startswith("cartows-writer"):
            failed.set()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)
    for n in range(500):
        hub.broadcast("tick", {"n": n, "pad": "." * 2000})
    assert failed.wait(10)
    monkeypatch.undo()
    assert [number(peer.message()) for _ in range(500)] == list(range(1, 501))


def test_a_client_is_served_without_a_writer_where_the_clients_have_all_threads(
    hubs: Callable[..., Hub], join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    hub = hubs(send_queue_size=5000, send_queue_bytes=50_000_000)
    peer = join(hub)
    assert hub.take_slot(Slot(), SlotLimits(2, threads=1)) is None
    for n in range(500):
        hub.broadcast("tick", {"n": n, "pad": "." * 2000})
    wait_until(lambda: "all threads that the limits of this process leave" in caplog.text)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("cartows-writer")]
    assert [number(peer.message()) for _ in range(500)] == list(range(1, 501))


class Expiring(Client):
    """A client that notes when its connection begins to close."""

    closed_at: float | None = None

    def closing_begun(self, within: float) -> None:
        self.closed_at = time.time()
        super().closing_begun(within)


def expire_in(hub: Hub, peer: Peer, seconds: float) -> float:
    """Give a client credentials that expire after so many seconds; return when that is."""
    expires_at = time.time() + seconds
    peer.client.authorization.credentials = Credentials("ann", expires_at)
    hub.recheck_expiry(peer.client)
    return expires_at


def closed_at(peer: Peer) -> float:
    """Wait until the client's credentials have expired; return when its connection began to close."""
    assert peer.close_code() == 3005
    assert isinstance(peer.client, Expiring)
    assert peer.client.closed_at is not None
    return peer.client.closed_at


def test_credentials_do_not_expire_before_their_time_when_other_calls_are_due(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs()
    peer = join(hub, Expiring)
    # Each wakeup also makes the calls that are due soon after it.
    hub.call_every(0.002, lambda: True)
    expires_at = expire_in(hub, peer, 0.2)
    assert closed_at(peer) >= expires_at


def test_credentials_that_are_checked_too_early_are_not_checked_in_a_busy_loop(
    hubs: Callable[..., Hub], join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = hubs()
    peer = join(hub, Expiring)
    checks: list[float] = []
    check = hub._heartbeat._check

    def counted(entry: Any, now: float) -> float:
        checks.append(now)
        return check(entry, now)

    monkeypatch.setattr(hub._heartbeat, "_check", counted)
    expires_at = expire_in(hub, peer, 0.3)
    # One call 15 ms before the credentials expire.
    hub.call_every(0.285, lambda: False)
    assert closed_at(peer) >= expires_at
    # Once with that call and once in time; a ping, the closing, and a clock that is slow by a little may add to that.
    assert len(checks) <= 6


def test_renewed_credentials_last_until_the_new_time(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs()
    peer = join(hub, Expiring)
    expire_in(hub, peer, 0.2)
    expires_at = expire_in(hub, peer, 0.5)
    assert closed_at(peer) >= expires_at
