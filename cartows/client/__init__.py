"""One client: its connection, its send queue, its authorization and its commands.

The package owns all state of one connection. The hub thread offers events to it; the client's reader thread parses and handles
what the peer sends; its writer thread, started on first need, sends what the socket did not take at once. Any thread may send
to a client or close it.
"""

from __future__ import annotations

from .client import Client, ClientHub

__all__ = ["Client", "ClientHub"]
