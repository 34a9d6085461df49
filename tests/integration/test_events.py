"""Events and messages between a real server and real clients, on every server and with both ways of serving."""

from __future__ import annotations

import datetime as dt
import json
import re
from typing import Any

import pytest

from tests.integration.conftest import Serve
from tests.support.clients import Peer
from tests.support.event_helpers import label
from tests.support.harness import EVERYWHERE, GTHREAD, Server, event_ids
from tests.support.raw_client import CLOSE, CONTINUATION, PING, PONG, TEXT, Json, make_frame

RFC_3339_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


@pytest.fixture(params=EVERYWHERE, ids=str)
def server(serve: Serve, request: pytest.FixtureRequest) -> Server:
    return serve(kind=request.param)


def check_envelope(message: Json, *, numbered: bool = True) -> None:
    """Check the fields that every message has, and that none is empty."""
    assert set(message) <= {"type", "timestamp", "id", "data", "error"}
    assert RFC_3339_UTC.fullmatch(message["timestamp"]), message
    age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(message["timestamp"].replace("Z", "+00:00"))
    assert abs(age.total_seconds()) < 60
    assert all(value not in (None, "", {}) for value in message.values()), message
    if numbered:
        assert re.fullmatch(r"[^.]+\.[0-9]+", message["id"])


def test_a_request_handler_reaches_a_client(server: Server) -> None:
    peer = server.connect()
    response = server.post("/tasks", {"id": "t1", "board_id": "b1", "title": "write tests"})
    assert response.status == 201
    message = peer.receive()
    check_envelope(message)
    assert message["type"] == "task.created"
    assert message["data"] == {
        "task_id": "t1",
        "board_id": "b1",
        "action": "created",
        "task": {"id": "t1", "board_id": "b1", "title": "write tests"},
    }


def test_the_greeting_comes_first(server: Server) -> None:
    first, second = server.connect(), server.connect()
    for peer in (first, second):
        check_envelope(peer.hello, numbered=False)
        assert peer.hello["type"] == "connected"
        assert isinstance(peer.hello["data"]["client_id"], str)
        assert peer.hello["data"]["ping_interval_ms"] == 54_000
        assert re.fullmatch(r"[^.]+\.[0-9]+", peer.hello["data"]["id"])
    assert first.id != second.id
    assert sorted(server.get("/remote/hub").json["ids"]) == sorted([first.id, second.id])


EVENTS: list[tuple[str, tuple[Any, ...], Json, str, Json]] = [
    (
        "broadcast_task_created",
        ("t1", "b1", {"title": "x"}),
        {"project_id": "p1"},
        "task.created",
        {"task_id": "t1", "board_id": "b1", "project_id": "p1", "action": "created", "task": {"title": "x"}},
    ),
    (
        "broadcast_task_created",
        ("t1", "b1", {"project_id": "p9"}),
        {},
        "task.created",
        {"task_id": "t1", "board_id": "b1", "project_id": "p9", "action": "created", "task": {"project_id": "p9"}},
    ),
    (
        "broadcast_task_updated",
        ("t1", "b1", {"title": "y"}, {"title": "y", "done": True}),
        {},
        "task.updated",
        {
            "task_id": "t1",
            "board_id": "b1",
            "action": "updated",
            "changes": {"title": "y"},
            "task": {"title": "y", "done": True},
        },
    ),
    (
        "broadcast_task_updated",
        ("t1", "b2", {"board_id": "b2"}),
        {"action": "moved", "project_id": "p1"},
        "task.updated",
        {"task_id": "t1", "board_id": "b2", "project_id": "p1", "action": "moved", "changes": {"board_id": "b2"}},
    ),
    (
        "broadcast_task_deleted",
        ("t1", "b1"),
        {},
        "task.deleted",
        {"task_id": "t1", "board_id": "b1", "action": "deleted"},
    ),
    (
        "broadcast_project_created",
        ("p1", {"name": "n"}),
        {},
        "project.created",
        {"project_id": "p1", "action": "created", "project": {"name": "n"}},
    ),
    (
        "broadcast_project_updated",
        ("p1", {"name": "m"}),
        {},
        "project.updated",
        {"project_id": "p1", "action": "updated", "changes": {"name": "m"}},
    ),
    (
        "broadcast_board_updated",
        ("b1", "p1", {"name": "m"}, {"id": "b1"}),
        {},
        "board.updated",
        {"board_id": "b1", "project_id": "p1", "action": "updated", "changes": {"name": "m"}, "board": {"id": "b1"}},
    ),
    (
        "broadcast_board_updated",
        ("b1", "p1", {"order": [2, 1]}),
        {"action": "reordered"},
        "board.updated",
        {"board_id": "b1", "project_id": "p1", "action": "reordered", "changes": {"order": [2, 1]}},
    ),
    ("broadcast", ("comment.added", {"text": "é\u2028☃"}), {}, "comment.added", {"text": "é\u2028☃"}),
]


