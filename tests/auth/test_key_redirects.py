"""The URL of a JWK Set that redirects: followed where nothing on the way could replace the keys."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import trustme

from cartows.auth import JWTAuth
from tests.support.tokens import private_key, public_jwk, refusal, signed

AT_MOST = 10.0
NO_KEYS = "Tokens cannot be checked at the moment: try again later."


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A context for servers, whose authority this process trusts meanwhile."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@contextmanager
def issuer(tls: ssl.SSLContext | None, target: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """Serve keys, or a redirect to ``target``; yields the URL and the paths that were asked for."""
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if target is None else 302)
            if target is not None:
                self.send_header("Location", target)
            self.end_headers()
            if target is None:
                self.wfile.write(json.dumps({"keys": [public_jwk("RSA", "one")]}).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="issuer")
        thread.start()
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}/jwks.json", asked
        finally:
            server.shutdown()
            thread.join(AT_MOST)


def token() -> str:
    return signed(private_key("RSA"), "RS256", kid="one")


@pytest.mark.parametrize(("first", "second"), [("https", "https"), ("http", "http"), ("http", "https")])
def test_a_redirect_to_a_place_that_is_no_less_safe_is_followed(tls: ssl.SSLContext, first: str, second: str) -> None:
    with issuer(tls if second == "https" else None) as (keys, asked):
        with issuer(tls if first == "https" else None, keys) as (url, _):
            assert JWTAuth(jwks_url=url).refresh(token()).identity == "ann"
        assert asked == ["/jwks.json"]


def test_a_redirect_from_https_to_http_is_refused(tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture) -> None:
    with issuer(None) as (keys, asked), issuer(tls, keys) as (url, redirected):
        assert refusal(JWTAuth(jwks_url=url), token()) == NO_KEYS
        assert (redirected, asked) == (["/jwks.json"], [])
    (record,) = caplog.records
    assert "redirects from https to http: only https is followed" in record.message
    assert record.exc_info is None


def test_a_redirect_after_a_redirect_to_https_is_refused_as_well(tls: ssl.SSLContext) -> None:
    with issuer(None) as (keys, asked), issuer(tls, keys) as (safe, redirected), issuer(None, safe) as (url, _):
        assert refusal(JWTAuth(jwks_url=url), token()) == NO_KEYS
        assert (redirected, asked) == (["/jwks.json"], [])


@pytest.mark.parametrize("secure", [True, False])
def test_a_redirect_to_ftp_is_refused(tls: ssl.SSLContext, secure: bool, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ftp:
        ftp.setblocking(False)
        with issuer(tls if secure else None, f"ftp://127.0.0.1:{ftp.getsockname()[1]}/jwks.json") as (url, _):
            assert refusal(JWTAuth(jwks_url=url, fetch_timeout=2), token()) == NO_KEYS
        with pytest.raises(BlockingIOError):
            ftp.accept()
    assert "to ftp" in caplog.text
