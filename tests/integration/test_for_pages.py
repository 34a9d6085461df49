"""What the browser client relies on: its script, a reason for each refusal, answers with a ref, and rooms that are none."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import cartows
from tests.integration.conftest import Serve
from tests.support.harness import BOTH_WAYS, EVERYWHERE, GTHREAD, Server
from tests.support.live import heard, subscribe, unsubscribe
from tests.support.raw_client import Json, Response

SCRIPT = Path(cartows.__file__).parent / "static" / "cartows.js"


@pytest.fixture(params=EVERYWHERE, ids=str)
def server(serve: Serve, request: pytest.FixtureRequest) -> Server:
    return serve(kind=request.param)


# The script ---------------------------------------------------------------------------------------------------------------


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


# RejectionLog -----------------------------------------------------------------------------------------------------------------


def explain(server: Server, path: str, **headers: str) -> Response:
    return server.get(path, headers={"X-Cartows-Explain": "1", **headers})


def told(response: Response) -> tuple[int, str]:
    return response.status, response.json["code"]


def test_whoever_asks_by_http_is_told_what_an_upgrade_would_be(serve: Serve) -> None:
    server = serve("people", kind=GTHREAD)
    assert told(explain(server, "/ws?as=ann")) == (400, "NOT_A_WEBSOCKET_REQUEST")
    assert told(explain(server, "/ws?as=nobody")) == (401, "UNAUTHORIZED")
    assert told(explain(server, "/ws?as=ann", Origin="https://evil.example")) == (403, "ORIGIN_REFUSED")
    rooms = "&".join(f"board_id={each}" for each in range(101))
    assert told(explain(server, f"/ws?{rooms}")) == (403, "TOO_MANY_FILTERS")
    server.post("/denied", [["board_id", "secret"]])
    refused = explain(server, "/ws?as=ann&board_id=open&board_id=secret")
    assert told(refused) == (403, "FORBIDDEN")
    assert "board_id=secret" in refused.json["message"]
    server.post("/denied", [])


def test_a_request_that_does_not_ask_for_it_asks_the_app_nothing(serve: Serve) -> None:
    server = serve("people", kind=GTHREAD)
    for path in ("/ws?as=ann", "/ws?as=nobody", "/ws?as=ann&board_id=secret"):
        assert told(server.get(path)) == (400, "NOT_A_WEBSOCKET_REQUEST")


def test_whoever_asks_by_http_is_told_that_there_is_no_place(serve: Serve) -> None:
    server = serve("people", kind=GTHREAD, config={"CARTOWS_MAX_CLIENTS_PER_USER": 1, "CARTOWS_MAX_CLIENTS": 2})
    server.connect("/ws?as=ann")
    refused = explain(server, "/ws?as=ann")
    assert told(refused) == (429, "TOO_MANY_OF_USER")
    assert int(refused.headers["Retry-After"]) > 0
    server.connect("/ws?as=bob")
    assert told(explain(server, "/ws?as=eve")) == (503, "FULL")


def test_a_question_takes_no_place(serve: Serve) -> None:
    server = serve("people", kind=GTHREAD, config={"CARTOWS_MAX_CLIENTS": 1})
    for _ in range(3):
        assert explain(server, "/ws?as=ann").status == 400
    server.connect("/ws?as=ann")


@pytest.mark.parametrize("offered", ["cartows, bearer.abc", "bearer.abc,cartows"])
def test_a_browser_that_offers_a_token_is_answered_with_a_subprotocol_whoever_looks_at_it(server: Server, offered: str) -> None:
    response = server.raw().open("/ws", {"Sec-WebSocket-Protocol": offered})
    assert (response.status, response.headers["Sec-WebSocket-Protocol"]) == (101, "cartows")


# Answers ------------------------------------------------------------------------------------------------------------------


def test_an_answer_has_the_ref_of_what_it_answers(server: Server) -> None:
    peer = server.connect()
    for message, kind in (
        ({"type": "ping"}, "pong"),
        ({"type": "subscribe", "data": {"board_id": "b1"}}, "subscribed"),
        ({"type": "unsubscribe", "data": {"board_id": "b1"}}, "unsubscribed"),
        ({"type": "subscribe", "data": {"nonsense": 1}}, "error"),
        ({"type": "nobody.knows"}, "error"),
        ({"type": "auth.refresh", "data": {"token": "x"}}, "error"),
    ):
        peer.send({**message, "ref": kind})
        answer = peer.receive()
        assert (answer["type"], answer["ref"]) == (kind, kind)
        peer.send(message)
        answer = peer.receive()
        assert (answer["type"], answer.get("ref")) == (kind, None)


def test_too_many_rooms_and_forbidden_ones_are_refused_with_the_ref(serve: Serve) -> None:
    server = serve("people", kind=GTHREAD)
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
def test_a_ref_that_is_none_is_left_out(serve: Serve, ref: object) -> None:
    peer = serve(kind=GTHREAD).connect()
    peer.send({"type": "ping", "ref": ref})
    assert "ref" not in peer.receive()


def test_no_event_carries_a_ref(serve: Serve) -> None:
    server = serve(kind=GTHREAD)
    peer = server.connect()
    peer.send({"type": "ping", "ref": "mine"})
    assert peer.receive()["ref"] == "mine"
    server.publish("broadcast_task_deleted", "t1", "b1")
    (messages,) = server.heard(peer)
    assert messages and not [message for message in messages if "ref" in message]


# No rooms -----------------------------------------------------------------------------------------------------------------


def test_a_page_may_connect_and_hear_nothing_until_it_subscribes(server: Server) -> None:
    peer = server.connect("/ws?rooms=none")
    assert heard(server, peer) == [["notice"]]
    assert subscribe(peer, board_id="b1") == {"board_id": ["b1"]}
    assert "t1" in heard(server, peer)[0]
    assert unsubscribe(peer, board_id="b1") == {}
    assert heard(server, peer) == [["notice"]]


def test_rooms_beside_none_are_heard(serve: Serve) -> None:
    server = serve(kind=GTHREAD)
    peer = server.connect("/ws?rooms=none&board_id=b1")
    assert "t1" in heard(server, peer)[0]


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_who_is_known_and_may_not_hear_everything_may_connect_without_a_room(serve: Serve, kind: object) -> None:
    server = serve("people", kind=kind)
    server.post("/denied", [[None, None]])
    assert server.raw().open("/ws?as=ann").status == 403
    # Of whom the app knows nothing it is asked: that may be all that keeps people out.
    assert server.raw().open("/ws?rooms=none").status == 403
    peer = server.connect("/ws?as=ann&rooms=none")
    assert subscribe(peer, board_id="b1") == {"board_id": ["b1"]}
    server.post("/denied", [])


def test_what_is_resumed_without_a_room_is_nothing(serve: Serve) -> None:
    server = serve(kind=GTHREAD)
    start = server.connect().hello["id"]
    server.publish("broadcast_task_deleted", "t1", "b1")
    peer = server.connect(f"/ws?rooms=none&since={start}")
    hello: Json = peer.hello
    assert hello["data"]["recovered"] is True
    assert heard(server, peer) == [["notice"]]


def test_the_script_says_no_more_than_the_server_knows() -> None:
    """The types that the script treats as its own are the server's, and none is forgotten."""
    text = SCRIPT.read_text(encoding="utf-8")
    known = {each.value for each in cartows.MessageType}
    lists = [set(re.findall(r"'([a-z.]+)'", found)) for found in re.findall(r"new Set\(\[\n(.*?)\]\)", text, re.DOTALL)]
    events, control = lists
    from_pages = {"ping", "subscribe", "unsubscribe", "auth.refresh"}
    assert events | control | from_pages == known, json.dumps(sorted(known - events - control))
