"""Rooms at run time: what a client receives after a subscribe or an unsubscribe, and which are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.conftest import Serve
from tests.support.clients import Peer
from tests.support.event_helpers import EVERYTHING, BackgroundPublisher, ask, number, received_labels, subscribe, unsubscribe
from tests.support.harness import BOTH_WAYS, EVERYWHERE, GTHREAD, Kind, Server, event_ids
from tests.support.raw_client import Json

B1 = ["t1", "comment.added", "notice", "whisper", "app.refreshed"]
B2 = ["t2", "comment.added", "notice", "app.refreshed"]

#: A small bound and keys of the app's own.
TEAMS = {"CARTOWS_MAX_FILTERS": 3, "CARTOWS_FILTER_KEYS": ["team_id", "board_id"]}


@pytest.fixture(params=EVERYWHERE, ids=str)
def server(serve: Serve, request: pytest.FixtureRequest) -> Server:
    return serve(kind=request.param)


@pytest.fixture(params=BOTH_WAYS, ids=str)
def hooks(serve: Serve, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server whose `authorize` allows everything and has not been called."""
    server = serve("hooks", kind=request.param)
    rule(server)
    yield server
    rule(server)


def rule(server: Server, deny: list[list[Any]] | None = None, fail: list[list[Any]] | None = None) -> None:
    assert server.post("/rules", {"deny": deny or [], "fail": fail or []}).status == 204


def check_error(data: Json, code: str) -> None:
    assert (data.get("code"), bool(data.get("message"))) == (code, True), data


def test_rooms_are_subscribed_and_unsubscribed_on_every_server(server: Server) -> None:
    peer, bystander = server.connect(), server.connect()
    assert received_labels(server, peer) == [EVERYTHING]
    assert subscribe(peer, board_id="b1") == {"board_id": ["b1"]}
    assert received_labels(server, peer) == [B1]
    assert subscribe(peer, project_id=["p2"], board_id="b3") == {"board_id": ["b1", "b3"], "project_id": ["p2"]}
    assert received_labels(server, peer) == [["t1", "t2", "b3", "p2", "comment.added", "notice", "whisper", "app.refreshed"]]
    assert unsubscribe(peer, board_id=["b1", "b3"]) == {"project_id": ["p2"]}
    assert received_labels(server, peer) == [["t2", "p2", "notice", "app.refreshed"]]
    assert unsubscribe(peer, project_id="p2") == {}
    assert received_labels(server, peer) == [["notice", "app.refreshed"]]
    assert [message["type"] for message in server.received(bystander)[0]].count("app.refreshed") == 5


def test_filters_of_the_url_and_of_messages_are_one_set(serve: Serve) -> None:
    server = serve(kind=GTHREAD)
    peer = server.connect("/ws?board_id=b1&project_id=p1")
    assert subscribe(peer, board_id="b2") == {"board_id": ["b1", "b2"], "project_id": ["p1"]}
    assert unsubscribe(peer, board_id="b1", project_id="p1") == {"board_id": ["b2"]}
    assert received_labels(server, peer) == [B2]


def test_an_event_for_two_rooms_is_received_once(serve: Serve) -> None:
    server = serve(kind=GTHREAD)
    peer = server.connect()
    subscribe(peer, board_id=["b1", "b2"], project_id=["p1", "p2"])
    assert received_labels(server, peer) == [["t1", "t2", "b3", "p2", "comment.added", "notice", "whisper", "app.refreshed"]]


def test_a_room_subscribed_twice_is_left_once(serve: Serve) -> None:
    server = serve(kind=GTHREAD)
    peer = server.connect()
    assert subscribe(peer, board_id=["b1", "b1"]) == {"board_id": ["b1"]}
    assert subscribe(peer, board_id="b1") == {"board_id": ["b1"]}
    assert received_labels(server, peer) == [B1]
    assert unsubscribe(peer, board_id=["b1", "never held"], project_id="p9") == {}
    assert received_labels(server, peer) == [["notice", "app.refreshed"]]


