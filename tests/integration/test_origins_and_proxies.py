"""Which origins may connect, with and without a proxy, and how refusals are logged."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Serve
from tests.support.harness import BOTH_WAYS, FLASK, GTHREAD, GTHREAD_ATTACHED, GTHREAD_TLS, HOST, Kind, Server

GOOD, EVIL = "https://app.example", "https://evil.example"


def status_for(server: Server, origin: str | None, **headers: str) -> int:
    """Ask for the upgrade with this Origin; return the answer's status."""
    raw = server.raw()
    response = raw.open("/ws", {"Origin": origin, **{name.replace("_", "-"): value for name, value in headers.items()}})
    if response.status != 101:
        assert (response.status, response.json["code"], bool(response.json["message"])) == (403, "ORIGIN_REFUSED", True)
        assert int(response.headers["Content-Length"]) == len(response.body)
    raw.close()
    return response.status


def statuses_for(server: Server, *origins: str | None, **headers: str) -> set[int]:
    return {status_for(server, origin, **headers) for origin in origins}


def check_one_line(server: Server, origin: str, *allowed: str, **headers: str) -> str:
    """Connect with an origin that is refused; check and return the one line of the log, which names it and the allowed ones."""
    start = len(server.log())
    assert status_for(server, origin, **headers) == 403
    server.received()
    (line,) = [line for line in server.app_log(start) if "refused" in line or origin in line]
    assert "403" in line
    assert all(text in line for text in (origin, *allowed)), line
    return line


# The same host --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*BOTH_WAYS, GTHREAD_TLS, FLASK], ids=str)
def test_pages_of_the_same_host_may_connect_and_no_others(serve: Serve, kind: Kind) -> None:
    server = serve("users", kind=kind)
    here = f"{HOST}:{server.port}"
    assert status_for(server, f"https://{here}") == 101
    # Where TLS ends in the worker, a page without it is of another origin.
    assert statuses_for(server, f"http://{here}", f"HTTP://{here}") == {403 if kind.tls else 101}
    # No browser omits the header where it matters.
    assert status_for(server, None) == 101
    others = (
        EVIL,
        "null",
        "",
        f"http://{HOST}",
        f"http://{HOST}:{server.port + 1}",
        f"http://localhost:{server.port}",
        f"http://{here}.evil.example",
        f"http://evil.example?{here}",
        f"http://evil.example/{here}",
        f"http://evil.example#@{here}",
        f"http://{here}@evil.example",
        f"http://evil@{here}",
        f"chrome-extension://{here}",
        f"//{here}",
        f"http://{here}/x",
        "http://[",
    )
    assert statuses_for(server, *others) == {403}
    assert server.client_count() == 0
    check_one_line(server, EVIL, here)


def test_the_host_is_the_one_the_request_names(serve: Serve) -> None:
    server = serve("users")
    assert statuses_for(server, GOOD, "http://APP.example", "https://app.example:443", Host="app.example") == {101}
    assert statuses_for(server, GOOD, Host="app.example:8443") == {403}
    assert statuses_for(server, EVIL, Host="app.example") == {403}


@pytest.mark.parametrize("kind", [*BOTH_WAYS, FLASK], ids=str)
def test_an_origin_without_a_host_is_refused_whatever_the_host_header(serve: Serve, kind: Kind) -> None:
    """Werkzeug reads no host at all from a name with an underscore, as internal names often have."""
    server = serve("users", kind=kind)
    for host in ("a_b.example", f"my_app:{server.port}"):
        assert statuses_for(server, "null", "file://", "", "data:", EVIL, Host=host) == {403}
        assert statuses_for(server, f"http://{host}", f"https://{host}", None, Host=host) == {101}
        check_one_line(server, "null", host, Host=host)
    raw = server.raw()
    assert raw.open("/own", {"Origin": "null", "Host": "a_b.example"}).status == 101
    assert raw.frame().closed.code == 3507
    raw.close()
    server.upgraded("/own", {"Origin": "http://a_b.example", "Host": "a_b.example"})


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_a_host_with_an_underscore_works_behind_a_proxy(serve: Serve, kind: Kind) -> None:
    server = serve("users", kind=kind, config={"PROXIES": 1})
    through = {"Host": "10.0.0.5:8000", "X_Forwarded_Host": "a_b.example", "X_Forwarded_Proto": "https"}
    assert statuses_for(server, "https://a_b.example", None, **through) == {101}
    assert statuses_for(server, "null", "", EVIL, "http://10.0.0.5:8000", **through) == {403}


