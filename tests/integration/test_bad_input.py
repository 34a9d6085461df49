"""Clients that break the protocol, and clients that vanish: a defined end for them, and no cost to others."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest

from tests.integration.conftest import Serve
from tests.support import process
from tests.support.clients import Peer
from tests.support.event_helpers import complete_watcher
from tests.support.harness import EVERYWHERE, FLASK, GTHREAD, GTHREAD_ATTACHED, GTHREAD_TLS, HOST, Kind, Server
from tests.support.raw_client import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, RawClient, deflate, deflate_bomb, make_frame
from tests.support.waiting import wait_until

DEFLATE: dict[str, str | None] = {"Sec-WebSocket-Extensions": "permessage-deflate"}

LIMIT = 512 * 1024


@pytest.fixture(params=EVERYWHERE, ids=str)
def server(serve: Serve, request: pytest.FixtureRequest) -> Server:
    return serve(kind=request.param)


@pytest.fixture
def witness(server: Server) -> Iterator[Peer]:
    """Another client, which must receive every event meanwhile, once and in order."""
    with complete_watcher(server) as peer:
        yield peer
    assert peer.ask({"type": "ping"})["type"] == "pong"


BAD_FRAMES: dict[str, tuple[bytes, set[int]]] = {
    "unmasked text": (make_frame(TEXT, b'{"type":"ping"}', masked=False), {1002}),
    "unmasked ping": (make_frame(PING, b"", masked=False), {1002}),
    "unmasked close": (make_frame(CLOSE, b"\x03\xe8", masked=False), {1002}),
    "reserved bit 1": (make_frame(TEXT, b"{}", rsv=4), {1002}),
    "reserved bit 2": (make_frame(TEXT, b"{}", rsv=2), {1002}),
    "reserved bit 3": (make_frame(TEXT, b"{}", rsv=1), {1002}),
    "reserved opcode 3": (make_frame(3, b"{}"), {1002}),
    "reserved opcode 11": (make_frame(11, b""), {1002}),
    "long ping": (make_frame(PING, b"x" * 126), {1002}),
    "fragmented ping": (make_frame(PING, b"x", fin=False), {1002}),
    "fragmented close": (make_frame(CLOSE, b"\x03\xe8", fin=False), {1002}),
    "continuation of nothing": (make_frame(CONTINUATION, b"x"), {1002}),
    "text within a message": (make_frame(TEXT, b"{", fin=False) + make_frame(TEXT, b"}"), {1002}),
    "bytes within a message": (make_frame(TEXT, b"{", fin=False) + make_frame(BINARY, b"}"), {1002}),
    "close of one byte": (make_frame(CLOSE, b"\x03"), {1002}),
    "close code 0": (make_frame(CLOSE, b"\x00\x00"), {1002}),
    "close code 999": (make_frame(CLOSE, struct.pack("!H", 999)), {1002}),
    "close code 1005": (make_frame(CLOSE, struct.pack("!H", 1005)), {1002}),
    "close code 1006": (make_frame(CLOSE, struct.pack("!H", 1006)), {1002}),
    "close reason no UTF-8": (make_frame(CLOSE, b"\x03\xe8\xff"), {1002, 1007}),
    "text no UTF-8": (make_frame(TEXT, b'{"type":"\xff"}'), {1007}),
    "text cut in a character": (make_frame(TEXT, "é".encode()[:1]), {1007}),
    "text with a surrogate": (make_frame(TEXT, b"\xed\xa0\x80"), {1007}),
    "text overlong": (make_frame(TEXT, b"\xc0\x80"), {1007}),
    "fragments no UTF-8": (
        make_frame(TEXT, "é".encode()[:1], fin=False) + make_frame(CONTINUATION, b"x"),
        {1007},
    ),
    "length with the top bit": (bytes([0x81, 0xFF]) + b"\xff" * 8 + b"mask", {1002, 1009}),
    "length of 127 in eight bytes": (bytes([0x81, 0xFF]) + struct.pack("!Q", 5) + b"maskhello", {1002}),
    "length of 126 in two bytes": (bytes([0x81, 0xFE]) + struct.pack("!H", 5) + b"maskhello", {1002}),
    "an HTTP request": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", {1002}),
    "zeros": (b"\x00" * 64, {1002}),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_broken_frame_ends_its_connection_with_the_right_code(server: Server, witness: Peer, name: str) -> None:
    data, codes = BAD_FRAMES[name]
    start = len(server.log())
    raw = server.upgraded()
    raw.send(data)
    frames, closed = raw.ended()
    assert closed.code in codes
    assert not [frame for frame in frames if frame.opcode == TEXT]
    server.await_clients(1)
    lines = wait_until(lambda: server.app_log(start), "a line in the log")
    assert len(lines) == 1, lines


def test_garbage_ends_its_connection(server: Server, witness: Peer) -> None:
    garbage = random.Random(17)
    for _ in range(20):
        raw = server.upgraded()
        with contextlib.suppress(OSError):
            raw.send(garbage.randbytes(4000))
            raw.finish()
        _, closed = raw.ended()
        assert closed.code in (1000, 1002, 1005, 1006, 1007, 1009)


def test_deflate_garbage_ends_its_connection(server: Server, witness: Peer) -> None:
    for payload in (b"\xff" * 50, b"\x06\x00\x00", deflate(b'{"type":"ping"}')[:5] + b"\xff\xff\xff\xff\xff"):
        raw = server.upgraded(headers=DEFLATE)
        raw.send_frame(TEXT, payload, rsv=4)
        _, closed = raw.ended()
        assert closed.code in (1002, 1007)


def test_compressed_text_that_is_not_utf_8_ends_its_connection(server: Server, witness: Peer) -> None:
    raw = server.upgraded(headers=DEFLATE)
    raw.send_frame(TEXT, deflate(b"\xff\xfe"), rsv=4)
    assert raw.ended()[1].code == 1007


def too_big(raw: RawClient) -> None:
    raw.send_frame(TEXT, b"x" * (LIMIT + 1))


def too_big_in_fragments(raw: RawClient) -> None:
    raw.send_frame(TEXT, b"x" * 1000, fin=False)
    for _ in range(LIMIT // 1000):
        raw.send_frame(CONTINUATION, b"x" * 1000, fin=False)


def too_big_in_bytes(raw: RawClient) -> None:
    raw.send_frame(BINARY, b"x" * (LIMIT + 1))


def empty_fragments_without_end(raw: RawClient) -> None:
    """Never too large, never complete; the cost of each fragment must not grow."""
    raw.send(make_frame(TEXT, b"x" * LIMIT, fin=False) + make_frame(CONTINUATION, b"", fin=False) * 1000)
    raw.send_frame(CONTINUATION, b"y")


@pytest.mark.parametrize("send", [too_big, too_big_in_fragments, too_big_in_bytes, empty_fragments_without_end])
def test_an_oversized_message_is_answered_1009(server: Server, witness: Peer, send: Callable[[RawClient], None]) -> None:
    start = len(server.log())
    raw = server.upgraded()
    with contextlib.suppress(ConnectionError):
        send(raw)
    _, closed = raw.ended()
    assert closed.code == 1009
    server.await_clients(1)
    lines = wait_until(lambda: server.app_log(start), "a line in the log")
    assert len(lines) == 1, lines


def test_a_message_of_just_the_limit_is_read(server: Server) -> None:
    frame = b'{"type":"no.such","note":"'
    frame += b"x" * (LIMIT - len(frame) - 2) + b'"}'
    assert len(frame) == LIMIT
    raw = server.upgraded()
    raw.send_frame(TEXT, frame)
    assert raw.receive()["data"]["code"] == "UNKNOWN_TYPE"


@pytest.mark.parametrize("mebibytes", [1, 100])
def test_a_zip_bomb_is_answered_1009_before_it_is_inflated(server: Server, witness: Peer, mebibytes: int) -> None:
    """The limit applies to the decompressed size, and memory stays bounded."""
    before = process.peak_memory(server.pid) if process.HAS_PROC else 0
    raw = server.upgraded(headers=DEFLATE)
    assert len(deflate_bomb(mebibytes)) < LIMIT
    with contextlib.suppress(ConnectionError):
        raw.send_frame(TEXT, deflate_bomb(mebibytes), rsv=4)
    assert raw.ended()[1].code == 1009
    if process.HAS_PROC:
        assert process.peak_memory(server.pid) - before < 32 * 1024 * 1024


def test_a_zip_bomb_in_many_fragments_is_answered_1009(server: Server, witness: Peer) -> None:
    raw = server.upgraded(headers=DEFLATE)
    parts = [deflate_bomb(20)[index : index + 500] for index in range(0, len(deflate_bomb(20)), 500)]
    with contextlib.suppress(ConnectionError):
        for index, part in enumerate(parts):
            raw.send_frame(TEXT if index == 0 else 0, part, rsv=4 if index == 0 else 0, fin=index == len(parts) - 1)
    assert raw.ended()[1].code == 1009


def test_the_limit_can_be_set(serve: Serve) -> None:
    server = serve(kind=GTHREAD, config={"CARTOWS_MAX_MESSAGE_SIZE": 100})
    raw = server.upgraded()
    raw.send_frame(TEXT, json.dumps({"type": "ping", "note": "x" * 70}).encode())
    assert raw.receive()["type"] == "pong"
    raw.send_frame(TEXT, json.dumps({"type": "ping", "note": "x" * 90}).encode())
    assert raw.ended()[1].code == 1009


def test_a_message_in_bytes_is_answered_and_the_connection_stays(server: Server, witness: Peer) -> None:
    """The protocol is JSON in text messages; bytes are answered with an error, or read as JSON."""
    raw = server.upgraded()
    for payload in (b'{"type":"ping"}', b"\xff\xfe\x00", b""):
        raw.send_frame(BINARY, payload)
        assert raw.receive()["type"] in ("error", "pong")
    raw.close()


def test_half_a_kilobyte_that_inflates_to_half_a_megabyte_is_answered_1009(server: Server, witness: Peer) -> None:
    raw = server.upgraded(headers=DEFLATE)
    payload = deflate(b'{"type":"subscribe","data":[' + b"[]," * 170_000 + b"0]}")
    assert len(payload) < 1000
    raw.send_frame(TEXT, payload, rsv=4)
    assert raw.ended()[1].code == 1009


def test_a_compressed_message_without_an_end_is_answered_1009(server: Server, witness: Peer) -> None:
    """Its deflate stream has ended, and bytes go on; or it consists of empty blocks."""
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    ended = engine.compress(b'{"type":"ping"}') + engine.flush(zlib.Z_FINISH)
    for start, more in ((ended, b"\x00\x00\x00\xff\xff" * 3000), (b"", b"\x00\x00\x00\xff\xff" * 3000)):
        raw = server.upgraded(headers=DEFLATE)
        with contextlib.suppress(ConnectionError):
            raw.send_frame(TEXT, start, rsv=4, fin=False)
            for _ in range(2 * LIMIT // len(more)):
                raw.send_frame(CONTINUATION, more, fin=False)
        assert raw.ended()[1].code == 1009


def test_frames_after_a_close_are_not_answered(server: Server, witness: Peer) -> None:
    raw = server.upgraded()
    raw.send(make_frame(CLOSE, b"\x03\xe8") + make_frame(TEXT, b'{"type":"ping"}') + make_frame(PING, b"x"))
    frames, closed = raw.ended()
    assert frames == []
    assert closed.code == 1000


def test_a_client_that_never_answers_a_close_is_not_waited_for(serve: Serve) -> None:
    server = serve(kind=GTHREAD, config={"CARTOWS_WRITE_WAIT": 1.0})
    raw = server.upgraded()
    raw.send_frame(3, b"")
    while (frame := raw.frame()).opcode != CLOSE:
        continue
    assert frame.closed.code == 1002
    server.await_clients(0)
    server.await_idle()


CUT = [
    make_frame(TEXT, b'{"type":"ping"}')[:1],
    make_frame(TEXT, b'{"type":"ping"}')[:5],
    make_frame(TEXT, b'{"type":"ping"}')[:-1],
    make_frame(TEXT, b"x" * 70_000)[:5],
    make_frame(TEXT, b"x" * 70_000)[:60_000],
    make_frame(TEXT, b"{", fin=False),
    make_frame(CLOSE, b"\x03\xe8")[:-1],
    make_frame(PING, b"x" * 100)[:50],
]


def test_a_frame_that_the_peer_cuts_ends_its_connection(server: Server, witness: Peer) -> None:
    for data in CUT:
        raw = server.upgraded()
        raw.send(data)
        raw.finish()
        frames, _ = raw.ended()
        assert frames == []
        raw = server.upgraded()
        raw.send(data)
        raw.reset()


def test_half_a_frame_delays_no_other_client(server: Server, witness: Peer) -> None:
    raws = []
    for data in CUT:
        raw = server.upgraded()
        raw.send(data)
        raws.append(raw)
    server.publish("broadcast", "meanwhile")
    assert [raw.receive()["type"] for raw in raws] == ["meanwhile"] * len(raws)
    for raw in raws:
        raw.close()


def resetting(raw: RawClient) -> None:
    raw.reset()


def finishing(raw: RawClient) -> None:
    raw.finish()
    raw.rest()
    raw.close()


def nothing(raw: RawClient) -> None:
    """Connect, and send nothing."""


def half_a_line(raw: RawClient) -> None:
    raw.send(b"GET /w")


def half_the_headers(raw: RawClient) -> None:
    raw.send(raw.handshake("/ws")[:-2])


def the_request(raw: RawClient) -> None:
    raw.send(raw.handshake("/ws"))


def the_request_and_frames(raw: RawClient) -> None:
    raw.send(raw.handshake("/ws") + make_frame(TEXT, b'{"type":"ping"}') * 3)


def the_answer(raw: RawClient) -> None:
    assert raw.open("/ws").status == 101


def the_greeting(raw: RawClient) -> None:
    the_answer(raw)
    raw.receive()


def a_message(raw: RawClient) -> None:
    the_greeting(raw)
    raw.send_json({"type": "ping"})


def a_refusal(raw: RawClient) -> None:
    raw.send(raw.handshake("/ws", {"Origin": "https://evil.example"}))


@pytest.mark.parametrize("leave", [resetting, finishing])
@pytest.mark.parametrize(
    "progress",
    [
        nothing,
        half_a_line,
        half_the_headers,
        the_request,
        the_request_and_frames,
        the_answer,
        the_greeting,
        a_message,
        a_refusal,
    ],
)
def test_a_peer_may_vanish_at_every_step(
    server: Server, witness: Peer, progress: Callable[[RawClient], None], leave: Callable[[RawClient], None]
) -> None:
    if progress is a_refusal and leave is resetting and server.plan.kind.server == "flask":
        pytest.skip("Werkzeug sends the refusal, and now and then its thread stays with a peer that resets meanwhile")
    for _ in range(5):
        raw = server.raw()
        progress(raw)
        leave(raw)
    server.await_clients(1)


def test_a_peer_may_vanish_while_events_flow(server: Server, witness: Peer) -> None:
    for how in (resetting, finishing, RawClient.close):
        for _ in range(5):
            raw = server.upgraded("/ws?board_id=busy")
            server.flood(20, 2000, "busy")
            how(raw)


@pytest.mark.skipif(
    int(importlib.metadata.version("gunicorn").split(".")[0]) < 21,
    reason="the main thread of gunicorn 20.1 begins TLS itself, and its worker dies when the peer has gone by then",
)
def test_plain_bytes_on_a_tls_port_are_harmless(serve: Serve) -> None:
    server = serve(kind=GTHREAD_TLS)
    server.expected_tracebacks += ["ssl.SSLError", "SSL: HTTP_REQUEST", "SSLEOFError"]
    witness = server.connect()
    for data in (b"", b"GET /ws HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"):
        for leave in (resetting, finishing):
            raw = RawClient(HOST, server.port)
            with raw, contextlib.suppress(ConnectionError):
                raw.send(data)
                leave(raw)
    assert server.received(witness) == [[]]


def test_a_flood_of_pings_is_answered_with_bounded_memory(server: Server, witness: Peer) -> None:
    """A client that keeps pinging and reads nothing may be disconnected, but must not fill the memory."""
    before = process.peak_memory(server.pid) if process.HAS_PROC else 0
    raw = server.upgraded("/ws?board_id=none", receive_buffer=4096)
    raw.socket.settimeout(1.0)
    pings = make_frame(PING, b"x" * 125) * 1000
    with contextlib.suppress(OSError):  # refused, or no longer read: both are allowed
        for _ in range(60):
            raw.send(pings)
    if process.HAS_PROC:
        assert process.peak_memory(server.pid) - before < 16 * 1024 * 1024
    raw.reset()


def test_unsolicited_pongs_are_ignored(server: Server, witness: Peer) -> None:
    raw = server.upgraded()
    raw.send(make_frame(PONG, b"unasked") * 100)
    raw.send_json({"type": "ping"})
    assert raw.receive()["type"] == "pong"
    raw.close()


# Characters that end a line in a log, or that a terminal obeys.
LINE_ENDS = ("\n", "\r\n", "\r", "\x0b", "\x85", "\u2028")
FORGED = "app-log CRITICAL root: forged"


def check_log(server: Server, start: int, text: str, count: int) -> None:
    """Check that so many lines with this text were logged, and none that a peer has forged."""
    wait_until(lambda: server.log(start).count(text) >= count, lambda: f"{count} lines: {server.log(start)}")
    log = server.log_file.read_bytes().decode()[start:]
    assert log.count(text) == count
    assert FORGED in log
    assert not [line for line in log.splitlines() if line.startswith(FORGED)]
    # Werkzeug's own lines have colours
    assert all(line.isprintable() for line in log.split("\n") if "werkzeug:" not in line)


@pytest.mark.parametrize("kind", [GTHREAD, GTHREAD_ATTACHED, FLASK], ids=str)
@pytest.mark.parametrize("path", ["/ws", "/own"])
def test_a_refused_room_cannot_forge_a_line_in_the_log(serve: Serve, kind: Kind, path: str) -> None:
    server = serve("users", kind=kind)
    values = [f"x{end}{FORGED}" for end in LINE_ENDS] + [f"x\x1b[31m{FORGED}\x9b2J\u202e"]
    server.post("/denied", [["board_id", value] for value in values])
    start = len(server.log_file.read_bytes().decode())
    try:
        for value in values:
            raw = server.raw()
            response = raw.open(f"{path}?board_id={quote(value)}")
            if path == "/ws":
                assert (response.status, response.json["code"]) == (403, "FORBIDDEN")
            else:
                assert raw.frame().closed.code == 3507
            raw.close()
    finally:
        server.post("/denied", [])
    check_log(server, start, "You may not subscribe to", len(values))


@pytest.mark.parametrize("kind", [GTHREAD, GTHREAD_ATTACHED, FLASK], ids=str)
@pytest.mark.parametrize("path", ["/ws", "/own"])
def test_a_close_reason_cannot_forge_a_line_in_the_log(serve: Serve, kind: Kind, path: str) -> None:
    server = serve("users", kind=kind)
    reasons = [f"bye{end}{FORGED}" for end in LINE_ENDS] + [f"bye\x1b[31m{FORGED}\x9b2J\u202e"]
    start = len(server.log_file.read_bytes().decode())
    for reason in reasons:
        raw = server.upgraded(path)
        raw.send_frame(CLOSE, struct.pack("!H", 3000) + reason.encode())
        assert raw.frame().opcode == CLOSE
        raw.close()
    check_log(server, start, " is closed: 3000 bye", len(reasons))
