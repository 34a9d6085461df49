"""The parser: everything that a client may send, cut anywhere, and the bytes that no client may send."""

from __future__ import annotations

import dataclasses
import struct
import tracemalloc
import zlib
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cartows.websocket import parser
from cartows.websocket.parser import Closed, Extensions, Inbound, Overhead, Pinged

LIGHT = settings(
    deadline=None,
    report_multiple_bugs=False,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

MASKS = st.binary(min_size=4, max_size=4)

PLAIN = Extensions(None, False)
DEFLATE = Extensions("permessage-deflate", True)
# What the client has promised about its own compressor: the window bits, and whether it keeps its context.
NEGOTIATED = {
    "permessage-deflate": (15, True),
    "permessage-deflate; client_no_context_takeover": (15, False),
    "permessage-deflate; client_max_window_bits=9": (9, True),
    "permessage-deflate; client_no_context_takeover; client_max_window_bits=10; server_max_window_bits=9": (10, False),
}

Item = str | bytes | Pinged | Overhead | Closed


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes | None = b"\x11\x22\x33\x44"
) -> bytes:
    """Return a frame as a client sends it; without a mask it is invalid."""
    length = len(payload)
    short = length if length < 126 else 126 if length < 65536 else 127
    extended = struct.pack({126: "!H", 127: "!Q"}.get(short, "!0s"), length if short > 125 else b"")
    head = bytes([fin << 7 | rsv << 4 | opcode, (mask is not None) << 7 | short]) + extended
    if mask is None:
        return head + payload
    stream = mask * (length // 4 + 1)
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(stream[:length], "big")).to_bytes(length, "big")
    return head + mask + masked


def deflated(payload: bytes, bits: int = 15) -> bytes:
    """Return a payload compressed from a fresh window."""
    engine = zlib.compressobj(wbits=-bits)
    return (engine.compress(payload) + engine.flush(zlib.Z_SYNC_FLUSH))[:-4]


def parsed(pieces: Iterable[bytes], extensions: Extensions = PLAIN, max_size: int = 1 << 20) -> list[Item]:
    """Return the items up to a Closed, after which nothing may come, as a connection reads them; without fragments."""
    inbound = Inbound(extensions, max_size)
    found: list[Item] = []
    for piece in pieces:
        for item in inbound.feed(piece):
            assert not any(isinstance(each, Closed) for each in found)
            if item is not Overhead.SMALL_FRAGMENT:
                found.append(item)
        if found and isinstance(found[-1], Closed):
            break
    return found


def the_end(pieces: Iterable[bytes], extensions: Extensions = PLAIN, max_size: int = 1 << 20) -> Closed:
    """Return the only item, which must be a Closed by the server."""
    (item,) = parsed(pieces, extensions, max_size)
    assert isinstance(item, Closed) and not item.by_peer
    return item


# What clients may send ---------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Written:
    """One message of a client: in how many frames, compressed or not, and the control frames between them."""

    content: str | bytes
    cuts: list[int]
    between: list[tuple[int, bytes]]
    compress: bool
    mask: bytes


controls = st.tuples(st.sampled_from([PING, PONG]), st.binary(max_size=125))
contents = st.one_of(
    st.text(max_size=300),
    st.binary(max_size=300),
    st.builds(lambda text, times: text * times, st.text(min_size=1, max_size=20), st.integers(1, 500)),
)
messages = st.builds(
    Written, contents, st.lists(st.integers(0, 400), max_size=4), st.lists(controls, max_size=3), st.booleans(), MASKS
)
closes = st.one_of(
    st.none(),
    st.just(Closed(1005, "", True)),
    st.builds(Closed, st.sampled_from([1000, 1001, 1011, 3000, 4999]), st.text(max_size=40, alphabet="aé€😀"), st.just(True)),
)


