"""Tokens: the three ways to send one, refusals, expiry and renewal; no token may appear in a log."""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from gunicorn.workers import gthread
from websockets.exceptions import InvalidStatus

from tests.integration.conftest import Serve
from tests.support.clients import Peer
from tests.support.event_helpers import ask, label, subscribe
from tests.support.harness import BOTH_WAYS, FLASK, GTHREAD, GTHREAD_TLS, Kind, Server
from tests.support.raw_client import CLOSE, Json, RawClient, Response
from tests.support.waiting import wait_until

KEY = "0123456789abcdef0123456789abcdef"
CONFIG = {"JWT": {"key": KEY, "audience": "tests", "issuer": "the tests", "rooms_claim": "rooms"}}
#: How long to watch for something that must not happen, in seconds.
A_MOMENT = 0.3

#: Every token that the running test has made.
minted: list[str] = []


def token(sub: Any = "ann", *, key: str = KEY, algorithm: str = "HS256", without: str = "", **claims: Any) -> str:
    """Return a token that is valid for every room and for an hour, apart from what the arguments change."""
    good = {"sub": sub, "aud": "tests", "iss": "the tests", "exp": int(time.time()) + 3600, "rooms": "*", **claims}
    good.pop(without, None)
    minted.append(jwt.encode(good, key, algorithm))
    return minted[-1]


def soon() -> int:
    """Return a time to expire at, three to four seconds away: tokens have whole seconds."""
    return math.floor(time.time()) + 4


def check_no_secrets(text: str) -> None:
    for each in minted:
        # The header is the same for all; even a part of the payload or the signature must not appear.
        for part in each.split(".")[1:]:
            assert not part or part[:40] not in text, f"{part} of a token is found in {text[-3000:]}"


@pytest.fixture(autouse=True)
def no_secret_in_any_log(serve: Serve, fleet: Any) -> Iterator[None]:
    minted.clear()
    yield
    for server in fleet.used:
        check_no_secrets(server.log())


@pytest.fixture(params=(*BOTH_WAYS, GTHREAD_TLS, FLASK), ids=str)
def server(serve: Serve, request: pytest.FixtureRequest) -> Server:
    return serve("guarded", kind=request.param, config=CONFIG)


@pytest.fixture
def home(serve: Serve) -> Server:
    return serve("guarded", config=CONFIG)


