"""The keys that JSON Web Tokens are checked with: reading them, and which algorithms each is good for.

No error and no ``repr`` here shows a key, not even a public one.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import OptionsError

__all__ = ["ALGORITHMS", "HMAC", "Key", "pyjwt", "read_key_set", "read_keys"]

HMAC = frozenset({"HS256", "HS384", "HS512"})
RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
# RFC 7518, section 3.4, and RFC 8812: one curve for each algorithm, by its name in cryptography.
CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512", "secp256k1": "ES256K"}

# Every algorithm that some key may fit; "none" is not one.
ALGORITHMS = HMAC | RSA | {*CURVES.values(), "EdDSA", "Ed25519", "Ed448"}

# RFC 7518, section 3.2: a secret MUST be as long as the hash, in bytes; section 3.3: an RSA key MUST have 2048 bits.
_MIN_SECRET = {"HS256": 32, "HS384": 48, "HS512": 64}
_MIN_RSA = 2048

# What is in the DER of every key that a private one and a public one share: RSA, RSA-PSS, DSA, EC, Ed25519 and Ed448.
_OBJECT_IDS = tuple(
    bytes.fromhex(each)
    for each in ("2a864886f70d010101", "2a864886f70d01010a", "2a8648ce3804", "2a8648ce3d0201", "2b6570", "2b6571")
)
# The beginning of a public key in OpenSSH's own format, which stands in base64 behind its name.
_SSH = re.compile(rb"\0\0\0.(ssh|ecdsa|sk)-", re.DOTALL)

_WANTED = "a secret, a public key in PEM, a JWK or a JWK Set as a dict, a list of those, or a callable that returns one"


def pyjwt() -> Any:
    """Return PyJWT, which is an optional dependency. Raises OptionsError."""
    try:
        import jwt  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        jwt = None  # type: ignore[assignment,unused-ignore]
    # Another package has the same module name.
    if not hasattr(jwt, "PyJWKClient"):
        raise OptionsError("JWTAuth needs PyJWT: pip install 'cartows[jwt]'")
    return jwt


@dataclass(frozen=True)
class Key:
    """A key that signatures are checked with, and the algorithms that it may be used with."""

    material: Any = field(repr=False)
    algorithms: frozenset[str]
    kid: str | None = None


def read_keys(given: Any) -> tuple[Key, ...]:
    """Return the keys that an app has given, in any of their forms. Raises OptionsError."""
    if isinstance(given, (list, tuple)):
        keys = tuple(key for each in given for key in _read_one(each))
        if not keys:
            raise OptionsError(f"JWTAuth has been given an empty list of keys: it must be {_WANTED}")
        return keys
    return _read_one(given)


def _read_one(given: Any) -> tuple[Key, ...]:
    if isinstance(given, (str, bytes)):
        return (_read_string(given.encode() if isinstance(given, str) else given),)
    if isinstance(given, Mapping):
        return read_key_set(given) if "keys" in given else (_read_jwk(given),)
    raise OptionsError(f"JWTAuth cannot use a key of type {type(given).__name__}: it must be {_WANTED}")


def _read_string(data: bytes) -> Key:
    if b"-----BEGIN" not in data:
        return _secret_key(data)
    try:
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        raise OptionsError("JWTAuth needs cryptography for a key in PEM: pip install 'cartows[jwt]'") from None
    if b"PRIVATE KEY-----" in data:
        raise OptionsError("JWTAuth has been given a private key: tokens are checked with its public half, so give only that")
    try:
        material = load_pem_public_key(data.strip())
    except Exception:
        raise OptionsError(
            "JWTAuth cannot read a public key in PEM from the string that was given: it must begin with "
            '"-----BEGIN PUBLIC KEY-----" and have real line breaks'
        ) from None
    return _public_key(material)


def _secret_key(secret: bytes, kid: str | None = None) -> Key:
    """Return the key that a secret is, unless it is something public, with which anyone could sign. Raises OptionsError."""
    if not secret.strip():
        raise OptionsError("JWTAuth has been given an empty secret")
    start = secret.lstrip()
    what = "a URL: give that as jwks_url=" if start.startswith((b"http://", b"https://")) else None
    for form in _forms(secret):
        what = what or _what_is_public(form)
    if what is not None:
        raise OptionsError(f"JWTAuth has been given a secret that is {what}")
    fits = frozenset(name for name, minimum in _MIN_SECRET.items() if len(secret) >= minimum)
    if not fits:
        raise OptionsError(
            f"JWTAuth has been given a secret of {len(secret)} bytes, which can be guessed: RFC 7518, section 3.2, requires 32 "
            "random bytes for HS256, 48 for HS384 and 64 for HS512. Make one with secrets.token_urlsafe(64)"
        )
    return Key(secret, fits, kid)


def _forms(secret: bytes) -> Iterator[bytes]:
    """Yield a secret as it is, and what it stands for in base64 and in hexadecimal, in which keys are copied about."""
    yield secret
    text = b"".join(secret.split())
    for decode in (_from_base64, binascii.unhexlify):
        try:
            yield decode(text)
        except ValueError:
            continue


def _from_base64(text: bytes) -> bytes:
    text = text.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)


def _what_is_public(data: bytes) -> str | None:
    """Return what something is that cannot be a secret, None where it may be one."""
    start = data.lstrip()
    if b"-----BEGIN" in data or start.startswith((b"ssh-", b"ecdsa-sha2-")) or _SSH.match(data) or _is_der(data):
        return "a public key, or the key to one: give the public key in PEM"
    if start.startswith((b"{", b"[")) and _is_json(data):
        return "JSON: give a JWK or a JWK Set as a dict"
    return None


def _is_der(data: bytes) -> bool:
    # Every key in DER is a sequence.
    if not data.startswith(b"\x30"):
        return False
    if any(each in data for each in _OBJECT_IDS):
        return True
    try:
        from cryptography.hazmat.primitives.serialization import load_der_public_key

        load_der_public_key(data)
    except Exception:
        return False
    return True


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except RecursionError:
        return True
    except ValueError:
        return False
    return True


def _public_key(material: Any, kid: str | None = None) -> Key:
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

    fits: frozenset[str] = frozenset()
    if isinstance(material, rsa.RSAPublicKey):
        if material.key_size < _MIN_RSA:
            raise OptionsError(
                f"JWTAuth has been given an RSA key of {material.key_size} bits, which can be broken: RFC 7518, section 3.3, "
                f"requires {_MIN_RSA}"
            )
        fits = RSA
    elif isinstance(material, ec.EllipticCurvePublicKey):
        fits = frozenset({CURVES.get(material.curve.name, "")})
    elif isinstance(material, ed25519.Ed25519PublicKey):
        fits = frozenset({"EdDSA", "Ed25519"})
    elif isinstance(material, ed448.Ed448PublicKey):
        fits = frozenset({"EdDSA", "Ed448"})
    # PyJWT's version decides which of them exist.
    fits &= pyjwt().algorithms.get_default_algorithms().keys()
    if not fits:
        raise OptionsError(f"JWTAuth supports no algorithm for a {type(material).__name__}: it must be RSA, EC or Ed25519")
    return Key(material, fits, kid)


def read_key_set(given: Mapping[str, Any], *, public: bool = False) -> tuple[Key, ...]:
    """Return the usable keys of a JWK Set; RFC 7517, section 5, wants the others ignored. Raises OptionsError.

    ``public`` is for a set that anyone can read, in which a secret is no key.
    """
    members = given["keys"]
    keys, why = [], "it has none"
    for each in members if isinstance(members, list) else ():
        try:
            keys.append(_read_jwk(each, public=public))
        except OptionsError as error:
            why = str(error)
    if not keys:
        raise OptionsError(f"JWTAuth finds no usable key in a JWK Set: {why}")
    return tuple(keys)


def _read_jwk(given: Any, *, public: bool = False) -> Key:
    """Return the key that a JWK describes. Raises OptionsError."""
    if not isinstance(given, Mapping) or not isinstance(given.get("kty"), str):
        raise OptionsError('JWTAuth has been given a dict that is no JWK: it has no "kty"')
    kid, operations = given.get("kid"), given.get("key_ops", ["verify"])
    if kid is not None and not isinstance(kid, str):
        raise OptionsError('JWTAuth has been given a JWK whose "kid" is not a string')
    if given.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise OptionsError('JWTAuth has been given a JWK that is not for checking signatures, by its "use" or "key_ops"')
    secret = given["kty"] == "oct"
    if secret and public:
        raise OptionsError("JWTAuth takes no secret from a URL")
    if "d" in given and not secret:
        raise OptionsError("JWTAuth has been given a private JWK: tokens are checked with its public half, so give only that")
    try:
        material = pyjwt().PyJWK(dict(given)).key
    except Exception:
        # From None: the text of PyJWT's error shows the key.
        raise OptionsError("JWTAuth cannot use a JWK: its parts do not make a key, or do not fit its algorithm") from None
    key = _secret_key(material, kid) if secret else _public_key(material, kid)
    own = given.get("alg")
    if own is None:
        return key
    if own not in key.algorithms:
        raise OptionsError('JWTAuth has been given a JWK whose "alg" does not fit it, by its kind or its length')
    return Key(key.material, frozenset({own}), kid)
