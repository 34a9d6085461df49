"""The WebSocket protocol: frames, the parser of what a client sends, and the close codes.

Values and bytes without a socket; a parser belongs to one reader thread, everything else may be used on any thread.
"""

from __future__ import annotations

from .close_codes import CloseCode
from .frames import Frame

__all__ = ["CloseCode", "Frame"]
