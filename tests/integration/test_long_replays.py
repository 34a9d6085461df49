"""Replays far larger than a send queue or a socket buffer, to clients that read slowly, send meanwhile, or leave."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.conftest import Serve
from tests.support.clients import Peer
from tests.support.event_helpers import (
    BackgroundPublisher,
    SlowReader,
    ask,
    check_no_silent_gap,
    latest_id,
    number,
    read_until,
    since,
)
from tests.support.harness import BOTH_WAYS, Kind, Server, event_ids
from tests.support.raw_client import CLOSE, PONG, TEXT, Json, RawClient, make_frame

#: A history that holds every replay of these tests, with a send queue and a socket buffer that hold none.
NARROW = {
    "CARTOWS_SEND_QUEUE_SIZE": 16,
    "CARTOWS_WRITE_BUFFER": 8192,
    "CARTOWS_HISTORY_SIZE": 20_000,
    "CARTOWS_COMPRESS_MIN_SIZE": None,
}


@pytest.fixture(params=BOTH_WAYS, ids=str)
def narrow(serve: Serve, request: pytest.FixtureRequest) -> Server:
    return serve(kind=request.param, config=NARROW)


def flood_in_batches(server: Server, watcher: Peer, batches: int, size: int = 300) -> list[Json]:
    """Publish ten events at a time, which the watcher reads before the next, since its send queue is short, too."""
    return [
        message for _ in range(batches) if server.flood(10, size) == 10 for message in [watcher.receive() for _ in range(10)]
    ]


def test_a_replay_far_larger_than_the_send_queue_reaches_a_client_that_reads_slowly_at_first(narrow: Server) -> None:
    start = latest_id(narrow)
    watcher = narrow.connect(max_queue=None)
    everything = flood_in_batches(narrow, watcher, 150)
    with SlowReader(narrow, since(start)) as slow:
        assert slow.hello["data"]["recovered"] is True
        assert slow.hello["data"]["replayed"] >= 1500
        for _ in range(10):
            everything += flood_in_batches(narrow, watcher, 2)
            slow.read_some(100)
        found = [slow.receive() for _ in everything]
        assert found == everything
        narrow.publish("broadcast", "app.refreshed")
        assert slow.receive()["type"] == watcher.receive()["type"] == "app.refreshed"


def test_a_ping_during_a_long_replay_is_answered_at_its_position(narrow: Server) -> None:
    """With the id of what was replayed before it: a client that resumes from it misses nothing, and gets nothing twice."""
    start = latest_id(narrow)
    everything = flood_in_batches(narrow, narrow.connect(max_queue=None), 150)
    with SlowReader(narrow, since(start)) as slow:
        slow.send(make_frame(TEXT, b'{"type":"ping"}') * 3)
        found = [slow.hello, *[slow.receive() for _ in range(1503)]]
    events = [message for message in found[1:] if message["type"] != "pong"]
    assert events == everything
    ids = event_ids(found)
    assert ids == sorted(ids), [message for message in found if message["type"] == "pong"]
    for index, message in enumerate(found):
        if message["type"] == "pong":
            assert message["id"] == found[index - 1]["id"]
            assert "incomplete" not in message.get("data", {})


def test_a_protocol_ping_during_a_long_replay_does_not_wait_for_its_end(narrow: Server) -> None:
    start = latest_id(narrow)
    flood_in_batches(narrow, narrow.connect(max_queue=None), 150)
    with SlowReader(narrow, since(start)) as slow:
        slow.send_frame(9, b"there?")
        frames = []
        while (frame := slow.frame()).opcode != PONG:
            frames.append(frame)
        assert (frame.payload, len(frames) < 1500) == (b"there?", True)


@pytest.mark.parametrize("policy", ["disconnect", "drop_oldest"])
def test_a_replay_that_outlives_the_history_is_no_silent_gap(serve: Serve, policy: str) -> None:
    server = serve(config={**NARROW, "CARTOWS_HISTORY_SIZE": 60, "CARTOWS_SLOW_CONSUMER": policy})
    start = latest_id(server)
    watcher = server.connect(max_queue=None)
    flood_in_batches(server, watcher, 5, 10_000)
    with SlowReader(server, since(start)) as slow:
        assert slow.hello["data"]["recovered"] is True
        flood_in_batches(server, watcher, 20, 10_000)
        server.publish("broadcast_message", {"$message": ["end"]})
        frames = []
        while (frame := slow.frame()).opcode == TEXT:
            frames.append(frame.json)
            if frame.json["type"] == "end":
                break
        if frame.opcode == TEXT:
            assert policy == "drop_oldest"
        else:
            assert frame.closed.code == 3008
    check_no_silent_gap(frames, number({"id": start}))


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_three_hundred_clients_that_resume_at_once_get_everything_once(serve: Serve, kind: Kind) -> None:
    server = serve(kind=kind, threads=330 if kind.attached else None, config={"CARTOWS_HISTORY_SIZE": 20_000})
    start = latest_id(server)
    watcher = server.connect(max_queue=None)
    boards, clients = 10, 300
    for board in range(boards):
        assert server.flood(30, board=f"b{board}") == 30
    arrived = threading.Barrier(12)

    def arrive(first: int) -> list[RawClient]:
        arrived.wait(30)
        raws = []
        for client in range(first, clients, 12):
            raws.append(server.raw())
            assert raws[-1].open(since(start, board_id=f"b{client % boards}")).status == 101
        return raws

    def publish() -> None:
        for board in range(boards):
            assert server.flood(3, board=f"b{board}") == 3

    with ThreadPoolExecutor(12) as pool, BackgroundPublisher(publish):
        arrivals = list(pool.map(arrive, range(12)))
    server.publish("broadcast_message", {"$message": ["end"]})
    everything = read_until(watcher, "end")
    expected = [
        [message["id"] for message in everything if message.get("data", {}).get("board_id", f"b{board}") == f"b{board}"]
        for board in range(boards)
    ]
    for first, raws in enumerate(arrivals):
        for index, raw in enumerate(raws):
            with raw:
                hello, *messages = read_until(raw, "end")
            assert hello["data"]["recovered"] is True
            assert [message["id"] for message in messages] == expected[(first + 12 * index) % boards]
    server.await_clients(1)


# During a replay ------------------------------------------------------------------------------------------------------


def two_boards(server: Server, start: str) -> tuple[Peer, list[Json]]:
    """Publish to two boards alternately; return a client that receives both, and what it received."""
    watcher = server.connect(since(start, board_id="b1") + "&board_id=b2", max_queue=None)
    everything = []
    for _ in range(80):
        for board in ("b1", "b2"):
            assert server.flood(8, 400, board) == 8
        everything += [watcher.receive() for _ in range(16)]
    return watcher, everything


@pytest.mark.parametrize("with_replay", [False, True], ids=["without-replay", "with-replay"])
def test_a_room_that_is_joined_during_a_replay(narrow: Server, with_replay: bool) -> None:
    """Its events are received from the position of the answer on; earlier ones only if asked for, and once."""
    start = latest_id(narrow)
    watcher, everything = two_boards(narrow, start)
    with SlowReader(narrow, since(start, board_id="b1")) as slow:
        slow.send_json({"type": "subscribe", "data": {"board_id": "b2", **({"since": start} if with_replay else {})}})
        for _ in range(5):
            slow.read_some(500)
        for board in ("b1", "b2"):
            assert narrow.flood(8, 400, board) == 8
        *before, answer = read_until(slow, "subscribed")
        # Not sooner: a busy server may read the subscription after all of the above has been delivered.
        narrow.publish("broadcast_message", {"$message": ["end"]})
        everything += read_until(watcher, "end")
        after = read_until(slow, "end")
    here = number(answer)
    wanted = {"b1", "b2"} if with_replay else {"b1"}
    old = [message for message in everything if number(message) <= here and message["data"]["board_id"] in wanted]
    assert sorted(before, key=number) == old
    assert after == [message for message in everything if number(message) > here]
    for board in wanted:
        ids = [number(message) for message in before if message["data"]["board_id"] == board]
        assert ids == sorted(ids)


def test_a_room_that_is_left_during_a_replay(narrow: Server) -> None:
    start = latest_id(narrow)
    watcher, everything = two_boards(narrow, start)
    with SlowReader(narrow, since(start, board_id="b1") + "&board_id=b2") as slow:
        *before, answer = ask(slow, "unsubscribe", {"board_id": "b1"})
        assert narrow.flood(8, 400, "b1") == narrow.flood(8, 400, "b2") == 8
        narrow.publish("broadcast_message", {"$message": ["end"]})
        everything += read_until(watcher, "end")
        after = read_until(slow, "end")
    assert before == [message for message in everything if number(message) <= number(answer)]
    rest = [message for message in everything if number(message) > number(answer)]
    assert after == [message for message in rest if message.get("data", {}).get("board_id") != "b1"]


def test_a_close_during_a_replay_is_answered(narrow: Server) -> None:
    start = latest_id(narrow)
    flood_in_batches(narrow, narrow.connect(max_queue=None), 150)
    slow = SlowReader(narrow, since(start))
    slow.send_frame(CLOSE, b"\x03\xe8")
    frames, closed = slow.ended()
    assert closed.code == 1000
    check_no_silent_gap([frame.json for frame in frames], number(slow.hello))
    narrow.await_clients(1)


def test_a_client_that_does_not_read_its_replay_is_disconnected(serve: Serve) -> None:
    server = serve(config={**NARROW, "CARTOWS_WRITE_WAIT": 0.5})
    start = latest_id(server)
    flood_in_batches(server, server.connect(max_queue=None), 150)
    with SlowReader(server, since(start)):
        # It has been greeted, so it was counted.
        server.await_clients(1)


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_a_server_that_stops_waits_for_no_replay(serve: Serve, kind: Kind) -> None:
    server = serve(kind=kind, fresh=True, config=NARROW)
    start = latest_id(server)
    watcher = server.connect(max_queue=None)
    flood_in_batches(server, watcher, 150)
    stalled, reading = SlowReader(server, since(start)), SlowReader(server, since(start))
    server.signal(signal.SIGTERM)
    frames, closed = reading.ended()
    assert closed.code in (1012, 1006)
    messages = [frame.json for frame in frames if frame.opcode == TEXT]
    check_no_silent_gap([message for message in messages if "id" in message], number(reading.hello))
    assert watcher.ended()[1].code == 1012
    assert server.await_exit() <= 3.0
    stalled.close()
