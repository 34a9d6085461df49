"""What a compressed message may cost: on the wire, inflated, and in memory before it is complete."""

from __future__ import annotations

import json
import random
import tracemalloc
import zlib
from collections.abc import Iterable, Iterator

import pytest

from cartows.websocket.parser import Closed, Extensions, Inbound, Overhead, Pinged
from tests.websocket.test_parser import (
    BINARY,
    CONTINUATION,
    DEFLATE,
    NEGOTIATED,
    PING,
    PLAIN,
    TEXT,
    deflated,
    frame,
    parsed,
    the_end,
)

SIZE = 512 * 1024

# A deflate block without content: stored, and not final. Four of its bytes are the tail that RFC 7692 removes.
EMPTY_BLOCK = b"\x00\x00\x00\xff\xff"
# A whole deflate stream without content: one final block.
EMPTY_STREAM = b"\x03\x00"


def stream(content: bytes, bits: int = 15) -> bytes:
    """Return a whole deflate stream, which ends with a final block."""
    engine = zlib.compressobj(wbits=-bits)
    return engine.compress(content) + engine.flush(zlib.Z_FINISH)


# Streams that end ---------------------------------------------------------------------------------------------------


def test_the_examples_of_rfc_7692_are_read() -> None:
    """Sections 7.2.3.1 to 7.2.3.5, one after the other on one connection."""
    examples = (
        bytes.fromhex("f2 48 cd c9 c9 07 00"),
        # In the window that the first has left.
        bytes.fromhex("f2 00 11 00 00"),
        # Without compression.
        bytes.fromhex("00 05 00 fa ff 48 65 6c 6c 6f 00"),
        # With a final block.
        bytes.fromhex("f3 48 cd c9 c9 07 00 00"),
        # In two blocks.
        bytes.fromhex("f2 48 05 00 00 00 ff ff ca c9 c9 07 00"),
    )
    assert parsed([frame(TEXT, each, rsv=4) for each in (*examples, *examples)], DEFLATE) == ["Hello"] * 10


@pytest.mark.parametrize("extension", NEGOTIATED)
def test_a_message_of_several_blocks_may_have_final_ones(extension: str) -> None:
    bits = NEGOTIATED[extension][0]
    one, two, three = (stream(text, bits) for text in (b"one " * 20, b"two " * 20, b"three"))
    more = deflated(b"more", bits)
    for payload, content in (
        (one + b"\x00", "one " * 20),
        # Without the octet of section 7.2.3.4: there is nothing left that the tail would complete.
        (one, "one " * 20),
        (one + two + b"\x00", "one " * 20 + "two " * 20),
        (one + two + three, "one " * 20 + "two " * 20 + "three"),
        (one + more, "one " * 20 + "more"),
        (EMPTY_STREAM + more + EMPTY_BLOCK[1:] + one, "more" + "one " * 20),
        # A final block that is complete with the tail only.
        (b"\x01", ""),
    ):
        whole = frame(TEXT, payload, rsv=4)
        cut = b"".join(
            [frame(TEXT, payload[:1], fin=False, rsv=4)]
            + [frame(CONTINUATION, payload[at : at + 1], fin=at == len(payload) - 1) for at in range(1, len(payload))]
        )
        plain = frame(TEXT, deflated(b"after", bits), rsv=4)
        # The next message must not be affected by how this one ends.
        expected = [content, "after"] * (3 if len(payload) > 1 else 2)
        stream_of = [whole, plain, cut, plain, whole, plain] if len(payload) > 1 else [whole, plain, whole, plain]
        assert parsed(stream_of, Extensions(extension, True)) == expected, payload


@pytest.mark.parametrize("extension", NEGOTIATED)
def test_a_message_after_a_ping_in_pieces_is_inflated(extension: str) -> None:
    message = frame(TEXT, deflated(b"Hello", NEGOTIATED[extension][0]), rsv=4)
    ping = frame(PING, b"x")
    for cut in range(1, len(ping)):
        pieces = [message, ping[:cut], ping[cut:], message]
        assert parsed(pieces, Extensions(extension, True)) == ["Hello", Pinged(b"x"), "Hello"], cut


# What does not end --------------------------------------------------------------------------------------------------


