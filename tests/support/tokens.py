"""Keys and JSON Web Tokens, good and forged, and what a JWTAuth makes of them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from cartows.auth import JWTAuth
from cartows.errors import AuthError

SECRET = "a secret of sixty-four bytes, which is enough for HS512 as well!"
OTHER_SECRET = SECRET[::-1]


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
    name = {"R": "RSAAlgorithm", "s": "RSAAlgorithm", "P": "ECAlgorithm", "E": "OKPAlgorithm"}[kind[0]]
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
    """Return a valid token, apart from the claims that are given; a claim of None is left out."""
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
    """Return the reason for which a token is refused; neither it nor the error's context may contain a part of the token."""
    with pytest.raises(AuthError) as caught:
        authenticator.refresh(token)
    reason = str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    if isinstance(token, str):
        assert not [token[at : at + 9] for at in range(len(token) - 8) if token[at : at + 9] in reason]
    return reason


def warnings_of(caplog: pytest.LogCaptureFixture, make: Callable[[], JWTAuth]) -> list[str]:
    """Return the warnings that are logged while an authenticator is made."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, "cartows"):
        make()
    return [record.message for record in caplog.records if record.name == "cartows"]


class Clock:
    """A clock that a test moves, in place of ``time.monotonic``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
