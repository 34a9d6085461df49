"""Keys that change from time to time: a cache of what a URL or the app's callable returned last.

**Threads**: any.
**Locks**: a KeySource holds its ``_loading`` while it loads keys; whatever the app's callable locks is taken within it.
**Blocks**: ``KeySource.keys`` while keys are loaded: the thread that loads them for as long as that takes, all others at most
WAIT_LIMIT seconds while there is no key at all, else until SHORT_WAIT_LIMIT seconds after the loading began.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import weakref
from collections.abc import Callable
from http.client import HTTPException
from time import monotonic
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from ..errors import CartowsError, OptionsError
from .keys import Key, pyjwt, read_key_set

__all__ = ["LOAD_INTERVAL", "KeySource", "fetcher"]

logger = logging.getLogger("cartows")

# The minimum time between two loads, in seconds, so that made-up key ids cannot overload the origin of the keys.
LOAD_INTERVAL = 10.0

# How long a thread without any key waits while another one loads them, in seconds.
WAIT_LIMIT = 10.0

# How long it waits when there are keys, but not the one that its token names: a token can name any.
SHORT_WAIT_LIMIT = 1.0

# The maximum size of a JWK Set, in bytes.
MAX_BYTES = 1 << 20


class KeySource:
    """Load keys when they are old or one is missing; while that fails, the old ones stay in force."""

    def __init__(self, load: Callable[[], tuple[Key, ...]], lifespan: float) -> None:
        self._load = load
        self._lifespan = lifespan
        # Held while loading, so that one thread does and the others wait for its result.
        self._loading = threading.Lock()
        # Replaced under _loading; read without it.
        self._keys: tuple[Key, ...] = ()
        # Written under _loading; read without it, where an old value does no harm.
        self._fresh_until = -math.inf
        self._load_again_at = -math.inf
        self._began_at = -math.inf
        _sources.add(self)

    def keys(self, kid: str | None) -> tuple[Key, ...]:
        """Return all keys, loaded anew where they are old or none has that id; none where none could ever be loaded."""
        if monotonic() >= self._fresh_until:
            self._reload(0.0 if self._keys else WAIT_LIMIT)
        if kid is not None and all(key.kid != kid for key in self._keys):
            # A slow load delays only the thread that loads, and others no longer than a fast one would take.
            left = self._began_at + SHORT_WAIT_LIMIT - monotonic()
            self._reload(max(0.0, left if self._loading.locked() else SHORT_WAIT_LIMIT) if self._keys else WAIT_LIMIT)
        return self._keys

    def _reload(self, wait_limit: float) -> None:
        if monotonic() < self._load_again_at or not self._loading.acquire(timeout=wait_limit):
            return
        try:
            # Another thread may have loaded them while this one waited.
            if monotonic() >= self._load_again_at:
                self._reload_locked()
        finally:
            self._loading.release()

    def _reload_locked(self) -> None:
        assert self._loading.locked()
        self._began_at = monotonic()
        try:
            self._keys = self._load()
            self._fresh_until = monotonic() + self._lifespan
        except Exception as error:
            # The text of an expected error is enough. It is passed as a string: a log record may be kept, and the error would
            # keep a connection open.
            unexpected = None if isinstance(error, (CartowsError, pyjwt().PyJWTError)) else error
            text = "cartows: JWTAuth could not load its keys and continues with those it has: %s"
            logger.warning(text, str(error), exc_info=unexpected)
        finally:
            self._load_again_at = monotonic() + LOAD_INTERVAL

    def reset_lock(self) -> None:
        """Replace the lock, in the child of a fork: it does not have the thread that may have held it."""
        self._loading = threading.Lock()


_sources: weakref.WeakSet[KeySource] = weakref.WeakSet()


def _reset_locks() -> None:
    for source in list(_sources):
        source.reset_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_locks)


def fetcher(url: str, timeout: float) -> Callable[[], tuple[Key, ...]]:
    """Return a function that fetches a JWK Set within ``timeout`` seconds. Raises OptionsError for a URL that cannot work."""
    if not isinstance(url, str) or urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        # Without the URL, which may contain a password.
        raise OptionsError("JWTAuth(jwks_url=...) cannot be used: it must be a string, an https:// URL with a host")
    if urlsplit(url).scheme == "http":
        logger.warning(
            "cartows: JWTAuth fetches its keys by http, so an attacker on the network can replace them by others. Use https."
        )
    download = _Download(Request(url, headers={"User-Agent": "cartows", "Accept": "application/json"}))

    def fetch() -> tuple[Key, ...]:
        try:
            found = json.loads(download.within(timeout))
        except (OSError, HTTPException, ValueError, RecursionError) as error:
            raise OptionsError(f"JWTAuth has found no JWK Set at its jwks_url: {type(error).__name__}: {error}") from None
        if not isinstance(found, dict) or "keys" not in found:
            raise OptionsError("JWTAuth has found no JWK Set at its jwks_url")
        return read_key_set(found, public=True)

    return fetch


class _Redirects(HTTPRedirectHandler):
    """Follow a redirect to https, and from http to http as well, but to no place where an attacker could replace the keys."""

    def redirect_request(
        self, request: Request, response: Any, code: int, message: str, headers: Any, url: str
    ) -> Request | None:
        """Return the request to the new place. Raises OSError where that is not allowed."""
        scheme = urlsplit(url).scheme.lower()
        if scheme != "https" and (scheme != "http" or request.type == "https"):
            # It holds the connection.
            response.close()
            raise OSError(f"the server redirects from {request.type} to {scheme}: only https is followed from https")
        return super().redirect_request(request, response, code, message, headers, url)


class _Download:
    """Fetch what is at a URL, with a bound on its size and on the time in all.

    PyJWT's own client bounds neither, only the time of each single step.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._thread: threading.Thread | None = None

    def within(self, timeout: float) -> bytes:
        """Return the body. Raises TimeoutError after ``timeout`` seconds in all, and OSError, HTTPException or ValueError."""
        if self._thread is not None and self._thread.is_alive():
            raise TimeoutError("the last attempt has not ended yet")
        done: list[bytes | Exception] = []
        # A server that sends byte by byte is in time at each step: only another thread can be left waiting for it.
        self._thread = threading.Thread(target=self._run, args=(timeout, done), name="cartows-keys", daemon=True)
        self._thread.start()
        self._thread.join(timeout)
        if not done:
            raise TimeoutError(f"it took more than {timeout:g} s")
        if isinstance(done[0], Exception):
            raise done[0]
        return done[0]

    def _run(self, timeout: float, done: list[bytes | Exception]) -> None:
        try:
            done.append(self._read(timeout))
        except HTTPError as error:
            # It holds the connection.
            error.close()
            done.append(OSError(f"the server answered {error.code}"))
        except Exception as error:
            done.append(error)

    def _read(self, timeout: float) -> bytes:
        deadline, data = monotonic() + timeout, b""
        with build_opener(_Redirects()).open(self._request, timeout=timeout) as response:
            while part := response.read1(65536):
                data += part
                if len(data) > MAX_BYTES:
                    raise ValueError(f"over {MAX_BYTES} bytes")
                if monotonic() > deadline:
                    raise TimeoutError(f"it took more than {timeout:g} s")
        return data