def test_a_refusal_does_not_reveal_the_allowed_origins(serve: Serve) -> None:
    server = serve("users", config={"CARTOWS_ALLOWED_ORIGINS": [GOOD]})
    response = server.raw().open("/ws", {"Origin": EVIL})
    assert response.status == 403
    assert b"app.example" not in response.body
    assert EVIL in response.json["message"]


@pytest.mark.parametrize("origin", ["https://evil.example/" + "x" * 5000, "https://e\xffvil.example", "https://e%0d%0avil"])
def test_a_refused_origin_is_logged_in_one_line_of_bounded_length(serve: Serve, origin: str) -> None:
    server = serve("users")
    start = len(server.log())
    assert status_for(server, origin) == 403
    server.received()
    (line,) = [line for line in server.app_log(start) if "refused" in line]
    assert len(line) < 1000
    assert line.isprintable()


def test_the_first_refusal_of_an_origin_is_a_warning_with_the_remedy(serve: Serve) -> None:
    # A server that has refused no other origin.
    server = serve("users", config={"CARTOWS_SPOOL_SIZE": 1})
    own = "http://localhost:5173"
    lines = [check_one_line(server, own, HOST) for _ in range(2)]
    assert [line.split()[0] for line in lines] == ["WARNING", "INFO"]
    assert f"CARTOWS_ALLOWED_ORIGINS = ['http://{HOST}:{server.port}', '{own}']" in lines[0] and "Host" in lines[0]
    assert "CARTOWS_ALLOWED_ORIGINS" not in lines[1]


def test_no_number_of_made_up_origins_fills_the_log_with_warnings(serve: Serve) -> None:
    server = serve("users", config={"CARTOWS_ALLOWED_ORIGINS": [GOOD], "CARTOWS_SPOOL_SIZE": 1})
    start = len(server.log())
    assert statuses_for(server, *(f"https://evil{number}.example" for number in range(40))) == {403}
    server.received()
    levels = [line.split()[0] for line in server.app_log(start) if "refused" in line]
    assert len(levels) == 40 and 0 < levels.count("WARNING") <= 20
    line = next(line for line in server.app_log(start) if "evil0.example" in line)
    assert f"CARTOWS_ALLOWED_ORIGINS = ['{GOOD}', 'https://evil0.example']" in line


# Behind a proxy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_behind_a_trusted_proxy_the_same_host_is_the_forwarded_one(serve: Serve, kind: Kind) -> None:
    server = serve("users", kind=kind, config={"PROXIES": 1})
    through = {
        "Host": "10.0.0.5:8000",
        "X_Forwarded_Host": "app.example",
        "X_Forwarded_Proto": "https",
        "X_Forwarded_For": "203.0.113.7",
    }
    assert statuses_for(server, GOOD, None, **through) == {101}
    others = (EVIL, "http://10.0.0.5:8000", "https://app.example.evil.example", "http://app.example")
    assert statuses_for(server, *others, **through) == {403}
    line = check_one_line(server, EVIL, "app.example", "203.0.113.7", **through)
    assert "10.0.0.5" not in line
    # What precedes the proxy's own value was written by the client.
    assert status_for(server, EVIL, **{**through, "X_Forwarded_Host": "evil.example, app.example"}) == 403


