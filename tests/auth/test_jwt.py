"""JSON Web Tokens: where a request carries one, which are valid, and that no refusal repeats what was sent."""

from __future__ import annotations

import json
import sys
import time
import types
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cartows.auth import JWTAuth
from cartows.auth.base import Credentials
from cartows.errors import AuthError, OptionsError
from cartows.rooms import Subscriptions
from tests.support.tokens import (
    OTHER_SECRET,
    SECRET,
    Clock,
    forged,
    private_key,
    public_jwk,
    public_pem,
    refusal,
    secret_jwk,
    signed,
    soon,
    upgrade,
)

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
def test_a_refusal_without_a_token_says_how_to_send_one(headers: dict[str, str]) -> None:
    with pytest.raises(AuthError) as caught:
        JWTAuth(SECRET).authenticate(upgrade(**headers))
    assert "Authorization: Bearer" in str(caught.value)
    assert "cartows, bearer." in str(caught.value)
    assert "?" not in str(caught.value)
    with pytest.raises(AuthError, match=r"\?t=TOKEN"):
        JWTAuth(SECRET, query_parameter="t").authenticate(upgrade(**headers))


# Signatures and algorithms --------------------------------------------------------------------------------------------


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


def test_a_token_with_a_critical_extension_is_refused() -> None:
    token = forged({"alg": "HS256", "crit": ["b64"], "b64": True}, {"sub": "ann", "exp": soon()})
    assert refusal(JWTAuth(SECRET), token) == "The token is malformed."


# Claims ---------------------------------------------------------------------------------------------------------------


def test_a_token_counts_until_it_expires_and_a_leeway_longer() -> None:
    past = int(time.time()) - 30
    assert refusal(JWTAuth(SECRET), signed(exp=past)) == "The token has expired."
    assert refusal(JWTAuth(SECRET, leeway=10), signed(exp=past)) == "The token has expired."
    assert JWTAuth(SECRET, leeway=60).refresh(signed(exp=past)).expires_at == past + 60.0


@pytest.mark.parametrize("exp", [253_402_300_800, 10**18, 1e300, 10**306, 10**400], ids=lambda exp: f"{str(exp)[:6]}...")
def test_an_expiry_after_the_year_9999_is_malformed(exp: float) -> None:
    """No timer, and no message to the client, has to cope with such a number."""
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


def test_the_identity_claim_can_be_chosen() -> None:
    auth = JWTAuth(SECRET, identity_claim="uid")
    assert auth.refresh(signed(uid="u1", sub=None)).identity == "u1"
    assert refusal(auth, signed()) == 'The token lacks the claim "uid".'


def test_the_subject_is_a_string_and_another_claim_may_be_an_integer() -> None:
    assert JWTAuth(SECRET, identity_claim="uid").refresh(signed(uid=7)).identity == 7
    # Each looks like the user "1", or like no user.
    for identity in (1, True, " 1", "1 ", "1\n", "\u20031", "", " ", 1.0, None, [], ["1"], {"id": "1"}, "a\nb", "x" * 1025):
        for claim in ("sub", "uid") if identity != 1 or type(identity) is not int else ("sub",):
            token = forged({"alg": "HS256"}, {"sub": "ann", claim: identity, "exp": soon()})
            assert refusal(JWTAuth(SECRET, identity_claim=claim), token) == (
                "The token is malformed." if identity is not None else f'The token lacks the claim "{claim}".'
            )


@pytest.mark.parametrize(
    ("claim", "allowed"),
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
def test_a_claim_of_rooms_is_what_may_be_subscribed_to(claim: Any, allowed: Subscriptions) -> None:
    token = signed(rooms=claim)
    assert JWTAuth(SECRET, rooms_claim="rooms").refresh(token).allowed_rooms == allowed
    assert JWTAuth(SECRET).refresh(token).allowed_rooms is None


@pytest.mark.parametrize(
    "claim", ["b1", "", ["b1"], ["*"], 5, True, {"board_id": None}, {"board_id": True}, {"board_id": [["b1"]]}]
)
def test_a_malformed_claim_of_rooms_is_refused(claim: Any) -> None:
    assert refusal(JWTAuth(SECRET, rooms_claim="rooms"), signed(rooms=claim)) == "The token's claim of rooms is malformed."


# Malformed tokens -----------------------------------------------------------------------------------------------------


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


def strings(value: Any) -> Iterator[str]:
    """Yield every string in JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)
    elif isinstance(value, dict):
        for name, each in value.items():
            yield name
            yield from strings(each)


@cache
def strict() -> JWTAuth:
    return JWTAuth(
        [SECRET, public_jwk("RSA", "one"), public_pem("P-256")], audience="here", issuer="issuer", rooms_claim="rooms", leeway=5
    )


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text("abc._-=0{}\"'", max_size=60) | st.binary().map(lambda data: data.decode("latin-1")))
def test_every_string_that_is_no_token_is_refused(token: str) -> None:
    assert refusal(strict(), token) == "The token is malformed."


@settings(max_examples=100, deadline=None)
@given(OBJECTS, OBJECTS, ALGS, st.booleans())
def test_every_token_without_a_valid_signature_is_refused(header: Any, claims: Any, algorithm: str, sign: bool) -> None:
    good = {"sub": "ann", "exp": soon(), "aud": "here", "iss": "issuer"}
    refusal(strict(), forged({**header, "alg": algorithm}, {**claims, **good}, OTHER_SECRET, sign))


@settings(max_examples=150, deadline=None)
@given(OBJECTS, st.lists(NAMES, unique=True), st.booleans())
def test_whatever_a_signed_token_claims_it_is_admitted_or_refused(claims: Any, dropped: list[str], good: bool) -> None:
    if good:
        claims = {**claims, "sub": "ann", "exp": soon(), "aud": "here", "iss": "issuer"}
    claims = {name: value for name, value in claims.items() if good or name not in dropped}
    token = forged({"alg": "HS256"}, claims)
    try:
        found = strict().refresh(token)
    except AuthError as error:
        assert not [text for text in strings(list(claims.values())) if len(text) > 8 and text in str(error)]
        assert error.__context__ is None
    else:
        assert found.identity == claims["sub"]
        assert (claims["aud"], claims["iss"]) == ("here", "issuer")


# Arguments ------------------------------------------------------------------------------------------------------------


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


def test_an_authenticator_shows_no_key() -> None:
    pem = public_pem("RSA")
    auth = JWTAuth([SECRET, pem])
    for shown in (repr(auth), str(auth), repr(auth._keys), repr(JWTAuth(lambda: SECRET))):
        assert SECRET not in shown
        assert pem[40:60] not in shown
    assert repr(auth) == "JWTAuth(2 keys)"


@pytest.mark.parametrize("found", [None, types.ModuleType("jwt")])
def test_without_pyjwt_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    monkeypatch.setitem(sys.modules, "jwt", found)
    with pytest.raises(OptionsError, match=r"pip install 'cartows\[jwt\]'"):
        JWTAuth(SECRET)
