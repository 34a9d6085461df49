"""How many messages a client may send, and that others are not affected by one that sends more."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import pytest

from tests.integration.conftest import Serve
from tests.support.harness import BOTH_WAYS, FLASK, GTHREAD_TLS, Kind, Server
from tests.support.raw_client import PING, PONG, TEXT, Closed, Frame, Json, RawClient, deflate, inflate, make_frame

BURST = 5
#: So slow that the time a test takes adds no message to the allowance.
SLOW = {"CARTOWS_RATE_LIMIT": 0.25, "CARTOWS_RATE_BURST": BURST}
UNLIMITED = {"CARTOWS_RATE_LIMIT": None}


@pytest.fixture(params=(*BOTH_WAYS, GTHREAD_TLS, FLASK), ids=str)
def slow(serve: Serve, request: pytest.FixtureRequest) -> Server:
    return serve("users", kind=request.param, config=SLOW)


def echo(data: Any) -> bytes:
    return make_frame(TEXT, json.dumps({"type": "echo", "data": data}).encode())


def echoes(count: int) -> bytes:
    return b"".join(map(echo, range(count)))


def check_limited(message: Json) -> None:
    assert (message["type"], message["data"]["code"], bool(message["error"])) == ("error", "RATE_LIMITED", True), message
    wait = re.fullmatch(r"retry after (\d+) ms", message["data"]["details"])
    assert wait is not None, message
    assert 0 < int(wait[1]) <= 1000 / SLOW["CARTOWS_RATE_LIMIT"]


def check_disconnected(frames: list[Frame], closed: Closed, code: int) -> None:
    advice = frames[-1].json
    assert advice["type"] == "disconnect"
    assert advice["data"] == {
        "code": code,
        "reason": closed.reason,
        "reconnect": advice["data"]["reconnect"],
        "retry_after_ms": advice["data"]["retry_after_ms"],
    }
    assert closed.code == code


# How much -------------------------------------------------------------------------------------------------------------


def test_messages_beyond_the_burst_are_answered_once_and_not_handled(slow: Server) -> None:
    raw, other = slow.upgraded(), slow.connect()
    raw.send(echoes(BURST + 3))
    assert [raw.receive()["data"] for _ in range(BURST)] == [0, 1, 2, 3, 4]
    check_limited(raw.receive())
    # It is still connected and receives events, and the limit is its own.
    assert slow.received(raw, other) == [[], []]
    assert other.ask({"type": "echo", "data": "free"})["data"] == "free"


def test_a_client_that_continues_is_disconnected_and_the_others_are_not(slow: Server) -> None:
    raw, other = slow.upgraded("/ws?as=ann"), slow.connect()
    raw.send(echoes(3 * BURST))
    frames, closed = raw.ended()
    if slow.plan.kind.tls:  # the close overtakes the writer's thread: what waits is dropped
        assert {frame.json["type"] for frame in frames[:-1]} <= {"echoed", "error"}
    else:
        assert [frame.json["type"] for frame in frames[:-1]] == ["echoed"] * BURST + ["error"]
        check_limited(frames[BURST].json)
    check_disconnected(frames, closed, 3013)
    advice = frames[-1].json["data"]
    assert advice["reconnect"] is True
    assert advice["retry_after_ms"] > 0
    slow.await_clients(1)
    assert slow.received(other) == [[]]
    assert other.ask({"type": "ping"})["type"] == "pong"
    # The next connection starts with a full allowance.
    assert slow.connect("/ws?as=ann").ask({"type": "echo", "data": 1})["data"] == 1


def test_pings_count(slow: Server) -> None:
    raw = slow.upgraded()
    for number in range(BURST):
        raw.send_frame(PING, b"%d" % number)
        assert raw.frame() == Frame(PONG, b"%d" % number)
    raw.send(echo("after"))
    check_limited(raw.receive())


def test_a_client_that_floods_with_pings_is_disconnected(slow: Server) -> None:
    raw = slow.upgraded()
    raw.send(b"".join(make_frame(PING, b"%d" % number) for number in range(3 * BURST)))
    frames, closed = raw.ended()
    pongs = [frame for frame in frames if frame.opcode == PONG]
    if slow.plan.kind.tls:  # a pong that waits to be written is replaced by a later one
        assert len(pongs) <= BURST
    else:
        assert pongs == [Frame(PONG, b"%d" % number) for number in range(BURST)]
    check_disconnected([frame for frame in frames if frame.opcode == TEXT], closed, 3013)


def test_a_message_dropped_because_of_its_clients_pings_is_answered(serve: Serve) -> None:
    raw = serve("users", config=SLOW).upgraded()
    raw.socket.settimeout(5)
    raw.send(b"".join(make_frame(PING) for _ in range(BURST + 2)) + echo("lost"))
    assert [raw.frame() for _ in range(BURST)] == [Frame(PONG, b"")] * BURST
    check_limited(raw.receive())


@pytest.mark.parametrize("path", ["/ws", "/own"])
def test_a_client_within_the_rate_is_never_limited(serve: Serve, path: str) -> None:
    rate = 50.0
    peer = serve("users", config={"CARTOWS_RATE_LIMIT": rate, "CARTOWS_RATE_BURST": 1}).connect(path)
    clock = threading.Event()
    for number in range(30):
        clock.wait(1.1 / rate)
        assert peer.ask({"type": "echo", "data": number}).get("data") == number


def test_a_client_within_the_rate_is_not_limited_after_a_slow_handler(serve: Serve) -> None:
    """The messages that queued meanwhile were not sent at once."""
    rate = 50.0
    server = serve("users", config={"CARTOWS_RATE_LIMIT": rate, "CARTOWS_RATE_BURST": 4})
    peer = server.connect()
    peer.send({"type": "busy", "data": peer.id})
    clock = threading.Event()
    for number in range(20):
        clock.wait(1.1 / rate)
        peer.send({"type": "echo", "data": number})
    server.post(f"/gates/{peer.id}", None)
    types: list[str] = []
    while len(types) < 21 and "error" not in types:
        types.append(peer.receive()["type"])
    assert types == ["free"] + ["echoed"] * 20


def test_without_a_limit_every_message_is_handled(serve: Serve) -> None:
    raw = serve("users", config=UNLIMITED).upgraded()
    raw.send(echoes(500))
    assert [raw.receive()["data"] for _ in range(500)] == list(range(500))


def test_an_own_route_limits_as_well(serve: Serve) -> None:
    server = serve("users", config=SLOW)
    raw = server.upgraded("/own")
    raw.send(echoes(3 * BURST))
    frames, closed = raw.ended()
    assert [frame.json["type"] for frame in frames] == ["echoed"] * BURST + ["error", "disconnect"]
    assert closed.code == 3013


def test_an_own_route_counts_pings_as_well(serve: Serve) -> None:
    raw = serve("users", config=SLOW).upgraded("/own")
    raw.socket.settimeout(5)
    raw.send(b"".join(make_frame(PING) for _ in range(3 * BURST)))
    assert raw.ended()[1].code == 3013


# Rooms ----------------------------------------------------------------------------------------------------------------

#: The default burst, and so slow that elapsed time does not count.
ROOMS = {"CARTOWS_RATE_LIMIT": 0.25, "CARTOWS_RATE_BURST": 40}


def rooms(kind: str, count: int) -> Json:
    return {"type": kind, "data": {"board_id": [f"room-{number}" for number in range(count)]}}


@pytest.mark.parametrize("path", ["/ws", "/own"])
def test_naming_many_rooms_counts_as_several_messages(serve: Serve, path: str) -> None:
    server = serve("users", config=ROOMS)
    raw, other = server.upgraded(path), server.connect()
    # 1 + 10 each: the fourth exceeds the burst by four.
    for kind in ("subscribe", "unsubscribe") * 2:
        raw.send_json(rooms(kind, 100))
        assert raw.receive()["type"] == f"{kind}d"
    raw.send_json({"type": "ping"})
    message = raw.receive()
    assert message["data"]["code"] == "RATE_LIMITED"
    wait = re.fullmatch(r"retry after (\d+) ms", message["data"]["details"])
    # the time of five messages, less what this test has taken
    assert wait is not None and 16_000 < int(wait[1]) <= 20_000
    assert server.received(raw, other) == [[], []]


def test_each_room_with_presence_counts_as_a_message(serve: Serve) -> None:
    raw = serve("users", config=ROOMS).upgraded()
    raw.send_json({"type": "subscribe", "data": {"board_id": [f"room-{number}" for number in range(38)], "presence": {}}})
    assert raw.receive()["type"] == "subscribed"
    # 39 of 40 are spent.
    raw.send_json({"type": "ping"})
    raw.send_json({"type": "ping"})
    kinds = [raw.receive() for _ in range(40)]
    assert sum(message["type"] == "presence.state" for message in kinds) == 38
    assert [message["type"] for message in kinds if message["type"] != "presence.state"] == ["pong", "error"]


def test_a_message_refused_for_too_many_rooms_counts_as_much(serve: Serve) -> None:
    raw = serve("users", config=ROOMS).upgraded()
    for _ in range(4):
        raw.send_json(rooms("subscribe", 5000))
        assert raw.receive()["data"]["code"] == "FORBIDDEN"
    raw.send_json({"type": "ping"})
    assert raw.receive()["data"]["code"] == "RATE_LIMITED"


def test_one_message_costs_at_most_the_burst(serve: Serve) -> None:
    # So slow that elapsed time does not count.
    config = {"CARTOWS_RATE_LIMIT": 0.1, "CARTOWS_RATE_BURST": 2, "CARTOWS_MAX_FILTERS": 1000}
    peer = serve("users", config=config).connect()
    assert peer.ask(rooms("subscribe", 1000))["type"] == "subscribed"
    peer.send({"type": "ping"})
    message = peer.receive()
    wait = re.fullmatch(r"retry after (\d+) ms", message["data"]["details"])
    assert wait is not None and int(wait[1]) <= 20_000, "one of two was left: it exceeds by one, and needs another"


def test_naming_a_few_rooms_counts_as_one_message(serve: Serve) -> None:
    raw = serve("users", config=ROOMS).upgraded()
    for number in range(40):
        raw.send_json(rooms("unsubscribe" if number % 2 else "subscribe", 9))
        assert raw.receive()["type"] == ("unsubscribed" if number % 2 else "subscribed")


# Garbage --------------------------------------------------------------------------------------------------------------

GARBAGE = [
    "no json",
    "[]",
    "{}",
    '{"type": 5}',
    '{"type": ""}',
    '{"type": "subscribe"}',
    '{"type": "subscribe", "data": {"unknown": 1}}',
    '{"type": "unsubscribe", "data": {"board_id": {}}}',
    '{"type": "auth.refresh"}',
]


def send_garbage(raw: RawClient, count: int) -> None:
    raw.send(b"".join(make_frame(TEXT, GARBAGE[number % len(GARBAGE)].encode()) for number in range(count)))


@pytest.mark.parametrize("path", ["/ws", "/own"])
@pytest.mark.parametrize("kind", [*BOTH_WAYS, FLASK], ids=str)
def test_ten_invalid_messages_close_the_connection(serve: Serve, kind: Kind, path: str) -> None:
    server = serve("users", kind=kind, config=UNLIMITED)
    raw, other = server.upgraded(path), server.connect()
    send_garbage(raw, 10)
    frames, closed = raw.ended()
    assert [frame.json["type"] for frame in frames] == ["error"] * 9 + ["disconnect"]
    assert {frame.json["data"]["code"] for frame in frames[:-1]} == {"INVALID_MESSAGE"}
    check_disconnected(frames, closed, 1008)
    assert server.received(other) == [[]]


@pytest.mark.parametrize(
    "good", [{"type": "ping"}, {"type": "echo", "data": 1}, {"type": "subscribe", "data": {"board_id": "b"}}], ids=repr
)
def test_valid_messages_between_invalid_ones_change_nothing(serve: Serve, good: Json) -> None:
    raw = serve("users", config=UNLIMITED).upgraded()
    for _ in range(9):
        send_garbage(raw, 1)
        assert raw.receive()["data"]["code"] == "INVALID_MESSAGE"
        raw.send_json(good)
        assert raw.receive()["type"] in {"pong", "echoed", "subscribed"}
    send_garbage(raw, 1)
    frames, closed = raw.ended()
    check_disconnected(frames, closed, 1008)


# Bytes ----------------------------------------------------------------------------------------------------------------

#: So little that the time a test takes adds nothing to speak of.
FEW_BYTES = {**UNLIMITED, "CARTOWS_RATE_LIMIT_BYTES": 10, "CARTOWS_MAX_MESSAGE_SIZE": 20_000, "CARTOWS_RATE_BURST": 3}


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("path", ["/ws", "/own"])
@pytest.mark.parametrize("kind", [*BOTH_WAYS, FLASK], ids=str)
def test_bytes_are_counted_once_they_are_unpacked(serve: Serve, kind: Kind, path: str, compressed: bool) -> None:
    headers: dict[str, str | None] = {"Sec-WebSocket-Extensions": "permessage-deflate; client_no_context_takeover"}
    raw = serve("users", kind=kind, config=FEW_BYTES).upgraded(path, headers=headers if compressed else None)
    text = json.dumps({"type": "echo", "data": "x" * 9000}).encode()
    payload = deflate(text) if compressed else text
    assert len(payload) < 100 or not compressed
    raw.send(make_frame(TEXT, payload, rsv=4 if compressed else 0) * 3)
    types = []
    for _ in range(3):
        frame = raw.frame()
        types.append(json.loads(inflate(frame.payload) if frame.compressed else frame.payload)["type"])
    assert types == ["echoed", "echoed", "error"]
    # What has no bytes to speak of is still answered.
    raw.send_frame(PING, b"x")
    assert raw.frame() == Frame(PONG, b"x")
    raw.send(make_frame(TEXT, payload, rsv=4 if compressed else 0) * 10)
    assert raw.ended()[1].code == 3013
