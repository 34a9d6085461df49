"""Inputs for attacks: handshakes, frames and messages with something wrong in them.

Every choice comes from a ``random.Random``: a seeded one, or one of hypothesis, which then finds the smallest input that fails.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from random import Random
from typing import Any

from tests.hostile.target import Headers, Target, frame
from tests.support.raw_client import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, deflate, make_request

#: Header values that are known to break parsers.
ODD_TEXTS = (
    "",
    " ",
    "\t",
    "x" * 5000,
    ",",
    ",,,,",
    ";" * 100,
    '"',
    "\x00",
    "\x7f",
    "é",
    "%00%ff%u0000",
    "13, 13",
    "-1",
    "9" * 400,
    "websocket, h2c",
    "close, Upgrade",
    "../../etc/passwd",
    "${jndi:ldap://x}",
    "{{7*7}}",
    "\r\n folded",
    "A" * 22 + "==",
    base64.b64encode(b"x" * 17).decode(),
    "permessage-deflate; client_max_window_bits=7",
    "permessage-deflate; server_max_window_bits=0; server_max_window_bits=99",
    "permessage-deflate; client_max_window_bits=" + "1" * 300,
    'permessage-deflate; x="' + "y" * 300,
    ", ".join(["permessage-deflate"] * 200),
    "cartows, bearer.",
    "bearer." + "e30." * 500,
    "http://[::1",
    "null",
)

_HANDSHAKE = ("Host", "Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version")
_NAMES = (
    *_HANDSHAKE,
    *("Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol", "Origin", "Authorization", "Cookie", "Expect", "Range"),
    *("Content-Length", "Transfer-Encoding", "X-Forwarded-For", "X-Forwarded-Proto", "Forwarded"),
)

_METHODS = ("GET", "HEAD", "POST", "OPTIONS", "CONNECT", "get", "G\x00T", "PRI", "X" * 300)
_VERSIONS = ("HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/9.9", "http/1.1", "HTTP/1.1 HTTP/1.1", "")
_QUERIES = (
    "board_id=%00",
    "board_id=" + "x" * 4000,
    "&".join(f"board_id={number}" for number in range(300)),
    "since=",
    "since=" + "9" * 2000,
    "since=x.-1",
    "since=%ff%fe&since=1",
    "project_id=%F0%28%8C%28",
    "=&=&&&",
    "access_token=" + "x" * 500,
)


def handshake(rng: Random, target: Target) -> bytes:
    """Return an opening handshake with one to four things wrong."""
    headers: Headers = target.handshake()
    method, path, version = "GET", target.path, "HTTP/1.1"
    raw: list[Callable[[bytes], bytes]] = []
    for _ in range(rng.randint(1, 4)):
        which = rng.randrange(11)
        place = rng.randrange(len(headers)) if headers else 0
        if which == 0 and headers:
            del headers[place]
        elif which == 1 and headers:
            headers.insert(place, rng.choice(headers))
        elif which == 2 and headers:
            headers[place] = (headers[place][0], rng.choice(ODD_TEXTS))
        elif which == 3:
            headers.insert(place, (rng.choice(_NAMES), rng.choice(ODD_TEXTS)))
        elif which == 4:
            method = rng.choice(_METHODS)
        elif which == 5:
            version = rng.choice(_VERSIONS)
        elif which == 6:
            path = target.at(rng.choice(_QUERIES))
        elif which == 7:
            headers += [(f"X-{number}", "y" * 50) for number in range(rng.choice((20, 99, 101, 400)))]
        elif which == 8:
            raw.append(lambda data: data.replace(b"\r\n", b"\n"))
        else:
            raw.append(_flip(rng) if which == 9 else _cut(rng))
    data = make_request(path, headers, method=method, version=version)
    for change in raw:
        data = change(data)
    # Whatever follows a handshake in the same packet is not yet read as frames.
    return data + (frames(rng) if rng.random() < 0.2 else b"")


def _flip(rng: Random) -> Callable[[bytes], bytes]:
    where, what = rng.random(), rng.randrange(256)

    def flip(data: bytes) -> bytes:
        place = int(where * len(data))
        return data[:place] + bytes([what]) + data[place + 1 :]

    return flip


def _cut(rng: Random) -> Callable[[bytes], bytes]:
    where = rng.random()
    return lambda data: data[: int(where * len(data))]


def frames(rng: Random) -> bytes:
    """Return one to six frames: proper ones, broken ones, fragments out of order, lengths that lie."""
    return b"".join(_frame(rng) for _ in range(rng.randint(1, 6)))


def _frame(rng: Random) -> bytes:
    opcode = rng.choice((TEXT, TEXT, BINARY, CONTINUATION, CONTINUATION, PING, PONG, CLOSE, rng.randrange(16)))
    payload = _payload(rng, opcode)
    data = frame(
        opcode,
        payload,
        fin=rng.random() < 0.6,
        rsv=rng.choice((0, 0, 0, 4, 2, 1, 7)),
        masked=rng.random() < 0.9,
        length=_lie(rng, len(payload)) if rng.random() < 0.15 else None,
    )
    if rng.random() < 0.15:
        data = _flip(rng)(data)
    return _cut(rng)(data) if rng.random() < 0.05 else data


def _payload(rng: Random, opcode: int) -> bytes:
    if opcode == CLOSE:
        code = rng.choice((0, 999, 1000, 1001, 1004, 1005, 1006, 1015, 2999, 3000, 4999, 5000, 65535))
        return rng.choice((b"", b"\x03", code.to_bytes(2, "big"), code.to_bytes(2, "big") + b"\xff\xfe" * 30))
    kind = rng.randrange(6)
    if kind == 0:
        return b""
    if kind == 1:
        return message(rng)
    if kind == 2:
        return payload_of_deflate(rng)
    if kind == 3:
        return b"\xc3" * rng.choice((1, 125, 126))
    if kind == 4:
        return b"x" * rng.choice((125, 126, 127, 65535, 65536))
    return bytes(rng.randrange(256) for _ in range(rng.randrange(40)))


def _lie(rng: Random, true: int) -> int:
    return rng.choice((0, max(0, true - 1), true + 1, 125, 126, 65535, 65536, 2**31, 2**63 - 1, 2**63, 2**64 - 1))


def payload_of_deflate(rng: Random) -> bytes:
    """Return a message as permessage-deflate sends it, most often with something wrong inside."""
    data = deflate(rng.choice((b"", message(rng), bytes(100_000), b"\xff\xfe", b"ping" * 500)))
    for _ in range(rng.randrange(4)):
        data = (_flip, _cut)[rng.randrange(2)](rng)(data)
    return data


def compressed(rng: Random) -> bytes:
    """Return a compressed message, whole or in fragments with control frames between them."""
    data = payload_of_deflate(rng)
    if rng.random() < 0.5:
        return frame(TEXT, data, rsv=4)
    place = int(rng.random() * len(data))
    between = frame(PING, b"between", rsv=rng.choice((0, 0, 4)))
    return frame(TEXT, data[:place], rsv=4, fin=False) + between + frame(CONTINUATION, data[place:], rsv=rng.choice((0, 4)))


#: Values in place of a string, an integer or a small object.
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    1.5,
    -1,
    10**30,
    10**4000,
    "",
    "x" * 300,
    "\x00",
    "\ud800",
    "é☃😀",
    [],
    [[]],
    [None],
    {},
    {"": {"": {}}},
    ["b"] * 5000,
    [f"room-{number}" for number in range(300)],
    list(range(100)),
)

_KNOWN = ("subscribe", "subscribe", "unsubscribe", "ping", "pong", "auth.refresh", "echo")
_TYPES = (*_KNOWN, "", "connected", "no.such", "x" * 500)
_KEYS = ("board_id", "board_id", "project_id", "since", "presence", "token", "", "__class__", "recovered", "x" * 500)


def message(rng: Random) -> bytes:
    """Return a message that is almost one the server accepts."""
    data: Any = {rng.choice(_KEYS): rng.choice(ODD_VALUES) for _ in range(rng.randrange(4))}
    found = {
        "type": rng.choice((*_TYPES, rng.choice(ODD_VALUES))),
        "data": rng.choice((data, data, data, *ODD_VALUES)),
    }
    text = json.dumps(found)
    kind = rng.randrange(8)
    if kind == 0:
        text = "[" * 3000 + text
    elif kind == 1:
        text = text[: int(rng.random() * len(text))]
    elif kind == 2:
        text = text.replace("}", ',"type":"ping"}', 1)
    elif kind == 3:
        text = '{"type":"subscribe","data":' + '{"presence":' * 2000 + "1" + "}" * 2001
    return text.encode("utf-8", "surrogatepass")
