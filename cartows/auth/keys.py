"""The keys that JSON Web Tokens are checked with: what each is good for, and those that change now and then.

Threads: any.
Locks: a KeySource holds its ``_asking`` while it asks for keys; whatever the app's callable locks is taken within it.
Blocks: ``KeySource.keys`` while keys are fetched or the app's callable runs: whoever asks as long as that takes; for him wait
    all others, PATIENCE seconds at most while there is no key at all, else until SHORT_PATIENCE seconds after he began.

No error and no ``repr`` here shows a key, not even a public one.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from time import monotonic
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from ..errors import CartowsError, OptionsError

__all__ = ["ALGORITHMS", "Key", "KeySource", "fetcher", "pyjwt", "read_keys"]

logger = logging.getLogger("cartows")

HMAC = frozenset({"HS256", "HS384", "HS512"})
RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
# RFC 7518, section 3.4, and RFC 8812: one curve each, by its name in cryptography.
CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512", "secp256k1": "ES256K"}

# Every algorithm that some key may fit. "none" is no algorithm.
ALGORITHMS = HMAC | RSA | {*CURVES.values(), "EdDSA", "Ed25519", "Ed448"}

# How long a KeySource leaves its origin alone, in seconds, so that made-up key ids cannot hammer it.
PAUSE = 10.0

# How long a thread waits for another one that is asking already, in seconds.
PATIENCE = 10.0

# How long they wait when there are keys, but not the one that a token names: anybody can name one.
SHORT_PATIENCE = 1.0

# The most bytes of a JWK Set.
MAX_BYTES = 1 << 20

# RFC 7518, sections 3.2 and 3.3: the fewest bytes of a secret (for HS256) and the fewest bits of an RSA key.
LEAST_SECRET, LEAST_RSA = 32, 2048

WANTED = "a secret, a public key in PEM, a JWK or a JWK Set as a dict, a list of those, or a callable that returns one"


def pyjwt() -> Any:
    """Return PyJWT, which only those need who use it. Raises OptionsError."""
    try:
        import jwt  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        jwt = None  # type: ignore[assignment,unused-ignore]
    # There is another package by this name.
    if not hasattr(jwt, "PyJWKClient"):
        raise OptionsError("JWTAuth needs PyJWT: pip install 'cartows[jwt]'")
    return jwt


@dataclass(frozen=True)
class Key:
    """Be a key that signatures are checked with, and say with which algorithms."""

    material: Any = field(repr=False)
    algorithms: frozenset[str]
    kid: str | None = None

    @property
    def weak(self) -> bool:
        """Whether it is shorter than RFC 7518 asks."""
        if isinstance(self.material, bytes):
            return len(self.material) < LEAST_SECRET
        return not self.algorithms.isdisjoint(RSA) and self.material.key_size < LEAST_RSA


def read_keys(given: Any) -> tuple[Key, ...]:
    """Return the keys that an app has given, in whichever form. Raises OptionsError."""
    if isinstance(given, (list, tuple)):
        keys = tuple(key for each in given for key in _read_one(each))
        if not keys:
            raise OptionsError(f"JWTAuth has been given an empty list of keys: it must be {WANTED}")
        return keys
    return _read_one(given)


def _read_one(given: Any) -> tuple[Key, ...]:
    if isinstance(given, (str, bytes)):
        return (_read_text(given.encode() if isinstance(given, str) else given),)
    if isinstance(given, Mapping):
        return _read_set(given) if "keys" in given else (_read_jwk(given),)
    raise OptionsError(f"JWTAuth cannot use a key of type {type(given).__name__}: it must be {WANTED}")


def _read_text(text: bytes) -> Key:
    if b"-----BEGIN" not in text:
        return Key(_checked_secret(text), HMAC)
    try:
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        raise OptionsError("JWTAuth needs cryptography for a key in PEM: pip install 'cartows[jwt]'") from None
    if b"PRIVATE KEY-----" in text:
        raise OptionsError("JWTAuth has been given a private key: tokens are checked with its public half, so give only that")
    try:
        material = load_pem_public_key(text.strip())
    except Exception:
        raise OptionsError(
            "JWTAuth cannot read a public key in PEM from the text that was given: it must begin with "
            '"-----BEGIN PUBLIC KEY-----" and have real line breaks'
        ) from None
    return _public_key(material)


def _checked_secret(secret: bytes) -> bytes:
    """Return a secret, unless it is something that anybody may know: then whoever knows it could sign."""
    if not secret.strip():
        raise OptionsError("JWTAuth has been given an empty secret")
    start = secret.lstrip()
    what = None
    if b"-----BEGIN" in secret or start.startswith((b"ssh-", b"ecdsa-sha2-")) or _is_der(secret):
        what = "a public key: give that in PEM"
    elif start.startswith((b"http://", b"https://")):
        what = "a URL: give that as jwks_url="
    elif start.startswith((b"{", b"[")) and _is_json(secret):
        what = "JSON: give a JWK or a JWK Set as a dict"
    if what is not None:
        raise OptionsError(f"JWTAuth has been given a secret that is {what}")
    return secret


def _is_der(secret: bytes) -> bool:
    try:
        from cryptography.hazmat.primitives.serialization import load_der_public_key

        load_der_public_key(secret)
    except Exception:
        return False
    return True


def _is_json(secret: bytes) -> bool:
    try:
        json.loads(secret)
    except ValueError:
        return False
    return True


def _public_key(material: Any, kid: str | None = None) -> Key:
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

    fits: frozenset[str] = frozenset()
    if isinstance(material, rsa.RSAPublicKey):
        fits = RSA
    elif isinstance(material, ec.EllipticCurvePublicKey):
        fits = frozenset({CURVES.get(material.curve.name, "")})
    elif isinstance(material, ed25519.Ed25519PublicKey):
        fits = frozenset({"EdDSA", "Ed25519"})
    elif isinstance(material, ed448.Ed448PublicKey):
        fits = frozenset({"EdDSA", "Ed448"})
    # Which of them there are is a matter of PyJWT's version.
    fits &= pyjwt().algorithms.get_default_algorithms().keys()
    if not fits:
        raise OptionsError(f"JWTAuth knows no algorithm for a {type(material).__name__}: it must be RSA, EC or Ed25519")
    return Key(material, fits, kid)


def _read_set(given: Mapping[str, Any], *, public: bool = False) -> tuple[Key, ...]:
    """Return the keys of a JWK Set that can be used; RFC 7517, section 5, wants the others ignored."""
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
    """Return the key that a JWK describes; with ``public``, which anybody can read, no secret is one."""
    if not isinstance(given, Mapping) or not isinstance(given.get("kty"), str):
        raise OptionsError('JWTAuth has been given a dict that is no JWK: it has no "kty"')
    kid, operations = given.get("kid"), given.get("key_ops", ["verify"])
    if kid is not None and not isinstance(kid, str):
        raise OptionsError('JWTAuth has been given a JWK whose "kid" is no text')
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
        # From None: PyJWT's text shows the key.
        raise OptionsError("JWTAuth cannot use a JWK: its parts do not make a key, or do not fit its algorithm") from None
    key = Key(_checked_secret(material), HMAC, kid) if secret else _public_key(material, kid)
    own = given.get("alg")
    if own is None:
        return key
    if own not in key.algorithms:
        raise OptionsError('JWTAuth has been given a JWK whose "alg" does not fit it')
    return Key(key.material, frozenset({own}), kid)


def fetcher(url: str, timeout: float) -> Callable[[], tuple[Key, ...]]:
    """Return what fetches a JWK Set. Raises OptionsError for a URL that cannot work."""
    if not isinstance(url, str) or urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise OptionsError(
            f"JWTAuth(jwks_url=...) is no URL to fetch keys from: a {type(url).__name__} that must begin with https://"
        )
    if urlsplit(url).scheme == "http":
        logger.warning(
            "cartows: JWTAuth fetches its keys by http: whoever is on the way can put their own in place. Use https."
        )
    download = _Download(Request(url, headers={"User-Agent": "cartows", "Accept": "application/json"}))

    def fetch() -> tuple[Key, ...]:
        try:
            found = json.loads(download.within(timeout))
        except (OSError, HTTPException, ValueError) as error:
            raise OptionsError(f"JWTAuth has found no JWK Set at its jwks_url: {type(error).__name__}: {error}") from None
        if not isinstance(found, dict) or "keys" not in found:
            raise OptionsError("JWTAuth has found no JWK Set at its jwks_url")
        return _read_set(found, public=True)

    return fetch


class _Download:
    """Fetch what is at a URL. PyJWT's own client bounds neither its size nor, save each single step, the time it takes."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._thread: threading.Thread | None = None

    def within(self, timeout: float) -> bytes:
        """Return what is there. Raises OSError and the like, TimeoutError after so many seconds in all."""
        if self._thread is not None and self._thread.is_alive():
            raise TimeoutError("the last attempt has not ended yet")
        done: list[bytes | Exception] = []
        # Each step of a server that drips is in time: nothing but another thread can leave it.
        self._thread = threading.Thread(target=self._run, args=(timeout, done), name="cartows-keys", daemon=True)
        self._thread.start()
        self._thread.join(timeout)
        if not done:
            raise TimeoutError(f"it took more than {timeout:g} s")
        if isinstance(done[0], Exception):
            raise done[0]
        return done[0]

    def _run(self, timeout: float, done: list[bytes | Exception]) -> None:
        try:
            done.append(self._read(timeout))
        except HTTPError as error:
            # It holds the connection.
            error.close()
            done.append(OSError(f"the server answered {error.code}"))
        except Exception as error:
            done.append(error)

    def _read(self, timeout: float) -> bytes:
        deadline, data = monotonic() + timeout, b""
        with urlopen(self._request, timeout=timeout) as response:
            while part := response.read1(65536):
                data += part
                if len(data) > MAX_BYTES:
                    raise ValueError(f"over {MAX_BYTES} bytes")
                if monotonic() > deadline:
                    raise TimeoutError(f"it took more than {timeout:g} s")
        return data


