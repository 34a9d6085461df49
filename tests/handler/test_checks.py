"""What is refused before the upgrade, and with which answer."""

from __future__ import annotations

import base64
from http import HTTPStatus
from typing import Any

import pytest
from flask import Request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder

from cartows import Options
from cartows.client.commands import InvalidMessage, parse_subscription
from cartows.handler.checks import (
    Refusal,
    check_filters,
    check_handshake,
    check_origin,
    hide_parameters,
    unavailable,
)

LIGHT = settings(deadline=None, report_multiple_bugs=False, max_examples=100, suppress_health_check=[HealthCheck.too_slow])

HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}

# What WSGI makes of a header: bytes as Latin-1, without line ends.
HEADER = st.text(alphabet=st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=40)


def request(origin: str | None = None, host: str = "app.example.com", query: Any = "", scheme: str = "http") -> Request:
    """Return a request as Flask sees it."""
    environ = EnvironBuilder(path="/ws", query_string=query).get_environ()
    environ["HTTP_HOST"] = host
    environ["wsgi.url_scheme"] = scheme
    if origin is not None:
        environ["HTTP_ORIGIN"] = origin
    return Request(environ)


def handshake(*, method: str = "GET", protocol: str = "HTTP/1.1", **changed: str | None) -> Request:
    """Return an opening handshake, some of its headers changed, or left out where they are None."""
    named = {name.replace("_", "-"): value for name, value in changed.items()}
    environ = EnvironBuilder(path="/ws", method=method).get_environ()
    environ["SERVER_PROTOCOL"] = protocol
    for name, value in {**HANDSHAKE, **named}.items():
        if name == "Content-Length":
            environ["CONTENT_LENGTH"] = value or ""
        elif value is not None:
            environ[f"HTTP_{name.upper().replace('-', '_')}"] = value
    return Request(environ)


# The opening handshake --------------------------------------------------------------------------------------------


def test_an_opening_handshake_is_accepted() -> None:
    for changed in (
        {},
        {"Connection": "keep-alive, Upgrade"},
        {"Connection": "UPGRADE", "Upgrade": "WebSocket"},
        {"Upgrade": " websocket ", "Sec_WebSocket_Version": " 13 "},
        {"X_Other": "x"},
    ):
        assert check_handshake(handshake(**changed)) is None, changed


def test_another_method_is_405_with_the_allowed_one() -> None:
    for method in ("POST", "HEAD", "PUT", "OPTIONS", "CONNECT"):
        refusal = check_handshake(handshake(method=method))
        assert refusal is not None, method
        assert (refusal.status, refusal.code) == (405, "METHOD_NOT_ALLOWED")
        assert ("Allow", "GET") in refusal.headers and method in refusal.message


def test_what_is_no_websocket_request_is_400_with_the_remedy() -> None:
    for changed in (
        {"Connection": None},
        {"Upgrade": None},
        {"Connection": None, "Upgrade": None},
        {"Connection": "close"},
        {"Connection": "Upgraded"},
        {"Upgrade": "h2c"},
        {"Upgrade": ""},
    ):
        refusal = check_handshake(handshake(**changed))
        assert refusal is not None, changed
        assert (refusal.status, refusal.code) == (400, "NOT_A_WEBSOCKET_REQUEST")
        assert "ws://" in refusal.message and "proxy" in refusal.message


def test_http_from_before_there_were_websockets_is_400() -> None:
    for protocol in ("HTTP/0.9", "HTTP/1.0"):
        refusal = check_handshake(handshake(protocol=protocol))
        assert refusal is not None, protocol
        assert (refusal.status, refusal.code) == (400, "OLD_HTTP")
        assert "HTTP/1.1" in refusal.message


def test_an_upgrade_over_http_2_is_400_with_the_remedy() -> None:
    for protocol in ("HTTP/2.0", "HTTP/2", "HTTP/3"):
        # RFC 8441: over HTTP/2 a connection begins with CONNECT, which is no less refused in these words.
        for method in ("GET", "CONNECT"):
            refusal = check_handshake(handshake(method=method, protocol=protocol))
            assert refusal is not None, protocol
            assert (refusal.status, refusal.code) == (400, "NEW_HTTP")
            assert protocol in refusal.message and "HTTP/1.1" in refusal.message and "gunicorn" in refusal.message


def test_a_handshake_with_a_body_is_400() -> None:
    for changed in ({"Content_Length": "5"}, {"Transfer_Encoding": "chunked"}, {"Content_Length": "x"}):
        refusal = check_handshake(handshake(**changed))
        assert refusal is not None and (refusal.status, refusal.code) == (400, "BODY"), changed
    assert check_handshake(handshake(Content_Length="0")) is None


