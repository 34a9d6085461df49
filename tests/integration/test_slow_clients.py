"""Clients that read slowly or not at all: they alone lose events, and their cost is bounded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.integration.conftest import Serve
from tests.support.event_helpers import check_client_that_never_reads
from tests.support.harness import EVERYWHERE, Kind, Server, event_ids
from tests.support.raw_client import PING, PONG, TEXT, Json, RawClient
from tests.support.waiting import wait_until

SLOW_CONSUMER = 3008

# A small kernel buffer, so that a stalled client is detected soon, and a queue for two batches of what is published at once.
NARROW = {"CARTOWS_WRITE_BUFFER": 8192, "CARTOWS_SEND_QUEUE_SIZE": 120, "CARTOWS_COMPRESS_MIN_SIZE": None}


@pytest.fixture(params=EVERYWHERE, ids=str)
def server(serve: Serve, request: pytest.FixtureRequest) -> Server:
    return serve(kind=request.param, config=NARROW)


def numbers(messages: list[Json]) -> list[int]:
    return [message["data"]["task"]["number"] for message in messages if message["type"] == "task.created"]


def flood_until_one_is_disconnected(server: Server, watchers: list[Any], size: int, batch: int, max_events: int) -> int:
    """Publish batches that the watchers read whole, until the hub disconnects a client; return how many events."""
    rounds = 0
    left = len(watchers)
    while server.client_count() > left:
        assert rounds * batch < max_events, "no client was disconnected"
        assert server.flood(batch, size) == batch
        rounds += 1
        for messages in server.received(*watchers):
            assert numbers(messages) == list(range(batch))
    return rounds * batch


def check_stalled(raw: RawClient, min_events: int) -> None:
    """Read the rest: whole events without a gap, then the close frame, and no byte after it."""
    frames, closed = raw.ended()
    assert closed.code == SLOW_CONSUMER
    messages = [frame.json for frame in frames if frame.opcode == TEXT]
    if messages[-1]["type"] == "disconnect":
        advice = messages.pop()["data"]
        assert (advice["code"], advice["reconnect"]) == (SLOW_CONSUMER, True)
    ids = event_ids(messages)
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    assert len(messages) >= min_events


def test_a_stalled_client_is_disconnected_with_3008_and_others_lose_nothing(server: Server) -> None:
    watchers = [server.connect(compression=None, max_queue=None) for _ in range(3)]
    stalled = server.upgraded(receive_buffer=4096)
    start = len(server.log())
    flood_until_one_is_disconnected(server, watchers, size=1000, batch=50, max_events=20_000)
    check_stalled(stalled, 1)
    server.await_clients(len(watchers))
    assert len(server.app_log(start)) == 1, server.app_log(start)


def test_the_bound_in_bytes_counts_too(serve: Serve) -> None:
    server = serve(config={**NARROW, "CARTOWS_SEND_QUEUE_SIZE": 100_000, "CARTOWS_SEND_QUEUE_BYTES": 200_000})
    watchers = [server.connect(compression=None, max_queue=None)]
    stalled = server.upgraded(receive_buffer=4096)
    events = flood_until_one_is_disconnected(server, watchers, size=10_000, batch=10, max_events=1000)
    assert events * 10_000 < 8_000_000
    check_stalled(stalled, 1)


def test_a_client_that_reads_again_in_time_loses_nothing(server: Server) -> None:
    """Frames larger than the kernel's buffer are sent in parts, and nothing gets between the parts."""
    raw = server.upgraded(receive_buffer=4096)
    assert server.flood(40, 20_000) == 40
    raw.send_frame(PING, b"in between")
    raw.send_json({"type": "ping"})
    seen: list[Any] = []
    while len(seen) < 42:
        frame = raw.frame()
        if frame.opcode == PONG:
            assert frame.payload == b"in between"
            seen.append("pong frame")
        else:
            message = frame.json
            seen.append(message["data"]["task"]["number"] if message["type"] == "task.created" else message["type"])
    assert [entry for entry in seen if isinstance(entry, int)] == list(range(40))
    assert sorted(entry for entry in seen if isinstance(entry, str)) == ["pong", "pong frame"]
    # Back to normal: the writer has ended.
    for number in range(3):
        server.publish("broadcast", "app.refreshed", {"number": number})
        assert raw.receive()["data"] == {"number": number}


def test_a_client_that_reads_a_little_at_a_time_loses_nothing(server: Server) -> None:
    raw = server.upgraded(receive_buffer=4096)
    batches, batch = 15, 20
    with ThreadPoolExecutor(1) as publisher:
        found: list[int] = []
        for _ in range(batches):
            publishing = publisher.submit(server.flood, batch, 3000)
            for _ in range(batch):
                message = raw.receive()
                found.append(message["data"]["task"]["number"])
            assert publishing.result() == batch
    assert found == list(range(batch)) * batches


def test_stalled_clients_do_not_delay_the_other_half(server: Server) -> None:
    watchers = [server.connect(compression=None, max_queue=None) for _ in range(3)]
    stalled = [server.upgraded(receive_buffer=4096) for _ in range(3)]
    flood_until_one_is_disconnected(server, watchers, size=5000, batch=40, max_events=5000)
    server.await_clients(len(watchers))
    for raw in stalled:
        check_stalled(raw, 1)


def test_a_client_that_sends_and_never_reads_is_disconnected(server: Server) -> None:
    """Its answers count against its send queue, as events do."""
    check_client_that_never_reads(server)


@pytest.mark.parametrize("kind", EVERYWHERE, ids=str)
def test_a_stalled_client_that_reads_again_too_late_is_disconnected(serve: Serve, kind: Kind) -> None:
    """``write_wait`` bounds how long a partly sent frame waits for its reader."""
    server = serve(kind=kind, config={**NARROW, "CARTOWS_WRITE_WAIT": 0.5})
    stalled = server.upgraded(receive_buffer=4096)
    assert server.flood(30, 10_000) == 30
    server.await_clients(0)
    server.await_idle()
    stalled.close()


def test_what_waits_for_all_clients_together_is_bounded(serve: Serve) -> None:
    """Each of them stays within its own bounds, and each has events of its own, so that nothing is shared."""
    limit, stalled, rounds, size = 1_000_000, 20, 30, 10_000
    config = {**NARROW, "CARTOWS_TOTAL_QUEUE_BYTES": limit}
    server = serve(config=config, fresh=True)
    watcher = server.connect("/ws?board_id=watched", compression=None, max_queue=None)
    raws = [server.upgraded(f"/ws?board_id=b{number}", receive_buffer=4096) for number in range(stalled)]
    for _ in range(rounds):
        for number in range(stalled):
            assert server.flood(1, size, board=f"b{number}") == 1
        assert server.flood(1, 10, board="watched") == 1
    assert len(numbers(server.received(watcher)[0])) == rounds, "who reads is not disturbed"
    stats = server.get("/remote/hub").json["stats"]
    assert stats["max_queue_bytes"] <= limit * 5 // 4 + size
    shed = stats["over_total_queue_bytes"]
    assert 0 < shed < stalled, stats
    assert [line for line in server.app_log() if line.startswith("WARNING") and "CARTOWS_TOTAL_QUEUE_BYTES=1000000" in line]
    wait_until(
        lambda: server.get("/remote/hub").json["stats"].get("closed_3008", 0) >= shed,
        lambda: f"{shed} clients closed with 3008",
    )
    assert len(raws) == stalled
