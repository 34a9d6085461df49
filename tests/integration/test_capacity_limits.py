"""The limits of clients per address and per user: every slot is freed, once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.conftest import Serve
from tests.support.harness import BOTH_WAYS, FLASK, Kind, Server
from tests.support.raw_client import CLOSE, TEXT, RawClient, Response, make_frame
from tests.support.waiting import wait_until

SLOTS = 3
PER_IP = {"CARTOWS_MAX_CLIENTS_PER_IP": SLOTS}


def check_too_many(response: Response, code: str = "TOO_MANY_FROM_IP") -> None:
    assert (response.status, response.json["code"], bool(response.json["message"])) == (429, code, True), response
    assert int(response.headers["Retry-After"]) >= 1


def take(server: Server, path: str, headers: dict[str, str | None] | None) -> RawClient:
    """Connect as soon as there is a free slot: the server may still be closing an earlier client."""

    def try_to_connect() -> RawClient | None:
        raw = server.raw()
        response = raw.open(path, headers)
        if response.status == 101:
            assert raw.receive()["type"] == "connected"
            return raw
        check_too_many(response)
        raw.close()
        return None

    return wait_until(try_to_connect, "a free slot", 10)


def fill(server: Server, path: str = "/ws", headers: dict[str, str | None] | None = None) -> list[RawClient]:
    """Take every slot of one address, no fewer and no more."""
    raws = [take(server, path, headers) for _ in range(SLOTS)]
    for _ in range(2):
        check_too_many(server.raw().open(path, headers))
    return raws


def await_slots(server: Server, taken: int, after: str = "") -> None:
    def are_taken() -> bool:
        return bool(server.get("/stats").json["slots"] == taken)

    wait_until(are_taken, lambda: f"{taken} slots to be taken after {after!r}: {server.get('/stats').json}")


def refused(path: str, status: int) -> Callable[[Server], None]:
    def end(server: Server) -> None:
        raw = server.raw()
        assert raw.open(path).status == status
        raw.close()

    return end


def closed_by_server(path: str, code: int, garbage: bytes = b"") -> Callable[[Server], None]:
    def end(server: Server) -> None:
        raw = server.upgraded(path, greeted=bool(garbage))
        raw.send(garbage)
        frames, closed = raw.ended()
        assert closed.code == code, (path, frames, closed)

    return end


def closed_by_client(path: str) -> Callable[[Server], None]:
    def end(server: Server) -> None:
        raw = server.upgraded(path)
        raw.send_frame(CLOSE, b"\x03\xe8")
        assert raw.frame().closed.code == 1000
        raw.close()

    return end


def refused_on_own_route(server: Server) -> None:
    raw = server.upgraded("/own?as=stranger", greeted=False)
    assert raw.frame().closed.code == 3500
    raw.close()  # What the Flask server sends after the route has ended does not matter.


def reset_after_the_request(server: Server) -> None:
    raw = server.raw()
    raw.send(raw.handshake("/ws"))
    raw.reset()


def reset_in_the_request(server: Server) -> None:
    raw = server.raw()
    raw.send(raw.handshake("/ws")[:60])
    raw.reset()


def finish(server: Server) -> None:
    raw = server.upgraded()
    raw.finish()
    raw.ended()


def disconnected_by_the_app(server: Server) -> None:
    peer = server.connect("/ws?as=ann")
    assert server.post("/disconnect", {"client_id": peer.id}).json == {"closed": 1}
    assert peer.ended()[1].code == 3503


ENDINGS: dict[str, Callable[[Server], None]] = {
    "close": closed_by_client("/ws"),
    "RST": lambda server: server.upgraded().reset(),
    "FIN": finish,
    "a protocol error": closed_by_server("/ws", 1002, make_frame(3)),
    "a flood": closed_by_server("/ws", 3013, make_frame(TEXT, b'{"type": "ping"}') * 100),
    "disconnected by the app": disconnected_by_the_app,
    "refused by on_connect": closed_by_server("/ws?refuse=1", 3507),
    "refused by on_connect, then RST": lambda server: server.upgraded("/ws?refuse=1", greeted=False).reset(),
    "a client class that raises": refused("/ws?raise=1", 500),
    "unknown": refused("/ws?as=stranger", 401),
    "RST after the request": reset_after_the_request,
    "RST in the request": reset_in_the_request,
    "an own route": closed_by_client("/own"),
    "refused by on_connect on an own route": closed_by_server("/own?refuse=1", 3507),
    "unknown on an own route": refused_on_own_route,
}


@pytest.mark.parametrize("kind", [*BOTH_WAYS, FLASK], ids=str)
def test_a_slot_is_freed_once_however_the_connection_ends(serve: Serve, kind: Kind) -> None:
    server = serve("users", kind=kind, config={**PER_IP, "CARTOWS_RATE_LIMIT": 0.25, "CARTOWS_RATE_BURST": 20})
    server.expected_tracebacks.append("the app's client class fails")
    for name, end in ENDINGS.items():
        for _ in range(SLOTS):
            end(server)
        await_slots(server, 0, name)
        for raw in fill(server):
            raw.close()
        await_slots(server, 0)


def test_a_client_class_that_raises_on_an_own_route_frees_the_slot_and_writes_nothing(serve: Serve) -> None:
    server = serve("users", config=PER_IP)
    server.expected_tracebacks.append("the app's client class fails")
    for _ in range(SLOTS):
        raw = server.upgraded("/own?raise=1", greeted=False)
        raw.socket.settimeout(5)
        assert raw.rest() == b""
        raw.close()
        await_slots(server, 0)
    fill(server)


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_a_client_that_closes_before_an_own_route_admits_it_frees_its_slot(serve: Serve, kind: Kind) -> None:
    """By then simple-websocket may have closed the socket whose options are to be set."""
    server = serve("revoked", kind=kind, config={**PER_IP, "CARTOWS_WRITE_BUFFER": 65536})
    gate = "/gates/authenticate%20ann"
    for _ in range(SLOTS + 1):
        server.request("PUT", gate)
        raw = server.raw()
        raw.socket.settimeout(5)
        assert raw.open("/own?as=ann").status == 101
        wait_until(lambda: server.get(gate).json["reached"], "authenticate")
        raw.send_frame(CLOSE, b"\x03\xe8")
        assert raw.frame().closed.code == 1000
        assert raw.rest() == b""
        server.request("DELETE", gate)
        raw.close()
    server.await_idle()
    await_slots(server, 0)
    for raw in fill(server, "/ws?as=ann"):
        raw.close()
    await_slots(server, 0)


def test_a_client_over_the_limit_affects_no_connected_one(serve: Serve) -> None:
    server = serve("users", config=PER_IP)
    raws = fill(server)
    server.publish("broadcast", "app.refreshed")
    assert [raw.receive()["type"] for raw in raws] == ["app.refreshed"] * SLOTS


def test_the_address_is_that_of_the_connection_unless_a_proxy_is_trusted(serve: Serve) -> None:
    ours, theirs = {"X-Forwarded-For": "203.0.113.7"}, {"X-Forwarded-For": "203.0.113.8"}
    plain = serve("users", config=PER_IP)
    fill(plain, headers=dict(ours))
    check_too_many(plain.raw().open("/ws", theirs))
    proxied = serve("users", config={**PER_IP, "PROXIES": 1})
    fill(proxied, headers=dict(ours))
    fill(proxied, headers=dict(theirs))
    # Everything before the last address was written by the client itself.
    check_too_many(proxied.raw().open("/ws", {"X-Forwarded-For": "198.51.100.1, 203.0.113.7"}))
    fill(proxied)


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_the_limit_per_user_holds_whatever_the_address(serve: Serve, kind: Kind) -> None:
    server = serve("users", kind=kind, config={"CARTOWS_MAX_CLIENTS_PER_USER": 2, "CARTOWS_MAX_CLIENTS_PER_IP": 5})
    tabs = [server.upgraded("/ws?as=ann") for _ in range(2)]
    check_too_many(server.raw().open("/ws?as=ann"), "TOO_MANY_OF_USER")
    server.upgraded("/ws?as=bob")
    # Clients without an identity are not one user.
    for _ in range(2):
        server.upgraded()
    check_too_many(server.raw().open("/ws?as=carl"), "TOO_MANY_FROM_IP")
    tabs[0].reset()
    await_slots(server, 4)
    server.upgraded("/ws?as=ann")
    check_too_many(server.raw().open("/ws?as=dora"), "TOO_MANY_FROM_IP")


@pytest.mark.parametrize("query", ["", "?as=ann"])
def test_an_own_route_refuses_a_client_over_the_limit_by_close_code(serve: Serve, query: str) -> None:
    server = serve("users", config={**PER_IP, "CARTOWS_MAX_CLIENTS_PER_USER": SLOTS - 1})
    free = SLOTS - bool(query)
    raws = [server.upgraded(f"/own{query}") for _ in range(free)]
    for _ in range(2):
        raw = server.raw()
        assert raw.open(f"/own{query}").status == 101
        frames, closed = raw.ended()
        assert (frames, closed.code, bool(closed.reason)) == ([], 3504, True)
    raws.pop().reset()
    await_slots(server, free - 1)
    server.upgraded(f"/own{query}")


# Flask-Limiter --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*BOTH_WAYS, FLASK], ids=str)
def test_flask_limiter_guards_the_route_like_any_other_view(serve: Serve, kind: Kind) -> None:
    server = serve("limiter", kind=kind)
    raws = [server.upgraded(headers={"X-Visitor": "ann"}) for _ in range(3)]
    for _ in range(2):
        response = server.raw().open("/ws", {"X-Visitor": "ann"})
        assert response.status == 429
        assert int(response.headers["Retry-After"]) >= 1
    raws.append(server.upgraded(headers={"X-Visitor": "bob"}))
    server.publish("broadcast", "app.refreshed")
    assert [raw.receive()["type"] for raw in raws] == ["app.refreshed"] * 4