def test_another_version_is_426_with_the_supported_one() -> None:
    for version in (None, "", "8", "12", "14", "013", "13, 8", "x" * 5000):
        refusal = check_handshake(handshake(Sec_WebSocket_Version=version))
        assert refusal is not None, version
        assert (refusal.status, refusal.code) == (426, "WRONG_VERSION")
        # RFC 6455, section 4.4; RFC 9110, section 15.5.22.
        assert set(refusal.headers) >= {("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket")}
        assert len(refusal.message) < 200


def test_a_key_that_is_not_16_bytes_in_base64_is_400() -> None:
    sizes = [base64.b64encode(bytes(size)).decode() for size in (0, 15, 17)]
    for key in (None, "x", "dGhlIHNhbXBsZSBub25jZQ", "dGhl IHNhbXBsZSBub25jZQ==", "é" * 24, *sizes):
        refusal = check_handshake(handshake(Sec_WebSocket_Key=key))
        assert refusal is not None, key
        assert (refusal.status, refusal.code) == (400, "BAD_KEY")


@LIGHT
@given(st.dictionaries(st.sampled_from([name.replace("-", "_") for name in HANDSHAKE]), HEADER))
def test_no_headers_make_the_check_fail(changed: dict[str, str]) -> None:
    refusal = check_handshake(handshake(**changed))
    assert refusal is None or refusal.status in (400, 426)


# Origins ----------------------------------------------------------------------------------------------------------


def admits(origins: Any, origin: str | None, host: str = "app.example.com", scheme: str = "http") -> bool:
    """Return whether a page of that origin may connect to that host."""
    refusal = check_origin(request(origin, host, scheme=scheme), Options(allowed_origins=origins))
    if refusal is None:
        return True
    assert (refusal.status, refusal.code) == (403, "ORIGIN_REFUSED")
    assert origin is not None and origin[:20] in refusal.message
    return False


def test_a_request_without_an_origin_comes_from_no_browser_and_is_admitted() -> None:
    for origins in (None, "*", ["https://app.example.com"], "null", lambda request: False):
        assert admits(origins, None)


SAME_HOST = [
    ("http://app.example.com", "app.example.com"),
    ("https://app.example.com", "app.example.com"),
    ("https://App.Example.com", "app.example.COM"),
    ("http://app.example.com", "app.example.com:80"),
    ("http://app.example.com:80", "app.example.com"),
    ("https://app.example.com", "app.example.com:443"),
    ("https://app.example.com:443", "app.example.com"),
    # TLS ended in a proxy, which passed on a host with its own port.
    ("https://app.example.com", "app.example.com:80"),
    ("http://app.example.com:5000", "app.example.com:5000"),
    ("http://127.0.0.1:5000", "127.0.0.1:5000"),
    ("http://[::1]", "[::1]"),
    ("http://[::1]:5000", "[::1]:5000"),
    ("http://[2001:db8::443]", "[2001:db8::443]:80"),
]

ANOTHER_HOST = [
    ("http://evil.example.com", "app.example.com"),
    ("http://example.com", "app.example.com"),
    ("http://app.example.com.evil.com", "app.example.com"),
    ("http://evil.com/app.example.com", "app.example.com"),
    ("http://app.example.com@evil.com", "app.example.com"),
    ("http://evil.com#app.example.com", "app.example.com"),
    ("http://app.example.com:5000", "app.example.com"),
    ("http://app.example.com", "app.example.com:5000"),
    ("http://app.example.com:5001", "app.example.com:5000"),
    ("http://app.example.com:8080", "app.example.com:80"),
    ("http://localhost", "127.0.0.1"),
    ("http://[::1]:5000", "[::1]"),
    ("http://[::2]", "[::1]"),
    ("http://[2001:db8::80]", "[2001:db8:]"),
    ("null", "app.example.com"),
    ("", "app.example.com"),
    ("file://", "app.example.com"),
    ("app.example.com", "app.example.com"),
    # RFC 6454: a scheme, a host and a port, and nothing else.
    ("//app.example.com", "app.example.com"),
    ("http:app.example.com", "app.example.com"),
    ("http://evil@app.example.com", "app.example.com"),
    ("http://app.example.com/x", "app.example.com"),
    ("http://app.example.com/", "app.example.com"),
    ("http://app.example.com?x", "app.example.com"),
    ("http://app.example.com#x", "app.example.com"),
    ("http://app.example.com\\x", "app.example.com"),
    ("http://app.example.com:", "app.example.com"),
    ("http://app.example.com http://evil.com", "app.example.com"),
    ("http://app.example.com:99999", "app.example.com:99999"),
    # The pages of an extension, or of a program, are of no host.
    ("chrome-extension://app.example.com", "app.example.com"),
    ("moz-extension://app.example.com", "app.example.com"),
    ("ftp://app.example.com", "app.example.com"),
    ("wss://app.example.com", "app.example.com"),
    ("https://app.example.com:80", "app.example.com"),
    ("http://app.example.com:443", "app.example.com"),
    ("http://app.example.com", "app.example.com:443"),
    ("http://app.example.com", "evil@app.example.com"),
    ("http://", ""),
]


