"""From a connection to a registered client: make the client, ask the app about it, enter it into the hub.

**Threads**: the request's own; ``_register`` on the client's reader thread where the app has an ``on_connect``.
**Blocks**: as long as the app's functions do.
"""

from __future__ import annotations

import logging
import uuid
from functools import partial

from ..client.client import Client
from ..client.connection import Connection
from ..errors import CartowsError
from ..hub.hub import Hub
from ..websocket.close_codes import CloseCode
from .admission import Admission

__all__ = ["Registration"]


class Registration:
    """Make the clients of one handler and register them with its hub."""

    def __init__(self, hub: Hub, logger: logging.Logger) -> None:
        self._hub = hub
        self._logger = logger

    def make(self, client_class: type[Client], connection: Connection, admission: Admission) -> Client:
        """Return a client that holds the slot that was taken for it.

        Raises what an app's own class raises; the connection and the slot are released then.
        """
        try:
            client = client_class(self._hub, connection, uuid.uuid4().hex)
            for key, values in admission.filters.items():
                client.set_filter(key, values)
            if admission.credentials.identity is not None:
                client.identity = admission.credentials.identity
            client.authorization.credentials = admission.credentials
            client.since, client.hooks = admission.since, admission.hooks
            client.before_reading = partial(self._register, client) if _asks_first(client) else None
        except BaseException:
            self.undo(admission, connection, connection.owner)
            raise
        client.slot = admission.slot
        return client

    def undo(self, admission: Admission, connection: Connection, client: object = None) -> None:
        """Release the connection and the slot of a client that is not registered after all."""
        connection.release()
        self._hub.release_slot(admission.slot, client if isinstance(client, Client) else None)

    def enter(self, client: Client) -> None:
        """Register a client, unless the app is to be asked first, which the reader thread does when it starts."""
        if not _asks_first(client):
            self._register(client)

    def _register(self, client: Client) -> None:
        if not client.accept():
            return
        try:
            self._hub.register_client(client)
        except CartowsError:
            # The hub was shut down meanwhile, and opens no connection any more.
            client.connection.close_for_restart()
            client.connection.flush_close()
            client.connection.abort(CloseCode.RESTART, "service restart")
            return
        interval = None if client.hooks is None else client.hooks.recheck_interval
        if interval is not None:
            try:
                self._hub.recheck_every(client, interval)
            except RuntimeError as error:
                self._logger.error("cartows: client %s cannot be rechecked and is closed: %s", client.id, error)
                client.connection.close_on_error()


def _asks_first(client: Client) -> bool:
    return client.hooks is not None and client.hooks.has_connect