def test_an_unsubscribe_ends_receiving_everything_too(serve: Serve) -> None:
    server = serve(kind=GTHREAD)
    peer = server.connect()
    assert unsubscribe(peer, board_id="b1") == {}
    assert received_labels(server, peer) == [["notice", "app.refreshed"]]
    assert subscribe(peer, board_id="b2") == {"board_id": ["b2"]}
    assert received_labels(server, peer) == [B2]


def test_an_integer_is_held_as_its_string(serve: Serve) -> None:
    server = serve(kind=GTHREAD)
    peer = server.connect()
    assert subscribe(peer, board_id=[7, "8", -9]) == {"board_id": ["7", "8", "-9"]}
    for board in (7, "7", 8, -9, 10):
        server.publish("broadcast_task_deleted", 1, board)
    assert [message["data"]["board_id"] for message in server.received(peer)[0]] == [7, "7", 8, -9]
    assert unsubscribe(peer, board_id=["7", 8]) == {"board_id": ["-9"]}


@pytest.mark.parametrize("config", [{}, {"SWITCH_INTERVAL": 1e-6}], ids=["", "switching"])
@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_a_room_begins_and_ends_at_the_position_of_the_answer(serve: Serve, kind: Kind, config: Json) -> None:
    """Otherwise a client that resumes from that position would miss events, or receive them twice."""
    server = serve(kind=kind, config=config)
    peer = server.connect("/ws?board_id=elsewhere", max_queue=None)
    with BackgroundPublisher(lambda: server.flood(20)):
        for _ in range(10):
            (begun,) = ask(peer, "subscribe", {"board_id": "b1"})
            events = [peer.receive()]
            *more, ended = ask(peer, "unsubscribe", {"board_id": "b1"})
            events += more
            assert event_ids([begun, *events]) == list(range(number(begun), number(ended) + 1))


# Invalid messages -----------------------------------------------------------------------------------------------------

TOO_MUCH = {"note": "x" * 1100}
INVALID: list[Any] = [
    None,
    [],
    "b2",
    7,
    {},
    {"board_id": None},
    {"board_id": []},
    {"board_id": True},
    {"board_id": 1.5},
    {"board_id": {"b2": "b2"}},
    {"board_id": ["b2", None]},
    {"board_id": ["b2", 1.5]},
    {"board_id": ["b2", False]},
    {"board_id": [["b2"]]},
    {"board_id": "b2", "project_id": None},
    {"colour": "red"},
    {"board_id": "b2", "colour": "red"},
    {"board_id": "b2", "Board_id": "b3"},
    {"board_id": "b2", "recovered": True},
]
INVALID_SUBSCRIBE: list[Any] = [
    {"since": "0.0"},
    {"presence": {}},
    {"board_id": "b2", "presence": "here"},
    {"board_id": "b2", "presence": ["here"]},
    {"board_id": "b2", "presence": 7},
    {"board_id": "b2", "presence": TOO_MUCH},
]


def test_invalid_rooms_are_refused_and_nothing_changes(server: Server) -> None:
    for kind, refused in (("subscribe", [*INVALID, *INVALID_SUBSCRIBE]), ("unsubscribe", INVALID)):
        # The tenth would close the connection.
        for start in range(0, len(refused), 8):
            peer = server.connect("/ws?board_id=b1")
            for data in refused[start : start + 8]:
                (answer,) = ask(peer, kind, data)
                assert answer["type"] == "error", f"{kind} {data!r} was answered {answer}"
                check_error(answer["data"], "INVALID_MESSAGE")
            assert peer.ask({"type": kind})["data"]["code"] == "INVALID_MESSAGE"
            assert peer.ask({"type": "ping"})["type"] == "pong"
            assert received_labels(server, peer) == [B1]
            assert subscribe(peer, board_id="b2") == {"board_id": ["b1", "b2"]}
            peer.close()


