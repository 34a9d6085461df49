"""Which pages may connect, in front of a proxy and behind one, and what is said of those that may not."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Serve
from tests.support.harness import BOTH_WAYS, FLASK, GTHREAD, GTHREAD_ATTACHED, GTHREAD_TLS, HOST, Kind, Server

GOOD, EVIL = "https://app.example", "https://evil.example"


def visit(server: Server, origin: str | None, **headers: str) -> int:
    """Ask for the upgrade with this Origin; return the answer's status."""
    raw = server.raw()
    response = raw.open("/ws", {"Origin": origin, **{name.replace("_", "-"): value for name, value in headers.items()}})
    if response.status != 101:
        assert (response.status, response.json["code"], bool(response.json["message"])) == (403, "ORIGIN_REFUSED", True)
        assert int(response.headers["Content-Length"]) == len(response.body)
    raw.close()
    return response.status


def visits(server: Server, *origins: str | None, **headers: str) -> set[int]:
    return {visit(server, origin, **headers) for origin in origins}


def check_one_line(server: Server, origin: str, *allowed: str, **headers: str) -> str:
    """Have an origin refused and check that one line is logged, which names it and those that may connect; return it."""
    start = len(server.log())
    assert visit(server, origin, **headers) == 403
    server.heard()
    (line,) = [line for line in server.app_log(start) if "refused" in line or origin in line]
    assert "403" in line
    assert all(words in line for words in (origin, *allowed)), line
    return line


# The same host --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*BOTH_WAYS, GTHREAD_TLS, FLASK], ids=str)
def test_pages_of_the_same_host_may_connect_and_no_others(serve: Serve, kind: Kind) -> None:
    server = serve("people", kind=kind)
    here = f"{HOST}:{server.port}"
    assert visits(server, f"http://{here}", f"https://{here}", f"HTTP://{here}") == {101}
    # no browser leaves it out where it matters
    assert visit(server, None) == 101
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
        "http://[",
    )
    assert visits(server, *others) == {403}
    assert server.client_count() == 0
    check_one_line(server, EVIL, here)


def test_the_name_of_the_host_is_what_the_request_says(serve: Serve) -> None:
    server = serve("people")
    assert visits(server, GOOD, "http://APP.example", "https://app.example:443", Host="app.example") == {101}
    assert visits(server, GOOD, Host="app.example:8443") == {403}
    assert visits(server, EVIL, Host="app.example") == {403}


@pytest.mark.parametrize("kind", [*BOTH_WAYS, FLASK], ids=str)
def test_a_page_without_a_host_is_of_no_host_whatever_the_request_calls_its_own(serve: Serve, kind: Kind) -> None:
    """Werkzeug knows no host at all where the name has an underscore, as names within a company have."""
    server = serve("people", kind=kind)
    for host in ("a_b.example", f"my_app:{server.port}"):
        assert visits(server, "null", "file://", "", "data:", EVIL, Host=host) == {403}
        assert visits(server, f"http://{host}", f"https://{host}", None, Host=host) == {101}
        check_one_line(server, "null", host, Host=host)
    raw = server.raw()
    assert raw.open("/own", {"Origin": "null", "Host": "a_b.example"}).status == 101
    assert raw.frame().closed.code == 3507
    raw.close()
    server.upgraded("/own", {"Origin": "http://a_b.example", "Host": "a_b.example"})


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_a_host_with_an_underscore_may_stand_behind_a_proxy(serve: Serve, kind: Kind) -> None:
    server = serve("people", kind=kind, config={"PROXIES": 1})
    through = {"Host": "10.0.0.5:8000", "X_Forwarded_Host": "a_b.example", "X_Forwarded_Proto": "https"}
    assert visits(server, "https://a_b.example", None, **through) == {101}
    assert visits(server, "null", "", EVIL, "http://10.0.0.5:8000", **through) == {403}


def test_a_refusal_does_not_tell_the_page_what_would_be_allowed(serve: Serve) -> None:
    server = serve("people", config={"CARTOWS_ALLOWED_ORIGINS": [GOOD]})
    response = server.raw().open("/ws", {"Origin": EVIL})
    assert response.status == 403
    assert b"app.example" not in response.body
    assert EVIL in response.json["message"]


@pytest.mark.parametrize("origin", ["https://evil.example/" + "x" * 5000, "https://e\xffvil.example", "https://e%0d%0avil"])
def test_what_is_logged_of_an_origin_is_one_line_of_bearable_length(serve: Serve, origin: str) -> None:
    server = serve("people")
    start = len(server.log())
    assert visit(server, origin) == 403
    server.heard()
    (line,) = [line for line in server.app_log(start) if "refused" in line]
    assert len(line) < 1000
    assert line.isprintable()


