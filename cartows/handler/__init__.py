"""From an HTTP request to a registered client: the checks, the admission, the handshake and the hand-off of the socket.

Everything runs on the thread of the request.
"""

from __future__ import annotations

from .handler import Handler

__all__ = ["Handler"]