def test_an_invalid_subscribe_does_not_end_receiving_everything(serve: Serve) -> None:
    server = serve(kind=GTHREAD)
    for start in range(0, len(INVALID), 8):
        peer = server.connect()
        for data in INVALID[start : start + 8]:
            ask(peer, "subscribe", data)
        assert received_labels(server, peer) == [EVERYTHING]


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"subscribe","data":{"board_id":1%s}}' % ("0" * 4000),
        '{"type":"subscribe","data":{"board_id":"\\ud800"}}',
        '{"type":"subscribe","data":{"board_id":"\\u0000"}}',
        '{"type":"subscribe","data":{"board_id":"%s"}}' % ("x" * 100_000),
        '{"type":"subscribe","data":{"board_id":"b2","board_id":["b3"]}}',
        '{"type":"subscribe","data":{"board_id":1e5}}',
        '{"type":"subscribe","data":%s}' % ("[" * 10_000),
    ],
    ids=["huge number", "surrogate", "NUL", "100 kB", "key twice", "exponent", "depth"],
)
def test_an_odd_subscribe_is_answered_and_the_connection_stays(serve: Serve, text: str) -> None:
    server = serve(kind=GTHREAD)
    peer = server.connect("/ws?board_id=b1")
    answer = peer.ask(text)
    assert answer["type"] == "subscribed" or answer["data"]["code"] in {"INVALID_MESSAGE", "FORBIDDEN"}, answer
    assert received_labels(server, peer)[0][0] == "t1"


# Keys, bounds ---------------------------------------------------------------------------------------------------------


def test_an_app_filters_by_keys_of_its_own(serve: Serve) -> None:
    server = serve(config=TEAMS)
    peer = server.connect()
    assert subscribe(peer, team_id=["red", 5]) == {"team_id": ["red", "5"]}
    for team in ("red", 5, "blue", ["blue", "red"]):
        server.publish("broadcast", "goal", {"team": team}, filters={"team_id": team})
    assert [message["data"]["team"] for message in server.received(peer)[0]] == ["red", 5, ["blue", "red"]]
    check_error(subscribe(peer, project_id="p1"), "INVALID_MESSAGE")


def test_one_room_too_many_is_forbidden_and_none_of_its_message_is_subscribed(serve: Serve) -> None:
    server = serve(config=TEAMS)
    peer = server.connect("/ws?board_id=b1")
    check_error(subscribe(peer, board_id=["b2", "b3"], team_id="red"), "FORBIDDEN")
    assert subscribe(peer, board_id="b1") == {"board_id": ["b1"]}
    assert subscribe(peer, board_id=["b1", "b2", "b3", "b3"]) == {"board_id": ["b1", "b2", "b3"]}
    check_error(subscribe(peer, team_id="red"), "FORBIDDEN")
    assert subscribe(peer, board_id=["b3", "b1"]) == {"board_id": ["b1", "b2", "b3"]}
    assert unsubscribe(peer, board_id="b2") == {"board_id": ["b1", "b3"]}
    assert subscribe(peer, team_id="red") == {"board_id": ["b1", "b3"], "team_id": ["red"]}


def test_an_unsubscribe_may_name_more_rooms_than_can_be_held(serve: Serve) -> None:
    server = serve(config=TEAMS)
    peer = server.connect("/ws?board_id=b1")
    assert unsubscribe(peer, board_id=[f"b{board}" for board in range(20)]) == {}


# Authorization by the app ---------------------------------------------------------------------------------------------


def status(server: Server, path: str) -> int:
    """Try to connect and return the status; a refusal must have its reason in JSON."""
    response = server.raw().open(path)
    if response.status == 403:
        assert (response.json["code"], bool(response.json["message"])) == ("FORBIDDEN", True)
    return response.status


def test_authorize_refuses_filters_of_the_url_with_403(hooks: Server) -> None:
    rule(hooks, deny=[["board_id", "secret"]])
    assert status(hooks, "/ws?board_id=secret") == 403
    assert status(hooks, "/ws?board_id=b1&project_id=p1&board_id=secret") == 403
    assert status(hooks, "/ws?board_id=b1&project_id=secret") == 101
    calls = hooks.get("/asked").json
    assert ["guest", "board_id", "b1"] in calls and ["guest", "project_id", "secret"] in calls
    assert ["guest", None, None] not in calls


