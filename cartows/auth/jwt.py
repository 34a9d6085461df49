"""JSON Web Tokens as credentials (RFC 7519): where a request carries one, and whether it is good.

Threads: any; a JWTAuth is never changed once it is made.
Locks: none of its own; see ``keys``.
Blocks: while keys are fetched; see ``keys``.

A reason to refuse a token is one of a few fixed sentences. None holds a part of the token or the value of a claim: the client
reads it, and so may whoever reads the log.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import AuthError, OptionsError
from ..rooms import Room, Subscriptions, room_value
from .base import SUBPROTOCOL, Authenticator, Credentials
from .keys import ALGORITHMS, HMAC, PAUSE, Key, KeySource, fetcher, logger, pyjwt, read_keys

__all__ = ["JWTAuth"]

# What a token among the subprotocols begins with; it is never repeated in the answer.
BEARER = "bearer."

# The most characters that a token may have: a server takes no longer header, and auth.refresh is to take nothing else.
MAX_TOKEN = 16384

# The end of the year 9999: whatever is later is no time.
_LAST_SECOND = 253_402_300_800

EXPIRED = "The token has expired."
NOT_YET = "The token is not valid yet."
AUDIENCE = "The token is for another audience."
ISSUER = "The token comes from another issuer."
SIGNATURE = "The token's signature is wrong."
UNKNOWN_KEY = "The token names a key that is not known here."
ALGORITHM = "The token's algorithm is not allowed."
MALFORMED = "The token is malformed."
ROOMS = "The token's claim of rooms is malformed."
NO_KEYS = "Tokens cannot be checked at the moment: try again later."


class JWTAuth(Authenticator):
    """Let in who carries a good token: ``ws.authenticate(JWTAuth(secret))``.

    ``key`` is an HMAC secret (text or bytes, 32 bytes at least), an RSA, EC or Ed25519 public key in PEM, a JWK or a JWK Set as
    a dict, a list of those, or a callable that returns one. ``jwks_url`` has a JWK Set fetched instead, within
    ``fetch_timeout`` (5 s). The callable or the URL is asked again after ``key_lifespan`` (300 s), and when a token names a key
    (``kid``) that is not known, but at most once in 10 s; while that fails the old keys stand.

    ``algorithms`` defaults to those that each key fits, which is the most that it may name. A token that names an audience is
    refused unless ``audience``, a text or several, has it; ``issuer``, a text or several, must be the token's. ``leeway`` (0 s)
    is for clocks that differ. The claims in ``require`` must be there, ``identity_claim`` too. ``rooms_claim`` names a claim
    that stands in for ``authorize``: ``{"board_id": ["b1", "b2"], "project_id": "p1"}``, or ``"*"`` for everything; without it
    a token then hears nothing. ``query_parameter``, None by default, names one that a token may come in: it then stands in the
    logs of every proxy on the way.

    Raises OptionsError for what cannot work, and without the extra ``cartows[jwt]``.
    """

    def __init__(
        self,
        key: Any = None,
        *,
        jwks_url: str | None = None,
        algorithms: Iterable[str] | None = None,
        audience: str | Iterable[str] | None = None,
        issuer: str | Iterable[str] | None = None,
        leeway: float = 0.0,
        identity_claim: str = "sub",
        require: Iterable[str] = ("exp",),
        rooms_claim: str | None = None,
        query_parameter: str | None = None,
        key_lifespan: float = 300.0,
        fetch_timeout: float = 5.0,
    ) -> None:
        self._jwt = pyjwt()
        if (key is None) == (jwks_url is None):
            raise OptionsError("JWTAuth takes either a key or jwks_url=...: one of the two")
        self._leeway = _number("leeway", leeway, 0.0)
        lifespan = _number("key_lifespan", key_lifespan, PAUSE)
        timeout = _number("fetch_timeout", fetch_timeout, 0.1)
        self._identity_claim = _name("identity_claim", identity_claim)
        self._rooms_claim = None if rooms_claim is None else _name("rooms_claim", rooms_claim)
        self._query_parameter = None if query_parameter is None else _name("query_parameter", query_parameter)
        self.secret_parameters = () if query_parameter is None else (query_parameter,)
        self._audience = None if audience is None else _names("audience", audience)
        self._issuers = None if issuer is None else _names("issuer", issuer)
        self._options = {
            "require": [*_names("require", require, some=False), self._identity_claim, *(["iss"] if self._issuers else [])],
            # Looked at below: versions of PyJWT differ in which types they let through.
            "verify_iss": False,
            "verify_sub": False,
            "verify_jti": False,
        }
        self._allowed = _allowed(algorithms)
        self._warned_of_weak = False
        self._source: KeySource | None = None
        self._keys: tuple[Key, ...] = ()
        if jwks_url is not None:
            if algorithms is not None and self._allowed & HMAC:
                raise _refuse(
                    "algorithms", sorted(self._allowed), "without HS256, HS384 and HS512: no secret is had from a URL"
                )
            fetch = fetcher(jwks_url, timeout)
            self._source = KeySource(lambda: self._usable(fetch()), lifespan)
        elif callable(key):
            self._source = KeySource(lambda: self._usable(read_keys(key())), lifespan)
        else:
            self._keys = self._usable(read_keys(key))
            fitting = frozenset[str]().union(*(key.algorithms for key in self._keys))
            if algorithms is not None and not self._allowed <= fitting:
                raise _refuse(
                    "algorithms", sorted(self._allowed), f"some of what fits the keys given: {', '.join(sorted(fitting))}"
                )

    def __repr__(self) -> str:
        """Tell what it checks with, and show no key."""
        return f"JWTAuth({'keys that change' if self._source else f'{len(self._keys)} keys'})"

    def authenticate(self, request: Any) -> Credentials:
        """Return who the token of an upgrade request stands for. Raises AuthError."""
        offered = [each.strip() for each in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        credentials = self.refresh(self._token(request, offered))
        return credentials._replace(subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)

    def refresh(self, token: str) -> Credentials:
        """Return who a token stands for. Raises AuthError."""
        claims = self._checked(token)
        identity = claims[self._identity_claim]
        if isinstance(identity, bool) or not isinstance(identity, (str, int)) or identity == "":
            raise AuthError(MALFORMED)
        expires_at = None
        if "exp" in claims:
            # As late as a new connection would still be accepted.
            expires_at = _seconds(claims["exp"]) + self._leeway
        allowed_rooms = None if self._rooms_claim is None else _hearing(claims.get(self._rooms_claim))
        return Credentials(identity, expires_at, allowed_rooms)

    def _token(self, request: Any, offered: list[str]) -> str:
        """Return the token that a request carries: the first there is, good or not."""
        scheme, _, token = request.headers.get("Authorization", "").strip().partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return str(token.strip())
        for each in offered:
            if each.startswith(BEARER):
                return each[len(BEARER) :]
        if self._query_parameter is not None and request.args.get(self._query_parameter):
            return str(request.args[self._query_parameter])
        ways = '"Authorization: Bearer TOKEN", or the subprotocols "cartows, bearer.TOKEN"'
        if self._query_parameter is not None:
            ways += f', or "?{self._query_parameter}=TOKEN"'
        raise AuthError(f"A token is needed: send {ways}.")

    def _checked(self, token: Any) -> dict[str, Any]:
        """Return the claims of a good token."""
        header = self._header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        # RFC 7515, section 4.1.11: what a token calls critical must be understood, and nothing of the kind is here.
        if not isinstance(algorithm, str) or "crit" in header or not isinstance(kid, (str, type(None))):
            raise AuthError(MALFORMED)
        # Before any key is asked for: no made-up token shall cost more than it must.
        if algorithm not in self._allowed:
            raise AuthError(ALGORITHM)
        keys = self._keys if self._source is None else self._source.keys(kid)
        if not keys:
            raise AuthError(NO_KEYS)
        if kid is not None:
            # A key without a name may be the one that the token names.
            keys = tuple(key for key in keys if key.kid == kid) or tuple(key for key in keys if key.kid is None)
        if not keys:
            raise AuthError(UNKNOWN_KEY)
        fitting = [key for key in keys if algorithm in key.algorithms]
        if not fitting:
            raise AuthError(ALGORITHM)
        reason = SIGNATURE
        for key in fitting:
            claims, reason = self._claims(token, key, algorithm)
            if reason == SIGNATURE:
                continue
            if reason:
                break
            return claims
        raise AuthError(reason)

    def _header(self, token: Any) -> dict[str, Any]:
        header: dict[str, Any] | None = None
        if isinstance(token, str) and len(token) <= MAX_TOKEN:
            try:
                header = self._jwt.get_unverified_header(token)
            except Exception:
                # Not only what PyJWT says that it raises: a header nested deep enough is a RecursionError.
                header = None
        # Not within ``except``: PyJWT's errors quote the token, and none of them shall hang on this one.
        if header is None:
            raise AuthError(MALFORMED)
        return header

    def _claims(self, token: str, key: Key, algorithm: str) -> tuple[dict[str, Any], str]:
        """Return the claims of a token, and why it is refused with this key: nothing when it is good."""
        try:
            claims: dict[str, Any] = self._jwt.decode(
                token,
                key=key.material,
                algorithms=[algorithm],
                audience=self._audience,
                leeway=self._leeway,
                options=self._options,
            )
        except Exception as error:
            return {}, self._reason(error)
        return claims, "" if self._issuers is None or claims["iss"] in self._issuers else ISSUER

    def _reason(self, error: Exception) -> str:
        """Return what is said of PyJWT's error, whose own text may quote the token."""
        if isinstance(error, self._jwt.MissingRequiredClaimError):
            # A name that this authenticator requires, not one that the token has brought.
            return f'The token lacks the claim "{error.claim}".'  # type: ignore[attr-defined,unused-ignore]
        for kind, reason in (
            (self._jwt.InvalidSignatureError, SIGNATURE),
            (self._jwt.ExpiredSignatureError, EXPIRED),
            (self._jwt.ImmatureSignatureError, NOT_YET),
            (self._jwt.InvalidAudienceError, AUDIENCE),
        ):
            if isinstance(error, kind):
                return reason
        return MALFORMED

    def _usable(self, keys: tuple[Key, ...]) -> tuple[Key, ...]:
        """Return the keys with the algorithms that are allowed, and without those that have none left."""
        if not self._warned_of_weak and any(key.weak for key in keys):
            self._warned_of_weak = True
            logger.warning(
                "cartows: a key of JWTAuth can be found out: RFC 7518 asks for 32 random bytes at least for a secret, and for "
                "2048 bits for RSA. Make one with secrets.token_bytes(64)"
            )
        narrowed = (Key(key.material, key.algorithms & self._allowed, key.kid) for key in keys)
        usable = tuple(key for key in narrowed if key.algorithms)
        if not usable:
            fitting = frozenset[str]().union(*(key.algorithms for key in keys))
            raise _refuse(
                "algorithms", sorted(self._allowed), f"some of what fits the keys given: {', '.join(sorted(fitting))}"
            )
        return usable


