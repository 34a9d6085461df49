"""The parsers of what an unknown peer sends, as targets of ``tests.hostile.fuzz``.

What each guarantees for any bytes is asserted here, without a server; test_fuzz runs the same with inputs of hypothesis.
"""

from __future__ import annotations

from collections.abc import Callable

from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from cartows.auth import JWTAuth
from cartows.client.commands import InvalidMessage, parse_subscription
from cartows.errors import AuthError, OptionsError
from cartows.handler.checks import Refusal, check_filters, check_handshake, check_origin
from cartows.message import decode_object
from cartows.options import Options
from cartows.rooms import MAX_ROOM_BYTES
from cartows.websocket.parser import Closed, Extensions, Inbound, Overhead, Pinged

OPTIONS = Options()
MAX_SIZE = 2000


def inbound(data: bytes) -> None:
    """Frames, cut anywhere, give whole messages within the size limit, and nothing after the end."""
    deflate, cut, data = bool(data[:1] and data[0] & 1), 1 + (data[0] >> 1 if data else 0), data[1:]
    found = Inbound(Extensions("permessage-deflate" if deflate else None, deflate), MAX_SIZE)
    for start in range(0, len(data), cut):
        items = list(found.feed(data[start : start + cut]))
        for item in items:
            if isinstance(item, str):
                assert len(item.encode()) <= MAX_SIZE
            elif isinstance(item, bytes):
                assert len(item) <= MAX_SIZE
            elif isinstance(item, Pinged):
                assert len(item.payload) <= 125
            elif isinstance(item, Closed):
                assert item is items[-1]
                assert item.by_peer or item.code in (1002, 1003, 1007, 1009), item
                return
            else:
                assert isinstance(item, Overhead)


def message(data: bytes) -> None:
    """A message decodes to an object, or to nothing."""
    for text in (data, data.decode("utf-8", "surrogateescape")):
        found = decode_object(text)
        assert found is None or isinstance(found, dict)


def subscription(data: bytes) -> None:
    """A subscription holds strings of bounded length, or is refused with a reason short enough to send."""
    found = decode_object(data)
    for asked in (found, found.get("data") if found else None):
        for joins in (True, False):
            try:
                wanted = parse_subscription(asked, OPTIONS.filter_keys, joins=joins)
            except InvalidMessage as error:
                assert len(str(error)) < 500
                assert len(error.details) <= 200
                continue
            assert wanted.rooms
            assert all(key in OPTIONS.filter_keys and isinstance(value, str) for key, value in wanted.rooms)
            assert all(len(value.encode()) <= MAX_ROOM_BYTES for _, value in wanted.rooms)


_HEADERS = ("Connection", "Upgrade", "Sec-WebSocket-Version", "Sec-WebSocket-Key", "Origin", "Host")


def handshake(data: bytes) -> None:
    """Header values, one to a line, and then the query, are refused with a 4xx or accepted."""
    values = data.decode("latin-1").replace("\r", "").split("\n")
    environ = EnvironBuilder(path="/ws").get_environ()
    for name, value in zip(_HEADERS, values, strict=False):
        environ["HTTP_" + name.upper().replace("-", "_")] = value
    environ["QUERY_STRING"] = "\n".join(values[len(_HEADERS) :])
    request = Request(environ)
    for found in (check_handshake(request), check_filters(request, OPTIONS)):
        assert not isinstance(found, Refusal) or 400 <= found.status < 500
    refused = check_origin(request, OPTIONS)
    assert refused is None or refused.status == 403


def _authenticator() -> JWTAuth | None:
    try:
        return JWTAuth("a secret that has never been published", require=())
    except OptionsError:  # its extra is not installed
        return None


AUTHENTICATOR = _authenticator()


def token(data: bytes) -> None:
    """A token is refused with a reason that quotes nothing of it: random bytes are never a valid signature."""
    if AUTHENTICATOR is None:
        return
    text = data.decode("latin-1")
    try:
        AUTHENTICATOR.refresh(text)
    except AuthError as error:
        assert len(text) < 30 or text not in str(error)
        assert error.__cause__ is None and error.__context__ is None, "a chained error may quote the token"
        return
    raise AssertionError(f"{text!r} is accepted")


TARGETS: tuple[Callable[[bytes], None], ...] = (inbound, message, subscription, handshake, token)