def endless(start: bytes, more: bytes) -> Iterator[bytes]:
    """Yield the frame of a compressed message that announces a terabyte, and does not end."""
    yield frame(TEXT, start, rsv=4, fin=False)
    while True:
        yield frame(CONTINUATION, more, fin=False)


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (stream(b'{"type":"ping"}'), b"\x06" * 4096),
        (stream(b'{"type":"ping"}') + stream(b""), EMPTY_STREAM * 2048),
        (b"", EMPTY_BLOCK * 800),
        (deflated(b"x") + EMPTY_BLOCK[1:], EMPTY_BLOCK * 800),
    ],
    ids=["bytes after the end", "streams without content", "blocks without content", "blocks after content"],
)
def test_a_message_that_inflates_to_nothing_ends_the_connection(start: bytes, more: bytes) -> None:
    taken = 0

    def counted() -> Iterable[bytes]:
        nonlocal taken
        for piece in endless(start, more):
            taken += len(piece)
            assert taken < 4 * SIZE, "a client can send for ever what is never a message"
            yield piece

    tracemalloc.start()
    try:
        end = the_end(counted(), DEFLATE, max_size=SIZE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert end.code in (1007, 1008, 1009)
    assert taken < 1.25 * SIZE
    # The engine and its window; nothing of what was sent is kept.
    assert peak < 200_000


def test_a_stream_may_end_a_hundred_times_in_a_message() -> None:
    assert parsed([frame(TEXT, EMPTY_STREAM * 100, rsv=4)] * 2, DEFLATE) == ["", ""]
    assert the_end([frame(TEXT, EMPTY_STREAM * 101, rsv=4)], DEFLATE).code == 1008


def test_an_incompressible_message_of_the_largest_size_is_not_too_large_on_the_wire() -> None:
    content = random.Random(1).randbytes(SIZE)
    level_0 = zlib.compressobj(0, zlib.DEFLATED, -15)
    stored = (level_0.compress(content) + level_0.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert len(stored) > SIZE
    # A client that flushes after each kilobyte, with a fragment for each.
    engine = zlib.compressobj(wbits=-15)
    parts = [engine.compress(content[at : at + 1024]) + engine.flush(zlib.Z_SYNC_FLUSH) for at in range(0, SIZE, 1024)]
    parts[-1] = parts[-1][:-4]
    fragments = [
        frame(CONTINUATION if index else BINARY, part, fin=index == len(parts) - 1, rsv=0 if index else 4)
        for index, part in enumerate(parts)
    ]
    for pieces in ([frame(BINARY, stored, rsv=4)], fragments):
        assert parsed(pieces, DEFLATE, max_size=SIZE) == [content]


# What inflates to too much --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["[],", "{},", '{"a":1},', "x", "0,"])
def test_a_message_that_inflates_to_absurdly_much_is_refused_however_it_is_cut(content: str) -> None:
    text = '{"type":"x","data":"' + content * (500_000 // len(content)) + '"}'
    bomb = deflated(text.encode())
    assert len(bomb) < 1000, "half a kilobyte"
    fragments = [frame(TEXT, bomb[:7], fin=False, rsv=4), frame(CONTINUATION, bomb[7:])]
    whole = frame(TEXT, bomb, rsv=4)
    for pieces in ([whole], fragments, [whole[at : at + 10] for at in range(0, len(whole), 10)]):
        end = the_end(pieces, DEFLATE, max_size=SIZE)
        assert end.code == 1009
        assert "200 times" in end.reason


def test_ordinary_json_compresses_less_than_is_absurd() -> None:
    rows = [{"id": number, "title": f"Task {number}", "done": False, "tags": [], "x": 0.0, "y": 0.0} for number in range(6000)]
    repeated = [{"id": 7, "title": "Water the plants", "done": False, "tags": [], "x": 0.0, "y": 0.0}] * 2500
    points = [[round(index * 0.37, 2), 0] for index in range(25_000)]
    for data in (rows, repeated, points, [0] * 80_000, "x" * 200_000):
        text = json.dumps({"type": "import", "data": data})
        assert len(text) < SIZE
        assert parsed([frame(TEXT, deflated(text.encode()), rsv=4)], DEFLATE, max_size=SIZE) == [text]


def test_no_more_is_inflated_than_a_message_may_have() -> None:
    bomb = frame(TEXT, deflated(bytes(32 << 20)), rsv=4)
    tracemalloc.start()
    try:
        # All of it in one read.
        assert the_end([bomb], DEFLATE, max_size=10_000).code == 1009
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32 * 10_000 + 4 * len(bomb)


# What is kept and counted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extensions", [PLAIN, DEFLATE], ids=["plain", "compressed"])
def test_an_unfinished_message_takes_no_more_memory_than_bytes(extensions: Extensions) -> None:
    # As a str each of these characters takes four bytes.
    fragment = ("x" * 2000 + "😀").encode()
    inbound = Inbound(extensions, SIZE)
    engine = zlib.compressobj(wbits=-15)

    def written(opcode: int) -> bytes:
        if extensions is PLAIN:
            return frame(opcode, fragment, fin=False)
        body = engine.compress(fragment) + engine.flush(zlib.Z_SYNC_FLUSH)
        return frame(opcode, body, fin=False, rsv=4 if opcode == TEXT else 0)

    assert list(inbound.feed(written(TEXT))) == []
    pieces = [written(CONTINUATION) for _ in range(200)]
    tracemalloc.start()
    try:
        for piece in pieces:
            assert list(inbound.feed(piece)) == []
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    # A bytearray has room for more, by an eighth.
    assert kept < 1.25 * 200 * len(fragment) + 20_000
    engine = zlib.compressobj(wbits=-15)
    last = frame(CONTINUATION, b"" if extensions is PLAIN else b"\x00", fin=True)
    assert list(inbound.feed(last)) == [201 * fragment.decode()]


def test_a_message_costs_its_bytes_unpacked_or_on_the_wire() -> None:
    inbound = Inbound(DEFLATE, SIZE)
    padded = EMPTY_BLOCK * 1000 + deflated(b"x")
    for data, cost in (
        (frame(TEXT, b"x" * 100), 100),
        (frame(TEXT, "é".encode() * 100), 200),
        (frame(BINARY, bytes(5000)), 5000),
        (frame(TEXT, deflated(b"x" * 20_000), rsv=4), 20_000),
        (frame(TEXT, deflated("é".encode() * 9000), rsv=4), 18_000),
        (frame(TEXT, padded, rsv=4), len(padded)),
        # What one message cost is no part of the next one's.
        (frame(TEXT, b"y"), 1),
        (frame(TEXT, b"a" * 2000, fin=False) + frame(CONTINUATION, b"b" * 2000), 4000),
    ):
        (message,) = [each for each in inbound.feed(data) if each is not Overhead.SMALL_FRAGMENT]
        assert not isinstance(message, Closed)
        assert inbound.cost == cost