# Behind a proxy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_behind_a_trusted_proxy_the_same_host_is_the_one_that_the_visitor_asked_for(serve: Serve, kind: Kind) -> None:
    server = serve("people", kind=kind, config={"PROXIES": 1})
    through = {
        "Host": "10.0.0.5:8000",
        "X_Forwarded_Host": "app.example",
        "X_Forwarded_Proto": "https",
        "X_Forwarded_For": "203.0.113.7",
    }
    assert visits(server, GOOD, None, **through) == {101}
    assert visits(server, EVIL, "http://10.0.0.5:8000", "https://app.example.evil.example", **through) == {403}
    line = check_one_line(server, EVIL, "app.example", "203.0.113.7", **through)
    assert "10.0.0.5" not in line
    # what stands in front of the proxy's own word was written by the visitor
    assert visit(server, EVIL, **{**through, "X_Forwarded_Host": "evil.example, app.example"}) == 403


def test_without_a_trusted_proxy_its_headers_mean_nothing(serve: Serve) -> None:
    server = serve("people")
    claims = {"X_Forwarded_Host": "evil.example", "X_Forwarded_Proto": "https", "Forwarded": "host=evil.example"}
    assert visit(server, EVIL, **claims) == 403
    assert visit(server, f"http://{HOST}:{server.port}", **claims) == 101
    line = check_one_line(server, EVIL, HOST, X_Forwarded_For="203.0.113.7")
    assert "203.0.113.7" not in line


# What the app says ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, listed",
    [(GTHREAD, [GOOD, "http://localhost:3000/"]), (GTHREAD_ATTACHED, f"{GOOD}/, http://localhost:3000")],
    ids=["list", "text"],
)
def test_a_list_lets_in_those_on_it(serve: Serve, kind: Kind, listed: list[str] | str) -> None:
    server = serve("people", kind=kind, config={"CARTOWS_ALLOWED_ORIGINS": listed})
    assert visits(server, GOOD, "https://APP.example", "http://localhost:3000", None) == {101}
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
    assert visits(server, *others) == {403}
    check_one_line(server, EVIL, GOOD, "http://localhost:3000")


def test_a_star_lets_everybody_in(serve: Serve) -> None:
    server = serve("people", config={"CARTOWS_ALLOWED_ORIGINS": "*"})
    assert visits(server, EVIL, "null", "", "no origin at all", None) == {101}


def test_the_app_may_decide_itself(serve: Serve) -> None:
    server = serve("people", config={"OWN_ORIGIN_CHECK": True})
    assert visits(server, "https://one.good.example", None) == {101}
    assert visits(server, EVIL, f"http://{HOST}:{server.port}", "https://good.example.evil.example") == {403}
    assert "origin check" in check_one_line(server, EVIL)


def test_an_origin_check_that_fails_lets_nobody_in(serve: Serve) -> None:
    server = serve("people", config={"OWN_ORIGIN_CHECK": True})
    server.expected_tracebacks.append("the app's origin check fails")
    start = len(server.log())
    assert server.raw().open("/ws", {"Origin": "https://raising.example"}).status == 500
    assert "the app's origin check fails" in server.log(start)
    raw = server.raw()
    assert raw.open("/own", {"Origin": "https://raising.example"}).status == 101
    frames, closed = raw.ended()
    assert (frames, closed.code) == ([], 1011)
    assert visit(server, "https://one.good.example") == 101


def test_a_route_of_the_apps_own_refuses_by_close_code(serve: Serve) -> None:
    server = serve("people", config={"CARTOWS_ALLOWED_ORIGINS": [GOOD]})
    start = len(server.log())
    raw = server.raw()
    assert raw.open("/own", {"Origin": EVIL}).status == 101
    frames, closed = raw.ended()
    assert (frames, closed.code) == ([], 3507)
    (line,) = [line for line in server.app_log(start) if "refused" in line]
    assert EVIL in line
    assert GOOD in line
    server.upgraded("/own", {"Origin": GOOD})


def test_whoever_is_refused_for_its_origin_is_not_asked_who_it_is(serve: Serve) -> None:
    """A page of another site must not find out whether its visitor is logged in here."""
    server = serve("people", config={"CARTOWS_ALLOWED_ORIGINS": [GOOD]})
    for name in ("ann", "nobody"):
        assert server.raw().open(f"/ws?as={name}", {"Origin": EVIL}).status == 403