def authorization(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def connect_with(server: Server, token: str, query: str = "", **options: Any) -> Peer:
    return server.connect(f"/live{query}", additional_headers=authorization(token), **options)


def check_unauthorized(response: Response) -> str:
    """Check a 401 and return its reason."""
    assert response.status == 401, response
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert response.json["code"] == "UNAUTHORIZED"
    check_no_secrets(response.body.decode() + str(response.headers))
    return str(response.json["message"])


def check_forbidden(message: Json) -> str:
    """Check an error FORBIDDEN and return its details."""
    assert (message["type"], message["data"]["code"], bool(message["error"])) == ("error", "FORBIDDEN", True), message
    check_no_secrets(json.dumps(message))
    return str(message["data"]["details"])


def refresh(token: Any) -> Json:
    return {"type": "auth.refresh", "data": {"token": token}}


def check_expired(peer: Peer | RawClient, exp: float) -> list[Json]:
    """Check that a client is disconnected at that time with a `disconnect` message; return what came before."""
    messages, closed = peer.ended()
    assert time.time() >= exp - 0.05, "it was disconnected too early"
    messages = [message if isinstance(message, dict) else message.json for message in messages]
    advice = messages.pop()
    assert (advice["type"], closed.code) == ("disconnect", 3005)
    assert advice["data"] == {"code": 3005, "reason": closed.reason, "reconnect": True, "retry_after_ms": 0}
    return messages


def check_nothing_comes(peer: Peer) -> None:
    with pytest.raises(TimeoutError):
        peer.receive(A_MOMENT)


# How a token is sent --------------------------------------------------------------------------------------------------


def test_a_token_is_read_from_the_authorization_header(server: Server) -> None:
    peer = connect_with(server, token())
    assert peer.connection.subprotocol is None
    assert peer.ask({"type": "ping"})["type"] == "pong"
    assert server.post("/disconnect", {"identity": "ann"}).json == {"closed": 1}
    assert server.raw().open("/live", {"authorization": f"bEARER  {token()}"}).status == 101


def test_a_token_is_read_from_the_subprotocols_and_the_answer_names_the_other(server: Server) -> None:
    good = token()
    peer = server.connect("/live", subprotocols=["cartows", f"bearer.{good}"])
    assert peer.connection.subprotocol == "cartows"
    server.publish("broadcast", "app.refreshed")
    assert peer.receive()["type"] == "app.refreshed"
    for offered in (f"bearer.{good}, cartows", f"other,cartows,bearer.{good}"):
        response = server.raw().open("/live", {"Sec-WebSocket-Protocol": offered})
        assert (response.status, response.headers.get_all("Sec-WebSocket-Protocol")) == (101, ["cartows"])


def test_a_subprotocol_that_was_not_offered_is_not_named(home: Server) -> None:
    for headers in ({"Sec-WebSocket-Protocol": f"bearer.{token()}"}, authorization(token())):
        response = home.raw().open("/live", dict(headers))
        assert (response.status, response.headers.get_all("Sec-WebSocket-Protocol")) == (101, None)
    response = home.raw().open("/live", {"Sec-WebSocket-Protocol": "cartows", **authorization(token())})
    assert response.headers.get_all("Sec-WebSocket-Protocol") == ["cartows"]


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_a_token_is_read_from_the_query_where_enabled_and_kept_out_of_the_logs(serve: Serve, kind: Kind) -> None:
    config = {"JWT": {**CONFIG["JWT"], "query_parameter": "access_token"}}
    server = serve("guarded", kind=kind, config=config, arguments=("--access-logfile", "-"))
    peer = server.connect(f"/live?access_token={token()}&board_id=b1")
    assert peer.ask({"type": "ping"})["type"] == "pong"
    assert check_unauthorized(server.raw().open(f"/live?access_token={token(key=KEY[::-1])}"))
    peer.close()
    # A connection that was handed off appears in the access log at once, an attached one at its end, except with old gunicorns.
    logged = 1 + (not kind.attached or hasattr(gthread, "DEFAULT_WORKER_DATA_TIMEOUT"))
    wait_until(lambda: server.log().count('"GET /live') == logged, "the access log")
    check_no_secrets(server.log())


#: Refusals before and after the token is checked, and queries with more than one "?", which must not be cut at the last one.
BY_QUERY: dict[str, tuple[str, dict[str, str | None], int]] = {
    "a question mark after it": ("access_token={}&next=/a?b", {}, 401),
    "a question mark at the end": ("access_token={}&x=?", {}, 401),
    "a question mark before it": ("next=/a?b&access_token={}", {}, 401),
    "twice": ("access_token={0}&access_token={0}", {}, 401),
    "in other letters": ("acc%65ss_token={}", {}, 401),
    "another token by authorization": ("access_token={}", {"Authorization": "Bearer x.y.z"}, 401),
    "another token by subprotocol": ("access_token={}", {"Sec-WebSocket-Protocol": "cartows, bearer.x.y.z"}, 401),
    "another origin": ("access_token={}", {"Origin": "https://evil.example"}, 403),
    "no upgrade": ("access_token={}", {"Upgrade": None, "Connection": "close", "X-Cartows-Explain": "1"}, 401),
    "another version": ("access_token={}", {"Sec-WebSocket-Version": "12"}, 426),
    "too many rooms": ("access_token={}&" + "&".join(f"board_id={each}" for each in range(101)), {}, 403),
}


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
@pytest.mark.parametrize("way", BY_QUERY)
def test_a_token_in_the_query_of_a_refused_request_is_kept_out_of_the_logs(serve: Serve, kind: Kind, way: str) -> None:
    config = {"JWT": {**CONFIG["JWT"], "query_parameter": "access_token"}}
    server = serve("guarded", kind=kind, config=config, arguments=("--access-logfile", "-"))
    query, headers, status = BY_QUERY[way]
    start = len(server.log())
    response = server.raw().open(f"/live?{query.format(token(key=KEY[::-1]))}", headers)
    assert response.status == status
    wait_until(lambda: '"GET /live' in server.log(start), "the access log")
    check_no_secrets(server.log(start))
    assert "token=hidden" in server.log(start)


def test_a_token_in_the_query_is_ignored_unless_that_is_enabled(server: Server) -> None:
    reason = check_unauthorized(server.raw().open("/live?access_token=none"))
    assert "access_token" not in reason


# Bad tokens -----------------------------------------------------------------------------------------------------------


def unsigned() -> str:
    head, body, _ = token().split(".")
    assert head
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    return f"{none}.{body}."


def tampered() -> str:
    head, _, signature = token("bob").split(".")
    return ".".join((head, token("eve").split(".")[1], signature))


BAD: dict[str, tuple[Any, str]] = {
    "expired": (lambda: token(exp=int(time.time()) - 1), "expired"),
    "not valid yet": (lambda: token(nbf=int(time.time()) + 600), "not valid yet"),
    "another key": (lambda: token(key=KEY[::-1]), "signature"),
    "another algorithm": (lambda: token(algorithm="HS512", key=KEY * 2), ""),
    "no signature": (unsigned, "algorithm"),
    "another token's signature": (tampered, "signature"),
    "another audience": (lambda: token(aud="another"), "audience"),
    "no audience": (lambda: token(without="aud"), "aud"),
    "another issuer": (lambda: token(iss="another"), "issuer"),
    "no subject": (lambda: token(without="sub"), "sub"),
    "no expiry": (lambda: token(without="exp"), "exp"),
    "malformed rooms": (lambda: token(rooms=5), "rooms"),
    "three parts": (lambda: "Q7xW2k.Zk9wPv.Jp3sLd", "malformed"),
    "one part": (lambda: "Vw8rTz5", "malformed"),
    "very long": (lambda: "x" * 3000, "malformed"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_token_is_refused_with_a_reason_by_every_way(serve: Serve, bad: str) -> None:
    make, words = BAD[bad]
    for kind in (GTHREAD, FLASK):
        server = serve("guarded", kind=kind, config=CONFIG)
        wrong = make()
        minted.append(wrong)
        reason = check_unauthorized(server.raw().open("/live", dict(authorization(wrong))))
        assert words in reason
        assert wrong not in reason
        by_protocol = server.raw().open("/live", {"Sec-WebSocket-Protocol": f"cartows, bearer.{wrong}"})
        assert check_unauthorized(by_protocol) == reason
        with pytest.raises(InvalidStatus) as raised:
            connect_with(server, wrong)
        assert raised.value.response.status_code == 401
        assert server.client_count() == 0


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic YW5uOnNlY3JldA=="}, {"Authorization": "Bearer"}], ids=repr)
def test_a_request_without_a_token_is_told_how_to_send_one(server: Server, headers: dict[str, str | None]) -> None:
    start = len(server.log())
    reason = check_unauthorized(server.raw().open("/live", headers))
    assert "Authorization" in reason
    assert "bearer." in reason
    wait_until(lambda: "401" in server.log(start), "the log")
    assert "YW5uOnNl" not in server.log(start)


# Rooms ----------------------------------------------------------------------------------------------------------------


def test_a_client_may_receive_only_the_rooms_of_its_token(server: Server) -> None:
    ann = token(rooms={"board_id": ["b1", 7], "project_id": "p1"})
    for query, room in (("", "everything"), ("?board_id=b2", "board_id=b2"), ("?board_id=b1&project_id=p2", "project_id=p2")):
        response = server.raw().open(f"/live{query}", dict(authorization(ann)))
        assert (response.status, response.json["code"]) == (403, "FORBIDDEN")
        assert room in response.json["message"]
    peer, unfiltered = connect_with(server, ann, "?board_id=b1"), connect_with(server, token("bob"))
    (refused,) = ask(peer, "subscribe", {"board_id": ["7", "b2"]})
    assert check_forbidden(refused) == "board_id=b2"
    assert subscribe(peer, board_id=7) == {"board_id": ["b1", "7"]}
    for board in ("b1", "7", "b2"):
        server.publish("broadcast_task_created", "t1", board, {"board": board})
    received, everything = server.received(peer, unfiltered)
    assert [message["data"]["board_id"] for message in received] == ["b1", "7"]
    assert [label(message) for message in everything] == ["t1"] * 3


def test_a_token_without_rooms_receives_nothing(home: Server) -> None:
    for each in (token(without="rooms"), token(rooms={})):
        for query in ("", "?board_id=b1"):
            assert home.raw().open(f"/live{query}", dict(authorization(each))).status == 403


# Expiry and renewal ---------------------------------------------------------------------------------------------------


def test_a_client_is_disconnected_when_its_token_expires_unless_it_was_renewed(server: Server) -> None:
    exp = soon()
    renewed, expiring = connect_with(server, token(exp=exp)), connect_with(server, token(exp=exp))
    later = exp + 4
    answer = renewed.ask(refresh(token(exp=later)))
    assert answer["type"] == "auth.refreshed"
    assert 0 < answer["data"]["expires_in_ms"] <= (later - time.time()) * 1000 + 1000
    assert check_expired(expiring, exp) == []
    wait_until(lambda: time.time() > exp + A_MOMENT, "the old token's end")
    assert renewed.ask({"type": "ping"})["type"] == "pong"
    # and the new one expires, too
    assert check_expired(renewed, later) == []
    wait_until(
        lambda: [end["code"] for end in server.get("/ended").json if end["client"] == expiring.id] == [3005], "on_disconnect"
    )


@pytest.mark.parametrize("kind", [*BOTH_WAYS, FLASK], ids=str)
def test_a_failed_renewal_changes_nothing(serve: Serve, kind: Kind) -> None:
    server = serve("guarded", kind=kind, config=CONFIG)
    exp = soon()
    peer = connect_with(server, token(exp=exp), "?board_id=b1")
    assert "this user" in check_forbidden(peer.ask(refresh(token("bob"))))
    assert "signature" in check_forbidden(peer.ask(refresh(token(key=KEY[::-1]))))
    assert "expired" in check_forbidden(peer.ask(refresh(token(exp=int(time.time()) - 1))))
    assert "algorithm" in check_forbidden(peer.ask(refresh(unsigned())))
    assert "malformed" in check_forbidden(peer.ask(refresh("garbage")))
    assert "malformed" in check_forbidden(peer.ask(refresh("")))
    for data in (None, {}, [], "token", {"token": None}, {"token": 5}, {"token": ["x"]}):
        answer = peer.ask({"type": "auth.refresh", "data": data})
        assert (answer["type"], answer["data"]["code"]) == ("error", "INVALID_MESSAGE")
    assert peer.ask({"type": "ping"})["type"] == "pong"
    assert check_expired(peer, exp) == []


def test_a_refresh_may_remove_a_room(server: Server) -> None:
    peer = connect_with(server, token(rooms={"board_id": ["b1", "b2"]}), "?board_id=b1&board_id=b2")
    peer.send(refresh(token(rooms={"board_id": "b2"})))
    answers = {message["type"]: message["data"] for message in (peer.receive(), peer.receive())}
    assert set(answers) == {"auth.refreshed", "unsubscribed"}
    assert answers["unsubscribed"] == {"board_id": ["b2"]}
    for board in ("b1", "b2"):
        server.publish("broadcast_task_created", "t1", board, {})
    assert [message["data"]["board_id"] for message in server.received(peer)[0]] == ["b2"]
    # A refresh may also add a room, which is not subscribed by itself.
    assert peer.ask(refresh(token(rooms={"board_id": ["b2", "b3"]})))["type"] == "auth.refreshed"
    assert subscribe(peer, board_id="b3") == {"board_id": ["b2", "b3"]}


def test_a_token_that_expires_absurdly_late_renews_nothing(server: Server) -> None:
    """Nor is it accepted in part, with the rooms of the old token under the new one."""
    peer = connect_with(server, token(rooms={"board_id": ["b1", "b2"]}), "?board_id=b1&board_id=b2")
    for exp in (10**12, 10**18, 1e300, 10**306):
        answer = peer.ask(refresh(token(exp=exp, rooms={"board_id": ["b1"]})))
        assert check_forbidden(answer) == "The token is malformed."
    late = 253_402_300_799
    peer.send(refresh(token(exp=late, rooms={"board_id": ["b1"]})))
    answers = {message["type"]: message["data"] for message in (peer.receive(), peer.receive())}
    assert answers["unsubscribed"] == {"board_id": ["b1"]}
    assert 0 < answers["auth.refreshed"]["expires_in_ms"] <= late * 1000


def test_a_refresh_may_remove_the_right_to_receive_everything(home: Server) -> None:
    peer = connect_with(home, token())
    peer.send(refresh(token(rooms={"board_id": "b1"})))
    messages, closed = peer.ended()
    assert closed.code == 3507
    assert messages[-1]["type"] == "disconnect"
    assert messages[-1]["data"]["reconnect"] is False


def test_a_token_accepted_by_leeway_is_valid_for_as_long(serve: Serve) -> None:
    server = serve("guarded", config={"JWT": {**CONFIG["JWT"], "leeway": 60}})
    peer = connect_with(server, token(exp=int(time.time()) - 5))
    check_nothing_comes(peer)
    assert peer.ask(refresh(token(exp=int(time.time()) - 5)))["data"]["expires_in_ms"] > 30_000
    assert "expired" in check_unauthorized(server.raw().open("/live", dict(authorization(token(exp=int(time.time()) - 61)))))


def test_an_open_client_has_nothing_to_refresh(home: Server) -> None:
    peer = home.connect()
    check_forbidden(peer.ask(refresh(token())))
    assert peer.ask({"type": "ping"})["type"] == "pong"


# Several extensions in one app ----------------------------------------------------------------------------------------


@pytest.fixture(params=(*BOTH_WAYS, FLASK), ids=str)
def several(serve: Serve, request: pytest.FixtureRequest) -> Server:
    server = serve("two_extensions", kind=request.param)
    for path in ("/staff?as=ann&board_id=b1", "/one?as=ann", "/v1/ws?as=ann"):
        # The threads of its hub stay.
        raw = server.upgraded(path)
        raw.send_frame(CLOSE, b"\x03\xe8")
        assert raw.frame().closed.code == 1000
        raw.close()
    server.record_idle()
    return server


def check_closed(server: Server, path: str, code: int) -> None:
    raw = server.raw()
    assert raw.open(path).status == 101
    closed = raw.frame().closed
    assert (closed.code, bool(closed.reason)) == (code, True)
    raw.close()


def test_an_own_route_uses_the_hooks_of_the_extension_with_its_hub(several: Server) -> None:
    assert several.raw().open("/staff").status == 401
    check_closed(several, "/own-staff", 3500)
    check_closed(several, "/own-staff?as=ann", 3507)
    check_closed(several, "/own-staff?as=ann&board_id=b2", 3507)
    assert several.connect("/own-staff?as=ann&board_id=b1").ask({"type": "ping"})["type"] == "pong"
    assert several.connect("/own-open").ask({"type": "ping"})["type"] == "pong"


def test_an_own_route_does_not_choose_between_two_extensions_with_its_hub(several: Server) -> None:
    several.expected_tracebacks.append("extensions with this hub")
    for query in ("", "?as=ann"):
        start = len(several.log())
        check_closed(several, f"/own-shared{query}", 1011)
        # and names the remedy
        wait_until(lambda start=start: "handler.handle_websocket" in several.log(start), "a line in the log")  # type: ignore[misc]
    check_closed(several, "/own-one", 3500)
    assert several.connect("/own-one?as=ann").ask({"type": "ping"})["type"] == "pong"


def test_one_extension_registered_twice_is_not_ambiguous(several: Server) -> None:
    check_closed(several, "/own-twice", 3500)
    assert several.connect("/own-twice?as=ann").ask({"type": "ping"})["type"] == "pong"
