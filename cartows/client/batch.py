"""The frames of one send, joined once for all clients that receive the same events."""

from __future__ import annotations

from collections.abc import Sequence

from ..websocket.frames import Frame

__all__ = ["Batch"]


class Batch:
    """The frames of one send, all of them events or none of them.

    Any thread may use it. Two threads that need its bytes first may both join them: the results are equal.
    """

    __slots__ = ("_deflated", "_plain", "compressible", "first", "frames", "last")

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.frames = frames
        #: The numbers of the first and the last event; 0 where the frames are no events.
        self.first, self.last = frames[0].number, frames[-1].number
        self.compressible = any(frame.compressible for frame in frames)
        self._plain = b""
        self._deflated = b""

    def wire(self, deflate: bool) -> bytes:
        """Return all frames as one run of bytes, for clients that can, or cannot, read compressed messages."""
        if deflate and self.compressible:
            if not self._deflated:
                self._deflated = b"".join([frame.wire(True) for frame in self.frames])
            return self._deflated
        if not self._plain:
            self._plain = b"".join([frame.plain for frame in self.frames])
        return self._plain