class KeySource:
    """Ask for keys that change now and then, and remember them: what keeps the old ones is that no new ones came."""

    def __init__(self, ask: Callable[[], tuple[Key, ...]], lifespan: float) -> None:
        self._ask = ask
        self._lifespan = lifespan
        # Held while asking, so that one thread does and the others wait for what it brings.
        self._asking = threading.Lock()
        # Replaced under _asking; read without it.
        self._keys: tuple[Key, ...] = ()
        # Written under _asking; read without it, when a moment's error does no harm.
        self._fresh_until = -math.inf
        self._ask_again_at = -math.inf
        self._began_at = -math.inf
        _sources.add(self)

    def keys(self, kid: str | None) -> tuple[Key, ...]:
        """Return all keys, having asked for them where they are old or none has that id; none when none were ever had."""
        if monotonic() >= self._fresh_until:
            self._renew(0.0 if self._keys else PATIENCE)
        if kid is not None and all(key.kid != kid for key in self._keys):
            # A question that takes long holds up nobody but him who asks it.
            left = self._began_at + SHORT_PATIENCE - monotonic()
            self._renew(max(0.0, left if self._asking.locked() else SHORT_PATIENCE) if self._keys else PATIENCE)
        return self._keys

    def _renew(self, patience: float) -> None:
        if monotonic() < self._ask_again_at or not self._asking.acquire(timeout=patience):
            return
        try:
            # Another thread may have asked while this one waited.
            if monotonic() >= self._ask_again_at:
                self._renew_locked()
        finally:
            self._asking.release()

    def _renew_locked(self) -> None:
        assert self._asking.locked()
        self._began_at = monotonic()
        try:
            self._keys = self._ask()
            self._fresh_until = monotonic() + self._lifespan
        except Exception as error:
            # Of errors that are expected the text says it all. As text: a record of the log may be kept, and would keep a
            # connection open with it.
            unexpected = None if isinstance(error, (CartowsError, pyjwt().PyJWTError)) else error
            text = "cartows: JWTAuth could not get its keys and goes on with those it has: %s"
            logger.warning(text, str(error), exc_info=unexpected)
        finally:
            self._ask_again_at = monotonic() + PAUSE

    def unlock(self) -> None:
        """Be usable in the child of a fork, which does not have the thread that may have been asking."""
        self._asking = threading.Lock()


_sources: weakref.WeakSet[KeySource] = weakref.WeakSet()


def _unlock_in_child() -> None:
    for source in list(_sources):
        source.unlock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_in_child)
