"""The exceptions of cartows, all below one root.

    CartowsError
    ├── OptionsError (also ValueError)     a setting has a value that cannot work
    ├── AuthError                          an authenticator does not let somebody in
    ├── MessageError (also ValueError)     an event that no client could ever be sent
    ├── HubClosed (also RuntimeError)      broadcasting after Hub.shutdown()
    ├── PublisherClosed (also RuntimeError)broadcasting after Publisher.close()
    └── PublishRejected                    asked for by PublishResult.raise_for_rejected()

A client that is too slow or a queue that is full is no exception: the one is a close code, the other a PublishResult.
"""

from __future__ import annotations

__all__ = [
    "AuthError",
    "CartowsError",
    "HubClosed",
    "MessageError",
    "OptionsError",
    "PublishRejected",
    "PublisherClosed",
    "printable",
]


class CartowsError(Exception):
    """Be the root of every exception that cartows raises of its own."""


class AuthError(CartowsError):
    """Say, in words that the client is told, why somebody is not let in; never with a token in them."""


class OptionsError(CartowsError, ValueError):
    """Say that a setting has a value that cannot work; the text names the key, the value and what is allowed."""


class MessageError(CartowsError, ValueError):
    """Say that an event cannot be serialised, or is larger than any client could be sent; raised in the caller's thread."""


class HubClosed(CartowsError, RuntimeError):
    """Say that the hub was shut down, so that nobody will hear what is broadcast."""


class PublisherClosed(CartowsError, RuntimeError):
    """A Publisher was closed, so nothing that it broadcasts can be stored."""


class PublishRejected(CartowsError):
    """Say why a broadcast was not accepted, for those who prefer an exception to a PublishResult."""


def printable(text: str) -> str:
    """Return what a peer may have written as it can stand in a log: on one line, and nothing that a terminal obeys."""
    return text if text.isprintable() else "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
