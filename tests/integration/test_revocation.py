"""Disconnects and revoked rooms while a hook of the app still runs: its outdated answer must not count."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import pytest

from tests.integration.conftest import Serve
from tests.support.event_helpers import latest_id, read_until
from tests.support.harness import BOTH_WAYS, FLASK, Server
from tests.support.raw_client import TEXT, Json, RawClient
from tests.support.waiting import wait_until

DENY_B2 = {"deny": [["board_id", "b2"]]}
#: How `/ws` and an own route refuse: a status, or a close code after a 101.
UNAUTHORIZED, FORBIDDEN = {"/ws": 401, "/own": 3500}, {"/ws": 403, "/own": 3507}


@pytest.fixture(params=(*BOTH_WAYS, FLASK), ids=str)
def server(serve: Serve, request: pytest.FixtureRequest) -> Iterator[Server]:
    server = serve("revoked", kind=request.param)
    yield server
    server.post("/rules", {})
    server.post("/unknown", [])


@contextmanager
def held(server: Server, what: str) -> Iterator[None]:
    """Hold one call of a hook for as long as the context lasts."""
    gate = f"/gates/{quote(what)}"
    assert server.request("PUT", gate).status == 204
    try:
        yield
    finally:
        server.request("DELETE", gate)


def await_reached(server: Server, what: str) -> None:
    wait_until(lambda: server.get(f"/gates/{quote(what)}").json["reached"], f"{what} to be called")


def request_upgrade(server: Server, path: str) -> RawClient:
    """Ask for the upgrade, and leave the answer unread."""
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
    """Check that a client is refused, receives nothing, and leaves no resources."""
    code = codes[path]
    response = raw.response()
    if path == "/ws":
        assert (response.status, bool(response.json["message"])) == (code, True), response
        raw.close()
    else:
        closed = raw.frame().closed
        assert (closed.code, bool(closed.reason)) == (code, True)
        raw.close()  # What the Flask server sends after the route has ended does not matter.
    wait_until(lambda: server.get("/stats").json["slots"] == 0, lambda: f"the slot to be freed: {server.get('/stats').json}")
    assert server.client_count() == 0


def types(messages: list[Json]) -> list[str]:
    return [message["type"] for message in messages]


# While a subscribe is authorized --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/ws", "/own"])
@pytest.mark.parametrize("replay", [False, True], ids=["without-replay", "with-replay"])
def test_a_room_that_is_revoked_while_authorize_runs_is_not_subscribed(server: Server, path: str, replay: bool) -> None:
    id = latest_id(server)
    peer = server.connect(f"{path}?as=ann&board_id=b1")
    with held(server, "authorize b2"):
        peer.send({"type": "subscribe", "data": {"board_id": "b2", **({"since": id} if replay else {})}})
        await_reached(server, "authorize b2")
        server.post("/rules", DENY_B2)
        assert reauthorize(server, "ann") == 0
        publish(server, "secret.while.asked")
    # Messages are answered in order, so after this answer the room is subscribed, or never will be.
    peer.send({"type": "echo"})
    messages = read_until(peer, "echoed")
    (more,) = server.received(peer)
    publish(server, "secret.later")
    publish(server, "no.secret", "b1")
    (rest,) = server.received(peer)
    received = [kind for kind in types(messages + more + rest) if "secret" in kind]
    assert received == ["no.secret"]


def test_revoking_another_identitys_room_changes_nothing(server: Server) -> None:
    peer = server.connect("/ws?as=ann&board_id=b1")
    with held(server, "authorize b2"):
        peer.send({"type": "subscribe", "data": {"board_id": "b2"}})
        await_reached(server, "authorize b2")
        assert (reauthorize(server, "ann"), reauthorize(server, "bob"), disconnect(server, "bob")) == (0, 0, 0)
    assert peer.receive()["data"] == {"board_id": ["b1", "b2"]}
    publish(server, "event")
    assert types(server.received(peer)[0]) == ["event"]


# While a request is authenticated and authorized ----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/ws", "/own"])
@pytest.mark.parametrize("call", ["authenticate bob", "authorize b2"])
def test_an_identity_disconnected_while_hooks_run_is_not_admitted(server: Server, path: str, call: str) -> None:
    with held(server, call):
        raw = request_upgrade(server, f"{path}?as=bob&board_id=b2")
        await_reached(server, call)
        disconnect(server, "bob")
    check_refused(server, raw, path, UNAUTHORIZED)
    # It was disconnected, not banned.
    assert server.connect(f"{path}?as=bob&board_id=b2").ask({"type": "ping"})["type"] == "pong"


@pytest.mark.parametrize("path", ["/ws", "/own"])
def test_a_client_whose_room_was_revoked_meanwhile_is_not_admitted(server: Server, path: str) -> None:
    with held(server, "authorize b2"):
        raw = request_upgrade(server, f"{path}?as=bob&board_id=b1&board_id=b2")
        await_reached(server, "authorize b2")
        server.post("/rules", DENY_B2)
        reauthorize(server, "bob")
    check_refused(server, raw, path, FORBIDDEN)
    assert server.connect(f"{path}?as=bob&board_id=b1").ask({"type": "ping"})["type"] == "pong"


def test_a_client_that_may_no_longer_receive_everything_is_not_admitted(server: Server) -> None:
    with held(server, "authorize None"):
        raw = request_upgrade(server, "/ws?as=bob")
        await_reached(server, "authorize None")
        server.post("/rules", {"deny": [[None, None]]})
        reauthorize(server, "bob")
    check_refused(server, raw, "/ws", FORBIDDEN)


@pytest.mark.parametrize("path", ["/ws", "/own"])
def test_an_identity_that_became_unknown_meanwhile_is_not_admitted(server: Server, path: str) -> None:
    with held(server, "authorize b2"):
        raw = request_upgrade(server, f"{path}?as=bob&board_id=b2")
        await_reached(server, "authorize b2")
        server.post("/unknown", ["bob"])
        reauthorize(server, "bob")
    check_refused(server, raw, path, UNAUTHORIZED)


@pytest.mark.parametrize("path", ["/ws", "/own"])
def test_a_recheck_that_still_allows_admits_the_client(server: Server, path: str) -> None:
    with held(server, "authorize b2"):
        raw = request_upgrade(server, f"{path}?as=bob&board_id=b2")
        await_reached(server, "authorize b2")
        assert (reauthorize(server, "bob"), reauthorize(server, "ann"), disconnect(server, "ann")) == (0, 0, 0)
    assert raw.response().status == 101
    assert raw.receive()["type"] == "connected"
    publish(server, "event")
    assert types(server.received(raw)[0]) == ["event"]


# Admitted, and still in on_connect ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/ws", "/own"])
def test_a_room_revoked_during_on_connect_is_not_replayed(server: Server, path: str) -> None:
    id = latest_id(server)
    publish(server, "missed", "b1")
    with held(server, "on_connect bob"):
        raw = request_upgrade(server, f"{path}?since={id}&board_id=b1&board_id=b2&as=bob")
        await_reached(server, "on_connect bob")
        server.post("/rules", DENY_B2)
        assert reauthorize(server, "bob") == 1
        publish(server, "secret")
        publish(server, "no.secret", "b1")
    assert raw.response().status == 101
    hello = raw.receive()
    assert hello["type"] == "connected"
    (messages,) = server.received(raw)
    assert types(messages) == ["missed", "no.secret", "unsubscribed"]
    assert messages[-1]["data"] == {"board_id": ["b1"]}
    assert hello["data"]["replayed"] == 2
    publish(server, "secret")
    assert server.received(raw) == [[]]


@pytest.mark.parametrize("path", ["/ws", "/own"])
def test_a_client_that_loses_its_only_room_during_on_connect_receives_nothing(server: Server, path: str) -> None:
    id = latest_id(server)
    with held(server, "on_connect bob"):
        raw = request_upgrade(server, f"{path}?since={id}&board_id=b2&as=bob")
        await_reached(server, "on_connect bob")
        server.post("/rules", DENY_B2)
        assert reauthorize(server, "bob") == 1
        publish(server, "secret")
        # A request in between does not bring the room back.
        raw.send_json({"type": "unsubscribe", "data": {"project_id": "p1"}})
    assert raw.response().status == 101
    raw.send_json({"type": "echo"})
    messages = read_until(raw, "echoed")
    publish(server, "secret")
    (more,) = server.received(raw)
    assert set(types(messages + more)) == {"connected", "unsubscribed", "echoed"}
    # Nor does the greeting count events of that room.
    assert (messages[0]["type"], messages[0]["data"]["replayed"]) == ("connected", 0)


@pytest.mark.parametrize("path", ["/ws", "/own"])
def test_a_client_disconnected_during_on_connect_gets_the_reason_and_no_events(server: Server, path: str) -> None:
    id = latest_id(server)
    publish(server, "before")
    with held(server, "on_connect eve"):
        raw = request_upgrade(server, f"{path}?since={id}&board_id=b2&as=eve")
        await_reached(server, "on_connect eve")
        assert disconnect(server, "eve") == 1
        publish(server, "after")
    check_disconnected(server, raw, 3503)


@pytest.mark.parametrize("path", ["/ws", "/own"])
def test_a_client_whose_credentials_expire_during_on_connect_gets_the_reason_and_no_events(server: Server, path: str) -> None:
    id = latest_id(server)
    publish(server, "before")
    until = time.time() + 0.5
    with held(server, "on_connect eve"):
        raw = request_upgrade(server, f"{path}?since={id}&board_id=b2&as=eve&until={until}")
        await_reached(server, "on_connect eve")
        wait_until(lambda: time.time() > until, "the credentials to expire")
        publish(server, "after")
    check_disconnected(server, raw, 3005)


def check_disconnected(server: Server, raw: RawClient, code: int) -> None:
    assert raw.response().status == 101
    frames, closed = raw.ended()
    assert closed.code == code
    messages = [frame.json for frame in frames if frame.opcode == TEXT]
    assert types(messages)[-1] == "disconnect"
    assert set(types(messages)) <= {"connected", "disconnect"}
    wait_until(lambda: server.get("/stats").json["slots"] == 0, "the slot to be freed")
