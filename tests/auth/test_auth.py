"""The ready-made authenticators: which tokens and sessions let somebody in, and that no refusal repeats what was sent."""

from __future__ import annotations

import base64
import gc
import hashlib
import hmac
import json
import logging
import socket
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, NamedTuple, cast

import flask_login  # type: ignore[import-untyped,unused-ignore]
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from flask import Flask, request
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from cartows.auth import FlaskLoginAuth, JWTAuth, keys
from cartows.auth.base import Credentials
from cartows.errors import AuthError, OptionsError
from cartows.rooms import Subscriptions

SECRET = "a secret of sixty-four bytes, which is enough for HS512 as well!"
OTHER_SECRET = SECRET[::-1]

# How long a test waits for what must not happen, and for what must, in seconds.
A_MOMENT, AT_MOST = 0.2, 10.0


# Keys and tokens ------------------------------------------------------------------------------------------------------


@cache
def private_key(kind: str) -> Any:
    """Return a key of some kind, ``RSA`` or ``RSA other``, made once."""
    makers: dict[str, Callable[[], Any]] = {
        "RSA": lambda: rsa.generate_private_key(65537, 2048),
        "short": lambda: rsa.generate_private_key(65537, 1024),
        "DSA": lambda: dsa.generate_private_key(1024),
        "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
        "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
        "P-224": lambda: ec.generate_private_key(ec.SECP224R1()),
        "Ed25519": ed25519.Ed25519PrivateKey.generate,
        "Ed448": ed448.Ed448PrivateKey.generate,
    }
    return makers[kind.split()[0]]()


def private_pem(kind: str) -> str:
    made: bytes = private_key(kind).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made.decode()


def public_pem(kind: str) -> str:
    made: bytes = private_key(kind).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return made.decode()


def public_jwk(kind: str, kid: str | None = None, **more: Any) -> dict[str, Any]:
    name = {"R": "RSAAlgorithm", "P": "ECAlgorithm", "E": "OKPAlgorithm"}[kind[0]]
    jwk: dict[str, Any] = json.loads(getattr(jwt.algorithms, name).to_jwk(private_key(kind).public_key()))
    jwk.pop("key_ops", None)
    return jwk | ({} if kid is None else {"kid": kid}) | more


def secret_jwk(secret: str = SECRET, kid: str | None = None, **more: Any) -> dict[str, Any]:
    return {"kty": "oct", "k": encoded(secret.encode())} | ({} if kid is None else {"kid": kid}) | more


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def soon() -> int:
    return int(time.time()) + 600


def signed(key: Any = SECRET, algorithm: str = "HS256", kid: str | None = None, **claims: Any) -> str:
    """Return a token of somebody who may come in, but for what is said otherwise."""
    claims = {name: value for name, value in ({"sub": "ann", "exp": soon()} | claims).items() if value is not None}
    return jwt.encode(claims, key, algorithm, headers=None if kid is None else {"kid": kid})


def forged(header: Any, claims: Any, secret: str | bytes = SECRET, sign: bool = True) -> str:
    """Return a token that a careful library would not make."""
    parts = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in (header, claims)]
    text = ".".join(encoded(part) for part in parts)
    secret = secret.encode() if isinstance(secret, str) else secret
    return f"{text}.{encoded(hmac.new(secret, text.encode(), hashlib.sha256).digest()) if sign else ''}"


