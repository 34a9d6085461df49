"""How deep JSON may be nested, by bounds that are the same on every Python.

Without them the interpreter's own limit counts: 900 levels or 50,000, by its version and by how deep the caller is itself.

Threads: any.
"""

from __future__ import annotations

from itertools import accumulate
from operator import add

__all__ = ["MAX_DEPTH", "MAX_INBOUND_DEPTH", "containers", "is_deeper"]

#: How many levels a message of the server may have.
MAX_DEPTH = 512

#: How many levels a message of a client may have: so few that an app, or presence, can send it on within a message of its own.
MAX_INBOUND_DEPTH = 256

# Makes "1" of a bracket that opens and "0" of one that closes.
_BITS = bytes.maketrans(b"[{]}", b"1100")
_NO_BRACKETS = bytes(set(range(256)).difference(b"[]{}"))
_NO_MARKS = bytes(set(range(256)).difference(b'[]{}"'))

# Of eight brackets, as the bits of a byte: by how much they go deeper in all, and how much deeper than before at most.
_CHANGE = [2 * byte.bit_count() - 8 for byte in range(256)]
_PEAK = [max(accumulate((1 if byte >> bit & 1 else -1 for bit in range(7, -1, -1)), initial=0)) for byte in range(256)]


def containers(text: str | bytes) -> int:
    """Return how many arrays and objects JSON has at most: brackets in strings count as well."""
    return text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")


def is_deeper(text: str | bytes, levels: int) -> bool:
    """Return whether JSON is nested deeper than so many levels, without decoding it.

    The answer is exact for JSON. Of anything else the part counts that a decoder reads before it finds the fault, so that a
    decoder never goes deeper. Costs a few passes over the text, written in C, and two where there are few brackets.
    """
    if len(text) <= levels:
        return False
    data = text.encode(errors="replace") if isinstance(text, str) else text
    # Brackets in strings count as well.
    if containers(data.translate(None, _NO_BRACKETS)) <= levels:
        return False
    if b"\\" in data:
        # Without escaped quotes each quote begins or ends a string.
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Strings without a bracket are two quotes now.
    marks = data.translate(None, _NO_MARKS).replace(b'""', b"")
    if b'"' in marks:
        # What is outside of strings: every other part between quotes.
        marks = b"".join(marks.split(b'"')[::2])
    # Eight brackets at a time, by iterators that are written in C: less than decoding costs.
    bits = marks.translate(_BITS) + b"0" * (-len(marks) % 8)
    eights = int(bits or b"0", 2).to_bytes(len(bits) // 8, "big")
    depths = accumulate(map(_CHANGE.__getitem__, eights), initial=0)
    return max(map(add, depths, map(_PEAK.__getitem__, eights)), default=0) > levels
