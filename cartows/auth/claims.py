"""What the claims of a valid token say: who its user is, until when, and which rooms it allows.

**Threads**: any.

A reason to refuse a token is one of a few fixed sentences. None contains a part of the token or the value of a claim: it is
sent to the client and written to the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import AuthError
from ..rooms import Room, Subscriptions, room_value

__all__ = [
    "ALGORITHM",
    "AUDIENCE",
    "EXPIRED",
    "ISSUER",
    "MALFORMED",
    "NOT_YET",
    "NO_KEYS",
    "REFUSED",
    "SIGNATURE",
    "UNKNOWN_KEY",
    "allowed_rooms",
    "identity_of",
    "seconds",
]

# The end of the year 9999; a later time is malformed.
_LAST_SECOND = 253_402_300_800

# The maximum characters of an identity: a longer one is no user's id.
_MAX_IDENTITY = 1024

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
REFUSED = "The app does not accept the token."


def identity_of(claims: Mapping[str, Any], claim: str) -> str | int:
    """Return the user of a token. Raises AuthError.

    RFC 7519, section 4.1.2, wants ``sub`` to be a string; another claim may be an integer. A space around a string would be
    invisible wherever it is shown, and ``int()`` skips it: the identity would look like another user's.
    """
    identity = claims[claim]
    if (
        isinstance(identity, str)
        and identity.strip() == identity
        and 0 < len(identity) <= _MAX_IDENTITY
        and "\n" not in identity
    ):
        return identity
    if isinstance(identity, int) and not isinstance(identity, bool) and claim != "sub":
        return identity
    raise AuthError(MALFORMED)


def seconds(value: Any) -> float:
    """Return the time in a claim. Raises AuthError."""
    # NaN compares as False. PyJWT accepts strings as well.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value < _LAST_SECOND:
        raise AuthError(MALFORMED)
    return float(value)


def allowed_rooms(claim: Any) -> Subscriptions:
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