def upgrade(query: str = "", **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(EnvironBuilder(path="/ws", query_string=query, headers=list(named.items())).get_environ())


def refusal(authenticator: JWTAuth, token: Any) -> str:
    """Return the reason for which a token is refused; nothing of the token may be in it, nor hang on it."""
    with pytest.raises(AuthError) as caught:
        authenticator.refresh(token)
    reason = str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    if isinstance(token, str):
        assert not [token[at : at + 9] for at in range(len(token) - 8) if token[at : at + 9] in reason]
    return reason


class Clock:
    """Stand in for the time that the sources of keys go by."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(keys, "monotonic", made)
    return made


# Where the token is ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER   "])
def test_a_token_is_taken_from_the_authorization_header(scheme: str) -> None:
    expires = soon()
    found = JWTAuth(SECRET).authenticate(upgrade(Authorization=f"{scheme}{signed(exp=expires)}"))
    assert found == Credentials("ann", float(expires), None, None)


@pytest.mark.parametrize("offer", ["cartows, bearer.{}", "bearer.{},cartows", "v2 ,  cartows,bearer.{} "])
def test_a_token_is_taken_from_the_subprotocols_and_the_other_one_is_answered(offer: str) -> None:
    found = JWTAuth(SECRET).authenticate(upgrade(Sec_WebSocket_Protocol=offer.format(signed())))
    assert (found.identity, found.subprotocol) == ("ann", "cartows")


def test_no_subprotocol_is_answered_that_was_not_offered() -> None:
    assert JWTAuth(SECRET).authenticate(upgrade(Sec_WebSocket_Protocol=f"bearer.{signed()}")).subprotocol is None


def test_an_offered_subprotocol_is_answered_when_the_token_came_otherwise() -> None:
    sent = upgrade(Authorization=f"Bearer {signed()}", Sec_WebSocket_Protocol="chat, cartows")
    assert JWTAuth(SECRET).authenticate(sent).subprotocol == "cartows"


def test_a_token_in_the_query_counts_only_where_that_is_asked_for() -> None:
    sent = upgrade(f"access_token={signed()}")
    assert JWTAuth(SECRET, query_parameter="access_token").authenticate(sent).identity == "ann"
    with pytest.raises(AuthError, match="A token is needed"):
        JWTAuth(SECRET).authenticate(sent)


def test_the_first_token_counts_and_no_other_makes_up_for_a_bad_one() -> None:
    auth = JWTAuth(SECRET, query_parameter="t")
    good, bad = {who: signed(sub=who) for who in "abc"}, signed(OTHER_SECRET)
    protocols = f"cartows, bearer.{good['b']}"
    assert auth.authenticate(upgrade(f"t={good['c']}", Authorization=f"Bearer {good['a']}")).identity == "a"
    assert auth.authenticate(upgrade(f"t={good['c']}", Sec_WebSocket_Protocol=protocols)).identity == "b"
    assert auth.authenticate(upgrade(Authorization="Basic YTpi", Sec_WebSocket_Protocol=protocols)).identity == "b"
    with pytest.raises(AuthError, match="signature"):
        auth.authenticate(upgrade(f"t={good['c']}", Authorization=f"Bearer {bad}", Sec_WebSocket_Protocol=protocols))


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer"}, {"Authorization": "Bearer  "}, {"Authorization": "Basic YTpi"}]
)
def test_who_brings_no_token_is_told_how_to_bring_one(headers: dict[str, str]) -> None:
    with pytest.raises(AuthError) as caught:
        JWTAuth(SECRET).authenticate(upgrade(**headers))
    assert "Authorization: Bearer" in str(caught.value)
    assert "cartows, bearer." in str(caught.value)
    assert "?" not in str(caught.value)
    with pytest.raises(AuthError, match=r"\?t=TOKEN"):
        JWTAuth(SECRET, query_parameter="t").authenticate(upgrade(**headers))


# Which keys -----------------------------------------------------------------------------------------------------------

FITS = {
    "RSA": "RS256 RS384 RS512 PS256 PS384 PS512",
    "P-256": "ES256",
    "P-384": "ES384",
    "P-521": "ES512",
    "secp256k1": "ES256K",
    "Ed25519": "EdDSA",
    "Ed448": "EdDSA",
}


@pytest.mark.parametrize(("kind", "algorithm"), [(kind, each) for kind, fits in FITS.items() for each in fits.split()])
def test_a_public_key_checks_what_its_kind_signs(kind: str, algorithm: str) -> None:
    token = signed(private_key(kind), algorithm)
    assert JWTAuth(public_pem(kind)).refresh(token).identity == "ann"
    assert JWTAuth(public_pem(kind).encode()).refresh(token).identity == "ann"
    wrong = signed(private_key(f"{kind} other"), algorithm)
    assert refusal(JWTAuth(public_pem(kind)), wrong) == "The token's signature is wrong."


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_secret_checks_every_hmac(algorithm: str) -> None:
    assert JWTAuth(SECRET).refresh(signed(algorithm=algorithm)).identity == "ann"
    assert JWTAuth(SECRET.encode()).refresh(signed(algorithm=algorithm)).identity == "ann"
    assert JWTAuth(secret_jwk()).refresh(signed(algorithm=algorithm)).identity == "ann"
    assert refusal(JWTAuth(SECRET), signed(OTHER_SECRET, algorithm)) == "The token's signature is wrong."


@pytest.mark.parametrize("kind", ["RSA", "P-384", "Ed25519"])
def test_a_jwk_checks_tokens_and_its_own_algorithm_is_the_only_one(kind: str) -> None:
    first, *others = FITS[kind].split()
    assert JWTAuth(public_jwk(kind)).refresh(signed(private_key(kind), first)).identity == "ann"
    narrow = JWTAuth(public_jwk(kind, alg=first))
    assert narrow.refresh(signed(private_key(kind), first)).identity == "ann"
    for other in others:
        assert refusal(narrow, signed(private_key(kind), other)) == "The token's algorithm is not allowed."


def test_of_several_keys_the_one_that_is_named_counts() -> None:
    auth = JWTAuth({"keys": [public_jwk("RSA", "one"), public_jwk("RSA other", "two"), public_jwk("P-256", "three")]})
    assert auth.refresh(signed(private_key("RSA other"), "RS256", kid="two")).identity == "ann"
    assert auth.refresh(signed(private_key("P-256"), "ES256", kid="three")).identity == "ann"
    assert refusal(auth, signed(private_key("RSA other"), "RS256", kid="one")) == "The token's signature is wrong."
    assert refusal(auth, signed(private_key("RSA"), "RS256", kid="three")) == "The token's algorithm is not allowed."
    assert refusal(auth, signed(private_key("RSA"), "RS256", kid="four")) == "The token names a key that is not known here."


def test_a_token_that_names_no_key_is_good_when_any_key_says_so() -> None:
    auth = JWTAuth([public_jwk("RSA", "one"), public_pem("RSA other"), SECRET])
    for key, algorithm in ((private_key("RSA"), "RS256"), (private_key("RSA other"), "PS512"), (SECRET, "HS256")):
        assert auth.refresh(signed(key, algorithm)).identity == "ann"
    assert refusal(auth, signed(private_key("RSA third"), "RS256")) == "The token's signature is wrong."


def test_a_key_without_a_name_may_be_the_one_that_is_named() -> None:
    assert JWTAuth([SECRET, public_jwk("RSA", "one")]).refresh(signed(kid="whatever")).identity == "ann"


def test_keys_of_a_set_that_are_for_something_else_are_left_out() -> None:
    unusable: list[Any] = [
        public_jwk("RSA", "one", use="enc"),
        public_jwk("RSA", "one", key_ops=["encrypt"]),
        public_jwk("RSA", "one", alg="RSA-OAEP"),
        public_jwk("RSA", "one", alg="HS256"),
        public_jwk("P-256", "one", alg="ES384"),
        {"kty": "XYZ", "kid": "one"},
        {"kty": "EC", "crv": "P-256", "kid": "one"},
        "no key at all",
        None,
    ]
    auth = JWTAuth({"keys": [*unusable, public_jwk("RSA", "two", use="sig", key_ops=["verify"])]})
    assert auth.refresh(signed(private_key("RSA"), "RS256", kid="two")).identity == "ann"
    assert refusal(auth, signed(private_key("RSA"), "RS256", kid="one")) == "The token names a key that is not known here."
    for each in unusable:
        with pytest.raises(OptionsError):
            JWTAuth({"keys": [each]})


# What no token gets away with -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["none", "None", "NONE", "nOnE", " none", "none ", ""])
def test_a_token_without_a_signature_is_refused_in_any_spelling(spelling: str) -> None:
    claims = {"sub": "ann", "exp": soon()}
    for key in (SECRET, public_pem("RSA"), {"keys": [secret_jwk(kid="one")]}):
        for sign in (False, True):
            assert (
                refusal(JWTAuth(key), forged({"alg": spelling}, claims, sign=sign)) == "The token's algorithm is not allowed."
            )
    with pytest.raises(OptionsError, match="algorithms="):
        JWTAuth(SECRET, algorithms=["HS256", spelling])


def test_a_public_key_is_never_a_secret() -> None:
    header, claims = {"alg": "HS256"}, {"sub": "ann", "exp": soon()}
    for secret in (public_pem("RSA"), public_pem("RSA").strip()):
        confused = forged(header, claims, secret)
        assert refusal(JWTAuth(public_pem("RSA")), confused) == "The token's algorithm is not allowed."
        assert refusal(JWTAuth([public_pem("RSA"), SECRET]), confused) == "The token's signature is wrong."


def not_secrets() -> dict[str, Any]:
    ssh = private_key("RSA").public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    der = private_key("RSA").public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {
        "PEM in one line": public_pem("RSA").replace("\n", "\\n"),
        "PEM cut short": public_pem("RSA")[:200],
        "PEM of nothing": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        "a certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        "a private key": private_pem("RSA"),
        "a private JWK": json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(private_key("RSA"))) | {"key_ops": ["verify"]},
        "SSH": ssh,
        "DER": der,
        "a URL": "https://issuer.example/.well-known/jwks.json",
        "JSON": json.dumps({"keys": [public_jwk("RSA")]}),
        "PEM in a JWK": secret_jwk(public_pem("RSA")),
        "DSA": public_pem("DSA"),
        "another curve": public_pem("P-224"),
        "empty": "",
        "blank": b" \n",
        "no key of a kind": {"kid": "one"},
        "a set of nothing": {"keys": []},
        "a set of no list": {"keys": {"kty": "oct"}},
        "no list": [],
        "a number": 12345678901234567890,
        "a list in a list": [[SECRET]],
        "a callable in a list": [lambda: SECRET],
        "a name that is no text": secret_jwk() | {"kid": 1},
    }


@pytest.mark.parametrize("what", not_secrets())
def test_what_can_be_no_key_fails_when_it_is_given_and_is_not_shown(what: str) -> None:
    key = not_secrets()[what]
    with pytest.raises(OptionsError) as caught:
        JWTAuth(key)
    text = (
        key.decode(errors="replace")
        if isinstance(key, bytes)
        else key
        if isinstance(key, str)
        else json.dumps(key, default=str)
    )
    shown = str(caught.value).replace("-----BEGIN PUBLIC KEY-----", "").replace("https://", "")
    assert "JWTAuth" in shown
    assert not [text[at : at + 12] for at in range(len(text) - 11) if text[at : at + 12] in shown]
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize("what", ["a private key", "a private JWK"])
def test_who_gives_a_private_key_is_told_what_to_give(what: str) -> None:
    with pytest.raises(OptionsError, match="public half"):
        JWTAuth(not_secrets()[what])


def test_algorithms_narrow_what_a_key_may_be_used_for() -> None:
    auth = JWTAuth(public_pem("RSA"), algorithms=["RS256"])
    assert auth.refresh(signed(private_key("RSA"), "RS256")).identity == "ann"
    assert refusal(auth, signed(private_key("RSA"), "RS512")) == "The token's algorithm is not allowed."
    both = JWTAuth([public_pem("RSA"), SECRET], algorithms=["RS256", "HS512"])
    assert both.refresh(signed(algorithm="HS512")).identity == "ann"
    assert refusal(both, signed(algorithm="HS256")) == "The token's algorithm is not allowed."


@pytest.mark.parametrize(
    ("key", "algorithms"),
    [
        (SECRET, ["RS256"]),
        (SECRET, ["HS256", "RS256"]),
        ("RSA", ["HS256"]),
        ("RSA", ["RS256", "ES256"]),
        ("P-256", "ES384"),
        (SECRET, []),
        (SECRET, ["hs256"]),
        (SECRET, 5),
        (SECRET, [None]),
    ],
)
def test_algorithms_that_fit_no_key_fail_when_they_are_given(key: str, algorithms: Any) -> None:
    with pytest.raises(OptionsError, match="algorithms="):
        JWTAuth(key if key == SECRET else public_pem(key), algorithms=algorithms)


def test_a_token_that_calls_something_critical_is_refused() -> None:
    token = forged({"alg": "HS256", "crit": ["b64"], "b64": True}, {"sub": "ann", "exp": soon()})
    assert refusal(JWTAuth(SECRET), token) == "The token is malformed."


# Claims ---------------------------------------------------------------------------------------------------------------


def test_a_token_counts_until_it_expires_and_a_leeway_longer() -> None:
    past = int(time.time()) - 30
    assert refusal(JWTAuth(SECRET), signed(exp=past)) == "The token has expired."
    assert refusal(JWTAuth(SECRET, leeway=10), signed(exp=past)) == "The token has expired."
    assert JWTAuth(SECRET, leeway=60).refresh(signed(exp=past)).expires_at == past + 60.0


@pytest.mark.parametrize("exp", [253_402_300_800, 10**18, 1e300, 10**306, 10**400], ids=lambda exp: f"{str(exp)[:6]}...")
def test_what_is_later_than_any_date_is_no_time(exp: float) -> None:
    """Nothing that counts with it, or tells a client how long that is, has to cope with it."""
    claims = {"sub": "ann", "exp": exp}
    assert refusal(JWTAuth(SECRET), forged({"alg": "HS256"}, claims)) == "The token is malformed."
    latest = JWTAuth(SECRET).refresh(signed(exp=253_402_300_799))
    assert latest.expires_at == 253_402_300_799


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_token_does_not_count_before_its_time(claim: str) -> None:
    claims: dict[str, Any] = {claim: int(time.time()) + 60}
    assert refusal(JWTAuth(SECRET), signed(**claims)) == "The token is not valid yet."
    assert JWTAuth(SECRET, leeway=120).refresh(signed(**claims)).identity == "ann"


def test_a_token_is_for_an_audience() -> None:
    auth = JWTAuth(SECRET, audience="here")
    assert auth.refresh(signed(aud="here")).identity == "ann"
    assert auth.refresh(signed(aud=["there", "here"])).identity == "ann"
    assert JWTAuth(SECRET, audience=["elsewhere", "here"]).refresh(signed(aud="here")).identity == "ann"
    assert refusal(auth, signed(aud="there")) == "The token is for another audience."
    assert refusal(auth, signed(aud=["there"])) == "The token is for another audience."
    assert refusal(auth, signed()) == 'The token lacks the claim "aud".'
    assert refusal(JWTAuth(SECRET), signed(aud="here")) == "The token is for another audience."


def test_a_token_comes_from_an_issuer() -> None:
    auth = JWTAuth(SECRET, issuer="https://issuer.example")
    assert auth.refresh(signed(iss="https://issuer.example")).identity == "ann"
    assert JWTAuth(SECRET, issuer=("a", "b")).refresh(signed(iss="b")).identity == "ann"
    # A part of it is not it.
    for other in ("https://issuer.example.evil", "https://issuer", "i", "https://issuer.exampl"):
        assert refusal(auth, signed(iss=other)) == "The token comes from another issuer."
    assert refusal(auth, forged({"alg": "HS256"}, {"sub": "a", "exp": soon(), "iss": ["https://issuer.example"]})) == (
        "The token comes from another issuer."
    )
    assert refusal(auth, signed()) == 'The token lacks the claim "iss".'


def test_the_claims_that_are_required_must_be_there() -> None:
    assert refusal(JWTAuth(SECRET), signed(exp=None)) == 'The token lacks the claim "exp".'
    assert refusal(JWTAuth(SECRET), signed(sub=None)) == 'The token lacks the claim "sub".'
    assert refusal(JWTAuth(SECRET, require=["jti"]), signed()) == 'The token lacks the claim "jti".'
    forever = JWTAuth(SECRET, require=())
    assert forever.refresh(signed(exp=None)).expires_at is None
    assert refusal(forever, signed(exp=1)) == "The token has expired."


def test_the_identity_is_a_claim_of_ones_choice() -> None:
    auth = JWTAuth(SECRET, identity_claim="uid")
    assert auth.refresh(signed(uid="u1", sub=None)).identity == "u1"
    assert refusal(auth, signed()) == 'The token lacks the claim "uid".'


def test_an_identity_may_be_a_whole_number_and_nothing_but_that_and_a_text() -> None:
    assert JWTAuth(SECRET).refresh(forged({"alg": "HS256"}, {"sub": 7, "exp": soon()})).identity == 7
    for identity in ("", True, 1.5, [], ["ann"], {"id": "ann"}):
        token = forged({"alg": "HS256"}, {"sub": identity, "exp": soon()})
        assert refusal(JWTAuth(SECRET), token) == "The token is malformed."


@pytest.mark.parametrize(
    ("claim", "heard"),
    [
        ("*", Subscriptions(frozenset(), True)),
        ({}, Subscriptions(frozenset(), False)),
        (None, Subscriptions(frozenset(), False)),
        ({"board_id": []}, Subscriptions(frozenset(), False)),
        ({"board_id": "*"}, Subscriptions(frozenset({("board_id", "*")}), False)),
        (
            {"board_id": ["b1", 2], "project_id": "p1"},
            Subscriptions(frozenset({("board_id", "b1"), ("board_id", "2"), ("project_id", "p1")}), False),
        ),
    ],
)
def test_a_claim_of_rooms_says_what_may_be_heard(claim: Any, heard: Subscriptions) -> None:
    token = signed(rooms=claim)
    assert JWTAuth(SECRET, rooms_claim="rooms").refresh(token).allowed_rooms == heard
    assert JWTAuth(SECRET).refresh(token).allowed_rooms is None


@pytest.mark.parametrize(
    "claim", ["b1", "", ["b1"], ["*"], 5, True, {"board_id": None}, {"board_id": True}, {"board_id": [["b1"]]}]
)
def test_a_malformed_claim_of_rooms_lets_nobody_in(claim: Any) -> None:
    assert refusal(JWTAuth(SECRET, rooms_claim="rooms"), signed(rooms=claim)) == "The token's claim of rooms is malformed."


# Garbage --------------------------------------------------------------------------------------------------------------

GARBAGE: list[Any] = [
    "",
    ".",
    "..",
    "a.b.c",
    "\x00.\ud800.\uffff",
    "é.é.é",
    None,
    5,
    b"bytes",
    ["list"],
    "x" * 1_000_000,
    forged(b'{"a":' + b"[" * 5000, {}),
    forged({"alg": "HS256"}, b"[" * 5000),
    forged(b"[1]", {}),
    forged({"alg": None}, {}),
    forged({"alg": ["HS256"]}, {}),
    forged({"alg": "HS256", "kid": 5}, {}),
    forged({"alg": "HS256", "kid": ["a"]}, {}),
    forged({"alg": "HS256", "b64": False}, {"sub": "ann", "exp": soon()}),
    forged({"alg": "HS256"}, [1]),
    forged({"alg": "HS256"}, b"\xff\xfe"),
    *(
        forged({"alg": "HS256"}, json.dumps({"sub": "ann"}).encode()[:-1] + b', "exp": ' + exp + b"}")
        for exp in (b"NaN", b"Infinity", b"1e999", b"[]", b"{}", b'"soon"', b"true", b"1" + b"0" * 400)
    ),
    *(
        forged({"alg": "HS256"}, {"sub": "ann", "exp": soon(), claim: value})
        for claim in ("nbf", "iat")
        for value in json.loads('["x", [], {}]')
    ),
]


@pytest.mark.parametrize("token", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_refused_as_such(token: Any) -> None:
    assert refusal(JWTAuth(SECRET), token) in ("The token is malformed.", "The token has expired.")


def test_a_good_token_that_is_too_long_is_refused() -> None:
    assert JWTAuth(SECRET).refresh(signed(more="x" * 8000)).identity == "ann"
    assert refusal(JWTAuth(SECRET), signed(more="x" * 16384)) == "The token is malformed."


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    ["alg", "kid", "crit", "typ", "b64", "sub", "exp", "nbf", "iat", "aud", "iss", "jti", "rooms", "jwk", "x5u"]
)
OBJECTS = st.dictionaries(NAMES | st.text(), JSON, max_size=6)
ALGS = st.sampled_from(["HS256", "RS256", "ES256", "EdDSA", "none", "NONE"])


def texts(value: Any) -> Iterator[str]:
    """Find every text in JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from texts(each)
    elif isinstance(value, dict):
        for name, each in value.items():
            yield name
            yield from texts(each)


@cache
def wary() -> JWTAuth:
    return JWTAuth(
        [SECRET, public_jwk("RSA", "one"), public_pem("P-256")], audience="here", issuer="issuer", rooms_claim="rooms", leeway=5
    )


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text("abc._-=0{}\"'", max_size=60) | st.binary().map(lambda data: data.decode("latin-1")))
def test_no_text_is_answered_with_anything_but_a_refusal(token: str) -> None:
    assert refusal(wary(), token) == "The token is malformed."


