"""Good tokens, and forged ones: each is one step from a good one and must be refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

Claims = dict[str, Any]


class Issuer:
    """The issuer, which signs the good ones."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = self.key.public_key()
        subject = serialization.PublicFormat.SubjectPublicKeyInfo
        self.pem: bytes = public.public_bytes(serialization.Encoding.PEM, subject)
        self.der: bytes = public.public_bytes(serialization.Encoding.DER, subject)

    def token(self, algorithm: str = "RS256", headers: Claims | None = None, **claims: Any) -> str:
        return str(jwt.encode(claims_of(**claims), self.key, algorithm, headers=headers))


def claims_of(**claims: Any) -> Claims:
    """Return good claims with some replaced; None leaves one out."""
    now = int(time.time())
    good = {"sub": "ann", "aud": "hostile", "iss": "tests", "iat": now, "exp": now + 600, "rooms": "*"}
    return {name: value for name, value in {**good, **claims}.items() if value is not None}


def part(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def by_hand(header: Claims, claims: Claims, sign: Callable[[bytes], bytes]) -> str:
    """Return a token with any header, claims and signature, as no library would make it."""
    signed = f"{part(header)}.{part(claims)}"
    return f"{signed}.{part(sign(signed.encode()))}"


def keyed(secret: bytes, digest: str = "sha256") -> Callable[[bytes], bytes]:
    return lambda data: hmac.new(secret, data, getattr(hashlib, digest)).digest()


def with_swapped_user(issuer: Issuer) -> str:
    head, _, signature = issuer.token().split(".")
    return f"{head}.{part(claims_of(sub='root'))}.{signature}"


def with_key_inside(issuer: Issuer, header: str) -> str:
    """Return a token whose header holds its own key, or the URL of that key."""
    own = Issuer()
    numbers = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(own.key.public_key()))
    return own.token(headers={header: numbers if header == "jwk" else "http://127.0.0.1:9/keys.json"})


NOW = int(time.time())

FORGED: dict[str, Callable[[Issuer], str]] = {
    "no algorithm": lambda issuer: by_hand({"alg": "none", "typ": "JWT"}, claims_of(), lambda data: b""),
    "no algorithm, written oddly": lambda issuer: by_hand({"alg": "nOnE"}, claims_of(), lambda data: b""),
    "no algorithm, an empty name": lambda issuer: by_hand({"alg": ""}, claims_of(), lambda data: b""),
    "no algorithm, none named": lambda issuer: by_hand({"typ": "JWT"}, claims_of(), lambda data: b""),
    "several algorithms": lambda issuer: by_hand({"alg": ["RS256", "none"]}, claims_of(), lambda data: b""),
    "the public key as a secret": lambda issuer: by_hand({"alg": "HS256"}, claims_of(), keyed(issuer.pem)),
    "the public key, stripped, as a secret": lambda issuer: by_hand({"alg": "HS256"}, claims_of(), keyed(issuer.pem.strip())),
    "the public key in DER as a secret": lambda issuer: by_hand({"alg": "HS512"}, claims_of(), keyed(issuer.der, "sha512")),
    "an empty secret": lambda issuer: by_hand({"alg": "HS256"}, claims_of(), keyed(b"")),
    "another key": lambda issuer: Issuer().token(),
    "another user, the signature kept": with_swapped_user,
    "the signature cut off": lambda issuer: issuer.token().rpartition(".")[0] + ".",
    "the signature shortened": lambda issuer: issuer.token()[:-8],
    "its own key inside": lambda issuer: with_key_inside(issuer, "jwk"),
    "its own key elsewhere": lambda issuer: with_key_inside(issuer, "jku"),
    "a key in a file": lambda issuer: Issuer().token(headers={"kid": "../../../../dev/null"}),
    "a key that is not a string": lambda issuer: by_hand({"alg": "RS256", "kid": {"$ne": 1}}, claims_of(), lambda data: b"x"),
    "something critical": lambda issuer: issuer.token(headers={"crit": ["exp"], "exp": NOW}),
    "expired": lambda issuer: issuer.token(exp=NOW - 60),
    "without an end": lambda issuer: issuer.token(exp=None),
    "an end that is no number": lambda issuer: by_hand({"alg": "RS256"}, claims_of(exp="never"), lambda data: b"x"),
    "not yet": lambda issuer: issuer.token(nbf=NOW + 600),
    "another audience": lambda issuer: issuer.token(aud="elsewhere"),
    "without an audience": lambda issuer: issuer.token(aud=None),
    "another issuer": lambda issuer: issuer.token(iss="another"),
    "without an issuer": lambda issuer: issuer.token(iss=None),
    "without a subject": lambda issuer: issuer.token(sub=None),
    "two in one": lambda issuer: f"{issuer.token()}.{issuer.token()}",
    "nothing": lambda issuer: "x",
}