def test_authorize_refuses_receiving_everything_with_403(hooks: Server) -> None:
    rule(hooks, deny=[[None, None]])
    assert status(hooks, "/ws") == 403
    assert status(hooks, "/ws?colour=red") == 403
    assert hooks.get("/asked").json == [["guest", None, None]] * 2
    assert status(hooks, "/ws?board_id=b1") == 101


def test_authorize_refuses_rooms_of_a_message_all_or_none(hooks: Server) -> None:
    rule(hooks, deny=[["board_id", "secret"], ["project_id", "7"]])
    peer = hooks.connect("/ws?as=ann&board_id=b1")
    for data in ({"board_id": "secret"}, {"project_id": "p2", "board_id": ["b2", "secret"]}):
        answer = subscribe(peer, **data)
        check_error(answer, "FORBIDDEN")
        assert answer["details"] == "board_id=secret"
    assert subscribe(peer, project_id=7)["details"] == "project_id=7"
    assert received_labels(hooks, peer) == [B1]
    rule(hooks)
    assert subscribe(peer, board_id=["secret", 7]) == {"board_id": ["b1", "secret", "7"]}
    assert hooks.get("/asked").json == [["ann", "board_id", "secret"], ["ann", "board_id", "7"]]
    rule(hooks, deny=[["board_id", "secret"]])
    assert unsubscribe(peer, board_id="secret") == {"board_id": ["b1", "7"]}


def test_an_authorize_that_raises_allows_nothing(hooks: Server) -> None:
    hooks.expected_tracebacks.append("the app's authorize fails")
    rule(hooks, fail=[["board_id", "b2"], [None, None]])
    peer = hooks.connect("/ws?board_id=b1")
    check_error(subscribe(peer, board_id=["b3", "b2"]), "INTERNAL")
    assert received_labels(hooks, peer) == [B1]
    for path in ("/ws", "/ws?board_id=b2"):
        start = len(hooks.log())
        assert status(hooks, path) == 500
        assert "the app's authorize fails" in hooks.log(start)
    assert peer.ask({"type": "ping"})["type"] == "pong"


def test_project_of_board_supplies_a_boards_project(hooks: Server) -> None:
    project, board = hooks.connect("/ws?project_id=p1"), hooks.connect("/ws?board_id=placed")
    hooks.expected_tracebacks.append("the app's project_of_board fails")
    hooks.publish("broadcast_task_created", "t1", "placed", {"title": "known to the app"})
    hooks.publish("broadcast_task_updated", "t2", "placed", {"n": 1}, project_id="p2")
    hooks.publish("broadcast_task_created", "t3", "placed", {"project_id": "p3"})
    hooks.publish("broadcast_task_deleted", "t4", "placed")
    hooks.publish("broadcast_task_deleted", "t5", "elsewhere")
    hooks.publish("broadcast_task_deleted", "t6", "raising")
    found = [
        [(label_, project_) for label_, project_ in map(task_and_project, each)] for each in hooks.received(project, board)
    ]
    assert found == [[("t1", "p1"), ("t4", "p1")], [("t1", "p1"), ("t2", "p2"), ("t3", "p3"), ("t4", "p1")]]


def task_and_project(message: Json) -> tuple[str, str | None]:
    return message["data"]["task_id"], message["data"].get("project_id")


def test_broadcast_to_filtered_reaches_exactly_the_subscribed_clients(hooks: Server) -> None:
    """It reaches the clients that hold the filter, and no others."""
    peers: list[Peer] = [hooks.connect() for _ in range(3)]
    subscribe(peers[0], board_id="b1")
    subscribe(peers[1], board_id="b2")
    hooks.publish("broadcast_to_filtered", {"$message": ["whisper", {"n": 1}]}, "board_id", "b1")
    assert [[json.dumps(message["data"]) for message in messages] for messages in hooks.received(*peers)] == [
        ['{"n": 1}'],
        [],
        [],
    ]