def test_a_page_of_the_same_host_may() -> None:
    for origin, host in SAME_HOST:
        assert admits(None, origin, host), (origin, host)


def test_a_page_of_another_host_may_not() -> None:
    for origin, host in ANOTHER_HOST:
        assert not admits(None, origin, host), (origin, host)


def test_where_tls_is_known_a_page_without_it_is_of_another_origin() -> None:
    for host in ("app.example.com", "app.example.com:443"):
        assert admits(None, "https://app.example.com", host, "https")
        assert not admits(None, "http://app.example.com", host, "https")
    assert admits(None, "https://app.example.com:8443", "app.example.com:8443", "https")
    for origin, host in (
        ("http://app.example.com:8443", "app.example.com:8443"),
        ("http://app.example.com:443", "app.example.com"),
        ("https://app.example.com", "app.example.com:80"),
    ):
        assert not admits(None, origin, host, "https"), (origin, host)


def test_a_refusal_names_what_is_allowed_where_tls_is_known() -> None:
    refusal = check_origin(request("http://app.example.com", scheme="https"), Options())
    assert refusal is not None and "https" in refusal.details and "https" not in refusal.message


def test_a_star_admits_every_page() -> None:
    for origin in ("https://other.example", "null", "", "http://["):
        assert admits("*", origin), origin


def test_a_list_admits_its_members_and_not_even_the_same_host() -> None:
    origins = ["https://app.example.com", "http://localhost:5000", "null"]
    for origin in (
        "https://app.example.com",
        "HTTPS://APP.example.com",
        "https://app.example.com:443",
        "http://localhost:5000",
        "null",
    ):
        assert admits(origins, origin, host="other.example.com")
    for origin in ("http://app.example.com", "https://app.example.com:8443", "http://localhost", "https://evil.com", ""):
        assert not admits(origins, origin, host="localhost")
    for origin in (
        "https://app.example.com/",
        "https://evil@app.example.com",
        "//app.example.com",
        "https://x.app.example.com",
    ):
        assert not admits(origins, origin), origin


def test_a_wildcard_admits_every_subdomain_and_nothing_else() -> None:
    origins = ["https://*.example.com", "http://*.local:3000"]
    for origin in ("https://app.example.com", "https://A.B.example.com", "http://x.local:3000"):
        assert admits(origins, origin), origin
    others = (
        "https://example.com",
        "https://evilexample.com",
        "https://app.example.com.evil.com",
        "http://app.example.com",
        "https://app.example.com:8443",
        "http://x.local",
        "https://*.example.com",
        "https://.example.com@evil.com",
        "https://evil.com/.example.com",
        "null",
    )
    for origin in others:
        assert not admits(origins, origin), origin


def test_the_origin_null_is_admitted_only_where_it_is_named() -> None:
    assert admits("null", "null")
    assert not admits(["https://app.example.com"], "null")


def test_a_check_of_the_apps_own_decides_from_the_request() -> None:
    asked: list[Any] = []

    def check(request: Any) -> Any:
        asked.append(request)
        return request.headers["Origin"].endswith(".example.com")

    mine = request("https://any.example.com")
    assert check_origin(mine, Options(allowed_origins=check)) is None
    assert asked == [mine]
    assert not admits(check, "https://evil.com")


def test_only_a_true_answer_of_the_apps_check_admits() -> None:
    answers: dict[bool, list[Any]] = {True: [True, 1, "yes"], False: [False, 0, None, ""]}
    for admitted, each in answers.items():
        for answer in each:
            assert admits(lambda request, answer=answer: answer, "https://app.example.com") is admitted, answer


def test_an_origin_that_is_no_url_is_refused() -> None:
    for origin in ("http://[", "http://[::1", "http://]", "http://[app]", "https://[::1]x", "http://[v1.x"):
        assert not admits(None, origin), origin


@LIGHT
@given(
    st.one_of(HEADER, HEADER.map("http://".__add__), HEADER.map("http://[".__add__)),
    st.sampled_from([None, "*", ["https://a.example"]]),
)
def test_no_origin_makes_the_check_fail(origin: str, origins: Any) -> None:
    refusal = check_origin(request(origin), Options(allowed_origins=origins))
    assert refusal is None or refusal.status == 403


def test_a_long_origin_is_not_repeated_in_full() -> None:
    refusal = check_origin(request("https://" + "x" * 5000), Options())
    assert refusal is not None and len(refusal.message) < 500