def test_every_event_has_its_shape_on_the_wire(server: Server) -> None:
    peer = server.connect()
    results = server.call(*[(name, arguments, keywords) for name, arguments, keywords, _, _ in EVENTS])
    for (_, _, _, type_, data), result in zip(EVENTS, results, strict=True):
        message = peer.receive()
        check_envelope(message)
        assert (message["type"], message["data"]) == (type_, data)
        assert result["accepted"] and result["status"] == "queued" and result["reason"] is None
        assert result["id"] == message["id"]


def test_an_event_without_data_has_no_data_field(server: Server) -> None:
    peer = server.connect()
    server.publish("broadcast", "app.refreshed")
    message = peer.receive()
    check_envelope(message)
    assert set(message) == {"type", "timestamp", "id"}


def test_all_clients_receive_every_event_once_in_one_order_with_ids_growing_by_one(server: Server) -> None:
    peers = [server.connect() for _ in range(3)]
    position = peers[0].hello["data"]["id"]
    assert server.flood(300) == 300
    received = server.received(*peers)
    assert [message["data"]["task"]["number"] for message in received[0]] == list(range(300))
    assert received[1] == received[0] and received[2] == received[0]
    start = event_ids([{"id": position}])[0]
    assert event_ids([{"id": position}, *received[0]]) == list(range(start, start + 301))


def test_the_position_is_that_of_the_last_event(server: Server) -> None:
    early = server.connect()
    server.publish("broadcast", "app.refreshed")
    last = early.receive()["id"]
    assert server.connect().hello["data"]["id"] == last
    assert early.ask({"type": "ping"})["id"] == last


Call = tuple[str, tuple[Any, ...], Json]

BOARD_1: Call = ("broadcast_task_created", ("t1", "b1", {}), {"project_id": "p1"})
BOARD_2: Call = ("broadcast_task_created", ("t2", "b2", {}), {"project_id": "p2"})
BOARD_3: Call = ("broadcast_task_created", ("t3", "b3", {}), {})
BOARD_4: Call = ("broadcast_board_updated", ("b4", "p1", {"name": "n"}), {})
PROJECT_1: Call = ("broadcast_project_created", ("p1", {"name": "n"}), {})
OWN: Call = ("broadcast", ("comment.added", {"n": 1}), {"filters": {"board_id": "b1"}})
EVERY_CLIENT: Call = ("broadcast_message", ({"$message": ["notice", {"n": 1}]},), {})
HOLDERS: Call = ("broadcast_to_filtered", ({"$message": ["whisper", {"n": 1}]}, "board_id", "b1"), {})
ALL = [BOARD_1, BOARD_2, BOARD_3, BOARD_4, PROJECT_1, OWN, EVERY_CLIENT, HOLDERS]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["t1", "t2", "t3", "b4", "p1", "comment.added", "notice"]),
        ("?board_id=b1", ["t1", "comment.added", "notice", "whisper"]),
        ("?board_id=b1&board_id=b3", ["t1", "t3", "comment.added", "notice", "whisper"]),
        ("?project_id=p1", ["t1", "b4", "p1", "notice"]),
        ("?project_id=p2&board_id=b4", ["t2", "b4", "notice"]),
        ("?project_id=p1&board_id=b1", ["t1", "b4", "p1", "comment.added", "notice", "whisper"]),
        ("?board_id=unknown", ["notice"]),
        ("?board_id=b1&board_id=b1", ["t1", "comment.added", "notice", "whisper"]),
        ("?board_id=b%31", ["t1", "comment.added", "notice", "whisper"]),
        ("?colour=red", ["t1", "t2", "t3", "b4", "p1", "comment.added", "notice"]),
    ],
)
def test_a_client_receives_the_union_of_its_filters(serve: Serve, query: str, expected: list[str]) -> None:
    server = serve(kind=GTHREAD)
    peer = server.connect("/ws" + query)
    server.call(*ALL)
    assert [label(message) for message in server.received(peer)[0]] == expected


