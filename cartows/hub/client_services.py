"""The clients of one process, and what they, the handler and the app need of the hub for them.

**Threads**: any.
**Locks**: none of its own: the registry, the capacity, the timer and the heartbeat have one each.

A client reaches its hub through ``ClientHub``; a handler calls the methods named here, and no part of the hub behind them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from ..client.client import Client
from ..client.queue_budget import QueueBudget
from ..client.read_scheduler import ReadScheduler
from ..message import Message
from .capacity import Capacity, Slot, SlotLimits
from .heartbeat import SLACK, Heartbeat
from .pipeline import Pipeline
from .rechecker import Rechecker
from .registry import Registry
from .timer import Timer

__all__ = ["ClientServices"]


class ClientServices:
    """The registry, the slots and the timers of one hub in one process."""

    logger: logging.Logger
    _pipeline: Pipeline

    def _init_services(self) -> None:
        """Create all of it: with the hub, and again in the child of a fork."""
        self._registry = Registry()
        self._capacity = Capacity()
        self._timer = Timer("cartows-heartbeat", self.logger, SLACK)
        self._heartbeat = Heartbeat(self._timer, self.logger, self._capacity)
        self._rechecker = Rechecker(self.logger)
        self.read_scheduler = ReadScheduler()

    def _start_services(self) -> None:
        self._timer.start()
        try:
            self.read_scheduler.start()
        except (OSError, RuntimeError) as error:
            self.logger.warning("cartows: there is no read scheduler, so each reader waits on its own socket: %s", error)

    def _stop_services(self, deadline: float) -> None:
        """End the threads, by a monotonic deadline, and forget every client."""
        self._rechecker.stop(deadline - time.monotonic())
        self._timer.stop(deadline - time.monotonic())
        self.read_scheduler.stop()
        self._registry.clear()

    # For applications -------------------------------------------------------------------------------------------------

    def client_count(self) -> int:
        """Return how many clients are registered in this process; Go's ``ClientCount``. Any thread."""
        return self._registry.count_clients()

    def get_clients(self) -> list[Client]:
        """Return the clients registered in this process, as a snapshot; Go's ``GetClients``. Any thread."""
        return self._registry.clients()

    def send_to(self, message: str | bytes | Message, *, identity: Any = None, client_id: str | None = None) -> int:
        """Send to every client of an identity in this process, or to one client.

        The message is not an event: it has no id and is not replayed. Any thread; never waits.

        Args:
            message: Text for str, a binary message for bytes, JSON for a Message.
            identity: The user's id, or the user object, known by its ``get_id()``. Identities compare as strings.
            client_id: The ``client.id`` of the client.

        Returns:
            The number of clients that it was handed to.

        Raises:
            MessageError: It cannot be serialised, or is larger than a send queue.
            TypeError: Not exactly one of ``identity`` and ``client_id`` is given, or the identity names no user.
        """
        return self._registry.send_to(message, identity=identity, client_id=client_id)

    # For clients (client.client.ClientHub) ----------------------------------------------------------------------------

    def client_arrived(self, client: Client) -> bool:
        """See ClientHub.client_arrived."""
        return self._registry.arrive(client)

    def client_gone(self, client: Client) -> None:
        """See ClientHub.client_gone. Its reader thread, last."""
        if client.slot is not None:
            self._capacity.release(client.slot)
        self._registry.gone(client)
        self._heartbeat.discard(client)

    def identify(self, client: Client, identity_key: str | None) -> None:
        """See ClientHub.identify."""
        self._registry.identify(client, identity_key)

    def remove_client(self, client: Client) -> None:
        """See ClientHub.remove_client."""
        self._registry.remove(client)

    def count(self, name: str) -> None:
        """See ClientHub.count."""
        self._registry.count(name)

    def revocation_mark(self) -> int:
        """See ClientHub.revocation_mark."""
        return self._registry.revocations.mark()

    def revoked_since(self, mark: int, identity_key: str | None) -> bool:
        """See ClientHub.revoked_since."""
        return any(self._registry.revocations.since(mark, identity_key))

    def start_writer(self, client: Client) -> None:
        """See ClientHub.start_writer."""
        self._heartbeat.start_writer(client)

    def abort_after(self, client: Client, seconds: float) -> None:
        """See ClientHub.abort_after."""
        self._heartbeat.abort_at(client, time.monotonic() + seconds)

    def recheck_expiry(self, client: Client) -> None:
        """See ClientHub.recheck_expiry."""
        self._heartbeat.recheck_expiry(client)

    @property
    def queue_budget(self) -> QueueBudget:
        """The budget that the connections of this hub's clients are made with."""
        return self._pipeline.relief.budget

    # For handlers -----------------------------------------------------------------------------------------------------

    def take_slot(self, slot: Slot, limits: SlotLimits) -> str | None:
        """Take a slot for a client to be; return the limit that forbids it: "clients", "address" or "identity".

        It is released by ``release_slot``, or with the client whose ``slot`` it is.
        """
        return self._capacity.take(slot, limits)

    def check_slot(self, slot: Slot, limits: SlotLimits) -> str | None:
        """Return what ``take_slot`` would return, and take no slot."""
        return self._capacity.check(slot, limits)

    def release_slot(self, slot: Slot, client: Client | None = None) -> None:
        """Release the slot of a socket that did not become a client, or of a client that could not be served."""
        self._capacity.release(slot)
        if client is not None:
            self._registry.discard(client)

    def revocations_since(self, mark: int, identity_key: str | None) -> tuple[bool, bool]:
        """Return whether an identity was disconnected, and whether it is to be authorized again, since a mark."""
        return self._registry.revocations.since(mark, identity_key)

    def present_clients(self) -> list[Client]:
        """Return the clients whose descriptor is open, including those that are being closed: a snapshot."""
        return self._registry.present()

    def call_every(self, period: float, call: Callable[[], bool]) -> None:
        """Call a function every ``period`` seconds for as long as it returns True, on the heartbeat's thread."""
        self._timer.call_every(period, call)

    def recheck_every(self, client: Client, period: float) -> None:
        """Ask the app every ``period`` seconds whether a client may stay. Raises RuntimeError when there is no thread."""
        self._rechecker.add(client, period)
