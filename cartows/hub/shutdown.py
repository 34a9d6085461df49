"""How a hub ends: what was accepted is sent, every client is told to reconnect, and all threads end in time.

**Threads**: the one that calls ``Hub.shutdown``.
**Blocks**: ``shut_down`` for its timeout at most.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from ..backplane.base import Backplane
from ..client.client import Client
from .broadcast_queue import BroadcastQueue
from .dispatcher import Item
from .registry import Registry

__all__ = ["shut_down"]


def shut_down(
    thread: threading.Thread | None,
    timeout: float,
    backplane: Backplane,
    queue: BroadcastQueue[Item],
    registry: Registry,
    stop_services: Callable[[float], None],
) -> None:
    """End the parts of a hub in order, within ``timeout`` seconds.

    ``thread`` is the hub's, None if it never ran; ``stop_services`` is called, once the clients have gone, with the monotonic
    deadline.
    """
    deadline = time.monotonic() + timeout
    backplane.stop(timeout / 4)
    queue.close()
    if thread is None:
        return
    if thread is not threading.current_thread():
        thread.join(timeout / 2)
    clients = registry.present()
    for client in clients:
        client.connection.close_for_restart(timeout)
        # One that the hub thread has not come to is to read why, too.
        client.connection.open(None)
    _flush(clients, deadline - timeout / 4)
    # What was sent is on its way; a peer that does not answer the close frame is not waited for long.
    registry.await_empty(min(deadline - timeout / 10, time.monotonic() + timeout / 4))
    for client in clients:
        client.connection.abort()
    # A reader that shuts the hub down itself cannot end before this returns.
    registry.await_empty(deadline)
    stop_services(deadline)


def _flush(clients: Sequence[Client], deadline: float) -> None:
    pending = [client.connection for client in clients]
    while True:
        pending = [connection for connection in pending if not connection.flush(0)]
        left = deadline - time.monotonic()
        if not pending or left <= 0:
            return
        pending[0].transport.wait_writable(min(left, 0.01))
