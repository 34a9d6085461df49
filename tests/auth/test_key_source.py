"""Keys that change: when they are loaded, what a failure leaves, and how long threads wait for them."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, NamedTuple

import pytest

from cartows.auth import JWTAuth, key_source
from cartows.errors import OptionsError
from tests.support.tokens import (
    Clock,
    encoded,
    forged,
    private_key,
    public_jwk,
    public_pem,
    refusal,
    secret_jwk,
    signed,
    warnings_of,
)

# How long a test waits for what must not happen, and for what must, in seconds.
A_MOMENT, AT_MOST = 0.2, 10.0


# Loading --------------------------------------------------------------------------------------------------------------


class KeyStore:
    """A callable of an app that returns its keys, and counts its calls."""

    def __init__(self, *given: Any) -> None:
        self.given: Any = list(given)
        self.asked = 0

    def __call__(self) -> Any:
        self.asked += 1
        if isinstance(self.given, Exception):
            raise self.given
        return self.given


def hmac_token(kid: str) -> str:
    return signed(kid * 64, kid=kid)


def hmac_jwk(kid: str) -> dict[str, Any]:
    return secret_jwk(kid * 64, kid)


def test_a_new_key_is_found_as_soon_as_a_token_names_it(clock: Clock) -> None:
    store = KeyStore(hmac_jwk("a"))
    auth = JWTAuth(store)
    assert store.asked == 0
    assert auth.refresh(hmac_token("a")).identity == "ann"
    store.given = [hmac_jwk("a"), hmac_jwk("b")]
    clock.now += 11
    assert auth.refresh(hmac_token("b")).identity == "ann"
    assert auth.refresh(hmac_token("a")).identity == "ann"
    assert store.asked == 2


def test_a_key_that_is_taken_away_counts_until_its_lifespan_is_over(clock: Clock) -> None:
    store = KeyStore(hmac_jwk("a"))
    auth = JWTAuth(store, key_lifespan=100)
    assert auth.refresh(hmac_token("a")).identity == "ann"
    store.given = [hmac_jwk("b")]
    clock.now += 99
    assert auth.refresh(hmac_token("a")).identity == "ann"
    clock.now += 1
    assert refusal(auth, hmac_token("a")) == "The token names a key that is not known here."
    assert store.asked == 2


def test_made_up_key_ids_cause_one_load_in_ten_seconds(clock: Clock) -> None:
    store = KeyStore(hmac_jwk("a"))
    auth = JWTAuth(store)
    for second in range(20):
        for number in range(5):
            assert refusal(auth, signed(kid=f"{second}-{number}")) == "The token names a key that is not known here."
        clock.now += 1
    assert store.asked == 2


def test_tokens_of_other_algorithms_cause_no_load(clock: Clock) -> None:
    store = KeyStore(hmac_jwk("a"))
    auth = JWTAuth(store, algorithms="HS256")
    assert refusal(auth, signed(private_key("RSA"), "RS256", kid="b")) == "The token's algorithm is not allowed."
    assert refusal(auth, forged({"alg": "none", "kid": "b"}, {})) == "The token's algorithm is not allowed."
    assert store.asked == 0


@pytest.mark.parametrize(
    "trouble",
    [RuntimeError("down"), None, "", [], {"keys": []}, public_pem("RSA")[:100], [5]],
    ids=["raises", "nothing", "empty", "no keys", "an empty set", "half a key", "a number"],
)
def test_while_loading_fails_the_old_keys_stay_in_force(clock: Clock, trouble: Any, caplog: pytest.LogCaptureFixture) -> None:
    store = KeyStore(hmac_jwk("a"))
    auth = JWTAuth(store, key_lifespan=100)
    assert auth.refresh(hmac_token("a")).identity == "ann"
    store.given = trouble
    clock.now += 100
    assert auth.refresh(hmac_token("a")).identity == "ann"
    assert auth.refresh(hmac_token("a")).identity == "ann"
    assert store.asked == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert encoded(b"a" * 64) not in caplog.text
    store.given = [hmac_jwk("b")]
    clock.now += 10
    assert refusal(auth, hmac_token("a")) == "The token names a key that is not known here."


def test_without_any_key_every_token_is_refused_and_keys_are_loaded_again_later(clock: Clock) -> None:
    store = KeyStore()
    auth = JWTAuth(store)
    for _ in range(5):
        assert refusal(auth, hmac_token("a")) == "Tokens cannot be checked at the moment: try again later."
    assert store.asked == 1
    store.given = [hmac_jwk("a")]
    clock.now += 10
    assert auth.refresh(hmac_token("a")).identity == "ann"


def test_keys_that_fit_none_of_the_given_algorithms_are_no_keys(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    auth = JWTAuth(KeyStore(public_jwk("RSA", "a")), algorithms=["HS256"])
    assert refusal(auth, hmac_token("a")) == "Tokens cannot be checked at the moment: try again later."
    assert "JWTAuth(algorithms=['HS256'])" in caplog.text


def test_one_thread_loads_and_those_without_a_key_wait_for_it(clock: Clock) -> None:
    asked, answer, found = threading.Event(), threading.Event(), []
    calls = []

    def slow() -> Any:
        calls.append(threading.current_thread().name)
        asked.set()
        assert answer.wait(AT_MOST)
        return hmac_jwk("a")

    auth = JWTAuth(slow)
    threads = [threading.Thread(target=lambda: found.append(auth.refresh(signed("a" * 64)).identity)) for _ in range(4)]
    threads[0].start()
    assert asked.wait(AT_MOST)
    for thread in threads[1:]:
        thread.start()
    threads[1].join(A_MOMENT)
    assert found == []
    answer.set()
    for thread in threads:
        thread.join(AT_MOST)
    assert (found, len(calls)) == (["ann"] * 4, 1)


def test_a_thread_that_has_a_key_does_not_wait_for_new_ones(clock: Clock) -> None:
    asked, answer = threading.Event(), threading.Event()
    answer.set()

    def slow() -> Any:
        asked.set()
        assert answer.wait(AT_MOST)
        return hmac_jwk("a")

    auth = JWTAuth(slow)
    assert auth.refresh(hmac_token("a")).identity == "ann"
    asked.clear()
    answer.clear()
    clock.now += 1000
    asking = threading.Thread(target=auth.refresh, args=(hmac_token("a"),))
    asking.start()
    try:
        assert asked.wait(AT_MOST)
        # It would wait for the other thread's load.
        assert auth.refresh(hmac_token("a")).identity == "ann"
        assert asking.is_alive()
    finally:
        answer.set()
        asking.join(AT_MOST)


def test_made_up_key_ids_delay_no_thread_for_long_while_keys_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_source, "LOAD_INTERVAL", 0.0)
    asked, answer = threading.Event(), threading.Event()
    waited: list[float] = []
    answer.set()

    def slow() -> Any:
        asked.set()
        assert answer.wait(AT_MOST)
        return hmac_jwk("a")

    def guess(number: int) -> None:
        token, began = signed(kid=f"made up {number}"), time.monotonic()
        assert refusal(auth, token) == "The token names a key that is not known here."
        waited.append(time.monotonic() - began)

    auth = JWTAuth(slow)
    assert auth.refresh(hmac_token("a")).identity == "ann"
    asked.clear()
    answer.clear()
    asking, *others = [threading.Thread(target=guess, args=(number,)) for number in range(9)]
    asking.start()
    try:
        assert asked.wait(AT_MOST)
        until = time.monotonic() + AT_MOST / 2
        for other in others:
            other.start()
        for other in others:
            other.join(max(0.0, until - time.monotonic()))
        # They are refused although the load has not ended.
        assert (len(waited), asking.is_alive()) == (8, True)
        # A later token does not wait at all.
        guess(9)
        assert waited[-1] < key_source.SHORT_WAIT_LIMIT / 2
        assert auth.refresh(hmac_token("a")).identity == "ann"
    finally:
        answer.set()
        for thread in (asking, *others):
            thread.join(AT_MOST)


# From a URL -----------------------------------------------------------------------------------------------------------


class Issuer(NamedTuple):
    """A server of keys: what it answers, and the user agents that asked."""

    url: str
    answers: dict[str, Any]
    asked: list[str]


@pytest.fixture
def issuer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Issuer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    answers: dict[str, Any] = {"status": 200, "body": b""}
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers["User-Agent"])
            body = answers["body"]
            self.send_response(answers["status"])
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="issuer")
        thread.start()
        yield Issuer(f"http://127.0.0.1:{server.server_port}/jwks.json", answers, asked)
        server.shutdown()
        thread.join(AT_MOST)


def test_keys_are_fetched_from_a_url_and_again_when_they_change(clock: Clock, issuer: Issuer) -> None:
    issuer.answers["body"] = {"keys": [public_jwk("RSA", "one")]}
    auth = JWTAuth(jwks_url=issuer.url, key_lifespan=100)
    assert issuer.asked == []
    for _ in range(3):
        assert auth.refresh(signed(private_key("RSA"), "RS256", kid="one")).identity == "ann"
    assert issuer.asked == ["cartows"]
    issuer.answers["body"] = {"keys": [public_jwk("P-256", "two")]}
    clock.now += 50
    assert auth.refresh(signed(private_key("P-256"), "ES256", kid="two")).identity == "ann"
    assert refusal(auth, signed(private_key("RSA"), "RS256", kid="one")) == "The token names a key that is not known here."
    for number in range(20):
        refusal(auth, signed(private_key("RSA"), "RS256", kid=f"made up {number}"))
    assert len(issuer.asked) == 2
    clock.now += 100
    assert auth.refresh(signed(private_key("P-256"), "ES256", kid="two")).identity == "ann"
    assert len(issuer.asked) == 3


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b""),
        (404, b"not here"),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b"{}"),
        (200, {"keys": []}),
        (200, b'{"keys":' + b"[" * 500_000),
        (200, b'{"keys":[' + b'{"kty":' * 100_000),
        (200, b'{"keys":[1' + b"0" * 10_000 + b"]}"),
    ],
    ids=range(9),
)
def test_a_url_that_fails_leaves_the_old_keys(
    clock: Clock, issuer: Issuer, status: int, body: Any, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.answers["body"] = {"keys": [public_jwk("RSA", "one")]}
    auth, token = JWTAuth(jwks_url=issuer.url), signed(private_key("RSA"), "RS256", kid="one")
    assert auth.refresh(token).identity == "ann"
    issuer.answers.update(status=status, body=body)
    clock.now += 1000
    caplog.clear()
    assert auth.refresh(token).identity == "ann"
    assert len(issuer.asked) == 2
    # In words: a traceback would be for a fault of this library.
    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("WARNING", None)


def test_a_secret_from_a_url_is_no_key(clock: Clock, issuer: Issuer) -> None:
    issuer.answers["body"] = {"keys": [hmac_jwk("a"), public_jwk("RSA", "one")]}
    auth = JWTAuth(jwks_url=issuer.url)
    assert refusal(auth, hmac_token("a")) == "The token names a key that is not known here."
    assert auth.refresh(signed(private_key("RSA"), "RS256", kid="one")).identity == "ann"


def test_a_url_that_never_answers_delays_no_thread_longer_than_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        auth = JWTAuth(jwks_url=f"http://127.0.0.1:{silent.getsockname()[1]}/", fetch_timeout=0.2)
        started = time.monotonic()
        assert refusal(auth, hmac_token("a")) == "Tokens cannot be checked at the moment: try again later."
        assert time.monotonic() - started < AT_MOST


@contextmanager
def dripping(monkeypatch: pytest.MonkeyPatch, head: bytes, drop: bytes, every: float = 0.0) -> Iterator[tuple[str, list[int]]]:
    """Run a server of keys whose response never ends, and count the bytes that were sent."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    over, sent = threading.Event(), [0]

    def serve() -> None:
        peer, _ = listener.accept()
        with peer, suppress(OSError):
            peer.settimeout(AT_MOST)
            peer.recv(65536)
            peer.sendall(head)
            while not over.wait(every) and sent[0] < 64 << 20:
                peer.sendall(drop)
                sent[0] += len(drop)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, name="dripping")
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/", sent
        finally:
            over.set()
            thread.join(AT_MOST)


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("head", "drop"),
    [
        (ANSWER + b"\r\n", b" "),
        (ANSWER + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (ANSWER + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x"),
        (b"HTTP/1.1 200 ", b"x"),
        (ANSWER + b"X-Drip: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["body", "chunks", "a chunk's head", "status", "a header", "interim answers"],
)
def test_a_url_that_answers_byte_by_byte_is_given_its_timeout_and_no_more(
    monkeypatch: pytest.MonkeyPatch, head: bytes, drop: bytes
) -> None:
    """Each byte comes in time; the time in all is bounded, since the lock is held meanwhile."""
    with dripping(monkeypatch, head, drop, every=0.05) as (url, _):
        auth, reasons = JWTAuth(jwks_url=url, fetch_timeout=0.5), []
        asking = threading.Thread(target=lambda: reasons.append(refusal(auth, hmac_token("a"))))
        asking.start()
        asking.join(AT_MOST / 2)
        given_up = not asking.is_alive()
    asking.join(AT_MOST)
    assert (given_up, reasons) == (True, ["Tokens cannot be checked at the moment: try again later."])


@pytest.mark.parametrize("head", [ANSWER + b"\r\n", ANSWER + b"Content-Length: 99999999999\r\n\r\n"], ids=["open", "huge"])
def test_a_response_that_never_ends_is_read_no_further_than_the_maximum_size(
    monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    with dripping(monkeypatch, head, b" " * 65536) as (url, sent):
        auth = JWTAuth(jwks_url=url, fetch_timeout=AT_MOST)
        began = time.monotonic()
        assert refusal(auth, hmac_token("a")) == "Tokens cannot be checked at the moment: try again later."
        assert time.monotonic() - began < AT_MOST
    # 1 MiB, and what the kernel buffers.
    assert sent[0] < 16 << 20


@pytest.mark.parametrize(
    "url", ["issuer.example/jwks.json", "file:///etc/passwd", "ftp://issuer.example/", "https://", "http:///x", 5]
)
def test_only_an_http_url_can_be_fetched_from(url: Any) -> None:
    with pytest.raises(OptionsError, match="jwks_url"):
        JWTAuth(jwks_url=url)


def test_no_secret_can_be_fetched_from_a_url() -> None:
    with pytest.raises(OptionsError, match="no secret"):
        JWTAuth(jwks_url="https://issuer.example/jwks.json", algorithms=["RS256", "HS256"])


def test_weak_keys_that_change_are_no_keys(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    for weak, why in (("x" * 31, "a secret of 31 bytes"), (public_pem("short"), "an RSA key of 1024 bits")):
        caplog.clear()
        auth = JWTAuth(KeyStore(weak))
        assert refusal(auth, signed("y" * 64)) == "Tokens cannot be checked at the moment: try again later."
        assert why in caplog.text
    auth = JWTAuth({"keys": [public_jwk("short", "one"), public_jwk("RSA", "two")]})
    assert refusal(auth, signed(private_key("RSA"), "RS256", kid="one")) == "The token names a key that is not known here."


def test_keys_from_an_unprotected_url_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(caplog, lambda: JWTAuth(jwks_url="https://issuer.example/")) == []
    (warning,) = warnings_of(caplog, lambda: JWTAuth(jwks_url="http://issuer.example/"))
    assert "https" in warning
