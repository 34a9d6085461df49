"""The ``disconnect`` message that precedes a close frame: whether the client should reconnect, and when."""

from __future__ import annotations

import random

from ..message import MessageType, new_message
from ..options import Options
from ..websocket.frames import Frame

__all__ = ["FLOODING_RETRY_MS", "advise", "restart_delay"]

#: When a client that sent too many messages may reconnect.
FLOODING_RETRY_MS = 5000

# How long clients are asked to stay away from a server that restarts: each a random time between these.
_RESTART_RETRY_MS = (500, 3000)


def advise(options: Options, code: int, reason: str, *, reconnect: bool, retry_after_ms: int) -> Frame | None:
    """Return the message; None for a protocol of the app's own."""
    if not options.greeting:
        return None
    data = {"code": code, "reason": reason, "reconnect": reconnect, "retry_after_ms": retry_after_ms}
    return Frame(new_message(MessageType.DISCONNECT, data).encode())


def restart_delay() -> int:
    """Return after how many milliseconds a client reconnects; random, so that all clients do not return together."""
    return random.randint(*_RESTART_RETRY_MS)
