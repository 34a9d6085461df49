"""Disconnects while connected: by the app, by a new authorization, by a logout, by a deleted account."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.conftest import Serve
from tests.support.clients import Peer
from tests.support.event_helpers import read_until, subscribe
from tests.support.harness import BOTH_WAYS, FLASK, GTHREAD_TLS, Kind, Server
from tests.support.raw_client import CLOSE, Closed, Json, RawClient
from tests.support.waiting import wait_until

#: How often users are looked up again, and how long to watch for something that must not happen, in seconds.
EVERY = 0.1
A_MOMENT = 4 * EVERY


def check_disconnected(peer: Peer, code: int, *, reconnect: bool) -> list[Json]:
    """Check that a client gets a `disconnect` message and a close; return the messages before."""
    messages, closed = peer.ended()
    advice = messages.pop()
    assert (advice["type"], closed.code) == ("disconnect", code)
    assert advice["data"] == {"code": code, "reason": closed.reason, "reconnect": reconnect, "retry_after_ms": 0}
    peer.close()
    return messages


def ends(server: Server, client: str) -> list[int]:
    """Return the close codes that on_disconnect has recorded of a client, once there is one."""

    def codes() -> list[int]:
        return [end["code"] for end in server.get("/ended").json if end["client"] == client]

    return wait_until(codes, "on_disconnect")


def disconnect(server: Server, **whom: Any) -> int:
    response = server.post("/disconnect", whom)
    assert response.status == 200, response
    return int(response.json["closed"])


# By the app -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=(*BOTH_WAYS, GTHREAD_TLS, FLASK), ids=str)
def users(serve: Serve, request: pytest.FixtureRequest) -> Server:
    return serve("users", kind=request.param)


def test_the_app_disconnects_an_identity_or_one_client_and_no_other(users: Server) -> None:
    tabs = [users.connect("/ws?as=ann") for _ in range(3)]
    bob, other = users.connect("/ws?as=bob"), users.connect()
    assert disconnect(users, client_id=tabs[0].id) == 1
    check_disconnected(tabs[0], 3503, reconnect=False)
    assert ends(users, tabs[0].id) == [3503]
    assert disconnect(users, identity="ann", code=4001, reason="as agreed") == 2
    for tab in tabs[1:]:
        check_disconnected(tab, 4001, reconnect=True)
        assert ends(users, tab.id) == [4001]
    assert disconnect(users, identity="ann") == disconnect(users, client_id=tabs[0].id) == 0
    # An identity is not a client id, nor the other way round.
    assert disconnect(users, client_id="bob") == disconnect(users, identity=bob.id) == 0
    assert users.received(bob, other) == [[], []]
    assert users.client_count() == 2


@pytest.mark.parametrize(
    "code, reconnect", [(3000, True), (3499, True), (3500, False), (3999, False), (4499, True), (4999, False)]
)
def test_the_close_code_decides_whether_to_reconnect(serve: Serve, code: int, reconnect: bool) -> None:
    server = serve("users")
    peer = server.connect("/ws?as=ann")
    assert disconnect(server, identity="ann", code=code) == 1
    check_disconnected(peer, code, reconnect=reconnect)
    assert server.connect("/ws?as=ann").ask({"type": "ping"})["type"] == "pong"


def test_an_invalid_call_of_disconnect_raises(serve: Serve) -> None:
    server = serve("users")
    peer = server.connect("/ws?as=ann")
    for whom, error in (
        ({}, "TypeError"),
        ({"identity": "ann", "client_id": peer.id}, "TypeError"),
        ({"identity": "ann", "code": 2000}, "ValueError"),
        ({"identity": "ann", "code": 70000}, "ValueError"),
    ):
        response = server.post("/disconnect", whom)
        assert (response.status, response.json) == (400, {"error": error})
    assert peer.ask({"type": "ping"})["type"] == "pong"


def test_a_client_that_does_not_read_is_disconnected_as_well(serve: Serve) -> None:
    server = serve("users", config={"CARTOWS_WRITE_WAIT": 0.3, "CARTOWS_WRITE_BUFFER": 8192})
    slow = RawClient("127.0.0.1", server.port, receive_buffer=4096)
    with slow:
        assert slow.open("/ws?as=ann").status == 101
        client = slow.receive()["data"]["client_id"]
        server.flood(50, 2000)
        assert disconnect(server, identity="ann") == 1
        assert ends(server, client) == [3503]
    server.await_clients(0)


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_presence_leaves_at_once_with_a_final_code_and_only_then(serve: Serve, kind: Kind) -> None:
    server = serve("users", kind=kind, config={"CARTOWS_PRESENCE_LEAVE_WAIT": 60})
    watcher = server.connect("/ws?as=watcher")
    assert subscribe(watcher, board_id="b1", presence={})
    assert watcher.receive()["type"] == "presence.state"
    for name, code in (("ann", 4000), ("bob", 3503)):
        peer = server.connect(f"/ws?as={name}")
        subscribe(peer, board_id="b1", presence={"name": name})
        assert list(read_until(watcher, "presence.diff")[-1]["data"]["joins"]) == [name]
        assert disconnect(server, identity=name, code=code) == 1
        assert ends(server, peer.id) == [code]
    # The leave of ann is held back, or it would have come before.
    assert list(watcher.receive()["data"]["leaves"]) == ["bob"]
    assert set(server.get("/presence/board_id/b1").json) == {"watcher", "ann"}


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_a_client_still_in_admission_is_disconnected_too(serve: Serve, kind: Kind) -> None:
    """A client that was admitted by outdated rules must not stay connected."""
    server = serve("users", kind=kind)
    raw = server.raw()
    raw.socket.settimeout(5)
    raw.send(raw.handshake(f"/ws?as=late&gate=late-{kind}"))
    wait_until(lambda: server.get("/stats").json["slots"] == 1, "the slot")
    closed = disconnect(server, identity="late")
    server.post(f"/gates/late-{kind}", None)
    assert raw.response().status == 101
    raw.send_json({"type": "echo", "data": "still in"})
    frames, end = raw.ended()
    assert {frame.json["type"] for frame in frames} <= {"connected", "disconnect"}
    assert (closed, end.code) == (1, 3503)


# By a new authorization -----------------------------------------------------------------------------------------------


def test_reauthorize_checks_every_room_again(users: Server) -> None:
    users.post("/denied", [])
    tabs = [users.connect(f"/ws?as=ann&board_id=b1{more}") for more in ("", "&board_id=b2&project_id=p1")]
    everything, bob = users.connect("/ws?as=ann"), users.connect("/ws?as=bob&board_id=b1")
    assert users.post("/reauthorize/ann", None).json == {"changed": 0}
    users.post("/denied", [["board_id", "b1"], ["project_id", "p1"]])
    try:
        assert users.post("/reauthorize/ann", None).json == {"changed": 2}
        assert users.post("/reauthorize/ann", None).json == {"changed": 0}
        first, second = (tab.receive() for tab in tabs)
        assert {first["type"], second["type"]} == {"unsubscribed"}
        assert (first.get("data", {}), second["data"]) == ({}, {"board_id": ["b2"]})
        for board in ("b1", "b2"):
            users.publish("broadcast_task_created", "t1", board, {}, project_id="p1")
        received = users.received(*tabs, everything, bob)
        assert [[message["data"]["board_id"] for message in each] for each in received] == [[], ["b2"], ["b1", "b2"], ["b1"]]
        users.post("/denied", [[None, None]])
        assert users.post("/reauthorize/ann", None).json == {"changed": 1}
        check_disconnected(everything, 3507, reconnect=False)
        assert ends(users, everything.id) == [3507]
    finally:
        users.post("/denied", [])
    # A client that has lost its last room does not receive everything instead.
    assert users.received(*tabs, bob) == [[], [], []]


@pytest.mark.parametrize("kind", [*BOTH_WAYS, FLASK], ids=str)
def test_an_authorize_that_raises_denies_and_does_not_stop_the_other_checks(serve: Serve, kind: Kind) -> None:
    """Whichever client and room is checked first: a revoked room is not kept because another check raised."""
    server = serve("revoked", kind=kind)
    server.expected_tracebacks.append("the app's authorize fails")
    rooms = ("b1", "b2", "b3"), ("b3", "b2", "b1"), ("b2",), ("b3",), ("b1",)
    tabs = [server.connect("/ws?as=joe&" + "&".join(f"board_id={room}" for room in each)) for each in rooms]
    everything, bob = server.connect("/ws?as=joe"), server.connect("/ws?as=bob&board_id=b1&board_id=b2")
    server.post("/rules", {"fail": [["board_id", "b1"], [None, None]], "deny": [["board_id", "b2"]]})
    try:
        # The error is reported after all clients have been checked.
        assert server.post("/reauthorize/joe", None).status == 500
        check_disconnected(everything, 3507, reconnect=False)
        for board in ("b1", "b2", "b3"):
            server.publish("broadcast_task_created", "t1", board, {})
        *joe, others = server.received(*tabs, bob)
        assert [each[0]["type"] for each in (*joe[:3], joe[4])] == ["unsubscribed"] * 4
        received = [[message["data"]["board_id"] for message in each if message["type"] == "task.created"] for each in joe]
        assert received == [["b3"], ["b3"], [], ["b3"], []]
        assert [message["data"]["board_id"] for message in others] == ["b1", "b2"]
    finally:
        server.post("/rules", {})


# By Flask-Login -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=(*BOTH_WAYS, FLASK), ids=str)
def sessions(serve: Serve, request: pytest.FixtureRequest) -> Server:
    return ready(serve("sessions", kind=request.param, config={"EVERY": EVERY}))


def log_in(server: Server, name: str) -> dict[str, str]:
    """Log in by HTTP, as a browser of its own; return its cookie."""
    response = server.post(f"/login/{name}", None)
    assert response.status == 204
    return {"Cookie": response.headers["Set-Cookie"].partition(";")[0]}


def ready(server: Server) -> Server:
    """Start the thread that looks users up: it stays from the first user on."""
    server.connect("/live", additional_headers=log_in(server, "first")).close()
    server.await_clients(0)
    server.record_idle()
    return server


def connect_with(server: Server, cookie: dict[str, str]) -> Peer:
    return server.connect("/live", additional_headers=cookie)


def check_no_cookie(server: Server, *cookies: dict[str, str]) -> None:
    log = server.log()
    for cookie in cookies:
        value = cookie["Cookie"].partition("=")[2]
        assert value[:20] not in log
        assert value.rpartition(".")[2] not in log


def test_only_logged_in_users_are_admitted(sessions: Server) -> None:
    cookie = log_in(sessions, "ann")
    peer = connect_with(sessions, cookie)
    forged = {"Cookie": cookie["Cookie"][:-6] + "AAAAAA"}
    for headers in ({}, forged, {"Cookie": "session=garbage"}):
        response = sessions.raw().open("/live", dict(headers))
        assert (response.status, response.json["code"], bool(response.json["message"])) == (401, "UNAUTHORIZED", True)
        assert cookie["Cookie"][8:40] not in response.body.decode()
    assert disconnect(sessions, identity="ann") == 1
    check_disconnected(peer, 3503, reconnect=False)
    check_no_cookie(sessions, cookie, forged)


def test_a_logout_disconnects_the_users_clients_and_no_others(sessions: Server) -> None:
    ann, also_ann, bob = (log_in(sessions, name) for name in ("ann", "ann", "bob"))
    tabs = [connect_with(sessions, cookie) for cookie in (ann, ann, also_ann)]
    other, stranger = connect_with(sessions, bob), sessions.connect()
    response = sessions.request("POST", "/logout", headers=ann)
    assert response.status == 204
    for tab in tabs:
        check_disconnected(tab, 3005, reconnect=True)
        assert ends(sessions, tab.id) == [3005]
    out = {"Cookie": response.headers["Set-Cookie"].partition(";")[0]}
    assert sessions.raw().open("/live", dict(out)).status == 401
    # Logged in elsewhere, it reconnects by itself.
    assert connect_with(sessions, also_ann).ask({"type": "ping"})["type"] == "pong"
    assert sessions.received(other, stranger) == [[], []]
    # A logout without a user changes nothing.
    assert sessions.request("POST", "/logout").status == 204
    assert sessions.received(other, stranger) == [[], []]
    check_no_cookie(sessions, ann, also_ann, bob)


@pytest.mark.parametrize("method, body", [("DELETE", None), ("PUT", {"active": False})], ids=["deleted", "deactivated"])
def test_a_deleted_account_is_disconnected_within_the_recheck_interval(
    sessions: Server, method: str, body: Json | None
) -> None:
    ann, bob = log_in(sessions, "ann"), log_in(sessions, "bob")
    tabs, other = [connect_with(sessions, ann) for _ in range(2)], connect_with(sessions, bob)
    with pytest.raises(TimeoutError):  # looked up a few times, and accepted
        tabs[0].receive(A_MOMENT)
    assert sessions.request(method, "/users/ann", body).status == 204
    for tab in tabs:
        check_disconnected(tab, 3005, reconnect=True)
        assert ends(sessions, tab.id) == [3005]
    assert sessions.raw().open("/live", dict(ann)).status == 401
    assert sessions.received(other) == [[]]
    if method == "PUT":
        sessions.request(method, "/users/ann", {"active": True})
    check_no_cookie(sessions, ann, bob)


def test_an_unavailable_database_disconnects_no_client(serve: Serve) -> None:
    server = ready(serve("sessions", config={"EVERY": EVERY}))
    server.expected_tracebacks.append("the database is down")
    peer = connect_with(server, log_in(server, "ann"))
    start = len(server.log())
    server.post("/database", {"down": True})
    try:
        wait_until(lambda: server.log(start).count("RuntimeError: the database is down") >= 2, "two lookups that fail")
    finally:
        server.post("/database", {"down": False})
    assert peer.ask({"type": "ping"})["type"] == "pong"
    # It continues to look up.
    server.request("DELETE", "/users/ann")
    check_disconnected(peer, 3005, reconnect=True)


def test_without_a_recheck_interval_no_user_is_looked_up_again(serve: Serve) -> None:
    server = serve("sessions", config={"EVERY": None})
    cookie = log_in(server, "ann")
    peer = connect_with(server, cookie)
    server.request("DELETE", "/users/ann")
    with pytest.raises(TimeoutError):
        peer.receive(A_MOMENT)
    assert server.post("/login/ann", None).status == 204
    server.request("POST", "/logout", headers=cookie)
    check_disconnected(peer, 3005, reconnect=True)


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_a_close_by_the_client_is_not_replaced_by_a_disconnect(serve: Serve, kind: Kind) -> None:
    """A client that closes first is not disconnected as well: on_disconnect is called once, with its code."""
    server = serve("users", kind=kind)
    raw = server.upgraded("/ws?as=ann", greeted=False)
    client = raw.receive()["data"]["client_id"]
    raw.send_frame(CLOSE, b"\x10\x01mine")
    assert raw.frame().closed == Closed(4097, "mine")
    assert disconnect(server, identity="ann") == 0
    assert ends(server, client) == [4097]