@settings(max_examples=100, deadline=None)
@given(OBJECTS, OBJECTS, ALGS, st.booleans())
def test_no_token_without_a_right_signature_is_let_in(header: Any, claims: Any, algorithm: str, sign: bool) -> None:
    good = {"sub": "ann", "exp": soon(), "aud": "here", "iss": "issuer"}
    refusal(wary(), forged({**header, "alg": algorithm}, {**claims, **good}, OTHER_SECRET, sign))


@settings(max_examples=150, deadline=None)
@given(OBJECTS, st.lists(NAMES, unique=True), st.booleans())
def test_whatever_a_signed_token_claims_it_is_let_in_or_refused(claims: Any, dropped: list[str], good: bool) -> None:
    if good:
        claims = {**claims, "sub": "ann", "exp": soon(), "aud": "here", "iss": "issuer"}
    claims = {name: value for name, value in claims.items() if good or name not in dropped}
    token = forged({"alg": "HS256"}, claims)
    try:
        found = wary().refresh(token)
    except AuthError as error:
        assert not [text for text in texts(list(claims.values())) if len(text) > 8 and text in str(error)]
        assert error.__context__ is None
    else:
        assert found.identity == claims["sub"]
        assert (claims["aud"], claims["iss"]) == ("here", "issuer")


