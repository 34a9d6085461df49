"""The hub: one thread that takes from the broadcast channel and sends, and what the app may ask of it.

Threads: ``run`` is the hub thread, one per process; everything else may be called on any thread.
Locks: ``_state_lock`` guards starting and stopping, ``_congestion_lock`` what was said of a full channel. The client registry
    has its own lock (see ``registry``), what only the hub thread changes has none (see ``dispatch``).
Blocks: the hub thread on its channel; ``publish`` for room in it, ``publish_timeout`` at most; ``shutdown`` within its time.

Go counterpart: ``hub.go``.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from ..backplane.base import Backplane, Sink
from ..backplane.local import LocalBackplane
from ..broadcaster import Broadcaster, PublishResult, RejectionLog, prepare_event
from ..client.client import Client
from ..client.read_scheduler import ReadScheduler
from ..client.subscriptions import Change
from ..errors import CartowsError, HubClosed
from ..message import EncodeHook, Message
from ..options import Options
from ..rooms import Audience, room_value
from ..servers.base import replaced_threads, serving
from ..websocket.close_codes import CloseCode
from ..websocket.frames import Frame
from .backplane_sink import BackplaneSink
from .broadcast_queue import BroadcastQueue
from .clients import Clients
from .dispatcher import Dispatcher, Item
from .heartbeat import Heartbeat
from .rechecker import Rechecker
from .registry import Registry

__all__ = ["Hub"]

# Registrations and the like served per turn, so that a storm of reconnects does not stop live traffic.
_CONTROLS_PER_TURN = 64

# How long the goodbye at interpreter exit may take: gunicorn's worker has spent up to a second by then.
_EXIT_TIMEOUT = 1.5


class Hub(Broadcaster, Clients):
    """Broadcast events to the clients of this process; the first use in a process starts the hub thread.

    ``logger`` defaults to the logger "cartows"; ``options`` to the defaults, or to ``app.config`` once an extension has been
    given the hub; ``backplane`` makes the way to other processes, once in each, by default that of ``redis_url``, or none.
    ``enc_hook`` turns what JSON does not know into what it does, by default the app's ``json.default``.
    Raises CartowsError where gevent or eventlet has replaced the threads.
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
        self._start_afresh()
        _hubs.add(self)

    def _start_afresh(self) -> None:
        """Make all state of a process anew: in ``__init__``, and in the child of a fork."""
        self._unplaced_lock = threading.Lock()
        self._rejections = RejectionLog(self.logger)
        #: A client has registered, or the warning that none is served has been given.
        self._spoken_for = False

        self._state_lock = threading.Lock()
        self._closed = False
        self._exit_handled = False
        #: Set when a shutdown is over.
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

        self.registry = Registry()
        self.heartbeat = Heartbeat(self.logger)
        self.read_scheduler = ReadScheduler()
        self.rechecker = Rechecker(self.logger)
        self._set_up()

    def _set_up(self) -> None:
        """Make what depends on the options."""
        options = self.options
        self._broadcast_queue: BroadcastQueue[Item] = BroadcastQueue(options.broadcast_queue_size)
        self._sink = BackplaneSink(self._broadcast_queue, self, options, self.logger)
        self._backplane = (self._make_backplane or partial(_backplane, options, self.logger))(self._sink)
        self._dispatcher = Dispatcher(
            self.registry,
            self.heartbeat,
            self._broadcast_queue,
            options,
            self.logger,
            self._backplane.may_exist,
            self._backplane.announce,
        )
        self._sink.dispatcher = self._dispatcher

    @property
    def options(self) -> Options:
        """The settings in force."""
        return self._options or _DEFAULTS

    @property
    def own_options(self) -> Options | None:
        """The settings the hub was made with, None when it takes those of the app."""
        return self._own_options

    @property
    def filter_keys(self) -> frozenset[str]:
        """The keys that clients may filter by, those of every app that has the hub."""
        return self._filter_keys

    def adopt_options(self, options: Options) -> None:
        """Take the app's settings, unless the hub was made with its own or is already running; its filter keys always."""
        with self._state_lock:
            self._filter_keys |= set(options.filter_keys)
            if self._options is None and self._thread is None:
                self._options = options
                self._set_up()

    # Starting and stopping ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run the hub in its thread, unless it runs already.

        Raises HubClosed after ``shutdown``, CartowsError when the process can have no thread for it; a later call tries again.
        """
        if self._thread is not None and not self._closed:
            return
        with self._state_lock:
            self._check_open()
            if self._thread is None:
                thread = threading.Thread(target=self._loop, name="cartows-hub", daemon=True)
                try:
                    self._start_helpers()
                    thread.start()
                except RuntimeError as error:
                    raise CartowsError(f"The hub cannot run: the process has no thread left for it ({error})") from error
                self._thread = thread

    def run(self) -> None:
        """Be the hub thread until ``shutdown``; Go's ``go hub.Run()``. ``start`` does this by itself.

        Raises RuntimeError when the hub has a thread already, HubClosed after ``shutdown``.
        """
        with self._state_lock:
            self._check_open()
            if self._thread is not None:
                raise RuntimeError(f"The hub runs already, in thread {self._thread.name!r}: its first use started it")
            self._thread = threading.current_thread()
            self._start_helpers()
        self._loop()

    def _start_helpers(self) -> None:
        if not self._exit_handled:
            self._exit_handled = True
            atexit.register(_shutdown_at_exit, weakref.ref(self))
        self.heartbeat.start()
        try:
            self.read_scheduler.start()
        except (OSError, RuntimeError) as error:
            self.logger.warning("cartows: readers wait on their own sockets, since nobody can wake them in turn: %s", error)

    @property
    def closed(self) -> bool:
        """Whether the hub was shut down."""
        return self._closed

    def _check_open(self) -> None:
        if self._closed:
            raise HubClosed("The hub was shut down, so nobody hears what is broadcast; make a new Hub, or broadcast earlier")

    def shutdown(self, timeout: float = 2.0) -> None:
        """Send what was accepted, tell every client that the server restarts, and end all threads within ``timeout`` seconds.

        Runs on the caller's thread; idempotent; also runs at interpreter exit. It starts no thread.
        """
        with self._state_lock:
            first, self._closed = not self._closed, True
            thread = self._thread
        if not first:
            # Another thread's goodbye, which the end of the process must not cut short.
            self._over.wait(timeout)
            return
        try:
            self._shut_down(thread, timeout)
        finally:
            self._over.set()

    def _shut_down(self, thread: threading.Thread | None, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        self._backplane.stop(timeout / 4)
        self._broadcast_queue.close()
        if thread is None:
            return
        if thread is not threading.current_thread():
            thread.join(timeout / 2)
        clients = self.registry.present()
        for client in clients:
            client.close_for_restart(timeout)
        self._flush(clients, deadline - timeout / 4)
        # What was sent is on its way; a peer that does not answer the goodbye is not waited for long.
        self.registry.await_empty(min(deadline - timeout / 10, time.monotonic() + timeout / 4))
        for client in clients:
            client.connection.abort()
        # A reader that shuts the hub down itself cannot depart before this returns.
        self.registry.await_empty(deadline)
        self.rechecker.stop(deadline - time.monotonic())
        self.heartbeat.stop(deadline - time.monotonic())
        self.read_scheduler.stop()
        self.registry.clear()

    def _flush(self, clients: list[Client], deadline: float) -> None:
        pending = [client.connection for client in clients]
        while True:
            pending = [connection for connection in pending if not connection.flush(0)]
            left = deadline - time.monotonic()
            if not pending or left <= 0:
                return
            pending[0].transport.wait_writable(min(left, 0.01))

    # The hub thread -----------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        dispatcher = self._dispatcher
        # Before anybody is served, so that whoever comes back finds what there is to come back to.
        self._guard(self._prepare)
        while True:
            controls, items = self._broadcast_queue.take(dispatcher.max_events, _CONTROLS_PER_TURN)
            if not controls and not items:
                return
            for control in controls:
                self._guard(control)
            if controls:
                self._guard(dispatcher.send_presence)
            if items:
                self._guard(partial(dispatcher.take, items))

    def _prepare(self) -> None:
        self._sink.begin(self._backplane.prepare())
        self._backplane.follow()

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception:
            self.logger.exception("cartows: a turn of the hub failed; the hub goes on")

    # Publishing ---------------------------------------------------------------------------------------------------

    def publish(self, message: Message, audience: Audience) -> PublishResult:
        """Encode, number and queue a message; what every ``broadcast*`` ends in.

        Runs on the caller's thread and waits for room in the channel for ``publish_timeout`` seconds at most. Raises
        MessageError for what cannot be serialised or is larger than any client could be sent, HubClosed after ``shutdown``.
        """
        self._check_open()
        options = self.options
        event = prepare_event(message, audience, self.enc_hook, options.send_queue_bytes)
        try:
            self.start()
        except HubClosed:
            raise
        except CartowsError as error:
            return self._reject(message.type, str(error))
        if not self._spoken_for:
            self._warn_if_nobody_can_hear()
        # The hub thread makes the room that others wait for.
        timeout = 0.0 if threading.current_thread() is self._thread else options.publish_timeout
        outcome = self._backplane.publish(event, timeout)
        if outcome.status is None:
            self._check_open()
            return self._reject(message.type, outcome.reason or "")
        self._rejections.note(message.type, None, self._rejected)
        return PublishResult(True, outcome.status, outcome.id)

    def _reject(self, type: str, reason: str) -> PublishResult:
        self.registry.count("rejected")
        self._rejections.note(type, reason, self._rejected)
        return PublishResult(False, None, None, reason)

    def _rejected(self) -> int:
        rejected: int = self.registry.stats()["rejected"]
        return rejected

    def _warn_if_nobody_can_hear(self) -> None:
        self._spoken_for = True
        if self.options.redis_url is None and not serving():
            self.logger.warning(
                "cartows: a broadcast in process %d reaches nobody: the process serves no WebSocket clients (a Celery task, a "
                "cron job, a shell?). Without a broker only the web server's own process can broadcast: do it in a request "
                "handler, for example one that this process calls",
                os.getpid(),
            )

    # Clients ------------------------------------------------------------------------------------------------------

    def register_client(self, client: Client) -> None:
        """Have the hub thread open a client's connection and send it events from then on. Raises HubClosed."""
        self.start()
        # Its reader may have seen the peer go already.
        if not self.registry.arrive(client):
            return
        self._spoken_for = True
        if not self._broadcast_queue.put_registration(partial(self._dispatcher.register, client)):
            self._check_open()

    def unregister_client(self, client: Client) -> None:
        """Send a client no event any more and close its connection; Go's ``UnregisterClient``. Idempotent."""
        self.forget_client(client)
        client.close(CloseCode.NORMAL, "unregistered")

    def forget_client(self, client: Client) -> None:
        """Take a client whose connection is closing out of the registry."""
        self._broadcast_queue.put_control(partial(self._dispatcher.unregister, client))

    def change_client(self, client: Client, change: Change) -> None:
        """Have a client hear something else, from the next event on."""
        self._broadcast_queue.put_control(partial(self._dispatcher.change, client, change))

    def client_gone(self, client: Client) -> None:
        """Forget a client whose descriptor is closed. Its reader thread, last."""
        self.registry.gone(client)
        self.heartbeat.discard(client)
        client.log_end()

    # What a client needs (ClientHub) ----------------------------------------------------------------------------------

    def client_arrived(self, client: Client) -> bool:
        """See ClientHub.client_arrived."""
        return self.registry.arrive(client)

    def identify(self, client: Client, identity_key: str | None) -> None:
        """See ClientHub.identify."""
        self.registry.identify(client, identity_key)

    def remove_client(self, client: Client) -> None:
        """See ClientHub.remove_client."""
        self.registry.remove(client)

    def count(self, name: str) -> None:
        """See ClientHub.count."""
        self.registry.count(name)

    def revocation_mark(self) -> int:
        """See ClientHub.revocation_mark."""
        return self.registry.revocations.now()

    def revoked_since(self, mark: int, identity_key: str | None) -> bool:
        """See ClientHub.revoked_since."""
        return any(self.registry.revocations.since(mark, identity_key))

    def start_writer(self, client: Client) -> None:
        """See ClientHub.start_writer."""
        self.heartbeat.start_writer(client)

    def abort_after(self, client: Client, seconds: float) -> None:
        """See ClientHub.abort_after."""
        self.heartbeat.watch(client, time.monotonic() + seconds)

    def recheck_expiry(self, client: Client) -> None:
        """See ClientHub.recheck_expiry."""
        self.heartbeat.look_at(client)

    def disconnect(
        self,
        *,
        identity: Any = None,
        client_id: str | None = None,
        code: int = CloseCode.DISCONNECTED,
        reason: str = "disconnected by the app",
    ) -> int:
        """See Clients.disconnect. With ``redis_url`` other processes close an identity's clients, too; they are not counted."""
        closed = super().disconnect(identity=identity, client_id=client_id, code=code, reason=reason)
        if identity is not None and self._reaches_others():
            self._backplane.disconnect(room_value(identity), code, reason)
        return closed

    def reauthorize(self, identity: Any) -> int:
        """See Clients.reauthorize. With ``redis_url`` it is done in other processes as well, and not counted."""
        try:
            return super().reauthorize(identity)
        finally:
            if self._reaches_others():
                self._backplane.reauthorize(room_value(identity))

    def _reaches_others(self) -> bool:
        """See that this process and others, where there are any, know of each other: it may not have had a client yet."""
        if self.options.redis_url is None or self._closed:
            return False
        try:
            self.start()
        except CartowsError as error:
            self.logger.error("cartows: other processes cannot be told anything: %s", error)
            return False
        return True

    def presence(self, key: str, value: Any) -> dict[str, list[dict[str, Any]]]:
        """Return who shows itself in a room: each identity, as text, with one entry for each of its tabs. Any thread.

        With ``redis_url`` the people of other processes, too: a moment later in a process that has not used its hub before.
        """
        self._reaches_others()
        return self._dispatcher.presence.present(key, room_value(value))

    def _has_filter(self, key: str) -> bool:
        return self._dispatcher.rooms.holds(key)

    @property
    def position(self) -> int:
        """The number of the last event that the hub has finished handing out."""
        return self._dispatcher.position

    def position_frame(self, type: str, number: int, incomplete: bool, ref: str | None = None) -> Frame:
        """Return a message that carries a position, and with ``incomplete`` says that the client lost something."""
        data = {"incomplete": True} if incomplete else None
        return Frame(Message(type=type, id=self._dispatcher.history.id(number), data=data, ref=ref).encode())

    def stats(self) -> dict[str, Any]:
        """Return the counters of this process: clients, places taken, events published and waiting, and what went wrong."""
        return {
            **self.registry.stats(),
            "published": self._broadcast_queue.number,
            "waiting": self._broadcast_queue.qsize(),
            **self._backplane.stats(),
        }


def _backplane(options: Options, logger: logging.Logger, sink: Sink) -> Backplane:
    """Return the way to other processes that the options ask for."""
    if options.redis_url is None:
        return LocalBackplane(sink)
    from ..backplane.redis.backplane import RedisBackplane  # needs nothing where nobody asks for it

    return RedisBackplane(options, sink, logger)


_DEFAULTS = Options()
_hubs: weakref.WeakSet[Hub] = weakref.WeakSet()


def _shutdown_at_exit(reference: weakref.ref[Hub]) -> None:
    hub = reference()
    if hub is not None:
        hub.shutdown(_EXIT_TIMEOUT)


def _start_afresh_in_child() -> None:
    for hub in list(_hubs):
        hub.read_scheduler.forget()
        hub._start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh_in_child)