# Filters ----------------------------------------------------------------------------------------------------------


def test_filters_are_read_from_the_query() -> None:
    for query, filters in {
        "": {},
        "project_id=p1": {"project_id": ("p1",)},
        "board_id=b1&project_id=p1&board_id=b2": {"project_id": ("p1",), "board_id": ("b1", "b2")},
        "board_id=b1&board_id=b1": {"board_id": ("b1",)},
        "board_id=%C3%A9%26&other=x": {"board_id": ("é&",)},
        "Board_Id=b1": {},
    }.items():
        assert check_filters(request(query=query), Options()) == filters, query


def test_the_filter_keys_are_a_setting() -> None:
    options = Options(filter_keys=("team",))
    assert check_filters(request(query="team=red&board_id=b1"), options) == {"team": ("red",)}


@pytest.mark.parametrize("keys", [["board_id"] * 10, ["board_id", "project_id"] * 5], ids=["one key", "two keys"])
def test_a_client_may_hold_as_many_filters_as_allowed_and_no_more(keys: list[str]) -> None:
    query = "&".join(f"{key}={number // 2 if len(set(keys)) > 1 else number}" for number, key in enumerate(keys))
    found = check_filters(request(query=query), Options(max_filters=10))
    assert isinstance(found, dict) and sum(map(len, found.values())) == 10
    # The same value again is no other filter.
    assert check_filters(request(query=f"{query}&board_id=0"), Options(max_filters=10)) == found
    for more, allowed in ((f"{query}&board_id=more", 10), (query, 9)):
        refused = check_filters(request(query=more), Options(max_filters=allowed))
        assert isinstance(refused, Refusal)
        assert (refused.status, refused.code) == (403, "TOO_MANY_FILTERS")
        assert str(allowed) in refused.message and str(allowed + 1) in refused.message


@pytest.mark.parametrize("name", ["x" * 256, "é" * 128, "😀" * 64, "9" * 256], ids=["ascii", "two bytes", "emoji", "digits"])
def test_one_limit_in_bytes_holds_for_a_room_in_the_query_and_in_subscribe(name: str) -> None:
    """What one way accepts and the other refuses is a client that cannot come back to its room."""

    def by_query(value: str) -> bool:
        return not isinstance(check_filters(request(query={"board_id": value}), Options()), Refusal)

    def by_subscribe(value: str | int) -> bool:
        try:
            return parse_subscription({"board_id": ["b1", value]}, ["board_id"], joins=True).rooms[-1] == (
                "board_id",
                str(value),
            )
        except InvalidMessage as error:
            assert "256 bytes" in str(error)
            return False

    assert by_query(name) and by_subscribe(name)
    longer = f"{name}1"
    assert not by_query(longer) and not by_subscribe(longer)
    if name.isdigit():
        assert by_subscribe(int(name)) and not by_subscribe(int(longer))
        assert not by_subscribe(1 << 500_000), "an integer that Python refuses to write"


def test_a_refused_name_is_named_by_its_key_and_the_limit() -> None:
    refused = check_filters(request(query={"board_id": "b1", "project_id": "x" * 1000}), Options())
    assert isinstance(refused, Refusal) and (refused.status, refused.code) == (403, "ROOM_NAME_TOO_LONG")
    assert "project_id" in refused.message and "256" in refused.message


# Capacity -------------------------------------------------------------------------------------------------------------


def test_a_503_names_when_to_try_again() -> None:
    refusal = unavailable("FULL", "No slot left.")
    assert (refusal.status, refusal.code, refusal.message) == (503, "FULL", "No slot left.")
    assert int(dict(refusal.headers)["Retry-After"]) > 0


def test_a_query_that_is_not_utf_8_is_refused_and_its_secrets_are_hidden() -> None:
    """gunicorn refuses such a request itself; other servers pass its bytes on, and Werkzeug raises for them."""
    environ = EnvironBuilder(path="/ws").get_environ()
    environ["QUERY_STRING"] = "board_id=\xff&access_token=secret"
    made = Request(environ)
    hide_parameters(made, ["access_token"])
    assert "secret" not in made.environ["QUERY_STRING"]
    refused = check_filters(made, Options())
    assert isinstance(refused, Refusal)
    assert (refused.status, refused.code) == (400, "BAD_QUERY")


async def _decided_later() -> bool:
    return False


def test_an_origin_check_that_was_not_awaited_or_that_answers_as_a_view_allows_no_origin() -> None:
    with pytest.raises(TypeError, match="not been awaited"):
        admits(lambda request: _decided_later(), "https://evil.com")
    for answer in (("no", 403), PermissionError("no"), HTTPStatus.FORBIDDEN):
        assert not admits(lambda request, answer=answer: answer, "https://evil.com")
