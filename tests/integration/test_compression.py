"""permessage-deflate (RFC 7692): compressed once for all clients that support it, plain for the others."""

from __future__ import annotations

import json
import zlib

import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from tests.integration.conftest import Serve
from tests.support.harness import EVERYWHERE, GTHREAD, Server
from tests.support.raw_client import TEXT, RawClient, deflate, inflate


def offer(value: str) -> dict[str, str | None]:
    return {"Sec-WebSocket-Extensions": value}


@pytest.fixture(params=EVERYWHERE, ids=str)
def server(serve: Serve, request: pytest.FixtureRequest) -> Server:
    return serve(kind=request.param)


def connect(server: Server, headers: dict[str, str | None] | None) -> RawClient:
    return server.upgraded(headers=headers)


def test_a_large_event_is_compressed_and_a_small_one_is_not(server: Server) -> None:
    raw = connect(server, offer("permessage-deflate; client_max_window_bits"))
    assert raw.extensions.startswith("permessage-deflate")
    for size, compressed in ((5000, True), (10, False), (5000, True), (300_000, True)):
        server.flood(1, size)
        frame = raw.frame()
        assert (frame.opcode, frame.fin, frame.compressed) == (TEXT, True, compressed)
        # Each frame has a fresh window, independent of those before it.
        text = inflate(frame.payload) if compressed else frame.payload
        assert json.loads(text)["data"]["task"]["padding"] == "x" * size
        if compressed:
            assert len(frame.payload) < size / 5


def test_all_clients_get_the_same_compressed_bytes(server: Server) -> None:
    first, second = (connect(server, offer("permessage-deflate; client_max_window_bits")) for _ in range(2))
    server.flood(3, 5000)
    assert [first.frame() for _ in range(3)] == [second.frame() for _ in range(3)]


@pytest.mark.parametrize("headers", [None, offer("x-unknown"), offer("x-webkit-deflate-frame")], ids=str)
def test_a_client_that_offered_no_deflate_gets_plain_frames(serve: Serve, headers: dict[str, str | None] | None) -> None:
    server = serve(kind=GTHREAD)
    raw = connect(server, headers)
    assert raw.extensions == ""
    server.flood(1, 5000)
    frame = raw.frame()
    assert not frame.compressed
    assert frame.json["data"]["task"]["padding"] == "x" * 5000


def test_a_client_with_a_small_window_gets_plain_frames(server: Server) -> None:
    """A frame deflated with 15 bits breaks a client that asked for 9."""
    raw = connect(server, offer("permessage-deflate; server_max_window_bits=9; client_max_window_bits"))
    # RFC 7692 section 7.1.2.1: a server that accepts such an offer answers with the same value or a smaller one.
    assert raw.extensions == "" or "server_max_window_bits=9" in raw.extensions.replace(" ", "")
    server.flood(2, 5000)
    for _ in range(2):
        frame = raw.frame()
        assert not frame.compressed
        assert frame.json["data"]["task"]["padding"] == "x" * 5000


@pytest.mark.parametrize(
    "parameters",
    [
        "server_no_context_takeover",
        "client_no_context_takeover",
        "server_no_context_takeover; client_no_context_takeover",
        "server_max_window_bits=15",
        "client_max_window_bits=9",
        "client_max_window_bits=15",
    ],
)
def test_other_offers_are_answered_with_frames_that_a_fresh_window_reads(serve: Serve, parameters: str) -> None:
    server = serve(kind=GTHREAD)
    raw = connect(server, offer(f"permessage-deflate; {parameters}"))
    server.flood(2, 5000)
    for _ in range(2):
        frame = raw.frame()
        assert frame.compressed <= bool(raw.extensions)
        text = inflate(frame.payload) if frame.compressed else frame.payload
        assert json.loads(text)["data"]["task"]["padding"] == "x" * 5000


@pytest.mark.parametrize(
    "value",
    [
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=x",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; client_max_window_bits=99",
        "permessage-deflate; unknown=1",
        "permessage-deflate; ; ;",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        ";;;,,,",
        "=",
    ],
)
def test_a_broken_offer_is_declined_or_refused(serve: Serve, value: str) -> None:
    server = serve(kind=GTHREAD)
    raw = server.raw()
    response = raw.open("/ws", offer(value))
    assert response.status in (101, 400)
    if response.status == 101:
        assert raw.receive()["type"] == "connected"
        server.flood(1, 5000)
        frame = raw.frame()
        text = inflate(frame.payload) if frame.compressed else frame.payload
        assert json.loads(text)["type"] == "task.created"


@pytest.mark.parametrize("window", [None, 9, 12, 15])
def test_the_websockets_client_reads_plain_and_compressed_frames_mixed(server: Server, window: int | None) -> None:
    factory = ClientPerMessageDeflateFactory(server_max_window_bits=window, client_max_window_bits=True)
    peer = server.connect(compression=None, extensions=[factory])
    sizes = [10, 5000, 10, 5000, 100_000, 10, 2000]
    for size in sizes:
        server.flood(1, size)
        # The client compresses, too, with a window that it keeps.
        assert peer.receive()["data"]["task"]["padding"] == "x" * size
        assert peer.ask({"type": "no.such", "note": "y" * size})["data"]["code"] == "UNKNOWN_TYPE"


def test_compressed_messages_of_a_client_are_read(server: Server) -> None:
    raw = connect(server, offer("permessage-deflate; client_no_context_takeover"))
    for size in (0, 100, 100_000):
        raw.send_frame(TEXT, deflate(json.dumps({"type": "no.such", "note": "x" * size}).encode()), rsv=4)
        assert raw.receive()["data"]["code"] == "UNKNOWN_TYPE"
    # A client may send any message uncompressed.
    raw.send_json({"type": "ping"})
    assert raw.receive()["type"] == "pong"


def test_a_compressed_message_in_fragments_is_read(server: Server) -> None:
    raw = connect(server, offer("permessage-deflate"))
    payload = deflate(json.dumps({"type": "ping", "note": "é☃" * 100}, ensure_ascii=False).encode())
    parts = [payload[index : index + 7] for index in range(0, len(payload), 7)]
    for index, part in enumerate(parts):
        raw.send_frame(TEXT if index == 0 else 0, part, rsv=4 if index == 0 else 0, fin=index == len(parts) - 1)
    assert raw.receive()["type"] == "pong"


def test_a_stored_deflate_block_is_read(server: Server) -> None:
    """Not every client really compresses what it marks as compressed."""
    raw = connect(server, offer("permessage-deflate"))
    engine = zlib.compressobj(0, zlib.DEFLATED, -15)
    payload = (engine.compress(b'{"type":"ping"}') + engine.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")
    raw.send_frame(TEXT, payload, rsv=4)
    assert raw.receive()["type"] == "pong"


def test_compression_can_be_switched_off(serve: Serve) -> None:
    server = serve(kind=GTHREAD, config={"CARTOWS_COMPRESS_MIN_SIZE": None})
    raw = connect(server, offer("permessage-deflate; client_max_window_bits"))
    server.flood(1, 5000)
    assert not raw.frame().compressed


def test_the_threshold_can_be_set(serve: Serve) -> None:
    server = serve(kind=GTHREAD, config={"CARTOWS_COMPRESS_MIN_SIZE": 10_000})
    raw = connect(server, offer("permessage-deflate"))
    server.flood(1, 9_000)
    assert not raw.frame().compressed
    server.flood(1, 11_000)
    assert raw.frame().compressed
