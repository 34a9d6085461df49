"""JSON Web Tokens as credentials (RFC 7519): where a request carries one, and whether it is valid.

**Threads**: any.
**Blocks**: while keys are loaded; see ``key_source``.

A reason to refuse a token is one of a few fixed sentences. None contains a part of the token or the value of a claim: it is
sent to the client and written to the log.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import AuthError, OptionsError
from ..rooms import Room, Subscriptions, room_value
from .base import SUBPROTOCOL, Authenticator, Credentials
from .key_source import LOAD_INTERVAL, KeySource, fetcher
from .keys import ALGORITHMS, HMAC, Key, pyjwt, read_keys

__all__ = ["JWTAuth"]

logger = logging.getLogger("cartows")

# The prefix of a token among the subprotocols; it is never repeated in the answer.
BEARER = "bearer."

# The maximum characters of a token: a server accepts no longer header, and ``auth.refresh`` accepts the same tokens.
MAX_TOKEN = 16384

# The end of the year 9999; a later time is malformed.
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
    """Admit clients that carry a valid JSON Web Token: ``ws.authenticate(JWTAuth(secret))``.

    A client sends its token as ``Authorization: Bearer TOKEN`` or, from a browser, in the subprotocols
    ``cartows, bearer.TOKEN``. RFC 7519 decides whether it is valid.

    Args:
        key: An HMAC secret (a string or bytes, at least 32 bytes), an RSA, EC or Ed25519 public key in PEM, a JWK or a JWK Set
            as a dict, a list of those, or a callable that returns one. Either this or ``jwks_url``.
        jwks_url: The URL of a JWK Set.
        algorithms: The algorithms that a token may use, among those that the keys fit; all of those by default.
        audience: One or several audiences, of which a token must name one; with None, a token must name no audience.
        issuer: One or several issuers, of which a token must name one; None for any.
        leeway: The seconds by which clocks may differ, 0 by default.
        identity_claim: The claim that is the identity, ``sub`` by default; it is always required.
        require: The names of further claims that must be present, ``exp`` by default.
        rooms_claim: The name of a claim that decides in place of ``authorize``, such as
            ``{"board_id": ["b1", "b2"], "project_id": "p1"}``, or ``"*"`` for everything. A token without it may subscribe to
            nothing. None by default.
        query_parameter: The name of a query parameter that may carry the token. It is hidden from gunicorn's access log, but
            not from that of ``flask run`` or of a proxy. None by default.
        key_lifespan: The seconds after which the callable or the URL is asked again, 300 by default and at least 10. It is
            also asked when a token names a ``kid`` that is not known, but at most once in 10 s. While it fails, the old keys
            remain in use.
        fetch_timeout: The seconds within which the URL must answer, 5 by default.

    Raises:
        OptionsError: An argument is invalid, or the extra ``cartows[jwt]`` is missing.
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
        lifespan = _number("key_lifespan", key_lifespan, LOAD_INTERVAL)
        timeout = _number("fetch_timeout", fetch_timeout, 0.1)
        self._identity_claim = _name("identity_claim", identity_claim)
        self._rooms_claim = None if rooms_claim is None else _name("rooms_claim", rooms_claim)
        self._query_parameter = None if query_parameter is None else _name("query_parameter", query_parameter)
        self.secret_parameters = () if query_parameter is None else (query_parameter,)
        self._audience = None if audience is None else _names("audience", audience)
        self._issuers = None if issuer is None else _names("issuer", issuer)
        self._options = {
            "require": [*_names("require", require, required=False), self._identity_claim, *(["iss"] if self._issuers else [])],
            # Checked below: versions of PyJWT differ in the types that they accept.
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
                    "algorithms", sorted(self._allowed), "without HS256, HS384 and HS512: no secret is taken from a URL"
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
        """Return how many keys there are, and show none."""
        return f"JWTAuth({'keys that change' if self._source else f'{len(self._keys)} keys'})"

    def authenticate(self, request: Any) -> Credentials:
        """Return the credentials for the token of an upgrade request.

        Runs on the request's thread; blocks while keys are loaded.

        Args:
            request: The Flask request.

        Raises:
            AuthError: There is no token, or it is not valid.
        """
        offered = [each.strip() for each in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        credentials = self.refresh(self._token(request, offered))
        return credentials._replace(subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)

    def refresh(self, token: str) -> Credentials:
        """Return the credentials for a token.

        Runs on the client's reader thread; blocks while keys are loaded.

        Args:
            token: The token, in the compact form of RFC 7515.

        Raises:
            AuthError: The token is not valid.
        """
        claims = self._checked(token)
        identity = claims[self._identity_claim]
        if isinstance(identity, bool) or not isinstance(identity, (str, int)) or identity == "":
            raise AuthError(MALFORMED)
        expires_at = None
        if "exp" in claims:
            # For as long as a new connection would be accepted.
            expires_at = _seconds(claims["exp"]) + self._leeway
        allowed_rooms = None if self._rooms_claim is None else _allowed_rooms(claims.get(self._rooms_claim))
        return Credentials(identity, expires_at, allowed_rooms)

    def _token(self, request: Any, offered: list[str]) -> str:
        """Return the first token that a request carries, valid or not. Raises AuthError where there is none."""
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
        """Return the claims of a valid token. Raises AuthError."""
        header = self._header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        # RFC 7515, section 4.1.11: a critical extension must be understood, and none is supported here.
        if not isinstance(algorithm, str) or "crit" in header or not isinstance(kid, (str, type(None))):
            raise AuthError(MALFORMED)
        # Before keys are loaded, so that made-up tokens cause no load.
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
                # Not only PyJWT's documented errors: a deeply nested header raises RecursionError.
                header = None
        # Not within ``except``: PyJWT's error, which quotes the token, would become this one's context.
        if header is None:
            raise AuthError(MALFORMED)
        return header

    def _claims(self, token: str, key: Key, algorithm: str) -> tuple[dict[str, Any], str]:
        """Return the claims of a token, and why it is refused with this key: "" when it is valid."""
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
        """Return the sentence for PyJWT's error, whose own text may quote the token."""
        if isinstance(error, self._jwt.MissingRequiredClaimError):
            # A name that this authenticator requires, not one from the token.
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
                "cartows: a key of JWTAuth is so short that it can be guessed: RFC 7518 requires at least 32 random bytes for "
                "a secret and 2048 bits for RSA. Make one with secrets.token_bytes(64)"
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
    # NaN compares as False. PyJWT accepts strings as well.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value < _LAST_SECOND:
        raise AuthError(MALFORMED)
    return float(value)


def _allowed_rooms(claim: Any) -> Subscriptions:
    """Return the rooms that a claim allows. Raises AuthError."""
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


def _number(name: str, value: Any, minimum: float) -> float:
    # NaN compares as False.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not minimum <= value < math.inf:
        raise _refuse(name, value, f"a number of seconds from {minimum:g}")
    return float(value)


def _name(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _refuse(name, value, "a string that is not empty")
    return value


def _names(name: str, value: Any, *, required: bool = True) -> list[str]:
    try:
        names = [value] if isinstance(value, str) else list(value)
    except TypeError:
        names = [None]
    if (required and not names) or not all(isinstance(each, str) and each for each in names):
        raise _refuse(name, value, "a string, or a list of strings, none of them empty")
    return names


def _allowed(algorithms: Any) -> frozenset[str]:
    if algorithms is None:
        return ALGORITHMS
    names = _names("algorithms", algorithms)
    # "none", in any spelling, would be no signature at all.
    if not ALGORITHMS.issuperset(names):
        raise _refuse("algorithms", names, f"some of {', '.join(sorted(ALGORITHMS))}, and never none")
    return frozenset(names)