# Keys that change -----------------------------------------------------------------------------------------------------


class Shelf:
    """Be where an app keeps its keys, and count who asks."""

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
    shelf = Shelf(hmac_jwk("a"))
    auth = JWTAuth(shelf)
    assert shelf.asked == 0
    assert auth.refresh(hmac_token("a")).identity == "ann"
    shelf.given = [hmac_jwk("a"), hmac_jwk("b")]
    clock.now += 11
    assert auth.refresh(hmac_token("b")).identity == "ann"
    assert auth.refresh(hmac_token("a")).identity == "ann"
    assert shelf.asked == 2


def test_a_key_that_is_taken_away_counts_until_its_lifespan_is_over(clock: Clock) -> None:
    shelf = Shelf(hmac_jwk("a"))
    auth = JWTAuth(shelf, key_lifespan=100)
    assert auth.refresh(hmac_token("a")).identity == "ann"
    shelf.given = [hmac_jwk("b")]
    clock.now += 99
    assert auth.refresh(hmac_token("a")).identity == "ann"
    clock.now += 1
    assert refusal(auth, hmac_token("a")) == "The token names a key that is not known here."
    assert shelf.asked == 2


def test_made_up_key_ids_do_not_hammer_where_the_keys_are(clock: Clock) -> None:
    shelf = Shelf(hmac_jwk("a"))
    auth = JWTAuth(shelf)
    for second in range(20):
        for number in range(5):
            assert refusal(auth, signed(kid=f"{second}-{number}")) == "The token names a key that is not known here."
        clock.now += 1
    assert shelf.asked == 2


