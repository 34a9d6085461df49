"""Frames: that other parsers read them, compressed or not, and that nothing invalid is sent."""

from __future__ import annotations

import random
import struct
import threading
import zlib
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate as WebsocketsDeflate
from websockets.frames import Close as WebsocketsClose
from websockets.frames import Frame as WebsocketsFrame
from websockets.streams import StreamReader
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate

from cartows.websocket import frames
from cartows.websocket.frames import CONTROL_PAYLOAD, Frame, close_frame, ping_frame, pong_frame

LIGHT = settings(
    deadline=None,
    report_multiple_bugs=False,
    max_examples=80,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

DEFLATE = "permessage-deflate"
NO_TAKEOVER = "permessage-deflate; server_no_context_takeover"

# How long a test waits for what must not happen, and for what must, in seconds.
A_MOMENT, AT_MOST = 0.2, 10.0


class Sent(NamedTuple):
    """A message as the hub has it, and how it is sent."""

    content: str | bytes
    deflate: bool

    @property
    def frame(self) -> Frame:
        if isinstance(self.content, str):
            return Frame(self.content.encode(), compress_min_size=1)
        return Frame(self.content, binary=True, compress_min_size=1)


def wsproto_client(extension: str | None = None) -> Connection:
    """Return wsproto's client side after a handshake that negotiated this extension."""
    if extension is None:
        return Connection(ConnectionType.CLIENT)
    deflate = PerMessageDeflate()
    deflate.finalize(extension)
    return Connection(ConnectionType.CLIENT, [deflate])


def received(client: Connection, *pieces: bytes) -> list[str | bytes]:
    """Return the whole messages that wsproto finds in these bytes."""
    found: list[str | bytes] = []
    parts: list[Any] = []
    for piece in pieces:
        client.receive_data(piece)
        for event in client.events():
            assert isinstance(event, (TextMessage, BytesMessage)), event
            parts.append(event.data)
            if event.message_finished:
                found.append(parts[0][:0].join(parts))
                parts = []
    assert not parts
    return found


def websockets_deflate(*, takeover: bool) -> WebsocketsDeflate:
    """Return the client's side of the extension in websockets."""
    return WebsocketsDeflate(
        remote_no_context_takeover=not takeover,
        local_no_context_takeover=False,
        remote_max_window_bits=15,
        local_max_window_bits=15,
    )


def parsed(data: bytes, count: int = 1, extension: WebsocketsDeflate | None = None) -> list[WebsocketsFrame]:
    """Return so many frames as websockets parses them, which must be all of them."""
    reader = StreamReader()
    reader.feed_data(data)
    found = []
    for _ in range(count):
        parser = WebsocketsFrame.parse(reader.read_exact, mask=False, extensions=[extension] if extension else None)
        try:
            next(parser)
        except StopIteration as done:
            found.append(done.value)
        else:
            pytest.fail("the frame is longer than what was sent")
    assert not reader.buffer
    return found


def payload_of(control: bytes) -> bytes:
    """Return the payload of a control frame."""
    assert len(control) == 2 + control[1] <= 2 + CONTROL_PAYLOAD
    return control[2:]


# Short payloads of every kind, and long ones that deflate makes smaller.
contents = st.one_of(
    st.text(max_size=200),
    st.binary(max_size=200),
    st.builds(lambda text, times: text * times, st.text(min_size=1, max_size=20), st.integers(1, 1000)),
    st.builds(lambda data, times: data * times, st.binary(min_size=1, max_size=20), st.integers(1, 1000)),
)
mixtures = st.lists(st.builds(Sent, contents, st.booleans()), max_size=8)


# Plain frames -----------------------------------------------------------------------------------------------------


@LIGHT
@given(st.binary(max_size=70_000), st.booleans())
def test_a_frame_of_any_payload_is_one_whole_unmasked_message(payload: bytes, binary: bool) -> None:
    (found,) = parsed(Frame(payload, binary=binary).plain)
    assert (found.data, found.fin, found.rsv1, found.opcode) == (payload, True, False, 2 if binary else 1)


def test_each_way_of_writing_a_length_is_read_back() -> None:
    # Around each step of the encoding of a length, which must be the shortest possible (RFC 6455, section 5.2).
    for length, header in {0: 2, 1: 2, 125: 2, 126: 4, 127: 4, 65535: 4, 65536: 10}.items():
        text = "x" * length
        frame = Frame(text.encode())
        assert received(wsproto_client(), frame.plain) == [text], length
        assert parsed(frame.plain)[0].data == text.encode(), length
        assert len(frame.plain) - length == header, length


@settings(LIGHT, max_examples=40)
@given(st.lists(contents, max_size=5), st.integers(1, 30))
def test_consecutive_frames_stay_apart_however_they_are_cut(messages: list[str | bytes], cuts: int) -> None:
    stream = b"".join(Sent(content, deflate=False).frame.plain for content in messages)
    step = len(stream) // cuts + 1
    assert received(wsproto_client(), *(stream[start : start + step] for start in range(0, len(stream), step))) == messages


def test_a_frame_has_the_number_of_its_event() -> None:
    assert (Frame(b"x").number, Frame(b"x", number=7).number) == (0, 7)


# The compressed form ----------------------------------------------------------------------------------------------


@LIGHT
@given(mixtures)
@pytest.mark.parametrize("extension", [DEFLATE, NO_TAKEOVER])
def test_wsproto_reads_compressed_and_plain_frames_in_any_order_on_one_connection(extension: str, mixture: list[Sent]) -> None:
    stream = b"".join(sent.frame.wire(sent.deflate) for sent in mixture)
    assert received(wsproto_client(extension), stream) == [sent.content for sent in mixture]


@LIGHT
@given(mixtures)
@pytest.mark.parametrize("takeover", [True, False])
def test_websockets_reads_compressed_and_plain_frames_in_any_order_on_one_connection(
    takeover: bool, mixture: list[Sent]
) -> None:
    stream = b"".join(sent.frame.wire(sent.deflate) for sent in mixture)
    found = parsed(stream, len(mixture), websockets_deflate(takeover=takeover))
    expected = [sent.content.encode() if isinstance(sent.content, str) else sent.content for sent in mixture]
    assert [frame.data for frame in found] == expected


@pytest.mark.parametrize("extension", [DEFLATE, NO_TAKEOVER])
def test_one_compressed_form_serves_many_connections_and_many_times(extension: str) -> None:
    text = '{"type":"task.created"}' * 200
    frame = Frame(text.encode(), compress_min_size=1)
    compressed = frame.wire(True)
    assert len(compressed) < len(frame.plain) / 4
    assert compressed[0] & 0x40 and not frame.plain[0] & 0x40
    for _ in range(3):
        assert received(wsproto_client(extension), compressed + frame.plain + compressed + compressed) == [text] * 4


def test_a_client_without_the_extension_gets_no_compressed_frame() -> None:
    frame = Frame(b"x" * 5000, compress_min_size=1)
    assert frame.wire(False) == frame.plain
    assert received(wsproto_client(), frame.wire(False)) == ["x" * 5000]


@pytest.mark.parametrize("length, compress_min_size, compressed", [(99, 100, False), (100, 100, True), (10**5, None, False)])
def test_compression_begins_at_compress_min_size(length: int, compress_min_size: int | None, compressed: bool) -> None:
    frame = Frame(b"x" * length, compress_min_size=compress_min_size)
    assert frame.compressible is compressed
    assert (frame.wire(True) != frame.plain) is compressed


@pytest.mark.parametrize("payload", [b"", b"{}", random.Random(1).randbytes(3000)])
def test_a_frame_that_deflate_makes_no_smaller_stays_plain(payload: bytes) -> None:
    frame = Frame(payload, binary=True, compress_min_size=1)
    assert frame.compressed() is frame.plain


@LIGHT
@given(contents)
def test_a_compressed_form_is_never_longer_than_the_frame(content: str | bytes) -> None:
    frame = Sent(content, deflate=True).frame
    assert len(frame.compressed()) <= len(frame.plain)


def test_a_frame_is_compressed_once_however_many_threads_ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    another = threading.Event()

    def compressobj(*arguments: Any) -> Any:
        made.append(threading.get_ident())
        if len(made) > 1:
            another.set()
        # A thread that wrongly compresses a second time has this long to get here.
        another.wait(A_MOMENT)
        return zlib.compressobj(*arguments)

    stand_in = SimpleNamespace(**{**vars(zlib), "compressobj": compressobj})
    monkeypatch.setattr(frames, "zlib", stand_in)
    frame = Frame(b"x" * 5000, compress_min_size=1)
    together = threading.Barrier(8)
    found: list[bytes] = []

    def compress() -> None:
        together.wait(AT_MOST)
        found.append(frame.wire(True))

    threads = [threading.Thread(target=compress) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(AT_MOST)
    assert len(found) == 8
    assert len(made) == 1
    assert all(each is found[0] for each in found)


# Control frames ---------------------------------------------------------------------------------------------------


@LIGHT
@given(st.binary(max_size=CONTROL_PAYLOAD))
def test_pings_and_pongs_carry_their_payload(payload: bytes) -> None:
    client = wsproto_client(DEFLATE)
    client.receive_data(ping_frame(payload) + pong_frame(payload))
    ping, pong = client.events()
    assert isinstance(ping, Ping) and isinstance(pong, Pong)
    assert ping.payload == pong.payload == payload


@pytest.mark.parametrize("make", [ping_frame, pong_frame])
def test_a_control_frame_over_125_bytes_is_rejected(make: Any) -> None:
    assert payload_of(make(bytes(CONTROL_PAYLOAD))) == bytes(CONTROL_PAYLOAD)
    with pytest.raises(ValueError, match="125"):
        make(bytes(CONTROL_PAYLOAD + 1))


@LIGHT
@given(
    st.sampled_from([1000, 1001, 1009, 1011, 1012, 3008, 3012, 3507, 4000, 4999]),
    st.one_of(st.text(max_size=200), st.text(alphabet="aé€😀", min_size=30, max_size=130)),
)
def test_a_close_frame_carries_as_much_of_its_reason_as_fits_in_whole_characters(code: int, reason: str) -> None:
    frame = close_frame(code, reason)
    found = WebsocketsClose.parse(payload_of(frame))
    assert found.code == code
    assert reason.startswith(found.reason)
    left = reason[len(found.reason) :]
    assert not left or len((found.reason + left[0]).encode()) > CONTROL_PAYLOAD - 2
    client = wsproto_client()
    client.receive_data(frame)
    (event,) = client.events()
    assert isinstance(event, CloseConnection) and (event.code, event.reason) == (code, found.reason)


@LIGHT
@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=150))
def test_every_reason_makes_a_close_frame_that_can_be_read(reason: str) -> None:
    payload_of(close_frame(1000, reason))[2:].decode()


def test_a_reason_with_half_a_character_keeps_the_rest() -> None:
    assert payload_of(close_frame(1000, "a\ud800b"))[2:] == b"a?b"


def test_a_code_that_must_not_be_sent_gives_a_close_frame_without_one() -> None:
    for code in (None, 1004, 1005, 1006, 1015):
        assert close_frame(code, "why") == b"\x88\x00", code


@LIGHT
@given(st.integers(-1, 70000))
def test_a_code_that_a_peer_would_reject_is_rejected_here(code: int) -> None:
    if code in (1004, 1005, 1006):
        assert payload_of(close_frame(code)) == b""
    elif 1000 <= code <= 1014 or 3000 <= code <= 4999:
        assert payload_of(close_frame(code)) == struct.pack("!H", code)
    elif code != 1015:
        with pytest.raises(ValueError, match="close code"):
            close_frame(code)
