"""The WebSocket protocol: frames, the parser of what a client sends, and the close codes.

Owns the bytes on the wire, without a socket and without any state that is shared. Each parser belongs to the reader thread of
one client; frames and close codes may be used on any thread.
"""

from __future__ import annotations

from .close_codes import CloseCode
from .frames import Frame

__all__ = ["CloseCode", "Frame"]