def written(messages: list[Written], close: Closed | None, extension: str | None) -> tuple[bytes, list[Item]]:
    """Return the bytes of the messages, and the items to expect."""
    bits, takeover = NEGOTIATED[extension] if extension is not None else (15, False)
    engine: Any = zlib.compressobj(wbits=-bits)
    stream: list[bytes] = []
    expected: list[Item] = []
    for message in messages:
        text = isinstance(message.content, str)
        payload = message.content.encode() if isinstance(message.content, str) else message.content
        compress = message.compress and extension is not None
        if compress:
            if not takeover:
                engine = zlib.compressobj(wbits=-bits)
            payload = (engine.compress(payload) + engine.flush(zlib.Z_SYNC_FLUSH))[:-4]
        bounds = [0, *sorted(min(cut, len(payload)) for cut in message.cuts), len(payload)]
        pauses = len(bounds) - 2
        for index in range(len(bounds) - 1):
            opcode = CONTINUATION if index else TEXT if text else BINARY
            part = payload[bounds[index] : bounds[index + 1]]
            stream.append(frame(opcode, part, fin=index == pauses, rsv=4 * (compress and not index), mask=message.mask))
            if index < pauses and index < len(message.between):
                kind, carried = message.between[index]
                stream.append(frame(kind, carried, mask=message.mask))
                expected.append(Pinged(carried) if kind == PING else Overhead.PONG)
        expected.append(message.content)
    if close is not None:
        code = b"" if close.code == 1005 or close.code is None else struct.pack("!H", close.code)
        stream.append(frame(CLOSE, code + close.reason.encode()))
        expected.append(close)
    return b"".join(stream), expected


def pieces_of(stream: bytes, cuts: list[int]) -> list[bytes]:
    """Cut a stream at these places."""
    bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    return [stream[bounds[index] : bounds[index + 1]] for index in range(len(bounds) - 1)]


@LIGHT
@given(
    st.lists(messages, max_size=5),
    closes,
    st.sampled_from([None, *NEGOTIATED]),
    st.lists(st.integers(0, 3000), max_size=8),
)
def test_everything_a_client_may_send_is_parsed_the_same_however_it_is_cut(
    messages: list[Written], close: Closed | None, extension: str | None, cuts: list[int]
) -> None:
    stream, expected = written(messages, close, extension)
    assert parsed(pieces_of(stream, cuts), Extensions(extension, extension is not None)) == expected


@LIGHT
@given(st.lists(messages, max_size=2), closes)
def test_a_client_may_send_one_byte_at_a_time(messages: list[Written], close: Closed | None) -> None:
    stream, expected = written(messages, close, None)
    assert parsed(bytes([byte]) for byte in stream) == expected if stream else not expected


def test_a_control_frame_may_stand_between_the_fragments_of_a_compressed_message() -> None:
    # RFC 6455, section 5.4, and RFC 7692, section 6.1.
    for extension in NEGOTIATED:
        for control in (PING, PONG):
            message = Written(b"hello " * 20, [5, 9], [(control, b"x"), (control, b"y")], True, bytes(4))
            plain = dataclasses.replace(message, compress=False)
            stream, expected = written([message, plain, message], None, extension)
            assert parsed([stream], Extensions(extension, True)) == expected


def test_ends_of_frames_are_not_ends_of_messages() -> None:
    assert parsed([frame(TEXT, b"a", fin=False)]) == []
    assert parsed([frame(TEXT, b"a", fin=False), frame(CONTINUATION, fin=False), frame(CONTINUATION, b"b")]) == ["ab"]


def test_each_way_of_writing_a_length_is_read() -> None:
    for length in (0, 125, 126, 127, 4095, 4096, 4097, 65535, 65536):
        assert parsed([frame(BINARY, bytes(length))]) == [bytes(length)], length


def test_empty_fragments_are_not_gathered_however_many_there_are() -> None:
    inbound = Inbound(PLAIN, 100)
    empty = frame(CONTINUATION, fin=False) * 20_000
    assert list(inbound.feed(frame(TEXT, b"a", fin=False))) == [Overhead.SMALL_FRAGMENT]
    tracemalloc.start()
    try:
        assert sum(item is Overhead.SMALL_FRAGMENT for item in inbound.feed(empty)) == 20_000
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    # Eight bytes for each of them would be 160,000, without an end and below any bound on a message's size.
    assert kept < 50_000
    assert list(inbound.feed(frame(CONTINUATION, b"b"))) == ["ab"]


