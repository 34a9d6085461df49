"""Keys: which token each checks, what can be no key, and that no error shows one."""

from __future__ import annotations

import base64
import json
import secrets
import sys
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cartows.auth import JWTAuth
from cartows.errors import OptionsError
from tests.support.tokens import (
    OTHER_SECRET,
    SECRET,
    private_key,
    private_pem,
    public_jwk,
    public_pem,
    refusal,
    secret_jwk,
    signed,
)

# Which token a key checks ---------------------------------------------------------------------------------------------


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


def test_a_token_that_names_no_key_is_checked_with_each() -> None:
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


# What can be no key ---------------------------------------------------------------------------------------------------


def _der(kind: str) -> bytes:
    made: bytes = private_key(kind).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return made


def not_secrets() -> dict[str, Any]:
    ssh = private_key("RSA").public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    der, pkcs1 = _der("RSA"), private_key("RSA").public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    return {
        "PEM in one line": public_pem("RSA").replace("\n", "\\n"),
        "PEM cut short": public_pem("RSA")[:200],
        "PEM of nothing": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        "a certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        "a private key": private_pem("RSA"),
        "a private JWK": json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(private_key("RSA"))) | {"key_ops": ["verify"]},
        "SSH": ssh,
        "DER": der,
        "base64 of DER": base64.b64encode(der).decode(),
        "base64 of DER in lines": base64.encodebytes(der),
        "base64 of DER for URLs": base64.urlsafe_b64encode(der).rstrip(b"="),
        "hexadecimal DER": der.hex(),
        "base64 of DER of PKCS #1": base64.b64encode(pkcs1),
        "base64 of DER of EC": base64.b64encode(_der("P-256")),
        "base64 of DER of Ed25519": base64.b64encode(_der("Ed25519")).decode(),
        "base64 of a private key": "".join(private_pem("RSA").splitlines()[1:-1]),
        "base64 of PEM": base64.b64encode(public_pem("RSA").encode()),
        "base64 of JSON": base64.b64encode(json.dumps({"keys": [public_jwk("RSA")]}).encode()).decode(),
        "base64 of SSH": ssh.split()[1],
        "JSON that is too deep": "[" * 100_000,
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
        "a name that is no string": secret_jwk() | {"kid": 1},
    }


def test_without_cryptography_a_public_key_in_base64_is_no_secret_either(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [base64.b64encode(_der(kind)) for kind in ("RSA", "P-256", "Ed25519")]
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.serialization", None)
    for key in keys:
        with pytest.raises(OptionsError, match="a public key"):
            JWTAuth(key)


@pytest.mark.parametrize("encode", [bytes, base64.b64encode, base64.urlsafe_b64encode, bytes.hex])
def test_a_random_secret_is_one_in_whatever_encoding(encode: Any) -> None:
    for _ in range(200):
        secret = encode(secrets.token_bytes(64))
        assert JWTAuth(secret).refresh(signed(secret)).identity == "ann"


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
def test_a_private_key_is_refused_with_the_remedy(what: str) -> None:
    with pytest.raises(OptionsError, match="public half"):
        JWTAuth(not_secrets()[what])


# Weak keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "secret", ["x" * 31, b"x" * 31, secret_jwk("x" * 31), ["x" * 31]], ids=["text", "bytes", "JWK", "list"]
)
def test_a_secret_that_is_shorter_than_every_hash_is_refused(secret: Any) -> None:
    with pytest.raises(OptionsError, match=r"a secret of 31 bytes.*RFC 7518.*token_urlsafe") as caught:
        JWTAuth(secret)
    assert "xxx" not in str(caught.value)


def test_an_rsa_key_that_is_too_short_is_refused() -> None:
    for key in (public_pem("short"), public_jwk("short"), {"keys": [public_jwk("short")]}):
        with pytest.raises(OptionsError, match="an RSA key of 1024 bits"):
            JWTAuth(key)


@pytest.mark.filterwarnings("ignore:The HMAC key is")
@pytest.mark.parametrize(("size", "fitting"), [(32, 1), (47, 1), (48, 2), (63, 2), (64, 3)])
def test_a_secret_is_for_the_hashes_that_are_no_longer(size: int, fitting: int, caplog: pytest.LogCaptureFixture) -> None:
    secret, names = "x" * size, ["HS256", "HS384", "HS512"]
    with caplog.at_level("INFO", "cartows"):
        auths = [JWTAuth(secret), JWTAuth(secret_jwk(secret))]
    assert [record.message.count("HS") for record in caplog.records] == [3 - fitting] * 2 if fitting < 3 else not caplog.records
    for auth in auths:
        for name in names[:fitting]:
            assert auth.refresh(signed(secret, name)).identity == "ann"
        for name in names[fitting:]:
            assert refusal(auth, signed(secret, name)) == "The token's algorithm is not allowed."
            with pytest.raises(OptionsError, match="as long as its hash"):
                JWTAuth(secret, algorithms=["HS256", name])
            with pytest.raises(OptionsError, match="length"):
                JWTAuth(secret_jwk(secret, alg=name))


# Dependencies ---------------------------------------------------------------------------------------------------------


def test_without_cryptography_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    pem = public_pem("RSA")
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.serialization", None)
    with pytest.raises(OptionsError, match=r"pip install 'cartows\[jwt\]'"):
        JWTAuth(pem)
    assert JWTAuth(SECRET).refresh(signed()).identity == "ann"