def test_without_a_trusted_proxy_its_headers_mean_nothing(serve: Serve) -> None:
    server = serve("users")
    # gunicorn itself trusts X-Forwarded-Proto from this machine.
    claims = {"X_Forwarded_Host": "evil.example", "Forwarded": "host=evil.example;proto=https"}
    assert status_for(server, EVIL, **claims) == 403
    assert status_for(server, f"http://{HOST}:{server.port}", **claims) == 101
    line = check_one_line(server, EVIL, HOST, X_Forwarded_For="203.0.113.7")
    assert "203.0.113.7" not in line


# Settings of the app --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, listed",
    [(GTHREAD, [GOOD, "http://localhost:3000/"]), (GTHREAD_ATTACHED, f"{GOOD}:443/, http://localhost:3000")],
    ids=["list", "string"],
)
def test_a_list_of_origins_admits_exactly_those_on_it(serve: Serve, kind: Kind, listed: list[str] | str) -> None:
    server = serve("users", kind=kind, config={"CARTOWS_ALLOWED_ORIGINS": listed})
    assert statuses_for(server, GOOD, "https://APP.example", "http://localhost:3000", None) == {101}
    others = (
        EVIL,
        "null",
        "http://app.example",
        "https://app.example:444",
        "https://app.example.evil.example",
        "https://evilapp.example",
        "https://sub.app.example",
        "https://app.exampl",
        f"{GOOD}@evil.example",
        f"{GOOD}, {EVIL}",
        "*",
        f"http://{HOST}:{server.port}",
    )
    assert statuses_for(server, *others) == {403}
    check_one_line(server, EVIL, GOOD, "http://localhost:3000")


def test_a_wildcard_admits_every_subdomain(serve: Serve) -> None:
    server = serve("users", config={"CARTOWS_ALLOWED_ORIGINS": ["https://*.app.example"]})
    assert statuses_for(server, "https://a.app.example", "https://a.b.app.example") == {101}
    assert statuses_for(server, GOOD, "https://evilapp.example", "http://a.app.example", "https://a.app.example:444") == {403}


def test_a_star_admits_every_origin(serve: Serve) -> None:
    server = serve("users", config={"CARTOWS_ALLOWED_ORIGINS": "*"})
    assert statuses_for(server, EVIL, "null", "", "no origin at all", None) == {101}


def test_the_app_may_check_the_origin_itself(serve: Serve) -> None:
    server = serve("users", config={"OWN_ORIGIN_CHECK": True})
    assert statuses_for(server, "https://one.good.example", None) == {101}
    assert statuses_for(server, EVIL, f"http://{HOST}:{server.port}", "https://good.example.evil.example") == {403}
    assert "origin check" in check_one_line(server, EVIL)


def test_an_origin_check_that_raises_admits_no_client(serve: Serve) -> None:
    server = serve("users", config={"OWN_ORIGIN_CHECK": True})
    server.expected_tracebacks.append("the app's origin check fails")
    start = len(server.log())
    assert server.raw().open("/ws", {"Origin": "https://raising.example"}).status == 500
    assert "the app's origin check fails" in server.log(start)
    raw = server.raw()
    assert raw.open("/own", {"Origin": "https://raising.example"}).status == 101
    frames, closed = raw.ended()
    assert (frames, closed.code) == ([], 1011)
    assert status_for(server, "https://one.good.example") == 101


def test_an_own_route_refuses_by_close_code(serve: Serve) -> None:
    server = serve("users", config={"CARTOWS_ALLOWED_ORIGINS": [GOOD]})
    start = len(server.log())
    raw = server.raw()
    assert raw.open("/own", {"Origin": EVIL}).status == 101
    frames, closed = raw.ended()
    assert (frames, closed.code) == ([], 3507)
    (line,) = [line for line in server.app_log(start) if "refused" in line]
    assert EVIL in line
    assert GOOD in line
    server.upgraded("/own", {"Origin": GOOD})


def test_a_refused_origin_is_not_authenticated(serve: Serve) -> None:
    """A page of another site must not find out whether its user is logged in here."""
    server = serve("users", config={"CARTOWS_ALLOWED_ORIGINS": [GOOD]})
    for name in ("ann", "stranger"):
        assert server.raw().open(f"/ws?as={name}", {"Origin": EVIL}).status == 403
