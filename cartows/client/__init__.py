"""One client: its connection, its send queue and its commands.

Owns all state of one connection. The hub thread offers events, the reader thread parses and handles what the client sends, and
a writer thread sends what the socket would not take at once.
"""

from __future__ import annotations

from .client import Client, ClientHub

__all__ = ["Client", "ClientHub"]