def test_filters_apply_on_every_server(server: Server) -> None:
    all_, board, project, nothing = (
        server.connect("/ws" + query) for query in ("", "?board_id=b1", "?project_id=p1", "?board_id=unknown")
    )
    server.call(*ALL)
    assert [[label(message) for message in messages] for messages in server.received(all_, board, project, nothing)] == [
        ["t1", "t2", "t3", "b4", "p1", "comment.added", "notice"],
        ["t1", "comment.added", "notice", "whisper"],
        ["t1", "b4", "p1", "notice"],
        ["notice"],
    ]


def test_an_event_without_filters_is_for_every_client_whatever_its_filters(serve: Serve) -> None:
    server = serve(kind=GTHREAD)
    peers = server.connect(), server.connect("/ws?board_id=b1"), server.connect("/ws?rooms=none")
    server.publish("broadcast", "app.refreshed")
    found = [[label(message) for message in messages] for messages in server.received(*peers)]
    assert found == [["app.refreshed"]] * 3


def test_a_filter_value_may_be_any_string(serve: Serve) -> None:
    server = serve(kind=GTHREAD)
    peer = server.connect("/ws?board_id=%C3%A9%20%26%3D%E2%98%83")
    server.publish("broadcast_task_deleted", "t1", "é &=☃")
    assert peer.receive()["data"]["board_id"] == "é &=☃"


def test_an_integer_and_its_string_are_the_same_filter_value(serve: Serve) -> None:
    """An app's ids are often integers, the values of a query never."""
    server = serve(kind=GTHREAD)
    peer = server.connect("/ws?board_id=7")
    server.publish("broadcast_task_deleted", 1, 7)
    (message,) = server.received(peer)[0]
    assert message["data"] == {"task_id": 1, "board_id": 7, "action": "deleted"}


def test_ping_is_answered_with_pong(server: Server) -> None:
    peer = server.connect()
    pong = peer.ask({"type": "ping", "timestamp": "2025-10-23T17:00:00Z"})
    check_envelope(pong)
    assert pong["type"] == "pong"
    assert peer.ask('{"type":"ping"}')["type"] == "pong"


def test_a_pong_message_is_taken_without_an_answer(server: Server) -> None:
    peer = server.connect()
    peer.send({"type": "pong"})
    assert peer.ask({"type": "ping"})["type"] == "pong"
    assert server.received(peer) == [[]]


def test_a_protocol_ping_is_answered_with_its_payload(server: Server) -> None:
    raw = server.upgraded()
    for payload in (b"", b"are you there", bytes(range(125))):
        raw.send_frame(PING, payload)
        frame = raw.frame()
        assert (frame.opcode, frame.payload, frame.fin, frame.compressed) == (PONG, payload, True, False)


def test_the_websockets_client_gets_its_pong(server: Server) -> None:
    peer = server.connect()
    assert peer.connection.ping().wait(10)


def check_error(message: Json, code: str) -> None:
    check_envelope(message, numbered=False)
    assert message["type"] == "error"
    assert set(message["data"]) <= {"code", "message", "details"}
    assert message["data"]["code"] == code
    assert message["error"] and isinstance(message["error"], str)
    assert message["data"]["message"]


