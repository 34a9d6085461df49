"""Tokens: the three ways in, what is said of a bad one, and their end; and that none is found in a log."""

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
from tests.support.harness import BOTH_WAYS, FLASK, GTHREAD, GTHREAD_TLS, Kind, Server
from tests.support.live import ask, label, subscribe
from tests.support.raw_client import CLOSE, Json, RawClient, Response
from tests.support.waiting import wait_until

KEY = "0123456789abcdef0123456789abcdef"
CONFIG = {"JWT": {"key": KEY, "audience": "tests", "issuer": "the tests", "rooms_claim": "rooms"}}
#: How long something is watched that must not happen, in seconds.
A_MOMENT = 0.3

#: Every token that the running test has made.
minted: list[str] = []


def token(sub: Any = "ann", *, key: str = KEY, algorithm: str = "HS256", without: str = "", **claims: Any) -> str:
    """Return a token that is good for all and for an hour, save for what is said otherwise."""
    good = {"sub": sub, "aud": "tests", "iss": "the tests", "exp": int(time.time()) + 3600, "rooms": "*", **claims}
    good.pop(without, None)
    minted.append(jwt.encode(good, key, algorithm))
    return minted[-1]


def soon() -> int:
    """Return a time to expire at that is three to four seconds away: in tokens seconds are whole."""
    return math.floor(time.time()) + 4


def check_no_secrets(text: str) -> None:
    for each in minted:
        # the header is the same for all; a part of what is signed, or the signature, is too much already
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


def come_in(server: Server, token: str, query: str = "", **options: Any) -> Peer:
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
    """Check that a client is put out at that time with advice; return what came before."""
    messages, closed = peer.ended()
    assert time.time() >= exp - 0.05, "it was put out too early"
    messages = [message if isinstance(message, dict) else message.json for message in messages]
    advice = messages.pop()
    assert (advice["type"], closed.code) == ("disconnect", 3005)
    assert advice["data"] == {"code": 3005, "reason": closed.reason, "reconnect": True, "retry_after_ms": 0}
    return messages


def check_nothing_comes(peer: Peer) -> None:
    with pytest.raises(TimeoutError):
        peer.receive(A_MOMENT)


# The ways in ----------------------------------------------------------------------------------------------------------


def test_a_token_comes_by_authorization(server: Server) -> None:
    peer = come_in(server, token())
    assert peer.connection.subprotocol is None
    assert peer.ask({"type": "ping"})["type"] == "pong"
    assert server.post("/disconnect", {"identity": "ann"}).json == {"closed": 1}
    assert server.raw().open("/live", {"authorization": f"bEARER  {token()}"}).status == 101


def test_a_token_comes_by_subprotocol_and_the_answer_names_the_other(server: Server) -> None:
    good = token()
    peer = server.connect("/live", subprotocols=["cartows", f"bearer.{good}"])
    assert peer.connection.subprotocol == "cartows"
    server.publish("broadcast", "app.refreshed")
    assert peer.receive()["type"] == "app.refreshed"
    for offered in (f"bearer.{good}, cartows", f"other,cartows,bearer.{good}"):
        response = server.raw().open("/live", {"Sec-WebSocket-Protocol": offered})
        assert (response.status, response.headers.get_all("Sec-WebSocket-Protocol")) == (101, ["cartows"])


def test_what_was_not_offered_is_not_named(home: Server) -> None:
    for headers in ({"Sec-WebSocket-Protocol": f"bearer.{token()}"}, authorization(token())):
        response = home.raw().open("/live", dict(headers))
        assert (response.status, response.headers.get_all("Sec-WebSocket-Protocol")) == (101, None)
    response = home.raw().open("/live", {"Sec-WebSocket-Protocol": "cartows", **authorization(token())})
    assert response.headers.get_all("Sec-WebSocket-Protocol") == ["cartows"]


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_a_token_comes_by_query_where_that_is_enabled_and_is_kept_out_of_the_logs(serve: Serve, kind: Kind) -> None:
    config = {"JWT": {**CONFIG["JWT"], "query_parameter": "access_token"}}
    server = serve("guarded", kind=kind, config=config, arguments=("--access-logfile", "-"))
    peer = server.connect(f"/live?access_token={token()}&board_id=b1")
    assert peer.ask({"type": "ping"})["type"] == "pong"
    assert check_unauthorized(server.raw().open(f"/live?access_token={token(key=KEY[::-1])}"))
    peer.close()
    # who is handed off is in nobody's access log, who is attached at its end, save for old versions of gunicorn
    logged = 1 + (kind.attached and hasattr(gthread, "DEFAULT_WORKER_DATA_TIMEOUT"))
    wait_until(lambda: server.log().count('"GET /live') == logged, "the access log")