def test_small_fragments_are_counted_one_by_one_however_they_are_cut() -> None:
    for size, counted in ((0, 1), (1, 1), (1023, 1), (1024, 0), (5000, 0)):
        text = ("é" * (size // 2) + "x" * (size % 2)).encode()
        for opcode in (TEXT, BINARY):
            stream = frame(opcode, text, fin=False) + frame(PONG, b"x") + frame(CONTINUATION, text, fin=False)
            for step in (1, 7, len(stream)):
                inbound = Inbound(PLAIN, 1 << 20)
                found = [item for at in range(0, len(stream), step) for item in inbound.feed(stream[at : at + step])]
                assert found.count(Overhead.SMALL_FRAGMENT) == 2 * counted, (size, step)
                assert found.count(Overhead.PONG) == 1


def test_the_last_fragment_is_the_message_and_counts_as_that() -> None:
    inbound = Inbound(PLAIN, 100)
    assert list(inbound.feed(frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b"))) == [Overhead.SMALL_FRAGMENT, "ab"]
    assert list(inbound.feed(frame(TEXT, b"c"))) == ["c"]


def test_nothing_is_parsed_after_a_close_frame() -> None:
    assert parsed([frame(CLOSE, b"\x03\xe8bye") + frame(TEXT, b"more")]) == [Closed(1000, "bye", True)]


# What no client may send ----------------------------------------------------------------------------------------------

BROKEN: dict[str, tuple[bytes, int]] = {
    "an unmasked frame": (frame(TEXT, b"x", mask=None), 1002),
    "an unmasked ping": (frame(PING, mask=None), 1002),
    "an unknown opcode": (frame(0x3), 1002),
    "an unknown control opcode": (frame(0xB), 1002),
    "a reserved bit": (frame(TEXT, b"x", rsv=1), 1002),
    "a compressed message without the extension": (frame(TEXT, deflated(b"x"), rsv=4), 1002),
    "a fragmented ping": (frame(PING, fin=False), 1002),
    "a ping of 126 bytes": (frame(PING, bytes(126)), 1002),
    "a close frame of 126 bytes": (frame(CLOSE, b"\x03\xe8" + bytes(124)), 1002),
    "a continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
    "a message within a message": (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
    "a length written too long": (b"\x81\xfe\x00\x01\0\0\0\0x", 1002),
    "a length of 2**63": (b"\x81\xff\x80\0\0\0\0\0\0\0\0\0\0\0", 1002),
    "a close frame of one byte": (frame(CLOSE, b"x"), 1002),
    "a close code below 1000": (frame(CLOSE, struct.pack("!H", 999)), 1002),
    "a close code that must not be sent": (frame(CLOSE, struct.pack("!H", 1006)), 1002),
    "a close code above 4999": (frame(CLOSE, struct.pack("!H", 5000)), 1002),
    "a close reason that is no UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "text that is no UTF-8": (frame(TEXT, b"\xff"), 1007),
    "text that is half a surrogate pair": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "text that ends within a character": (frame(TEXT, "é".encode()[:1]), 1007),
    "fragments that end within a character": (frame(TEXT, b"\xc3", fin=False) + frame(CONTINUATION, b""), 1007),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1002),
}


def test_invalid_bytes_end_the_connection_with_their_code() -> None:
    for name, (stream, code) in BROKEN.items():
        whole = the_end([stream])
        assert whole.code == code and whole.reason, name
        assert the_end(bytes([byte]) for byte in stream).code == code, name
        # A message before them is still received.
        assert parsed([frame(BINARY, b"before") + stream])[0] == b"before", name


@pytest.mark.parametrize(
    "stream, code",
    [
        (frame(TEXT, b"\xff\xff\xff\xff", rsv=4), 1007),
        (frame(TEXT, deflated(b"\xff"), rsv=4), 1007),
        (frame(PING, b"x", rsv=4), 1002),
        (frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", rsv=4), 1002),
    ],
    ids=["no deflate", "deflated text that is no UTF-8", "a compressed ping", "compression begun in the middle"],
)
def test_invalid_compression_ends_the_connection_with_its_code(stream: bytes, code: int) -> None:
    assert the_end([stream], DEFLATE).code == code


def feed_all(stream: list[bytes], extensions: Extensions) -> list[Item]:
    """Feed every piece, also after a Closed: none may raise."""
    inbound = Inbound(extensions, 1000)
    found: list[Item] = []
    for piece in stream:
        found += inbound.feed(piece)
    return found


@LIGHT
@given(st.lists(st.binary(max_size=200), max_size=6), st.sampled_from([PLAIN, DEFLATE]))
def test_garbage_raises_nothing_and_is_closed_once(pieces: list[bytes], extensions: Extensions) -> None:
    parsed(pieces, extensions, 1000)
    closed = [item for item in feed_all(pieces, extensions) if isinstance(item, Closed)]
    assert len(closed) <= 1


def test_an_error_of_the_engine_ends_that_connection_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __init__(self, *_: Any) -> None:
            pass

        def receive_data(self, data: bytes) -> None:
            assert not data, "wsproto asserts in places"

    monkeypatch.setattr(parser, "Engine", Failing)
    assert the_end([b"x"]) == (1002, "protocol error: AssertionError", False)


@LIGHT
@given(st.lists(messages, min_size=1, max_size=3), st.sampled_from([None, *NEGOTIATED]), st.data())
def test_messages_with_a_byte_changed_raise_nothing(messages: list[Written], extension: str | None, choose: Any) -> None:
    stream = bytearray(written(messages, None, extension)[0])
    stream[choose.draw(st.integers(0, len(stream) - 1))] ^= choose.draw(st.integers(1, 255))
    pieces = pieces_of(bytes(stream), choose.draw(st.lists(st.integers(0, 1000), max_size=3)))
    extensions = Extensions(extension, extension is not None)
    parsed(pieces, extensions, 1000)
    feed_all(pieces, extensions)


# Limits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "compressed"])
def test_a_message_may_have_exactly_the_largest_size(compress: bool) -> None:
    for content in ("x" * 999, "é" * 500, "€" * 333 + "x", b"\xff" * 1000):
        payload = content.encode() if isinstance(content, str) else content
        opcode = TEXT if isinstance(content, str) else BINARY
        data, rsv, extensions = (deflated(payload), 4, DEFLATE) if compress else (payload, 0, PLAIN)
        fragments = [frame(opcode, data[:7], fin=False, rsv=rsv), frame(CONTINUATION, data[7:])]
        for pieces in ([frame(opcode, data, rsv=rsv)], fragments):
            # Twice on one connection: the size of one message does not count for the next.
            assert parsed(pieces * 2, extensions, max_size=len(payload)) == [content] * 2
            end = the_end(pieces, extensions, max_size=len(payload) - 1)
            assert end.code == 1009 and str(len(payload) - 1) in end.reason


@pytest.mark.parametrize("fragment", [1 << 40, 1000, 10])
def test_a_message_that_is_too_large_is_rejected_before_all_of_it_has_come(fragment: int) -> None:
    if fragment > 1000:
        # One frame that announces a terabyte.
        pieces = [b"\x82\xff" + struct.pack("!Q", fragment) + bytes(4)] + [bytes(500)] * 100
    else:
        pieces = [frame(BINARY, bytes(fragment), fin=False)] + [frame(CONTINUATION, bytes(fragment), fin=False)] * 10_000
    taken = 0

    def counted() -> Iterable[bytes]:
        nonlocal taken
        for piece in pieces:
            taken += len(piece)
            yield piece

    assert the_end(counted(), max_size=5000).code == 1009
    assert taken <= 5000 * 2.5


def test_a_zip_bomb_is_rejected_before_it_is_inflated() -> None:
    size = 64 << 20
    bomb = frame(TEXT, deflated(bytes(size)), rsv=4)
    assert len(bomb) < size / 900
    for pieces in ([bomb], [bomb[start : start + 4096] for start in range(0, len(bomb), 4096)]):
        tracemalloc.start()
        try:
            assert the_end(pieces, DEFLATE, max_size=512 * 1024).code == 1009
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < size / 2


def test_messages_that_are_each_small_enough_are_received_however_many_come_at_once() -> None:
    assert parsed([frame(TEXT, b"x" * 90) * 500], max_size=100) == ["x" * 90] * 500


# The handshake ----------------------------------------------------------------------------------------------------


REPLIES: list[tuple[bytes, str | None, bool]] = [
    (b"", None, False),
    (b"Sec-WebSocket-Extensions: permessage-deflate\r\n", "permessage-deflate", True),
    (b"sec-websocket-extensions:permessage-deflate\r\n", "permessage-deflate", True),
    (
        b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_max_window_bits=12\r\n",
        "permessage-deflate; server_no_context_takeover; client_max_window_bits=12",
        True,
    ),
    (
        b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=15\r\n",
        "permessage-deflate; server_max_window_bits=15",
        True,
    ),
    (
        b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9\r\n",
        "permessage-deflate; server_max_window_bits=9",
        False,
    ),
    (
        b'Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=9; server_max_window_bits="14"\r\n',
        'permessage-deflate; client_max_window_bits=9; server_max_window_bits="14"',
        False,
    ),
    (b"Sec-WebSocket-Extensions: x-other\r\n", None, False),
    (b"Sec-WebSocket-Extensions: permessage-deflate-frame\r\n", None, False),
    (b"X-Sec-WebSocket-Extensions: permessage-deflate\r\n", None, False),
]


def test_the_negotiated_extensions_are_read_from_the_reply() -> None:
    for header, deflate, reads_deflate in REPLIES:
        reply = b"HTTP/1.1 101 \r\nUpgrade: WebSocket\r\n" + header + b"Sec-WebSocket-Accept: x\r\n\r\n"
        assert Extensions.agreed(reply) == (deflate, reads_deflate), header


def test_an_empty_reply_negotiates_no_extension() -> None:
    assert Extensions.agreed(b"") == (None, False)
