"""Whoever is put out, or loses a room, while the app is still being asked about it: an answer of before counts for nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import pytest

from tests.integration.conftest import Serve
from tests.support.harness import BOTH_WAYS, FLASK, Server
from tests.support.live import latest, read_until
from tests.support.raw_client import TEXT, Json, RawClient
from tests.support.waiting import wait_until

DENY_B2 = {"deny": [["board_id", "b2"]]}
#: How `/ws` and a route of the app's own refuse: a status, or a close code behind a 101.
UNAUTHORIZED, FORBIDDEN = {"/ws": 401, "/own": 3500}, {"/ws": 403, "/own": 3507}


@pytest.fixture(params=(*BOTH_WAYS, FLASK), ids=str)
def server(serve: Serve, request: pytest.FixtureRequest) -> Iterator[Server]:
    server = serve("revoked", kind=request.param)
    yield server
    server.post("/rules", {})
    server.post("/unknown", [])


@contextmanager
def held_back(server: Server, what: str) -> Iterator[None]:
    """Have the app hold back one of its answers for as long as the context lasts."""
    gate = f"/gates/{quote(what)}"
    assert server.request("PUT", gate).status == 204
    try:
        yield
    finally:
        server.request("DELETE", gate)


def await_reached(server: Server, what: str) -> None:
    wait_until(lambda: server.get(f"/gates/{quote(what)}").json["reached"], f"{what} to be asked")


def come_in(server: Server, path: str) -> RawClient:
    """Ask for the upgrade, and leave the answer for later."""
    raw = server.raw()
    raw.send(raw.handshake(path))
    return raw


def reauthorize(server: Server, identity: str) -> int:
    response = server.post(f"/reauthorize/{identity}", None)
    assert response.status == 200, response
    return int(response.json["changed"])


def disconnect(server: Server, identity: str) -> int:
    return int(server.post("/disconnect", {"identity": identity}).json["closed"])


def publish(server: Server, kind: str, board: str = "b2") -> None:
    server.publish("broadcast", kind, {"board": board}, filters={"board_id": board})


def check_refused(server: Server, raw: RawClient, path: str, codes: dict[str, int]) -> None:
    """Check that who asked for the upgrade is not let in, hears nothing, and leaves nothing behind."""
    code = codes[path]
    response = raw.response()
    if path == "/ws":
        assert (response.status, bool(response.json["message"])) == (code, True), response
        raw.close()
    else:
        closed = raw.frame().closed
        assert (closed.code, bool(closed.reason)) == (code, True)
        raw.close()  # what the Flask server says to the end of a route that is over already is not looked at
    wait_until(lambda: server.get("/stats").json["slots"] == 0, lambda: f"the place: {server.get('/stats').json}")
    assert server.client_count() == 0


def types(messages: list[Json]) -> list[str]:
    return [message["type"] for message in messages]


# While a room is asked for --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/ws", "/own"])
@pytest.mark.parametrize("behind", [False, True], ids=["from now on", "and what was missed"])
def test_a_room_that_is_taken_away_while_it_is_asked_for_is_not_heard(server: Server, path: str, behind: bool) -> None:
    id = latest(server)
    peer = server.connect(f"{path}?as=ann&board_id=b1")
    with held_back(server, "authorize b2"):
        peer.send({"type": "subscribe", "data": {"board_id": "b2", **({"since": id} if behind else {})}})
        await_reached(server, "authorize b2")
        server.post("/rules", DENY_B2)
        assert reauthorize(server, "ann") == 0
        publish(server, "secret.while.asked")
    # what it has said is answered in order, so it is in by now, or never comes in
    peer.send({"type": "echo"})
    messages = read_until(peer, "echoed")
    (more,) = server.heard(peer)
    publish(server, "secret.later")
    publish(server, "no.secret", "b1")
    (rest,) = server.heard(peer)
    heard = [kind for kind in types(messages + more + rest) if "secret" in kind]
    assert heard == ["no.secret"]


def test_a_room_of_somebody_else_is_not_taken_away(server: Server) -> None:
    peer = server.connect("/ws?as=ann&board_id=b1")
    with held_back(server, "authorize b2"):
        peer.send({"type": "subscribe", "data": {"board_id": "b2"}})
        await_reached(server, "authorize b2")
        assert (reauthorize(server, "ann"), reauthorize(server, "bob"), disconnect(server, "bob")) == (0, 0, 0)
    assert peer.receive()["data"] == {"board_id": ["b1", "b2"]}
    publish(server, "event")
    assert types(server.heard(peer)[0]) == ["event"]


# While it is asked who comes in, and for what -------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/ws", "/own"])
@pytest.mark.parametrize("question", ["authenticate bob", "authorize b2"])
def test_who_is_put_out_while_it_is_asked_for_does_not_come_in(server: Server, path: str, question: str) -> None:
    with held_back(server, question):
        raw = come_in(server, f"{path}?as=bob&board_id=b2")
        await_reached(server, question)
        disconnect(server, "bob")
    check_refused(server, raw, path, UNAUTHORIZED)
    # it was put out, not locked out
    assert server.connect(f"{path}?as=bob&board_id=b2").ask({"type": "ping"})["type"] == "pong"


@pytest.mark.parametrize("path", ["/ws", "/own"])
def test_who_may_not_hear_a_room_any_more_when_it_comes_in_does_not_come_in(server: Server, path: str) -> None:
    with held_back(server, "authorize b2"):
        raw = come_in(server, f"{path}?as=bob&board_id=b1&board_id=b2")
        await_reached(server, "authorize b2")
        server.post("/rules", DENY_B2)
        reauthorize(server, "bob")
    check_refused(server, raw, path, FORBIDDEN)
    assert server.connect(f"{path}?as=bob&board_id=b1").ask({"type": "ping"})["type"] == "pong"


def test_who_may_not_hear_everything_any_more_when_it_comes_in_does_not_come_in(server: Server) -> None:
    with held_back(server, "authorize None"):
        raw = come_in(server, "/ws?as=bob")
        await_reached(server, "authorize None")
        server.post("/rules", {"deny": [[None, None]]})
        reauthorize(server, "bob")
    check_refused(server, raw, "/ws", FORBIDDEN)


@pytest.mark.parametrize("path", ["/ws", "/own"])
def test_who_is_unknown_by_the_time_it_comes_in_does_not_come_in(server: Server, path: str) -> None:
    with held_back(server, "authorize b2"):
        raw = come_in(server, f"{path}?as=bob&board_id=b2")
        await_reached(server, "authorize b2")
        server.post("/unknown", ["bob"])
        reauthorize(server, "bob")
    check_refused(server, raw, path, UNAUTHORIZED)


@pytest.mark.parametrize("path", ["/ws", "/own"])
def test_what_is_asked_again_and_still_allowed_keeps_nobody_out(server: Server, path: str) -> None:
    with held_back(server, "authorize b2"):
        raw = come_in(server, f"{path}?as=bob&board_id=b2")
        await_reached(server, "authorize b2")
        assert (reauthorize(server, "bob"), reauthorize(server, "ann"), disconnect(server, "ann")) == (0, 0, 0)
    assert raw.response().status == 101
    assert raw.receive()["type"] == "connected"
    publish(server, "event")
    assert types(server.heard(raw)[0]) == ["event"]


# Let in, and still on its way -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/ws", "/own"])
def test_who_loses_a_room_on_its_way_in_is_not_brought_what_it_missed_there(server: Server, path: str) -> None:
    id = latest(server)
    publish(server, "missed", "b1")
    with held_back(server, "on_connect bob"):
        raw = come_in(server, f"{path}?since={id}&board_id=b1&board_id=b2&as=bob")
        await_reached(server, "on_connect bob")
        server.post("/rules", DENY_B2)
        assert reauthorize(server, "bob") == 1
        publish(server, "secret")
        publish(server, "no.secret", "b1")
    assert raw.response().status == 101
    hello = raw.receive()
    assert hello["type"] == "connected"
    (messages,) = server.heard(raw)
    assert types(messages) == ["missed", "no.secret", "unsubscribed"]
    assert messages[-1]["data"] == {"board_id": ["b1"]}
    assert hello["data"]["replayed"] == 2
    publish(server, "secret")
    assert server.heard(raw) == [[]]


@pytest.mark.parametrize("path", ["/ws", "/own"])
def test_who_loses_its_only_room_on_its_way_in_hears_nothing(server: Server, path: str) -> None:
    id = latest(server)
    with held_back(server, "on_connect bob"):
        raw = come_in(server, f"{path}?since={id}&board_id=b2&as=bob")
        await_reached(server, "on_connect bob")
        server.post("/rules", DENY_B2)
        assert reauthorize(server, "bob") == 1
        publish(server, "secret")
        # what it asks for meanwhile does not bring the room back
        raw.send_json({"type": "unsubscribe", "data": {"project_id": "p1"}})
    assert raw.response().status == 101
    raw.send_json({"type": "echo"})
    messages = read_until(raw, "echoed")
    publish(server, "secret")
    (more,) = server.heard(raw)
    assert set(types(messages + more)) == {"connected", "unsubscribed", "echoed"}
    # nor is it told that it missed something there
    assert (messages[0]["type"], messages[0]["data"]["replayed"]) == ("connected", 0)


@pytest.mark.parametrize("path", ["/ws", "/own"])
def test_who_is_put_out_on_its_way_in_is_told_so_and_hears_nothing(server: Server, path: str) -> None:
    id = latest(server)
    publish(server, "before")
    with held_back(server, "on_connect eve"):
        raw = come_in(server, f"{path}?since={id}&board_id=b2&as=eve")
        await_reached(server, "on_connect eve")
        assert disconnect(server, "eve") == 1
        publish(server, "after")
    check_shown_out(server, raw, 3503)


@pytest.mark.parametrize("path", ["/ws", "/own"])
def test_whose_credentials_expire_on_its_way_in_is_told_so_and_hears_nothing(server: Server, path: str) -> None:
    id = latest(server)
    publish(server, "before")
    until = time.time() + 0.5
    with held_back(server, "on_connect eve"):
        raw = come_in(server, f"{path}?since={id}&board_id=b2&as=eve&until={until}")
        await_reached(server, "on_connect eve")
        wait_until(lambda: time.time() > until, "the end of its credentials")
        publish(server, "after")
    check_shown_out(server, raw, 3005)


def check_shown_out(server: Server, raw: RawClient, code: int) -> None:
    assert raw.response().status == 101
    frames, closed = raw.ended()
    assert closed.code == code
    messages = [frame.json for frame in frames if frame.opcode == TEXT]
    assert types(messages)[-1] == "disconnect"
    assert set(types(messages)) <= {"connected", "disconnect"}
    wait_until(lambda: server.get("/stats").json["slots"] == 0, "the place")
