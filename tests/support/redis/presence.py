"""Processes that share presence through Redis: several of them in one, and what they show."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from cartows.backplane.redis.connect import Broker
from cartows.backplane.redis.presence_leases import Periods
from cartows.backplane.redis.presence_sync import PresenceSync
from cartows.presence.presence import Presence, PresenceEntry, PresenceReport
from cartows.rooms import Room
from tests.presence.test_presence import Client, deliver, flat
from tests.support.redis.server import Redis
from tests.support.waiting import wait_until

BOARD = ("board_id", "b1")

# In seconds. Short where leases are to expire, and long where they must not, however slow the machine.
SHORT = Periods(lease=1.5, renew=0.4, sweep=0.3, grace=0.6, block=0.2, timeout=1.0)
LONG = SHORT._replace(lease=60.0)

# How long a test waits for what must not happen, in seconds.
A_MOMENT = 0.3


class Process:
    """One process: its presence, with a lock in place of a hub thread, and a client whose updates must add up."""

    def __init__(self, url: str, *, periods: Periods = LONG, logger: str = "cartows.test", limit: int = 100_000) -> None:
        self.lock = threading.RLock()
        self.limit = limit
        self.presence: Presence[Client] = Presence(0.0, limit, shared=True)
        self.commands: list[tuple[Any, ...]] = []
        self.applied = 0
        #: The identities that have left, by the updates.
        self.left: list[str] = []
        self.watcher = Client(f"watcher of {id(self)}")
        self.sync = PresenceSync(Broker(url).link, self, logging.getLogger(logger), periods=periods)
        self.enter(self.watcher)

    # What a hub does.

    def publish_changes(self) -> None:
        updates = self.presence.take_updates()
        for each in updates:
            self.left += each.data.get("leaves", {})
        deliver(updates)
        self.sync.announce(self.presence.take_changes())

    def presence_entries(self) -> list[PresenceEntry]:
        return self.presence.presence_entries()

    def apply(self, reports: list[PresenceReport]) -> None:
        with self.lock:
            self.applied += 1
            self.presence.apply(reports)
            self.publish_changes()

    def disconnect_identity(self, identity: str, code: int, reason: str) -> None:
        self.commands.append((identity, code, reason))
        if reason == "fail":
            raise LookupError("intended")

    def reauthorize_identity(self, identity: str) -> None:
        self.commands.append((identity,))

    # What its clients do.

    def enter(self, client: Client, meta: dict[str, Any] | None = None, room: Room = BOARD) -> Client:
        with self.lock:
            self.presence.enter(client, room, meta or {})
            self.publish_changes()
        return client

    def leave(self, client: Client, room: Room = BOARD) -> None:
        with self.lock:
            self.presence.leave(client, room)
            client.rooms.pop(room, None)
            self.publish_changes()

    def shown(self, room: Room = BOARD) -> dict[str, tuple[str, Any]]:
        """Return the entries of a room by ref; the updates that the watcher received must add up to the same."""
        with self.lock:
            shown = flat(self.presence.present(*room))
            if room == BOARD:
                assert self.watcher.rooms[room].names in (shown, None if len(shown) > self.limit else shown)
            return shown

    def names(self) -> list[str]:
        return sorted(name for name, _ in self.shown().values() if not name.startswith("watcher"))

    # How it ends.

    def die(self) -> None:
        """End without an announcement: nothing that it does from here on reaches Redis."""
        for part in (self.sync._announcer, self.sync._listener):
            part.leases._run = part.leases.read = _fail  # type: ignore[assignment, method-assign]
        self.sync.stop(10)


def _fail(*_: Any, **__: Any) -> Any:
    raise OSError("this process is dead")


Start = Callable[..., Process]


def agree(*processes: Process, names: list[str] | None = None) -> None:
    """Wait until all processes show the same entries, each other's watchers among them."""

    def same() -> bool:
        shown = [process.shown() for process in processes]
        here = {
            ref for process in processes for ref in (entry.ref for entry in process.presence_entries() if entry.room == BOARD)
        }
        return all(each == shown[0] for each in shown) and shown[0].keys() == here and names in (None, processes[0].names())

    wait_until(same, lambda: "; ".join(str(process.names()) for process in processes))


def members(server: Redis) -> list[str]:
    """Return the processes in Redis."""
    return sorted(process.decode() for process in server.do("SMEMBERS", "cartows:{0}:procs"))


def logged(caplog: pytest.LogCaptureFixture, logger: str = "cartows.test") -> list[str]:
    """Return the messages that were logged."""
    return [record.getMessage() for record in caplog.records if record.name == logger]
