"""What is checked before the upgrade, while the answer can still be HTTP: the handshake, the origin, the filters.

**Threads**: the request's own.
**Blocks**: as long as an app's own origin check does.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Collection
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from ..errors import printable
from ..hooks import is_agreement
from ..options import Options
from ..origins import is_listed, is_same_host, listed_origin
from ..rooms import MAX_ROOM_BYTES, is_room_name

__all__ = [
    "NO_WEBSOCKET",
    "ORIGIN_REFUSED",
    "Refusal",
    "address_of",
    "check_filters",
    "check_handshake",
    "check_origin",
    "hide_parameters",
    "too_many",
    "unavailable",
]

# Seconds after which a client that found no free slot may try again.
_RETRY_AFTER = 5

# The code for a request that is no WebSocket request at all.
NO_WEBSOCKET = "NOT_A_WEBSOCKET_REQUEST"

# The code for a page of an origin that may not connect.
ORIGIN_REFUSED = "ORIGIN_REFUSED"


class Refusal(NamedTuple):
    """An HTTP answer instead of a WebSocket connection."""

    status: int
    code: str
    message: str
    headers: tuple[tuple[str, str], ...] = ()
    #: What is logged beside the message and not sent to the client.
    details: str = ""
    #: What to do about it, logged where it is not already known.
    remedy: str = ""
    #: The app's own response, which is sent as it is.
    response: Any = None

    @property
    def log_text(self) -> str:
        """The message and the details, on one line."""
        return printable(f"{self.message} {self.details}".rstrip())


def address_of(request: Any) -> str | None:
    """Return the address that a client is counted by: the /64 network of an IPv6 address, since one user is given all of it."""
    found: str | None = request.remote_addr
    try:
        address = ipaddress.ip_address((found or "").partition("%")[0])
    except ValueError:
        # The peer of a Unix socket has no address.
        return found
    if address.version == 4 or address.ipv4_mapped is not None:
        return str(getattr(address, "ipv4_mapped", None) or address)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))


def check_handshake(request: Any) -> Refusal | None:
    """Return why a request is no opening handshake (RFC 6455, section 4.2.1), or None when it is one."""
    method, headers, protocol = request.method, request.headers, request.environ.get("SERVER_PROTOCOL", "")
    if protocol.startswith(("HTTP/2", "HTTP/3")):
        return Refusal(
            400,
            "NEW_HTTP",
            f"A WebSocket connection begins with HTTP/1.1 here, not {protocol}. Leave HTTP/1.1 to clients beside it (gunicorn: "
            "http_protocols = 'h2,h1'), and let a proxy in between use it.",
        )
    if method != "GET":
        return Refusal(405, "METHOD_NOT_ALLOWED", f"A WebSocket connection begins with GET, not {method}.", (("Allow", "GET"),))
    tokens = [token.strip().lower() for token in headers.get("Connection", "").split(",")]
    if "upgrade" not in tokens or headers.get("Upgrade", "").strip().lower() != "websocket":
        return Refusal(
            400,
            NO_WEBSOCKET,
            'This is a WebSocket endpoint: connect with ws:// or wss://, e.g. new WebSocket("ws://HOST/ws"). A proxy in '
            "between must pass the Upgrade and Connection headers on.",
        )
    if protocol in ("HTTP/0.9", "HTTP/1.0"):
        return Refusal(400, "OLD_HTTP", "A WebSocket connection begins with HTTP/1.1; a proxy in between must use it too.")
    if "Transfer-Encoding" in headers or headers.get("Content-Length", "0").strip() not in ("", "0"):
        # Its bytes would be read as frames.
        return Refusal(400, "BODY", "A WebSocket handshake has no body: leave out Content-Length and Transfer-Encoding.")
    version = headers.get("Sec-WebSocket-Version", "").strip()
    if version != "13":
        found = f"version {version[:20]!r}" if version else "no Sec-WebSocket-Version header"
        return Refusal(426, "WRONG_VERSION", f"Only WebSocket version 13 is supported, found {found}.", _VERSION_HEADERS)
    try:
        nonce = base64.b64decode(headers.get("Sec-WebSocket-Key", "").strip(), validate=True)
    except (binascii.Error, ValueError):
        nonce = b""
    if len(nonce) != 16:
        return Refusal(400, "BAD_KEY", "The Sec-WebSocket-Key header must be 16 bytes in base64.")
    return None


_VERSION_HEADERS = (("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket"))


def check_origin(request: Any, options: Options) -> Refusal | None:
    """Return why a page of that origin may not connect; a request without an ``Origin`` comes from no browser and may."""
    origin = request.headers.get("Origin")
    if origin is None:
        return None
    allowed = options.allowed_origins
    if callable(allowed):
        admitted, wanted = is_agreement(allowed(request)), "what the app's origin check allows"
    elif allowed is None:
        # Not request.host, which is empty for a name with an underscore.
        host, scheme = request.headers.get("Host", ""), request.environ.get("wsgi.url_scheme", "http")
        admitted, wanted = is_same_host(origin, host, scheme), f"the host {host[:200]!r}"
        if scheme == "https":
            wanted += " by https"
    else:
        admitted = allowed == "*" or is_listed(origin, allowed)
        wanted = ", ".join(allowed)
    if admitted:
        return None
    message = f"Pages of origin {origin[:200]!r} may not connect."
    return Refusal(403, ORIGIN_REFUSED, message, details=f"Allowed: {wanted}.", remedy=_origin_remedy(request, origin, allowed))


def _origin_remedy(request: Any, origin: str, allowed: Any) -> str:
    """Return what lets pages of an origin connect, for the log."""
    if callable(allowed):
        return ""
    try:
        added = listed_origin(origin[:200])
    except ValueError:
        return ""
    site = f"{request.environ.get('wsgi.url_scheme', 'http')}://{request.headers.get('Host', '')[:200]}"
    origins = [*((site,) if allowed is None else allowed), added]
    remedy = f"If these pages are yours: CARTOWS_ALLOWED_ORIGINS = {origins}."
    if allowed is None:
        remedy += " If they are the site's own, a proxy must pass on the Host header and, as X-Forwarded-Proto, the scheme."
    return remedy


def check_filters(request: Any, options: Options) -> dict[str, tuple[str, ...]] | Refusal:
    """Return the filters that the query names, each key with its values, or why there are too many or one is too long.

    ``rooms=none`` asks for no room. A key without values stands for that, since a query without filters asks for everything.
    """
    if not _is_readable(request):
        return Refusal(400, "BAD_QUERY", "The query must be UTF-8, with every other byte percent-encoded.")
    named: dict[str, dict[str, None]] = {}
    count = 0
    for key in options.filter_keys:
        for value in request.args.getlist(key):
            if not is_room_name(value):
                return Refusal(
                    403, "ROOM_NAME_TOO_LONG", f"The name of a room, {key}=, may have {MAX_ROOM_BYTES} bytes as UTF-8."
                )
            values = named.setdefault(key, {})
            if value not in values:
                values[value] = None
                count += 1
            if count > options.max_filters:
                return Refusal(
                    403, "TOO_MANY_FILTERS", f"A client may hold {options.max_filters} filter values, not {count} or more."
                )
    filters = {key: tuple(values) for key, values in named.items()}
    if not filters and request.args.get("rooms") == "none":
        return {options.filter_keys[0]: ()}
    return filters


def _is_readable(request: Any) -> bool:
    """Return whether Werkzeug can decode the query: some servers pass on raw bytes, for which ``request.args`` raises."""
    try:
        request.query_string.decode()
    except UnicodeDecodeError:
        return False
    return True


def hide_parameters(request: Any, parameters: Collection[str]) -> None:
    """Hide the values of query parameters that carry a secret from the server's access log, which is written afterwards.

    The request itself keeps them.
    """
    if not parameters or not request.query_string:
        return
    environ = request.environ
    if "QUERY_STRING" in environ:
        environ["QUERY_STRING"] = _hidden(environ["QUERY_STRING"], parameters)
    for name in ("RAW_URI", "REQUEST_URI"):
        if name in environ:
            path, mark, query = environ[name].partition("?")
            environ[name] = path + mark + _hidden(query, parameters)


def _hidden(query: str, parameters: Collection[str]) -> str:
    pairs = [pair.partition("=") for pair in query.split("&")]
    return "&".join(key + (f"{sign}hidden" if unquote_plus(key) in parameters else sign + value) for key, sign, value in pairs)


def unavailable(code: str, message: str) -> Refusal:
    """Return a 503 with a ``Retry-After``."""
    return Refusal(503, code, message, (("Retry-After", str(_RETRY_AFTER)),))


def too_many(code: str, message: str) -> Refusal:
    """Return a 429 with a ``Retry-After``."""
    return Refusal(429, code, message, (("Retry-After", str(_RETRY_AFTER)),))