UNKNOWN: list[Json] = [{"type": "task.created", "data": {}}, {"type": "no.such.type"}, {"type": "é☃" * 1000}]
INVALID = [
    "no json",
    "",
    " ",
    "[]",
    '"ping"',
    "17",
    "null",
    "true",
    '{"type": "ping"',
    '{"type": "ping"} {"type": "ping"}',
    "{'type': 'ping'}",
    "[" * 100_000,
    '{"type":' * 10_000,
    "\x00",
    "NaN",
]


def test_an_unknown_type_is_answered_and_the_connection_stays(server: Server) -> None:
    peer = server.connect()
    for message in UNKNOWN:
        check_error(peer.ask(message), "UNKNOWN_TYPE")
    assert peer.ask({"type": "ping"})["type"] == "pong"


def test_a_message_that_is_not_a_json_object_is_answered_and_the_connection_stays(server: Server) -> None:
    # The tenth would close the connection.
    for start in range(0, len(INVALID), 9):
        peer = server.connect()
        for message in INVALID[start : start + 9]:
            answer = peer.ask(message)
            try:
                check_error(answer, "INVALID_MESSAGE")
            except AssertionError as error:
                raise AssertionError(f"{message[:40]!r} was answered {answer}") from error
        assert peer.ask({"type": "ping"})["type"] == "pong"


def test_a_type_that_is_not_a_string_is_answered_and_the_connection_stays(server: Server) -> None:
    peer = server.connect()
    for message in (
        "{}",
        '{"type": 7}',
        '{"type": null}',
        '{"type": {"type": "ping"}}',
        '{"type": ["ping"]}',
        '{"type": ""}',
    ):
        answer = peer.ask(message)
        assert answer["type"] == "error"
        assert answer["data"]["code"] in {"INVALID_MESSAGE", "UNKNOWN_TYPE"}
    assert peer.ask({"type": "ping"})["type"] == "pong"


def test_a_message_in_fragments_is_one_message(server: Server) -> None:
    raw = server.upgraded()
    text = json.dumps({"type": "ping", "note": "é☃"}).encode()
    for index in range(len(text)):
        raw.send_frame(TEXT if index == 0 else CONTINUATION, text[index : index + 1], fin=index == len(text) - 1)
        if index == 3:
            raw.send_frame(PING, b"between")
            assert raw.frame().opcode == PONG
    assert raw.receive()["type"] == "pong"


def test_a_frame_that_arrives_byte_by_byte_is_read(server: Server) -> None:
    raw = server.upgraded()
    for byte in make_frame(TEXT, b'{"type":"ping"}'):
        raw.send(bytes([byte]))
    assert raw.receive()["type"] == "pong"


def test_many_frames_in_one_packet_are_each_answered(server: Server) -> None:
    raw = server.upgraded()
    raw.send(make_frame(TEXT, b'{"type":"ping"}') * 50)
    assert [raw.receive()["type"] for _ in range(50)] == ["pong"] * 50


def test_a_close_is_answered_with_the_same_code(server: Server) -> None:
    for payload, expected in (
        (b"\x03\xe8", {1000}),
        (b"\x03\xe9bye", {1001}),
        (b"\x0f\xa0", {4000}),
        (b"", {1000, 1005}),
    ):
        raw = server.upgraded()
        raw.send_frame(CLOSE, payload)
        frames, closed = raw.ended()
        assert frames == []
        assert closed.code in expected
    server.await_clients(0)


def test_a_client_that_leaves_is_unregistered(server: Server) -> None:
    peers: list[Peer] = [server.connect() for _ in range(3)]
    server.await_clients(3)
    peers[1].close()
    server.await_clients(2)
    assert server.get("/remote/hub").json["ids"].count(peers[1].id) == 0
    server.publish("broadcast", "app.refreshed")
    assert peers[0].receive()["type"] == "app.refreshed"
    assert peers[2].receive()["type"] == "app.refreshed"