def test_tokens_of_other_algorithms_do_not_have_keys_asked_for(clock: Clock) -> None:
    shelf = Shelf(hmac_jwk("a"))
    auth = JWTAuth(shelf, algorithms="HS256")
    assert refusal(auth, signed(private_key("RSA"), "RS256", kid="b")) == "The token's algorithm is not allowed."
    assert refusal(auth, forged({"alg": "none", "kid": "b"}, {})) == "The token's algorithm is not allowed."
    assert shelf.asked == 0


@pytest.mark.parametrize(
    "trouble",
    [RuntimeError("down"), None, "", [], {"keys": []}, public_pem("RSA")[:100], [5]],
    ids=["raises", "nothing", "empty", "no keys", "an empty set", "half a key", "a number"],
)
def test_while_no_new_keys_come_the_old_ones_stand(clock: Clock, trouble: Any, caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf(hmac_jwk("a"))
    auth = JWTAuth(shelf, key_lifespan=100)
    assert auth.refresh(hmac_token("a")).identity == "ann"
    shelf.given = trouble
    clock.now += 100
    assert auth.refresh(hmac_token("a")).identity == "ann"
    assert auth.refresh(hmac_token("a")).identity == "ann"
    assert shelf.asked == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert encoded(b"a" * 64) not in caplog.text
    shelf.given = [hmac_jwk("b")]
    clock.now += 10
    assert refusal(auth, hmac_token("a")) == "The token names a key that is not known here."


def test_without_any_key_nobody_comes_in_and_keys_are_asked_for_again_later(clock: Clock) -> None:
    shelf = Shelf()
    auth = JWTAuth(shelf)
    for _ in range(5):
        assert refusal(auth, hmac_token("a")) == "Tokens cannot be checked at the moment: try again later."
    assert shelf.asked == 1
    shelf.given = [hmac_jwk("a")]
    clock.now += 10
    assert auth.refresh(hmac_token("a")).identity == "ann"


def test_keys_that_fit_none_of_the_algorithms_given_are_no_keys(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    auth = JWTAuth(Shelf(public_jwk("RSA", "a")), algorithms=["HS256"])
    assert refusal(auth, hmac_token("a")) == "Tokens cannot be checked at the moment: try again later."
    assert "JWTAuth(algorithms=['HS256'])" in caplog.text


def test_one_thread_asks_and_those_who_need_the_answer_wait_for_it(clock: Clock) -> None:
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


def test_who_has_a_key_does_not_wait_for_new_ones(clock: Clock) -> None:
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
        # It would come back only with what ``answer`` brings.
        assert auth.refresh(hmac_token("a")).identity == "ann"
        assert asking.is_alive()
    finally:
        answer.set()
        asking.join(AT_MOST)


def test_made_up_key_ids_hold_up_nobody_for_long_while_keys_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "PAUSE", 0.0)
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
        # They go although there is no answer yet.
        assert (len(waited), asking.is_alive()) == (8, True)
        # Whoever comes later does not wait at all.
        guess(9)
        assert waited[-1] < keys.SHORT_PATIENCE / 2
        assert auth.refresh(hmac_token("a")).identity == "ann"
    finally:
        answer.set()
        for thread in (asking, *others):
            thread.join(AT_MOST)


class Issuer(NamedTuple):
    """Be a server of keys: what it answers, and who has asked."""

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
    ("status", "body"), [(500, b""), (404, b"not here"), (200, b"<html>"), (200, b"[]"), (200, b"{}"), (200, {"keys": []})]
)
def test_a_url_that_fails_leaves_the_old_keys(clock: Clock, issuer: Issuer, status: int, body: Any) -> None:
    issuer.answers["body"] = {"keys": [public_jwk("RSA", "one")]}
    auth, token = JWTAuth(jwks_url=issuer.url), signed(private_key("RSA"), "RS256", kid="one")
    assert auth.refresh(token).identity == "ann"
    issuer.answers.update(status=status, body=body)
    clock.now += 1000
    assert auth.refresh(token).identity == "ann"
    assert len(issuer.asked) == 2


