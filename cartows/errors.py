"""The exceptions of cartows, all below one root.

.. code-block:: text

    CartowsError
    ├── OptionsError (also ValueError)    an option has a value that cannot be used
    ├── AuthError                         an authenticator rejects a client
    ├── MessageError (also ValueError)    an event cannot be serialised, or is too large for any client
    ├── HubClosed (also RuntimeError)     broadcasting after ``shutdown()``
    ├── PublisherClosed (also RuntimeError) broadcasting after ``Publisher.close()``
    └── PublishRejected                   raised by ``PublishResult.raise_for_rejected()``

A slow client or a full queue raises nothing: the client is disconnected with a close code, and the broadcast returns a
PublishResult that was not accepted.
"""

from __future__ import annotations

from contextvars import ContextVar

__all__ = [
    "RAISES_HUB_CLOSED",
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
    """The base class of all exceptions that cartows defines."""


class AuthError(CartowsError):
    """Raised by an authenticator that rejects a client.

    The message is sent to the client, so it must never contain a token.
    """


class OptionsError(CartowsError, ValueError):
    """Raised for an option with a value that cannot be used; the message names the key, the value and what is allowed."""


class MessageError(CartowsError, ValueError):
    """Raised for an event that cannot be serialised, or that is larger than the send queue of any client.

    It is raised on the thread that broadcasts, and nothing is queued.
    """


class HubClosed(CartowsError, RuntimeError):
    """Raised by a broadcast after ``Hub.shutdown()``; no client would receive the event."""


# Whether a broadcast after ``Hub.shutdown()`` raises HubClosed. Not in an app's ``on_disconnect``, which a shutdown calls for
# each client: there the PublishResult says so. A context variable, which an ``async def`` sees as well.
RAISES_HUB_CLOSED: ContextVar[bool] = ContextVar("cartows_raises_hub_closed", default=True)


class PublisherClosed(CartowsError, RuntimeError):
    """Raised by a broadcast after ``Publisher.close()``; the event cannot be stored."""


class PublishRejected(CartowsError):
    """Raised by ``PublishResult.raise_for_rejected()`` with the reason why a broadcast was not accepted."""


def printable(text: str) -> str:
    """Return a string from a peer in a form that is safe to log: on one line, and without control characters for a terminal."""
    return text if text.isprintable() else "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
