"""All clients that do not read, together: what waits for them is bounded, and the slowest go first."""

from __future__ import annotations

import gc
import json
import logging
import socket
import tracemalloc
from collections.abc import Callable
from contextlib import suppress

import pytest

from cartows import Hub
from cartows.rooms import MAX_ROOM_BYTES
from tests.hub.conftest import Join, Peer, number
from tests.support.waiting import wait_until

LIMIT = 2_000_000
#: A kernel that takes little, and queues that take more than all of them together may.
NARROW = {"send_queue_size": 10_000, "send_queue_bytes": 100_000_000, "ping_period": 500.0, "pong_wait": 600.0}


def narrow(join: Join, hub: Hub) -> Peer:
    peer = join(hub)
    make_narrow(peer)
    return peer


def make_narrow(peer: Peer) -> None:
    peer.client.connection.transport.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)


def test_what_waits_for_all_is_bounded_and_the_slowest_go_first(
    hubs: Callable[..., Hub], join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    hub = hubs(total_queue_bytes=LIMIT, **NARROW)
    modest, *greedy = [narrow(join, hub) for _ in range(11)]
    for n in range(20):
        assert modest.client.send(f"{n:>10000}")
    # Of its own for each of them: ten times what there is.
    for n in range(200):
        for peer in greedy:
            peer.client.send(f"{n:>10000}")
    wait_until(lambda: hub.stats()["queue_bytes"] <= LIMIT)
    stats = hub.stats()
    assert stats["max_queue_bytes"] <= LIMIT * 5 // 4 + 20_000
    assert stats["over_total_queue_bytes"] + stats.get("closed_3008", 0) > 0
    assert stats["slow_consumers"] >= 5
    assert not modest.client.connection.closing, "it waited for less than any other"
    assert [modest.frame()[1].strip() for _ in range(20)] == [str(n).encode() for n in range(20)]
    closed = [peer for peer in greedy if peer.client.connection.closing]
    assert closed and {peer.client.close_code for peer in closed} == {3008}
    assert {peer.close_code() for peer in closed[:1]} == {3008}
    assert len([r for r in caplog.records if "CARTOWS_TOTAL_QUEUE_BYTES=2000000" in r.getMessage()]) == 1


def test_events_that_wait_for_many_are_no_reason_to_disconnect_any(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs(total_queue_bytes=LIMIT, **NARROW)
    peers = [narrow(join, hub) for _ in range(30)]
    for n in range(60):
        assert hub.broadcast("tick", {"n": n, "pad": "." * 20_000}).accepted
    wait_until(lambda: hub.position == 60)
    # 1.2 MB, and not 36: the frames are the same for all.
    assert 1_000_000 < hub.stats()["queue_bytes"] < LIMIT
    for peer in peers:
        assert [number(peer.message()) for _ in range(60)] == list(range(1, 61))
    wait_until(lambda: hub.stats()["queue_bytes"] == 0)
    assert hub.stats().get("slow_consumers", 0) == 0


def test_a_client_that_is_closing_is_no_way_around_the_limit(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs(total_queue_bytes=LIMIT, **NARROW)
    peer, other = narrow(join, hub), narrow(join, hub)
    for n in range(150):
        peer.client.send(f"{n:>10000}")
    # It would be sent all of that first.
    assert peer.client.close(1000)
    for n in range(60):
        other.client.send(f"{n:>10000}")
    wait_until(lambda: hub.stats()["queue_bytes"] < LIMIT)
    wait_until(lambda: peer.client.connection.closed)
    assert [other.frame()[1].strip() for _ in range(60)] == [str(n).encode() for n in range(60)]


def test_the_sum_for_many_clients_that_hold_as_much_as_they_may(hubs: Callable[..., Hub], join: Join) -> None:
    """The sum that docs/explanation/slow-clients.md states."""
    count, rooms, limit = 20, 50, 2_000_000
    hub = hubs(total_queue_bytes=limit, history_bytes=100_000, ping_period=500.0, pong_wait=600.0)
    assert hub.broadcast("warm").accepted
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        # As wide in memory as 256 bytes can be.
        name = "x" * (MAX_ROOM_BYTES - 9)
        peers = [join(hub, board_id=[f"{p:02}{r:03}{name}😀" for r in range(rooms)]) for p in range(count)]
        for peer in peers:
            for room in range(rooms):
                # As many values as an entry may have, each an object of its own.
                meta = {f"k{n}": 1000 + n for n in range(62)}
                data = {"board_id": peer.client.filters["board_id"][room], "presence": meta}
                peer.client.handle_incoming_message(json.dumps({"type": "subscribe", "data": data}))
                while peer.message()["type"] != "subscribed":
                    pass
        for peer in peers:
            make_narrow(peer)
        for n in range(100):
            for peer in peers:
                peer.client.send(f"{n:>10000}")
        wait_until(lambda: hub.stats()["queue_bytes"] <= limit)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert hub.stats()["over_total_queue_bytes"] > 0, "more was sent than may wait"
    assert peak <= limit * 5 // 4 + count * (32 * 1024 + rooms * (2048 + 8192))


def test_messages_that_are_never_finished_count_as_well(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs(total_queue_bytes=LIMIT, ping_period=500.0, pong_wait=600.0, rate_limit=None)
    peers = [join(hub) for _ in range(12)]
    # A fragment of a message that goes on, masked with zeros (RFC 6455, sections 5.2 and 5.4).
    fragment = b"\x01\xff" + (250_000).to_bytes(8) + bytes(4) + b"x" * 250_000
    for peer in peers[:4]:
        peer.sock.sendall(fragment)
    wait_until(lambda: hub.stats()["queue_bytes"] == 1_000_000)
    peers[0].sock.sendall(b"\x80\x80" + bytes(4))
    wait_until(lambda: hub.stats()["queue_bytes"] == 750_000, "a message that has ended is handled, and held no more")
    for peer in peers[4:]:
        # It may be disconnected before all of it is sent.
        with suppress(OSError):
            peer.sock.sendall(fragment)
    wait_until(lambda: hub.stats().get("closed_3008", 0) >= 3)
    assert hub.stats()["queue_bytes"] <= LIMIT
    # What was read last of each of them comes on top.
    assert hub.stats()["max_queue_bytes"] <= LIMIT * 5 // 4 + len(peers) * hub.options.read_buffer
    assert not peers[0].client.connection.closing