def test_a_secret_from_a_url_is_no_key(clock: Clock, issuer: Issuer) -> None:
    issuer.answers["body"] = {"keys": [hmac_jwk("a"), public_jwk("RSA", "one")]}
    auth = JWTAuth(jwks_url=issuer.url)
    assert refusal(auth, hmac_token("a")) == "The token names a key that is not known here."
    assert auth.refresh(signed(private_key("RSA"), "RS256", kid="one")).identity == "ann"


def test_a_url_that_never_answers_holds_nobody_longer_than_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        auth = JWTAuth(jwks_url=f"http://127.0.0.1:{silent.getsockname()[1]}/", fetch_timeout=0.2)
        started = time.monotonic()
        assert refusal(auth, hmac_token("a")) == "Tokens cannot be checked at the moment: try again later."
        assert time.monotonic() - started < AT_MOST


@contextmanager
def dripping(monkeypatch: pytest.MonkeyPatch, head: bytes, drop: bytes, every: float = 0.0) -> Iterator[tuple[str, list[int]]]:
    """Be a server of keys that goes on and on, and count the bytes that were taken."""
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
def test_a_url_that_drips_is_given_its_timeout_and_no_more(monkeypatch: pytest.MonkeyPatch, head: bytes, drop: bytes) -> None:
    """Each byte comes in time; what counts is how long it takes in all, for the lock is held meanwhile."""
    with dripping(monkeypatch, head, drop, every=0.05) as (url, _):
        auth, reasons = JWTAuth(jwks_url=url, fetch_timeout=0.5), []
        asking = threading.Thread(target=lambda: reasons.append(refusal(auth, hmac_token("a"))))
        asking.start()
        asking.join(AT_MOST / 2)
        given_up = not asking.is_alive()
    asking.join(AT_MOST)
    assert (given_up, reasons) == (True, ["Tokens cannot be checked at the moment: try again later."])


@pytest.mark.parametrize("head", [ANSWER + b"\r\n", ANSWER + b"Content-Length: 99999999999\r\n\r\n"], ids=["open", "huge"])
def test_a_url_that_never_ends_is_read_no_further_than_keys_may_take(monkeypatch: pytest.MonkeyPatch, head: bytes) -> None:
    with dripping(monkeypatch, head, b" " * 65536) as (url, sent):
        auth = JWTAuth(jwks_url=url, fetch_timeout=AT_MOST)
        began = time.monotonic()
        assert refusal(auth, hmac_token("a")) == "Tokens cannot be checked at the moment: try again later."
        assert time.monotonic() - began < AT_MOST
    # 1 MiB, and what the kernel holds on its way
    assert sent[0] < 16 << 20


