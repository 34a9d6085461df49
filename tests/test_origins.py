"""Origins: what is one, how a setting is read, and that nothing a header carries makes the comparison fail."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cartows.origins import Origin, is_listed, is_same_host, listed_origin, parse_origin


def test_an_origin_is_a_scheme_a_host_and_a_port() -> None:
    assert parse_origin("https://App.example.com") == Origin("https", "app.example.com", 443)
    assert parse_origin("http://app.example.com:80") == parse_origin("http://app.example.com")
    assert parse_origin("http://a_b:8080") == Origin("http", "a_b", 8080)
    assert parse_origin("http://[2001:DB8:0::1]:80") == Origin("http", "[2001:db8::1]", 80)
    assert parse_origin("capacitor://localhost") == Origin("capacitor", "localhost", None)
    for text in (
        "null",
        "",
        "https://",
        "https://a:",
        "https://a:x",
        "https://a:65536",
        "http://[1::2::3]",
        "http://bücher.de",
    ):
        assert parse_origin(text) is None, text


def test_a_default_port_is_not_written() -> None:
    for text in ("https://a.example", "http://a.example:8080", "https://[::1]", "capacitor://localhost"):
        assert str(parse_origin(text)) == text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (" HTTPS://App.Example.com:443/ ", "https://app.example.com"),
        ("http://LOCALHOST:80", "http://localhost"),
        ("https://Bücher.example", "https://xn--bcher-kva.example"),
        ("https://faß.example:8443", "https://xn--fa-hia.example:8443"),
        ("https://例え。テスト", "https://xn--r8jz45g.xn--zckzah"),
        ("https://*.A.com:443", "https://*.a.com"),
        ("https://*.bücher.example", "https://*.xn--bcher-kva.example"),
        ("http://[2001:DB8:0:0::1]", "http://[2001:db8::1]"),
        ("chrome-extension://AbC", "chrome-extension://abc"),
        ("NULL", "null"),
        ("file://", "file://"),
    ],
)
def test_a_setting_is_read_as_browsers_send_it(text: str, found: str) -> None:
    assert listed_origin(text) == found
    assert listed_origin(found) == found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("app.example.com", "no scheme"),
        ("//app.example.com", "no scheme"),
        ("*", "of a list"),
        ("ws://app.example.com", "address of a socket"),
        ("https://app.example.com/path", "more than an origin"),
        ("https://app.example.com//", "more than an origin"),
        ("https://app.example.com?x=1", "more than an origin"),
        ("https://user@app.example.com", "more than an origin"),
        ("https://*", "only subdomains"),
        ("https://a.*.com", "only subdomains"),
        ("https://app*.example.com", "only subdomains"),
        ("http://localhost:*", "only subdomains"),
        ("*://app.example.com", "only subdomains"),
        ("https://*.10.0.0.1", "no subdomains"),
        ("https://*.[::1]", "no subdomains"),
        ("https://:443", "no origin"),
        ("https://*.", "no origin"),
        ("https://a.com:99999", "no origin"),
        ("https://a b.com", "no origin"),
    ],
)
def test_a_setting_that_no_page_can_match_says_why(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as found:
        listed_origin(text)
    assert text.strip("/") in str(found.value)


def test_an_origin_without_a_host_is_listed_by_its_name() -> None:
    assert is_listed("null", ["null"]) and is_listed("file://", ["file://"])
    assert not is_listed("null", ["https://a.example"]) and not is_listed("data:", ["null"])


HEADER = st.text(alphabet=st.characters(max_codepoint=255), max_size=40)


@settings(deadline=None, max_examples=200)
@given(st.one_of(HEADER, HEADER.map("http://".__add__), HEADER.map("http://[".__add__)), HEADER)
def test_what_passes_for_the_same_host_has_that_host(origin: str, host: str) -> None:
    if is_same_host(origin, host, "http"):
        assert origin.lower().partition("://")[2].split(":")[0] == host.lower().split(":")[0] != ""
    is_listed(origin, ["https://a.example"])
