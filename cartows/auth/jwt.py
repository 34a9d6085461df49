"""JSON Web Tokens as credentials (RFC 7519): where a request carries one, and whether it is valid.

**Threads**: any.
**Blocks**: while keys are loaded, see ``key_source``; as long as the app's ``validate`` does.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import AuthError, CartowsError, OptionsError
from .arguments import check_algorithms, check_name, check_names, check_seconds, check_validate, unusable
from .base import SUBPROTOCOL, Authenticator, Credentials
from .claims import (
    ALGORITHM,
    AUDIENCE,
    EXPIRED,
    ISSUER,
    MALFORMED,
    NO_KEYS,
    NOT_YET,
    REFUSED,
    SIGNATURE,
    UNKNOWN_KEY,
    allowed_rooms,
    identity_of,
    seconds,
)
from .key_source import LOAD_INTERVAL, KeySource, fetcher
from .keys import HMAC, Key, pyjwt, read_keys

__all__ = ["JWTAuth"]

logger = logging.getLogger("cartows")

# The prefix of a token among the subprotocols; it is never repeated in the answer.
BEARER = "bearer."

# The maximum characters of a token: a server accepts no longer header, and ``auth.refresh`` accepts the same tokens.
MAX_TOKEN = 16384


class JWTAuth(Authenticator):
    """Admit clients that carry a valid JSON Web Token: ``ws.authenticate(JWTAuth(secret))``.

    A client sends its token as ``Authorization: Bearer TOKEN`` or, from a browser, in the subprotocols
    ``cartows, bearer.TOKEN``. RFC 7519 decides whether it is valid.

    Args:
        key: An HMAC secret (a string or bytes; at least 32 bytes for HS256, 48 for HS384, 64 for HS512), an RSA, EC or Ed25519
            public key in PEM, a JWK or a JWK Set as a dict, a list of those, or a callable that returns one. Either this or
            ``jwks_url``.
        jwks_url: The URL of a JWK Set.
        algorithms: The algorithms that a token may use, among those that the keys fit; all of those by default.
        audience: One or several audiences, of which a token must name one; with None, a token must name no audience.
        issuer: One or several issuers, of which a token must name one; None for any.
        leeway: The seconds by which clocks may differ, 0 by default.
        identity_claim: The claim that is the identity, ``sub`` by default; it is always required. ``sub`` must be a string (RFC
            7519), any other claim may be an integer.
        require: The names of further claims that must be present, ``exp`` by default.
        rooms_claim: The name of a claim that decides in place of ``authorize``, such as
            ``{"board_id": ["b1", "b2"], "project_id": "p1"}``, or ``"*"`` for everything. A token without it may subscribe to
            nothing. None by default.
        query_parameter: The name of a query parameter that may carry the token. It is hidden from gunicorn's access log, but
            not from that of ``flask run`` or of a proxy. None by default.
        validate: Called with the claims of a token that is otherwise valid, for what only the app can know, such as whether
            the token was revoked: on the request's thread in its context, or for ``auth.refresh`` on the client's reader thread
            in an app context. Returns True to accept it; False and None refuse it, and so does raising ``AuthError`` with a
            reason for the client. None by default.
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
        validate: Callable[[dict[str, Any]], Any] | None = None,
        key_lifespan: float = 300.0,
        fetch_timeout: float = 5.0,
    ) -> None:
        self._jwt = pyjwt()
        if (key is None) == (jwks_url is None):
            raise OptionsError("JWTAuth takes either a key or jwks_url=...: one of the two")
        self._leeway = check_seconds("leeway", leeway, 0.0)
        lifespan = check_seconds("key_lifespan", key_lifespan, LOAD_INTERVAL)
        timeout = check_seconds("fetch_timeout", fetch_timeout, 0.1)
        self._identity_claim = check_name("identity_claim", identity_claim)
        self._rooms_claim = None if rooms_claim is None else check_name("rooms_claim", rooms_claim)
        self._query_parameter = None if query_parameter is None else check_name("query_parameter", query_parameter)
        self.secret_parameters = () if query_parameter is None else (query_parameter,)
        self._audience = None if audience is None else check_names("audience", audience)
        self._issuers = None if issuer is None else check_names("issuer", issuer)
        self._options = {
            "require": [
                *check_names("require", require, required=False),
                self._identity_claim,
                *(["iss"] if self._issuers else []),
            ],
            # Checked below: versions of PyJWT differ in the types that they accept.
            "verify_iss": False,
            "verify_sub": False,
            "verify_jti": False,
        }
        self._validate = check_validate(validate)
        self._warned_of: weakref.WeakSet[Any] = weakref.WeakSet()
        self._allowed = check_algorithms(algorithms)
        self._source: KeySource | None = None
        self._keys: tuple[Key, ...] = ()
        if jwks_url is not None:
            if algorithms is not None and self._allowed & HMAC:
                raise unusable(
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
                raise unusable("algorithms", sorted(self._allowed), _what_fits(fitting))
            missing = sorted(HMAC - fitting) if algorithms is None and fitting & HMAC else ()
            if missing:
                logger.info("cartows: JWTAuth accepts no %s, for which its secret is too short", " or ".join(missing))

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
        identity = identity_of(claims, self._identity_claim)
        expires_at = None
        if "exp" in claims:
            # For as long as a new connection would be accepted.
            expires_at = seconds(claims["exp"]) + self._leeway
        rooms = None if self._rooms_claim is None else allowed_rooms(claims.get(self._rooms_claim))
        self._validate_claims(claims)
        return Credentials(identity, expires_at, rooms)

    def _validate_claims(self, claims: dict[str, Any]) -> None:
        """Ask the app's own check. Raises AuthError where it does not accept the token, and what it raises."""
        if self._validate is None:
            return
        accepted = self._validate(claims)
        # A user, a response or a coroutine is true as well, and no decision.
        if accepted is not None and not isinstance(accepted, bool):
            raise CartowsError(
                f"JWTAuth(validate=...) returned a {type(accepted).__name__}: it must return True to accept the claims, False "
                "or None to refuse them, or raise AuthError with the reason"
            )
        if not accepted:
            raise AuthError(REFUSED)

    def check_app(self, app: Any) -> None:
        """Warn once of an app with Flask-JWT-Extended, whose tokens nothing but ``validate`` can tell apart.

        Args:
            app: The Flask app.
        """
        if self._validate is not None or "flask-jwt-extended" not in app.extensions or app in self._warned_of:
            return
        self._warned_of.add(app)
        logger.warning(
            "cartows: the app %r uses Flask-JWT-Extended, and JWTAuth knows nothing of its refresh tokens and revoked tokens: "
            "they connect as well. Pass JWTAuth(..., validate=...) a check of the claims, or authenticate by a function with "
            "@jwt_required()",
            app.name,
        )

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
        narrowed = (Key(key.material, key.algorithms & self._allowed, key.kid) for key in keys)
        usable = tuple(key for key in narrowed if key.algorithms)
        if not usable:
            fitting = frozenset[str]().union(*(key.algorithms for key in keys))
            raise unusable("algorithms", sorted(self._allowed), _what_fits(fitting))
        return usable


def _what_fits(fitting: frozenset[str]) -> str:
    hint = " (a secret must be as long as its hash: 32, 48 or 64 bytes)" if fitting & HMAC else ""
    return f"some of what fits the keys given: {', '.join(sorted(fitting))}{hint}"