# How it is made -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"leeway": -1},
        {"leeway": "5"},
        {"leeway": float("nan")},
        {"leeway": float("inf")},
        {"leeway": True},
        {"key_lifespan": 5},
        {"fetch_timeout": 0},
        {"audience": ""},
        {"audience": []},
        {"audience": 5},
        {"issuer": [None]},
        {"identity_claim": ""},
        {"identity_claim": None},
        {"require": [""]},
        {"require": 5},
        {"rooms_claim": ""},
        {"rooms_claim": True},
        {"query_parameter": ""},
        {"query_parameter": True},
    ],
)
def test_a_setting_that_cannot_work_fails_when_it_is_given(settings: dict[str, Any]) -> None:
    name, value = next(iter(settings.items()))
    with pytest.raises(OptionsError) as caught:
        JWTAuth(SECRET, **settings)
    assert f"JWTAuth({name}={value!r})" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_keys_are_given_in_one_way(clock: Clock) -> None:
    for key, url in ((None, None), (SECRET, "https://issuer.example/jwks.json")):
        with pytest.raises(OptionsError, match="one of the two"):
            JWTAuth(key, jwks_url=url)


@pytest.mark.parametrize(
    "url", ["issuer.example/jwks.json", "file:///etc/passwd", "ftp://issuer.example/", "https://", "http:///x", 5]
)
def test_only_a_url_of_the_web_is_fetched_from(url: Any) -> None:
    with pytest.raises(OptionsError, match="jwks_url"):
        JWTAuth(jwks_url=url)


def test_no_secret_can_be_wanted_from_a_url() -> None:
    with pytest.raises(OptionsError, match="no secret"):
        JWTAuth(jwks_url="https://issuer.example/jwks.json", algorithms=["RS256", "HS256"])


def warnings_of(caplog: pytest.LogCaptureFixture, make: Callable[[], JWTAuth]) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "cartows"):
        make()
    return [record.message for record in caplog.records if record.name == "cartows"]


def test_keys_that_can_be_found_out_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    for weak in ("x" * 31, b"x" * 31, secret_jwk("x" * 31), public_pem("short"), ["x" * 31, "y" * 31]):
        (warning,) = warnings_of(caplog, lambda weak=weak: JWTAuth(weak))  # type: ignore[misc]
        assert "can be found out" in warning
        assert "xxx" not in warning
    for strong in ("x" * 32, secret_jwk("x" * 32), public_pem("RSA"), public_pem("P-256"), public_pem("Ed25519")):
        assert warnings_of(caplog, lambda strong=strong: JWTAuth(strong)) == []  # type: ignore[misc]


def test_keys_that_change_are_warned_of_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf("x" * 31)
    auth = JWTAuth(shelf, key_lifespan=10)
    for _ in range(3):
        refusal(auth, signed("y" * 64))
        clock.now += 10
    assert (shelf.asked, len(caplog.records)) == (3, 1)


def test_keys_from_an_unprotected_url_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(caplog, lambda: JWTAuth(jwks_url="https://issuer.example/")) == []
    (warning,) = warnings_of(caplog, lambda: JWTAuth(jwks_url="http://issuer.example/"))
    assert "https" in warning


def test_an_authenticator_shows_no_key() -> None:
    pem = public_pem("RSA")
    auth = JWTAuth([SECRET, pem])
    for shown in (repr(auth), str(auth), repr(auth._keys), repr(JWTAuth(lambda: SECRET))):
        assert SECRET not in shown
        assert pem[40:60] not in shown
    assert repr(auth) == "JWTAuth(2 keys)"


@pytest.mark.parametrize("found", [None, types.ModuleType("jwt")])
def test_without_pyjwt_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    monkeypatch.setitem(sys.modules, "jwt", found)
    with pytest.raises(OptionsError, match=r"pip install 'cartows\[jwt\]'"):
        JWTAuth(SECRET)


def test_without_cryptography_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pem = public_pem("RSA")
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.serialization", None)
    with pytest.raises(OptionsError, match=r"pip install 'cartows\[jwt\]'"):
        JWTAuth(pem)
    assert JWTAuth(SECRET).refresh(signed()).identity == "ann"


# Flask-Login ----------------------------------------------------------------------------------------------------------


class User(flask_login.UserMixin):  # type: ignore[misc,unused-ignore]
    #: Who is authenticated may be inactive all the same; by default Flask-Login takes the one for the other.
    is_authenticated = True

    def __init__(self, id: str) -> None:
        self.id = id
        self.active = True

    @property
    def is_active(self) -> bool:
        return self.active


class Staff(User):
    def get_code(self) -> str:
        return f"code of {self.id}"


class StandInHub:
    """Take the place of a hub where somebody is put out."""

    def __init__(self) -> None:
        self.put_out: list[dict[str, Any]] = []
        self.trouble: Exception | None = None

    def disconnect(self, **arguments: Any) -> int:
        self.put_out.append(arguments)
        if self.trouble is not None:
            raise self.trouble
        return 1


class Site(NamedTuple):
    app: Flask
    users: dict[str, Any]
    auth: FlaskLoginAuth
    manager: Any


