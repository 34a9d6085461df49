"""What the browser client relies on: its script, a reason for each refusal, answers with a ref, and `rooms=none`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import cartows
from tests.integration.conftest import Serve
from tests.support.event_helpers import received_labels, subscribe, unsubscribe
from tests.support.harness import BOTH_WAYS, EVERYWHERE, GTHREAD, Server
from tests.support.raw_client import Json, Response

SCRIPT = Path(cartows.__file__).parent / "static" / "cartows.js"


@pytest.fixture(params=EVERYWHERE, ids=str)
def server(serve: Serve, request: pytest.FixtureRequest) -> Server:
    return serve(kind=request.param)


# The script -----------------------------------------------------------------------------------------------------------


def test_the_script_is_served_beside_the_route(server: Server) -> None:
    response = server.get("/ws/cartows.js")
    assert response.status == 200
    assert response.headers.get_content_type() == "text/javascript"
    assert response.body == SCRIPT.read_bytes()


def test_a_browser_keeps_the_script_and_asks_whether_it_has_changed(serve: Serve) -> None:
    server = serve(kind=GTHREAD)
    first = server.get("/ws/cartows.js")
    assert {"no-cache", "max-age=0"} & set(first.headers["Cache-Control"].split(", "))
    again = server.get("/ws/cartows.js", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")


def test_the_script_follows_the_path(serve: Serve) -> None:
    server = serve(kind=GTHREAD, config={"CARTOWS_PATH": "/live/events"})
    assert server.get("/live/events/cartows.js").status == 200
    assert server.get("/ws/cartows.js").status == 404


def test_each_blueprint_has_its_script(serve: Serve) -> None:
    server = serve("in_blueprint", kind=GTHREAD)
    assert server.get("/api/live/ws/cartows.js").body == SCRIPT.read_bytes()


# Refusals -------------------------------------------------------------------------------------------------------------


def explain(server: Server, path: str, **headers: str) -> Response:
    return server.get(path, headers={"X-Cartows-Explain": "1", **headers})


def answer_of(response: Response) -> tuple[int, str]:
    return response.status, response.json["code"]


def test_an_http_request_is_told_how_an_upgrade_would_be_answered(serve: Serve) -> None:
    server = serve("users", kind=GTHREAD)
    assert answer_of(explain(server, "/ws?as=ann")) == (400, "NOT_A_WEBSOCKET_REQUEST")
    assert answer_of(explain(server, "/ws?as=stranger")) == (401, "UNAUTHORIZED")
    assert answer_of(explain(server, "/ws?as=ann", Origin="https://evil.example")) == (403, "ORIGIN_REFUSED")
    rooms = "&".join(f"board_id={each}" for each in range(101))
    assert answer_of(explain(server, f"/ws?{rooms}")) == (403, "TOO_MANY_FILTERS")
    server.post("/denied", [["board_id", "secret"]])
    refused = explain(server, "/ws?as=ann&board_id=open&board_id=secret")
    assert answer_of(refused) == (403, "FORBIDDEN")
    assert "board_id=secret" in refused.json["message"]
    server.post("/denied", [])


def test_a_plain_request_calls_no_hook_of_the_app(serve: Serve) -> None:
    server = serve("users", kind=GTHREAD)
    for path in ("/ws?as=ann", "/ws?as=stranger", "/ws?as=ann&board_id=secret"):
        assert answer_of(server.get(path)) == (400, "NOT_A_WEBSOCKET_REQUEST")


def test_an_http_request_is_told_that_the_server_is_full(serve: Serve) -> None:
    server = serve("users", kind=GTHREAD, config={"CARTOWS_MAX_CLIENTS_PER_USER": 1, "CARTOWS_MAX_CLIENTS": 2})
    server.connect("/ws?as=ann")
    refused = explain(server, "/ws?as=ann")
    assert answer_of(refused) == (429, "TOO_MANY_OF_USER")
    assert int(refused.headers["Retry-After"]) > 0
    server.connect("/ws?as=bob")
    assert answer_of(explain(server, "/ws?as=eve")) == (503, "FULL")


def test_an_http_request_for_the_reason_takes_no_slot(serve: Serve) -> None:
    server = serve("users", kind=GTHREAD, config={"CARTOWS_MAX_CLIENTS": 1})
    for _ in range(3):
        assert explain(server, "/ws?as=ann").status == 400
    server.connect("/ws?as=ann")


@pytest.mark.parametrize("offered", ["cartows, bearer.abc", "bearer.abc,cartows"])
def test_a_browser_that_offers_a_token_gets_a_subprotocol_even_if_no_token_is_read(server: Server, offered: str) -> None:
    response = server.raw().open("/ws", {"Sec-WebSocket-Protocol": offered})
    assert (response.status, response.headers["Sec-WebSocket-Protocol"]) == (101, "cartows")


# Answers --------------------------------------------------------------------------------------------------------------


def test_an_answer_has_the_ref_of_what_it_answers(server: Server) -> None:
    peer = server.connect()
    for message, kind in (
        ({"type": "ping"}, "pong"),
        ({"type": "subscribe", "data": {"board_id": "b1"}}, "subscribed"),
        ({"type": "unsubscribe", "data": {"board_id": "b1"}}, "unsubscribed"),
        ({"type": "subscribe", "data": {"unknown": 1}}, "error"),
        ({"type": "no.such.type"}, "error"),
        ({"type": "auth.refresh", "data": {"token": "x"}}, "error"),
    ):
        peer.send({**message, "ref": kind})
        answer = peer.receive()
        assert (answer["type"], answer["ref"]) == (kind, kind)
        peer.send(message)
        answer = peer.receive()
        assert (answer["type"], answer.get("ref")) == (kind, None)


def test_too_many_rooms_and_forbidden_ones_are_refused_with_the_ref(serve: Serve) -> None:
    server = serve("users", kind=GTHREAD)
    server.post("/denied", [["board_id", "secret"]])
    peer = server.connect("/ws?as=ann")
    for rooms, ref in (("secret", "a"), ([str(each) for each in range(101)], "b")):
        peer.send({"type": "subscribe", "data": {"board_id": rooms}, "ref": ref})
        answer = peer.receive()
        assert (answer["data"]["code"], answer["ref"]) == ("FORBIDDEN", ref)
    server.post("/denied", [])


def test_an_app_that_fails_is_an_answer_with_the_ref(serve: Serve) -> None:
    server = serve("hooks", kind=GTHREAD)
    server.expected_tracebacks.append("the app's authorize fails")
    server.post("/rules", {"deny": [], "fail": [["board_id", "b1"]]})
    peer = server.connect()
    peer.send({"type": "subscribe", "data": {"board_id": "b1"}, "ref": "mine"})
    answer = peer.receive()
    assert (answer["type"], answer["ref"]) == ("error", "mine")
    server.post("/rules", {"deny": [], "fail": []})


@pytest.mark.parametrize("ref", [1, None, {}, ["a"], "x" * 65, True])
def test_an_invalid_ref_is_left_out(serve: Serve, ref: object) -> None:
    peer = serve(kind=GTHREAD).connect()
    peer.send({"type": "ping", "ref": ref})
    assert "ref" not in peer.receive()


def test_no_event_carries_a_ref(serve: Serve) -> None:
    server = serve(kind=GTHREAD)
    peer = server.connect()
    peer.send({"type": "ping", "ref": "mine"})
    assert peer.receive()["ref"] == "mine"
    server.publish("broadcast_task_deleted", "t1", "b1")
    (messages,) = server.received(peer)
    assert messages and not [message for message in messages if "ref" in message]


# No rooms -------------------------------------------------------------------------------------------------------------


def test_a_page_may_connect_and_receive_nothing_until_it_subscribes(server: Server) -> None:
    peer = server.connect("/ws?rooms=none")
    assert received_labels(server, peer) == [["notice", "app.refreshed"]]
    assert subscribe(peer, board_id="b1") == {"board_id": ["b1"]}
    assert "t1" in received_labels(server, peer)[0]
    assert unsubscribe(peer, board_id="b1") == {}
    assert received_labels(server, peer) == [["notice", "app.refreshed"]]


def test_rooms_beside_none_are_received(serve: Serve) -> None:
    server = serve(kind=GTHREAD)
    peer = server.connect("/ws?rooms=none&board_id=b1")
    assert "t1" in received_labels(server, peer)[0]


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_an_identity_that_may_not_receive_everything_may_connect_without_a_room(serve: Serve, kind: object) -> None:
    server = serve("users", kind=kind)
    server.post("/denied", [[None, None]])
    assert server.raw().open("/ws?as=ann").status == 403
    # Without an identity `authorize` is called: it may be the only check that keeps clients out.
    assert server.raw().open("/ws?rooms=none").status == 403
    peer = server.connect("/ws?as=ann&rooms=none")
    assert subscribe(peer, board_id="b1") == {"board_id": ["b1"]}
    server.post("/denied", [])


def test_resuming_without_a_room_replays_nothing(serve: Serve) -> None:
    server = serve(kind=GTHREAD)
    start = server.connect().hello["id"]
    server.publish("broadcast_task_deleted", "t1", "b1")
    peer = server.connect(f"/ws?rooms=none&since={start}")
    hello: Json = peer.hello
    assert hello["data"]["recovered"] is True
    assert received_labels(server, peer) == [["notice", "app.refreshed"]]


def test_the_script_and_the_server_have_the_same_message_types() -> None:
    """The script's lists of message types hold exactly those of the server."""
    text = SCRIPT.read_text(encoding="utf-8")
    known = {each.value for each in cartows.MessageType}
    lists = [set(re.findall(r"'([a-z.]+)'", found)) for found in re.findall(r"new Set\(\[\n(.*?)\]\)", text, re.DOTALL)]
    events, control = lists
    from_pages = {"ping", "subscribe", "unsubscribe", "auth.refresh"}
    assert events | control | from_pages == known, json.dumps(sorted(known - events - control))
