"""The hub: what an application calls to publish events and to manage the clients of its processes.

**Threads**: ``run`` is the hub thread, one per process; everything else may be called on any thread.
**Locks**: none of its own: see ``lifecycle`` and ``registry``. What the hub thread alone changes has none.
**Blocks**: the hub thread on its queue; ``publish`` for room in it, ``publish_timeout`` at most; ``shutdown`` for its timeout.

Go counterpart: ``hub.go``.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

from ..backplane.base import Backplane, Sink
from ..broadcaster import Broadcaster, PublishResult, RejectionLog, prepare_event
from ..client.client import Client
from ..client.subscriptions import SubscriptionChange
from ..errors import CartowsError, HubClosed
from ..identity import identity_string
from ..message import EncodeHook, Message
from ..options import Options
from ..rooms import Audience, room_value
from ..servers.detection import replaced_threads, serving
from ..websocket.close_codes import CloseCode
from ..websocket.frames import Frame
from .client_services import ClientServices
from .lifecycle import Lifecycle
from .pipeline import Pipeline
from .shutdown import shut_down

__all__ = ["Hub"]


class Hub(Broadcaster, ClientServices):
    """Broadcast events to the clients of this process; the first use in a process starts the hub thread.

    Args:
        logger: Defaults to the logger ``"cartows"``.
        options: Defaults to the settings of the first app whose extension is given the hub, else to those of ``Options``.
        backplane: Makes the connection to other processes, once in each; defaults to that of ``redis_url``, or none.
        enc_hook: Turns a value that JSON cannot represent into one that it can; defaults to the app's ``json.default``.

    Raises:
        CartowsError: gevent or eventlet has replaced the threads of this process.
    """

    def __init__(
        self,
        logger: logging.Logger | None = None,
        *,
        options: Options | None = None,
        backplane: Callable[[Sink], Backplane] | None = None,
        enc_hook: EncodeHook | None = None,
    ) -> None:
        super().__init__()
        patched = replaced_threads()
        if patched is not None:
            raise CartowsError(
                f"cartows runs on real threads, and {patched} has replaced them in this process. Run the app without "
                f"monkey-patching: gunicorn -k gthread --threads 8 app:app instead of -k {patched}"
            )
        self.logger = logger or logging.getLogger("cartows")
        self.enc_hook = enc_hook
        self._make_backplane = backplane
        self._own_options = self._options = options
        self._filter_keys = frozenset(self.options.filter_keys)
        self._init_process()
        _hubs.add(self)

    def _init_process(self) -> None:
        """Create all state of a process: in ``__init__``, and again in the child of a fork."""
        self._unplaced_lock = threading.Lock()
        self._rejections = RejectionLog(self.logger)
        #: A client has registered, or the warning that there is none has been logged.
        self._has_clients = False
        self._lifecycle = Lifecycle(self.shutdown)
        self._init_services()
        self._init_pipeline()

    def _init_pipeline(self) -> None:
        """Create what depends on the options."""
        self._pipeline = Pipeline(self.options, self.logger, self._make_backplane, self._registry, self._heartbeat, self._timer)

    @property
    def options(self) -> Options:
        """The settings in force."""
        return self._options or _DEFAULTS

    @property
    def own_options(self) -> Options | None:
        """The settings that the hub was created with, None when it takes those of the app."""
        return self._own_options

    @property
    def filter_keys(self) -> frozenset[str]:
        """The keys that clients may filter by, those of every app that has the hub."""
        return self._filter_keys

    def adopt_options(self, options: Options) -> None:
        """Take an app's filter keys, and its other settings unless the hub has its own or runs already."""
        with self._lifecycle.lock:
            self._filter_keys |= set(options.filter_keys)
            if self._options is None and self._lifecycle.thread is None:
                self._options = options
                self._init_pipeline()

    # Starting and shutting down ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the hub thread, unless it runs already; every use of the hub calls this. Any thread.

        Raises:
            HubClosed: The hub was shut down.
            CartowsError: The process has no thread left; a later call tries again.
        """
        if self._lifecycle.thread is None or self._lifecycle.closed:
            self._lifecycle.start(self._loop, self._start_services)

    def run(self) -> None:
        """Run the hub on the calling thread until ``shutdown``, instead of ``start``; Go's ``go hub.Run()``.

        Raises:
            RuntimeError: The hub has a thread already.
            HubClosed: The hub was shut down.
        """
        self._lifecycle.run(self._loop, self._start_services)

    def _loop(self) -> None:
        # Not before the lifecycle's lock is held: until then, the options of an app may replace the pipeline.
        self._pipeline.run()

    @property
    def closed(self) -> bool:
        """Whether the hub was shut down."""
        return self._lifecycle.closed

    def shutdown(self, timeout: float = 2.0) -> None:
        """Send what was accepted, tell every client that the server restarts, and end all threads of the hub.

        Idempotent; also runs at interpreter exit. It starts no thread. Any thread; returns within the timeout.

        Args:
            timeout: The seconds for all of it; connections that are still open then are aborted.
        """
        self._lifecycle.shut_down(self._end, timeout)

    def _end(self, thread: threading.Thread | None, timeout: float) -> None:
        pipeline = self._pipeline
        shut_down(thread, timeout, pipeline.backplane, pipeline.queue, self._registry, self._stop_services)

    # Publishing -------------------------------------------------------------------------------------------------------

    def publish(self, message: Message, audience: Audience) -> PublishResult:
        """Encode, number and queue a message; every ``broadcast*`` method calls this.

        Any thread; waits for room in the queue for ``publish_timeout`` seconds at most.

        Args:
            message: The message. Its own ``id`` and ``ref`` are left out: the hub assigns the id.
            audience: The clients that receive it.

        Returns:
            Whether it was accepted, and the id that it has then.

        Raises:
            MessageError: It cannot be serialised, or is larger than a send queue.
            HubClosed: The hub was shut down.
        """
        self._lifecycle.check_open()
        options = self.options
        event = prepare_event(message, audience, self.enc_hook, options.send_queue_bytes)
        try:
            self.start()
        except HubClosed:
            raise
        except CartowsError as error:
            return self._reject(message.type, str(error))
        if not self._has_clients:
            self._warn_without_clients()
        # The hub thread makes the room that others wait for.
        timeout = 0.0 if threading.current_thread() is self._lifecycle.thread else options.publish_timeout
        outcome = self._pipeline.backplane.publish(event, timeout)
        if outcome.status is None:
            self._lifecycle.check_open()
            return self._reject(message.type, outcome.reason or "")
        self._rejections.note(message.type, None, self._rejected)
        return PublishResult(True, outcome.status, outcome.id)

    def _reject(self, type: str, reason: str) -> PublishResult:
        self.count("rejected")
        self._rejections.note(type, reason, self._rejected)
        return PublishResult(False, None, None, reason)

    def _rejected(self) -> int:
        return self._registry.counter("rejected")

    def _warn_without_clients(self) -> None:
        self._has_clients = True
        if self.options.redis_url is None and not serving():
            self.logger.warning(
                "cartows: a broadcast in process %d reaches no client: the process serves no WebSocket clients (a Celery task, "
                "a cron job, a shell?). Set CARTOWS_REDIS_URL and use a Publisher, or broadcast in a request handler that this "
                "process calls by HTTP",
                os.getpid(),
            )

    # Clients ----------------------------------------------------------------------------------------------------------

    def register_client(self, client: Client) -> None:
        """Open a client's connection on the hub thread, and send it events from then on; Go's ``RegisterClient``.

        Any thread; never waits.

        Raises:
            HubClosed: The hub was shut down.
        """
        self.start()
        # Its peer may have gone, and its reader thread have ended.
        if not self._registry.arrive(client):
            return
        self._has_clients = True
        if not self._pipeline.register(client):
            self._lifecycle.check_open()

    def unregister_client(self, client: Client) -> None:
        """Send a client no further event and close its connection; Go's ``UnregisterClient``. Idempotent; any thread."""
        self.forget_client(client)
        client.close(CloseCode.NORMAL, "unregistered")

    def forget_client(self, client: Client) -> None:
        """See ClientHub.forget_client."""
        self._pipeline.unregister(client)

    def change_client(self, client: Client, change: SubscriptionChange) -> None:
        """See ClientHub.change_client."""
        self._pipeline.change(client, change)

    def disconnect(
        self,
        *,
        identity: Any = None,
        client_id: str | None = None,
        code: int = CloseCode.DISCONNECTED,
        reason: str = "disconnected by the app",
    ) -> int:
        """Close every client of an identity, or one client, with a ``disconnect`` message before the close frame.

        With ``redis_url``, other processes close the clients of the identity, too. Any thread; never waits.

        Args:
            identity: The user's id, or the user object, known by its ``get_id()``. Identities compare as strings.
            client_id: The ``client.id`` of the client, in this process.
            code: The close code, 3503 by default. Clients do not reconnect after 3500 to 3999, nor after 4500 to 4999.
            reason: The text that goes with it, 123 bytes at most.

        Returns:
            The number of clients closed in this process.

        Raises:
            TypeError: Not exactly one of ``identity`` and ``client_id`` is given, or the identity names no user.
            ValueError: A close frame can have no such code (RFC 6455, section 7.4).
        """
        closed = self._registry.disconnect(code, reason, identity=identity, client_id=client_id)
        if identity is not None and self._reaches_others():
            self._pipeline.backplane.disconnect(identity_string(identity), code, reason)
        return closed

    def reauthorize(self, identity: Any) -> int:
        """Call ``@ws.authorize`` again for each room that the clients of an identity are subscribed to.

        A client is unsubscribed from a room that is refused; one that receives everything and may not any more is closed with
        3507. With ``redis_url``, other processes do the same. Runs ``authorize`` on the calling thread, in an app context.

        Args:
            identity: The user's id, or the user object, known by its ``get_id()``. Identities compare as strings.

        Returns:
            The number of clients in this process that lost something.

        Raises:
            TypeError: The identity names no user.
            Exception: What ``authorize`` raised first. It counts as a refusal, and everything else has been asked by then.
        """
        try:
            return self._registry.reauthorize(identity)
        finally:
            if self._reaches_others():
                self._pipeline.backplane.reauthorize(identity_string(identity))

    def _reaches_others(self) -> bool:
        """Return whether other processes can be reached; starts the hub, which may not have had a client yet."""
        if self.options.redis_url is None or self.closed:
            return False
        try:
            self.start()
        except CartowsError as error:
            self.logger.error("cartows: other processes cannot be reached: %s", error)
            return False
        return True

    def presence(self, key: str, value: Any) -> dict[str, list[dict[str, Any]]]:
        """Return who is present in a room. Any thread; never waits.

        With ``redis_url``, clients of other processes are included: after a moment in a process that has just started its hub.

        Args:
            key: The key of the room, e.g. ``"board_id"``.
            value: Its value; values compare as strings.

        Returns:
            Each identity, as a string, with a ``ref`` and the ``meta`` for each of its connections.
        """
        self._reaches_others()
        return self._pipeline.presence.present(key, room_value(value))

    def _has_filter(self, key: str) -> bool:
        return self._pipeline.dispatcher.rooms.holds(key)

    @property
    def position(self) -> int:
        """The number of the last event that the hub has handed to every client or its queue."""
        return self._pipeline.dispatcher.position

    def position_frame(self, type: str, number: int, incomplete: bool, ref: str | None = None) -> Frame:
        """See ClientHub.position_frame."""
        data = {"incomplete": True} if incomplete else None
        return Frame(Message(type=type, id=self._pipeline.dispatcher.history.id(number), data=data, ref=ref).encode())

    def stats(self) -> dict[str, Any]:
        """Return this process's counters; those of failures and close codes are absent until first counted. Any thread."""
        return {**self._registry.stats(), "slots": self._capacity.taken, **self._pipeline.stats()}


_DEFAULTS = Options()
_hubs: weakref.WeakSet[Hub] = weakref.WeakSet()


def _reset_in_child() -> None:
    for hub in list(_hubs):
        hub.read_scheduler.forget()
        hub._init_process()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)
