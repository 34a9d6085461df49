"""The close codes: their numbers, which of them may be sent, and which of them tell a client not to reconnect.

The only module that contains the numbers (RFC 6455, section 7.4). Those from 3000 to 3999 are defined by cartows.
"""

from __future__ import annotations

import enum

__all__ = ["APP_CODES_END", "APP_CODES_START", "CloseCode", "is_final", "is_never_sent", "is_ordinary", "sendable"]


class CloseCode(enum.IntEnum):
    """The code of a close frame, or of a connection that ended without one."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    #: The close frame carried no code; never sent.
    NO_STATUS = 1005
    #: The connection ended without a close frame; never sent.
    ABNORMAL = 1006
    POLICY_VIOLATION = 1008
    #: An inbound message was larger than ``max_message_size``.
    TOO_BIG = 1009
    SERVER_ERROR = 1011
    #: The server restarts; the client reconnects.
    RESTART = 1012
    #: The credentials have expired; the client reconnects with new ones.
    EXPIRED = 3005
    #: The client read too slowly, and its send queue was full.
    SLOW_CONSUMER = 3008
    #: The client did not answer a ping within ``pong_wait``.
    NO_PONG = 3012
    #: The client sent more messages than ``rate_limit`` allows.
    TOO_MANY_MESSAGES = 3013
    UNAUTHORIZED = 3500
    #: The application disconnected the client.
    DISCONNECTED = 3503
    CONNECTION_LIMIT = 3504
    FORBIDDEN = 3507


# Codes that stand for "no close frame came", or are reserved, and must not be sent (RFC 6455, section 7.4.1).
_NEVER_SENT = frozenset({1004, CloseCode.NO_STATUS, CloseCode.ABNORMAL, 1015})

_ORDINARY = frozenset({CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.NO_STATUS, CloseCode.ABNORMAL, CloseCode.RESTART})

#: The first and the last of the codes that are the application's own (RFC 6455, section 7.4.2).
APP_CODES_START, APP_CODES_END = 4000, 4999


def is_never_sent(code: int) -> bool:
    """Return whether a code only describes how a connection ended, and must not be sent in a close frame."""
    return code in _NEVER_SENT


def sendable(code: int) -> bool:
    """Return whether a close frame may carry a code."""
    return code not in _NEVER_SENT and (1000 <= code <= 1014 or 3000 <= code <= APP_CODES_END)


def is_final(code: int) -> bool:
    """Return whether a code tells the client not to reconnect."""
    return code in (CloseCode.POLICY_VIOLATION, CloseCode.TOO_BIG) or 3500 <= code < APP_CODES_START or code >= 4500


def is_ordinary(code: int) -> bool:
    """Return whether a connection ended without a fault, or was closed with one of the application's own codes."""
    return code in _ORDINARY or code >= APP_CODES_START