#: Refused in every way, before the token is looked at and behind it; and with a query that is none to be cut at its last "?".
BY_QUERY: dict[str, tuple[str, dict[str, str | None], int]] = {
    "a question mark behind it": ("access_token={}&next=/a?b", {}, 401),
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
def test_a_token_in_the_query_of_whoever_is_refused_is_kept_out_of_the_logs_as_well(serve: Serve, kind: Kind, way: str) -> None:
    config = {"JWT": {**CONFIG["JWT"], "query_parameter": "access_token"}}
    server = serve("guarded", kind=kind, config=config, arguments=("--access-logfile", "-"))
    query, headers, status = BY_QUERY[way]
    start = len(server.log())
    response = server.raw().open(f"/live?{query.format(token(key=KEY[::-1]))}", headers)
    assert response.status == status
    wait_until(lambda: '"GET /live' in server.log(start), "the access log")
    check_no_secrets(server.log(start))
    assert "token=hidden" in server.log(start)


def test_a_query_is_not_looked_at_where_that_is_not_enabled(server: Server) -> None:
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
    "somebody else's signature": (tampered, "signature"),
    "another audience": (lambda: token(aud="somebody"), "audience"),
    "no audience": (lambda: token(without="aud"), "aud"),
    "another issuer": (lambda: token(iss="somebody"), "issuer"),
    "nobody": (lambda: token(without="sub"), "sub"),
    "for ever": (lambda: token(without="exp"), "exp"),
    "malformed rooms": (lambda: token(rooms=5), "rooms"),
    "three words": (lambda: "Q7xW2k.Zk9wPv.Jp3sLd", "malformed"),
    "one word": (lambda: "Vw8rTz5", "malformed"),
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
            come_in(server, wrong)
        assert raised.value.response.status_code == 401
        assert server.client_count() == 0


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic YW5uOnNlY3JldA=="}, {"Authorization": "Bearer"}], ids=repr)
def test_who_brings_no_token_is_told_how(server: Server, headers: dict[str, str | None]) -> None:
    start = len(server.log())
    reason = check_unauthorized(server.raw().open("/live", headers))
    assert "Authorization" in reason
    assert "bearer." in reason
    wait_until(lambda: "401" in server.log(start), "the log")
    assert "YW5uOnNl" not in server.log(start)


# Rooms ----------------------------------------------------------------------------------------------------------------


def test_the_rooms_of_a_token_are_all_that_its_client_may_hear(server: Server) -> None:
    ann = token(rooms={"board_id": ["b1", 7], "project_id": "p1"})
    for query, place in (("", "everything"), ("?board_id=b2", "board_id=b2"), ("?board_id=b1&project_id=p2", "project_id=p2")):
        response = server.raw().open(f"/live{query}", dict(authorization(ann)))
        assert (response.status, response.json["code"]) == (403, "FORBIDDEN")
        assert place in response.json["message"]
    peer, everybody = come_in(server, ann, "?board_id=b1"), come_in(server, token("bob"))
    (refused,) = ask(peer, "subscribe", {"board_id": ["7", "b2"]})
    assert check_forbidden(refused) == "board_id=b2"
    assert subscribe(peer, board_id=7) == {"board_id": ["b1", "7"]}
    for board in ("b1", "7", "b2"):
        server.publish("broadcast_task_created", "t1", board, {"board": board})
    heard, all_of_it = server.heard(peer, everybody)
    assert [message["data"]["board_id"] for message in heard] == ["b1", "7"]
    assert [label(message) for message in all_of_it] == ["t1"] * 3


def test_a_token_without_rooms_hears_nothing(home: Server) -> None:
    for each in (token(without="rooms"), token(rooms={})):
        for query in ("", "?board_id=b1"):
            assert home.raw().open(f"/live{query}", dict(authorization(each))).status == 403


# The end of a token ---------------------------------------------------------------------------------------------------


def test_a_client_goes_when_its_token_expires_unless_it_brought_another(server: Server) -> None:
    exp = soon()
    keeps, goes = come_in(server, token(exp=exp)), come_in(server, token(exp=exp))
    later = exp + 4
    answer = keeps.ask(refresh(token(exp=later)))
    assert answer["type"] == "auth.refreshed"
    assert 0 < answer["data"]["expires_in_ms"] <= (later - time.time()) * 1000 + 1000
    assert check_expired(goes, exp) == []
    wait_until(lambda: time.time() > exp + A_MOMENT, "the old token's end")
    assert keeps.ask({"type": "ping"})["type"] == "pong"
    # and the new one has an end, too
    assert check_expired(keeps, later) == []
    wait_until(
        lambda: [end["code"] for end in server.get("/ended").json if end["client"] == goes.id] == [3005], "on_disconnect"
    )


@pytest.mark.parametrize("kind", [*BOTH_WAYS, FLASK], ids=str)
def test_what_does_not_renew_a_token_changes_nothing(serve: Serve, kind: Kind) -> None:
    server = serve("guarded", kind=kind, config=CONFIG)
    exp = soon()
    peer = come_in(server, token(exp=exp), "?board_id=b1")
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


def test_a_refresh_may_cost_a_room(server: Server) -> None:
    peer = come_in(server, token(rooms={"board_id": ["b1", "b2"]}), "?board_id=b1&board_id=b2")
    peer.send(refresh(token(rooms={"board_id": "b2"})))
    answers = {message["type"]: message["data"] for message in (peer.receive(), peer.receive())}
    assert set(answers) == {"auth.refreshed", "unsubscribed"}
    assert answers["unsubscribed"] == {"board_id": ["b2"]}
    for board in ("b1", "b2"):
        server.publish("broadcast_task_created", "t1", board, {})
    assert [message["data"]["board_id"] for message in server.heard(peer)[0]] == ["b2"]
    # and may bring one, which is not entered by itself
    assert peer.ask(refresh(token(rooms={"board_id": ["b2", "b3"]})))["type"] == "auth.refreshed"
    assert subscribe(peer, board_id="b3") == {"board_id": ["b2", "b3"]}


def test_a_token_for_ever_and_a_day_renews_nothing(server: Server) -> None:
    """Nor is it taken by halves, with the rooms of the old token under the new one."""
    peer = come_in(server, token(rooms={"board_id": ["b1", "b2"]}), "?board_id=b1&board_id=b2")
    for exp in (10**12, 10**18, 1e300, 10**306):
        answer = peer.ask(refresh(token(exp=exp, rooms={"board_id": ["b1"]})))
        assert check_forbidden(answer) == "The token is malformed."
    late = 253_402_300_799
    peer.send(refresh(token(exp=late, rooms={"board_id": ["b1"]})))
    answers = {message["type"]: message["data"] for message in (peer.receive(), peer.receive())}
    assert answers["unsubscribed"] == {"board_id": ["b1"]}
    assert 0 < answers["auth.refreshed"]["expires_in_ms"] <= late * 1000


def test_a_refresh_may_cost_everything(home: Server) -> None:
    peer = come_in(home, token())
    peer.send(refresh(token(rooms={"board_id": "b1"})))
    messages, closed = peer.ended()
    assert closed.code == 3507
    assert messages[-1]["type"] == "disconnect"
    assert messages[-1]["data"]["reconnect"] is False


def test_a_token_that_leeway_let_in_is_good_for_as_long(serve: Serve) -> None:
    server = serve("guarded", config={"JWT": {**CONFIG["JWT"], "leeway": 60}})
    peer = come_in(server, token(exp=int(time.time()) - 5))
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
        # its hub's threads stay
        raw = server.upgraded(path)
        raw.send_frame(CLOSE, b"\x03\xe8")
        assert raw.frame().closed.code == 1000
        raw.close()
    server.settle()
    return server


def check_closed(server: Server, path: str, code: int) -> None:
    raw = server.raw()
    assert raw.open(path).status == 101
    closed = raw.frame().closed
    assert (closed.code, bool(closed.reason)) == (code, True)
    raw.close()


def test_a_route_of_the_apps_own_asks_the_extension_that_has_its_hub(several: Server) -> None:
    assert several.raw().open("/staff").status == 401
    check_closed(several, "/own-staff", 3500)
    check_closed(several, "/own-staff?as=ann", 3507)
    check_closed(several, "/own-staff?as=ann&board_id=b2", 3507)
    assert several.connect("/own-staff?as=ann&board_id=b1").ask({"type": "ping"})["type"] == "pong"
    assert several.connect("/own-open").ask({"type": "ping"})["type"] == "pong"


def test_a_route_of_the_apps_own_does_not_choose_between_two_extensions_with_its_hub(several: Server) -> None:
    several.expected_tracebacks.append("extensions with this hub")
    for query in ("", "?as=ann"):
        start = len(several.log())
        check_closed(several, f"/own-shared{query}", 1011)
        # and says what to do
        wait_until(lambda start=start: "handler.handle_websocket" in several.log(start), "a line in the log")  # type: ignore[misc]
    check_closed(several, "/own-one", 3500)
    assert several.connect("/own-one?as=ann").ask({"type": "ping"})["type"] == "pong"


def test_one_extension_at_two_places_is_no_choice(several: Server) -> None:
    check_closed(several, "/own-twice", 3500)
    assert several.connect("/own-twice?as=ann").ask({"type": "ping"})["type"] == "pong"
