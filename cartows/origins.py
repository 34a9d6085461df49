"""Origins (RFC 6454): parsed from a header or a setting, and compared.

An origin is a scheme, a host and a port. What is anything else, such as a URL with a path or a user, is no origin at all.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Origin", "is_listed", "is_same_host", "listed_origin", "parse_origin"]

#: Origins without a host, as browsers send them: of sandboxed pages, and of pages from files. A list may name them.
OPAQUE = frozenset({"null", "file://"})

_DEFAULT_PORTS = {"http": 80, "https": 443}

# RFC 6454, section 7.1. Browsers send a host in ASCII; an underscore is in internal names often.
_HOST = r"(?P<host>\[[0-9a-f:.]+\]|[0-9a-z._~-]+)"
_PORT = r"(?::(?P<port>[0-9]{1,5}))?"
_ORIGIN = re.compile(rf"(?P<scheme>[a-z][0-9a-z+.-]*)://{_HOST}{_PORT}", re.ASCII)
_AUTHORITY = re.compile(_HOST + _PORT, re.ASCII)


class Origin(NamedTuple):
    """An origin in lower case; a port is None where the scheme has no default and none is named."""

    scheme: str
    host: str
    port: int | None

    def __str__(self) -> str:
        port = "" if self.port in (None, _DEFAULT_PORTS.get(self.scheme)) else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"


def parse_origin(text: str) -> Origin | None:
    """Return the origin that a string is, or None where it is none, or has no host as ``null``."""
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        return None
    scheme = found["scheme"]
    return _origin(scheme, found["host"], found["port"])


def _origin(scheme: str, host: str, port: str | None) -> Origin | None:
    number = _DEFAULT_PORTS.get(scheme) if port is None else int(port)
    if number is not None and number > 65535:
        return None
    if host.startswith("["):
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            return None
    return Origin(scheme, host, number)


def is_same_host(text: str, host: str, scheme: str) -> bool:
    """Return whether a page of the origin ``text`` is of the site that a request was sent to.

    Args:
        text: The ``Origin`` header.
        host: The ``Host`` header.
        scheme: The request's scheme. ``https`` is known to be the site's. With ``http`` a proxy may have ended TLS, so that a
            page with either scheme may be the site's own.
    """
    origin, found = parse_origin(text), _AUTHORITY.fullmatch(host.lower())
    if origin is None or found is None or origin.scheme not in _DEFAULT_PORTS:
        return False
    if origin == _origin(origin.scheme, found["host"], found["port"]):
        return scheme != "https" or origin.scheme == "https"
    # A proxy that ended TLS may pass on a host with the port that it was itself asked on.
    ends_tls = scheme != "https" and origin.scheme == "https" and found["port"] == "80"
    return ends_tls and origin == _origin("https", found["host"], None)


def is_listed(text: str, allowed: Sequence[str]) -> bool:
    """Return whether an ``Origin`` header is one of those that ``listed_origin`` returned."""
    if text in OPAQUE:
        return text in allowed
    origin = parse_origin(text)
    if origin is None:
        return False
    if str(origin) in allowed:
        return True
    # https://a.b.example.com is below https://*.b.example.com and https://*.example.com.
    labels = origin.host.split(".")
    return any(str(origin._replace(host=".".join(["*", *labels[i:]]))) in allowed for i in range(1, len(labels)))


def listed_origin(text: str) -> str:
    """Return an origin of a setting as ``is_listed`` compares it: in lower case, in ASCII, without a default port.

    ``https://*.example.com`` stands for every subdomain of ``example.com``, at any depth, and not for ``example.com`` itself.

    Raises:
        ValueError: No page can have this origin; the text says why.
    """
    text = text.strip()
    if text.lower() in OPAQUE:
        return text.lower()
    if text == "*":
        raise ValueError('"*", which allows every origin, cannot be one of a list')
    scheme, separator, rest = text.removesuffix("/").partition("://")
    if not separator:
        raise ValueError(f"{text!r} has no scheme: write https://{text.lstrip('/') or 'app.example.com'}")
    if scheme.lower() in ("ws", "wss"):
        raise ValueError(f"{text!r} is the address of a socket; the origin of a page begins with http:// or https://")
    if any(char in rest for char in "/?#@\\"):
        raise ValueError(f"{text!r} is more than an origin, which is a scheme, a host and a port: no path, no query, no user")
    subdomains = rest.startswith("*.")
    host = rest.removeprefix("*.")
    if "*" in scheme + host:
        raise ValueError(
            f"{text!r} has a wildcard in a place where none can stand: only subdomains can, as https://*.example.com"
        )
    origin = parse_origin(f"{scheme}://{_in_ascii(host)}")
    if origin is None:
        raise ValueError(f"{text!r} is no origin: write a scheme, a host and, where it is not the default, a port")
    if subdomains and _is_address(origin.host):
        raise ValueError(f"{text!r} has a wildcard before an IP address, which has no subdomains")
    return str(origin._replace(host=f"*.{origin.host}") if subdomains else origin)


def _is_address(host: str) -> bool:
    return host.startswith("[") or host.replace(".", "").isdigit()


def _in_ascii(host: str) -> str:
    """Return a host as browsers send it: an international name in its ``xn--`` form (UTS #46, nontransitional)."""
    # Not the codec "idna", which is of 2003: it makes another name of one with ß.
    mapped = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", host).lower()).replace("\u3002", ".")
    return ".".join(
        label if label.isascii() else f"xn--{label.encode('punycode').decode('ascii')}" for label in mapped.split(".")
    )