@contextmanager
def site(user_loader: bool = True) -> Iterator[Site]:
    app = Flask(__name__)
    app.secret_key = "not a secret"
    manager = flask_login.LoginManager(app)
    users: dict[str, Any] = {name: Staff(name) for name in ("ann", "bob")}
    auth = FlaskLoginAuth()
    if user_loader:
        manager.user_loader(lambda id: users.get(id.removeprefix("code of ")))
    else:
        manager.request_loader(lambda request: users.get(request.headers.get("X-User", "")))

    @app.get("/login/<name>")
    def login(name: str) -> str:
        return str(flask_login.login_user(users[name]))

    @app.get("/logout")
    def logout() -> str:
        return str(flask_login.logout_user())

    @app.get("/ws")
    def connect() -> tuple[str, int]:
        try:
            found = auth.authenticate(request)
        except AuthError as error:
            return str(error), 401
        return repr(tuple(found)), 200

    yield Site(app, users, auth, manager)


def test_who_is_logged_in_may_connect_and_nobody_else() -> None:
    with site() as (app, _, _, _):
        browser = app.test_client()
        refused = browser.get("/ws")
        assert (refused.status_code, refused.text) == (401, "Nobody is logged in: log in, then connect.")
        browser.get("/login/ann")
        assert browser.get("/ws").text == repr(("ann", None, None, None))
        assert app.test_client().get("/ws").status_code == 401
        browser.get("/logout")
        assert browser.get("/ws").status_code == 401


def test_who_became_inactive_or_was_deleted_may_not_connect() -> None:
    with site() as (app, users, _, _):
        browser = app.test_client()
        browser.get("/login/ann")
        users["ann"].active = False
        assert browser.get("/ws").status_code == 401
        users["ann"].active = True
        assert browser.get("/ws").status_code == 200
        del users["ann"]
        assert browser.get("/ws").status_code == 401


def test_a_user_who_became_inactive_or_was_deleted_may_not_stay() -> None:
    with site() as (app, users, auth, _), app.app_context():
        ann, bob = Credentials("ann"), Credentials("bob")
        assert (auth.is_valid(ann), auth.is_valid(bob)) == (True, True)
        users["ann"].active = False
        assert (auth.is_valid(ann), auth.is_valid(bob)) == (False, True)
        users["ann"].active = True
        del users["bob"]
        assert (auth.is_valid(ann), auth.is_valid(bob)) == (True, False)


def test_an_app_that_only_looks_at_requests_cannot_tell_who_may_not_stay() -> None:
    with site(user_loader=False) as (app, users, auth, _):
        assert app.test_client().get("/ws", headers={"X-User": "ann"}).status_code == 200
        assert app.test_client().get("/ws").status_code == 401
        users.clear()
        with app.app_context():
            assert auth.is_valid(Credentials("ann"))


def test_a_logout_puts_that_users_sockets_out_of_every_hub_once() -> None:
    with site() as (app, _, auth, _):
        hubs = [StandInHub(), StandInHub()]
        for hub in (*hubs, *hubs):
            auth.init_hub(cast(Any, hub))
        browser = app.test_client()
        browser.get("/login/ann")
        assert [hub.put_out for hub in hubs] == [[], []]
        browser.get("/logout")
        gone = {"identity": "ann", "code": 3005, "reason": "logged out"}
        assert [hub.put_out for hub in hubs] == [[gone], [gone]]


def test_the_logout_of_nobody_puts_nobody_out() -> None:
    with site() as (app, _, auth, _):
        hub = StandInHub()
        auth.init_hub(cast(Any, hub))
        assert app.test_client().get("/logout").status_code == 200
        assert hub.put_out == []


def test_a_logout_succeeds_when_the_hub_does_not(caplog: pytest.LogCaptureFixture) -> None:
    with site() as (app, _, auth, _):
        hub = StandInHub()
        hub.trouble = RuntimeError("the hub was shut down")
        auth.init_hub(cast(Any, hub))
        browser = app.test_client()
        browser.get("/login/ann")
        assert browser.get("/logout").status_code == 200
        assert len(hub.put_out) == 1
        assert "could not put out" in caplog.text
        assert browser.get("/ws").status_code == 401


def test_a_hub_is_not_kept_for_the_sake_of_logouts() -> None:
    with site() as (_, _, auth, _):
        before = len(flask_login.user_logged_out.receivers)
        hub = StandInHub()
        auth.init_hub(cast(Any, hub))
        assert len(flask_login.user_logged_out.receivers) == before + 1
        del hub
        gc.collect()
        assert len(flask_login.user_logged_out.receivers) == before


def test_the_identity_is_what_the_session_holds() -> None:
    with site() as (app, _, auth, manager):
        manager.id_attribute = "get_code"
        hub = StandInHub()
        auth.init_hub(cast(Any, hub))
        browser = app.test_client()
        browser.get("/login/ann")
        assert browser.get("/ws").text == repr(("code of ann", None, None, None))
        with app.app_context():
            assert auth.is_valid(Credentials("code of ann"))
        browser.get("/logout")
        assert [each["identity"] for each in hub.put_out] == ["code of ann"]


def test_an_app_without_a_login_manager_is_told_so() -> None:
    with Flask(__name__).test_request_context("/ws"), pytest.raises(OptionsError, match="LoginManager"):
        FlaskLoginAuth().authenticate(request)


def test_sessions_are_looked_at_as_often_as_one_likes() -> None:
    assert (FlaskLoginAuth().recheck_interval, FlaskLoginAuth(5).recheck_interval, FlaskLoginAuth(None).recheck_interval) == (
        60.0,
        5.0,
        None,
    )
    for every in (0, -1, "60", True, float("nan"), float("inf")):
        with pytest.raises(OptionsError, match="recheck_interval="):
            FlaskLoginAuth(cast(Any, every))


def test_a_session_cannot_be_refreshed_by_a_token() -> None:
    with pytest.raises(AuthError, match="connect again"):
        FlaskLoginAuth().refresh(signed())


def test_without_flask_login_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flask_login", None)
    with pytest.raises(OptionsError, match=r"pip install 'cartows\[login\]'"):
        FlaskLoginAuth()