def _seconds(value: Any) -> float:
    # Not a number compares as False. PyJWT takes texts as well.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value < _LAST_SECOND:
        raise AuthError(MALFORMED)
    return float(value)


def _hearing(claim: Any) -> Subscriptions:
    """Return what a claim of rooms lets a client hear."""
    if claim == "*":
        return Subscriptions(unfiltered=True)
    if claim is None:
        return Subscriptions(unfiltered=False)
    if not isinstance(claim, Mapping):
        raise AuthError(ROOMS)
    rooms: set[Room] = set()
    for key, given in claim.items():
        for value in given if isinstance(given, list) else [given]:
            if isinstance(value, bool) or not isinstance(value, (str, int)):
                raise AuthError(ROOMS)
            rooms.add((key, room_value(value)))
    return Subscriptions(frozenset(rooms), unfiltered=False)


def _refuse(name: str, value: object, allowed: str) -> OptionsError:
    return OptionsError(f"JWTAuth({name}={value!r}) cannot be used: it must be {allowed}")


def _number(name: str, value: Any, least: float) -> float:
    # Not a number compares as False.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < math.inf:
        raise _refuse(name, value, f"a number of seconds from {least:g}")
    return float(value)


def _name(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _refuse(name, value, "a text that is not empty")
    return value


def _names(name: str, value: Any, *, some: bool = True) -> list[str]:
    try:
        names = [value] if isinstance(value, str) else list(value)
    except TypeError:
        names = [None]
    if (some and not names) or not all(isinstance(each, str) and each for each in names):
        raise _refuse(name, value, "a text, or a list of texts, none of them empty")
    return names


def _allowed(algorithms: Any) -> frozenset[str]:
    if algorithms is None:
        return ALGORITHMS
    names = _names("algorithms", algorithms)
    # In any spelling; "none" would be no signature at all.
    if not ALGORITHMS.issuperset(names):
        raise _refuse("algorithms", names, f"some of {', '.join(sorted(ALGORITHMS))}, and never none")
    return frozenset(names)
