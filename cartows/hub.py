"""The hub: one thread that takes from the broadcast channel, owns the client registry and sends.

Threads: ``run`` is the hub thread, one per process; everything else may be called on any thread.
Locks: ``_lock``, the registry lock, guards the registry, the places and the counters. It is held to copy or change them,
    never to send, to call the app, or while a client's lock is taken. ``_state_lock`` guards starting and stopping.
Blocks: the hub thread on its channel; ``publish`` for room in it, ``publish_timeout`` at most; ``shutdown`` within its time.

Go counterpart: ``hub.go``.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from .broadcasts import Broadcasts, PublishResult
from .channel import Channel, ChannelClosed
from .client import Client
from .errors import CartowsError, HubClosed, MessageError
from .frames import Frame
from .heartbeat import Heartbeat
from .message import EncodeHook, Message, MessageType, new_message
from .options import Options
from .rooms import Audience, Rooms
from .sending import QUEUED, Batch
from .servers import replaced_threads, serving
from .turnstile import Turnstile

__all__ = ["Hub"]

# Registrations and the like served per turn, so that a storm of reconnects does not stop live traffic.
_CONTROLS_PER_TURN = 64

# Sends between two offers of the GIL, and how long an offer may take before no more are made in that pass.
_SENDS_PER_OFFER = 64
_LONGEST_OFFER = 0.001

# How long the goodbye at interpreter exit may take: gunicorn's worker has spent up to a second by then.
_EXIT_TIMEOUT = 1.5

# Room for the id and the frame's header beside an encoded event.
_ENVELOPE = 64


class _Event(NamedTuple):
    frame: Frame
    audience: Audience


class Hub(Broadcasts):
    """Broadcast events to the clients of this process; the first use in a process starts the hub thread.

    ``logger`` defaults to the logger "cartows"; ``options`` to the defaults, or to ``app.config`` once an extension has been
    given the hub; ``enc_hook`` turns what JSON does not know into what it does, by default the app's ``json.default``.
    Raises CartowsError where gevent or eventlet has replaced the threads.
    """

    def __init__(
        self,
        logger: logging.Logger | None = None,
        *,
        options: Options | None = None,
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
        self._own_options = self._options = options
        self._filter_keys = frozenset(self.options.filter_keys)
        self._start_afresh()
        _hubs.add(self)

    def _start_afresh(self) -> None:
        """Make all state of a process anew: in ``__init__``, and in the child of a fork."""
        self._unplaced_lock = threading.Lock()
        self._lock = threading.Lock()
        #: The registry: changed by the hub thread under the lock. A dict for its order.
        self._clients: dict[Client, None] = {}
        #: Clients from their registration to the end of their descriptor.
        self._present: set[Client] = set()
        self._departed = threading.Condition(self._lock)
        #: Places taken: sockets between their admission and the end of their descriptor.
        self._places = 0
        self._counters: Counter[str] = Counter()
        self._congested = False
        #: A client has registered, or the warning that none is served has been given.
        self._spoken_for = False

        self._state_lock = threading.Lock()
        self._closed = False
        self._exit_handled = False
        #: Set when a shutdown is over.
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.heartbeat = Heartbeat(self.logger)
        self.turnstile = Turnstile()

        # Of the hub thread alone.
        self._rooms: Rooms[Client] = Rooms()
        #: The last event that has been handed to every client or its queue; others read it.
        self._position = 0
        #: All sends so far, and whether the GIL is still offered in this pass.
        self._sends = 0
        self._polite = True
        #: The smallest send queue among the clients: batches are cut to it.
        self._shortest_queue = self.options.send_queue

        self._epoch = secrets.token_hex(4)
        self._channel: Channel[_Event] = Channel(self.options.broadcast_queue)

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
                self._channel = Channel(options.broadcast_queue)
                self._shortest_queue = options.send_queue

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
            self.turnstile.start()
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
        self._channel.close()
        if thread is None:
            return
        if thread is not threading.current_thread():
            thread.join(timeout / 2)
        clients = self.present_clients()
        for client in clients:
            client.dismiss(timeout)
        self._flush(clients, deadline - timeout / 4)
        # What was sent is on its way; a peer that does not answer the goodbye is not waited for long.
        self._await_empty(min(deadline - timeout / 10, time.monotonic() + timeout / 4))
        for client in clients:
            client.connection.abort()
        self._await_empty(deadline)
        self.heartbeat.stop(deadline - time.monotonic())
        self.turnstile.stop()
        with self._lock:
            self._clients.clear()

    def _flush(self, clients: list[Client], deadline: float) -> None:
        pending = [client.connection for client in clients]
        while True:
            pending = [connection for connection in pending if not connection.flush(0)]
            left = deadline - time.monotonic()
            if not pending or left <= 0:
                return
            pending[0].transport.wait_writable(min(left, 0.01))

    def _await_empty(self, deadline: float) -> None:
        # A reader that shuts the hub down itself cannot depart before this returns.
        with self._lock:
            while self._present and deadline > time.monotonic():
                self._departed.wait(deadline - time.monotonic())

    # The hub thread -----------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while True:
            # One short send must never overflow a client that keeps up.
            most = max(1, self._shortest_queue * 3 // 4)
            controls, events = self._channel.take(most, _CONTROLS_PER_TURN)
            if not controls and not events:
                return
            for control in controls:
                try:
                    control()
                except Exception:
                    self.logger.exception("cartows: a registration failed; the hub goes on")
            for batch in self._batches(events):
                try:
                    self._distribute(batch)
                except Exception:
                    self.logger.exception("cartows: sending %d events failed; the hub goes on", len(batch))
                self._position = batch[-1].frame.number

    def _batches(self, events: list[_Event]) -> Iterator[list[_Event]]:
        """Cut a run of events by bytes as the channel's turn does by number."""
        most, size, start = self.options.send_queue_bytes // 4, 0, 0
        for index, event in enumerate(events):
            size += len(event.frame.plain)
            if size > most and index > start:
                yield events[start:index]
                start, size = index, len(event.frame.plain)
        if events:
            yield events[start:]

    def _distribute(self, events: list[_Event]) -> None:
        """Send each client, in one go, the events it hears."""
        self._polite = True
        frames = [event.frame for event in events]
        every = (1 << len(events)) - 1
        for heard, clients in self._rooms.hearers([event.audience for event in events]).items():
            mine = frames if heard == every else [frame for index, frame in enumerate(frames) if heard >> index & 1]
            self._send(Batch(mine), clients)

    def _offer_gil(self) -> None:
        offered = time.perf_counter()
        time.sleep(0)
        self._polite = time.perf_counter() - offered < _LONGEST_OFFER

    def _send(self, batch: Batch, clients: list[Client]) -> None:
        troubled: list[tuple[Client, int]] = []
        for client in clients:
            try:
                outcome = client.connection.offer(batch)
            except Exception:
                self._give_up(client)
                continue
            if outcome > QUEUED:
                troubled.append((client, outcome))
            self._sends += 1
            if not self._sends % _SENDS_PER_OFFER and self._polite:
                self._offer_gil()
        for client, outcome in troubled:
            try:
                client.settle(outcome)
            except Exception:
                self._give_up(client)

    def _give_up(self, client: Client) -> None:
        self.logger.exception("cartows: sending to client %s failed; it is put out, the others go on", client.id)
        client.break_off()

    # Publishing ---------------------------------------------------------------------------------------------------

    def publish(self, message: Message, audience: Audience) -> PublishResult:
        """Encode, number and queue a message; what every ``broadcast*`` ends in.

        Runs on the caller's thread and waits for room in the channel for ``publish_timeout`` seconds at most. Raises
        MessageError for what cannot be serialised or is larger than any client could be sent, HubClosed after ``shutdown``.
        """
        self._check_open()
        options = self.options
        if message.id is not None:
            message = Message(type=message.type, timestamp=message.timestamp, data=message.data, error=message.error)
        body = message.encode(self.enc_hook)
        if len(body) + _ENVELOPE > options.send_queue_bytes:
            raise MessageError(
                f"Cannot send a message of type {message.type!r}: it has {len(body)} bytes, and no client is sent more than "
                f"CARTOWS_SEND_QUEUE_BYTES={options.send_queue_bytes} less {_ENVELOPE}. Send less, e.g. an id to fetch by"
            )
        try:
            self.start()
        except HubClosed:
            raise
        except CartowsError as error:
            return self._reject(message.type, str(error))
        if not self._spoken_for:
            self._warn_if_nobody_can_hear()
        build = partial(self._event, body, audience, options.compress_over)
        # The hub thread makes the room that others wait for.
        wait = threading.current_thread() is not self._thread
        try:
            event = self._channel.put_event(build, options.publish_timeout, wait=wait)
        except ChannelClosed:
            self._check_open()
            raise
        if event is None:
            full = f"the broadcast queue stayed full ({options.broadcast_queue} messages) for {options.publish_timeout:g} s"
            return self._reject(message.type, full)
        if self._congested:
            self._decongest()
        return PublishResult(True, "queued", self._id(event.frame.number))

    def _event(self, body: bytes, audience: Audience, compress_over: int | None, number: int) -> _Event:
        payload = b'%s,"id":"%s"}' % (body[:-1], self._id(number).encode())
        return _Event(Frame(payload, number=number, compress_over=compress_over), audience)

    def _id(self, number: int) -> str:
        return f"{self._epoch}.{number}"

    def _reject(self, type: str, reason: str) -> PublishResult:
        with self._lock:
            self._counters["rejected"] += 1
            first, self._congested = not self._congested, True
        if first:
            self.logger.warning("cartows: %r was not sent: %s. Said once until there is room again", type, reason)
        return PublishResult(False, None, None, reason)

    def _decongest(self) -> None:
        with self._lock:
            was, self._congested = self._congested, False
            rejected = self._counters["rejected"]
        if was:
            self.logger.warning("cartows: the broadcast queue has room again; %d messages were rejected so far", rejected)

    def _warn_if_nobody_can_hear(self) -> None:
        self._spoken_for = True
        if not serving():
            self.logger.warning(
                "cartows: a broadcast in process %d reaches nobody: the process serves no WebSocket clients (a Celery task, a "
                "cron job, a shell?). Without a broker only the web server's own process can broadcast: do it in a request "
                "handler, for example one that this process calls",
                os.getpid(),
            )

    # The registry -------------------------------------------------------------------------------------------------

    def take_place(self, most: int) -> bool:
        """Take one of ``most`` places for a socket that is about to become a client; ``client_gone`` gives it back."""
        with self._lock:
            if self._places >= most:
                return False
            self._places += 1
            return True

    def give_place_back(self) -> None:
        """Give back the place of a socket that did not become a client, or has ended."""
        with self._lock:
            self._places -= 1

    def client_gone(self, client: Client) -> None:
        """Forget a client whose descriptor is closed. Its reader thread, last."""
        with self._lock:
            client.gone = True
            self._places -= client.placed
            self._present.discard(client)
            self._departed.notify_all()
            code = client.connection.close_code or 1006
            # An app's codes, and a peer's, may be any.
            self._counters[f"closed_{code}" if code < 4000 else "closed_by_app"] += 1
        self.heartbeat.discard(client)
        client.log_end()

    def register_client(self, client: Client) -> None:
        """Have the hub thread open a client's connection and send it events from then on. Raises HubClosed."""
        self.start()
        with self._lock:
            # Its reader may have seen the peer go already.
            if client.gone:
                return
            self._present.add(client)
        if not self._channel.put_arrival(partial(self._register, client)):
            self._check_open()

    def _register(self, client: Client) -> None:
        if client.connection.ended:
            return
        self._spoken_for = True
        self._shortest_queue = min(self._shortest_queue, client.connection.options.send_queue)
        with self._lock:
            self._clients[client] = None
            self._counters["registered"] += 1
        try:
            self._rooms.join(client, client.filters)
            client.connection.open(self._greeting(client))
            self.heartbeat.add(client)
        except Exception:
            self._give_up(client)

    def _greeting(self, client: Client) -> Frame | None:
        options = client.connection.options
        if not options.greeting:
            return None
        position = self._id(self._position)
        data = {"client_id": client.id, "id": position, "ping_interval_ms": round(options.ping_period * 1000)}
        return Frame(Message(type=MessageType.CONNECTED.value, id=position, data=data).encode())

    def unregister_client(self, client: Client) -> None:
        """Send a client no event any more and close its connection; Go's ``UnregisterClient``. Idempotent."""
        self.forget_client(client)
        client.close(1000, "unregistered")

    def forget_client(self, client: Client) -> None:
        """Take a client whose connection is closing out of the registry."""
        self._channel.put_control(partial(self._unregister, client))

    def _unregister(self, client: Client) -> None:
        self._rooms.leave(client)
        with self._lock:
            self._clients.pop(client, None)

    def refilter_client(self, client: Client) -> None:
        """Put a client whose filters changed into its rooms."""
        self._channel.put_control(partial(self._refilter, client))

    def _refilter(self, client: Client) -> None:
        if client in self._clients:
            self._rooms.join(client, client.filters)

    def client_count(self) -> int:
        """Return how many clients are registered in this process."""
        with self._lock:
            return len(self._clients)

    def get_clients(self) -> list[Client]:
        """Return the clients registered in this process: a snapshot."""
        with self._lock:
            return list(self._clients)

    def present_clients(self) -> list[Client]:
        """Return the clients whose descriptor is open, those that are being closed among them: a snapshot."""
        with self._lock:
            return list(self._present)

    def _has_filter(self, key: str) -> bool:
        return self._rooms.holds(key)

    def position_message(self, type: str) -> Message:
        """Return a message that carries the position: the last event that the hub has finished handing out."""
        message = new_message(type)
        message.id = self._id(self._position)
        return message

    def count(self, name: str) -> None:
        """Move a counter."""
        with self._lock:
            self._counters[name] += 1

    def stats(self) -> dict[str, Any]:
        """Return the counters of this process: clients, places taken, events published and waiting, and what went wrong."""
        with self._lock:
            found: dict[str, Any] = {"clients": len(self._clients), "places": self._places, **self._counters}
        found["published"] = self._channel.number
        found["waiting"] = self._channel.qsize()
        return found


_DEFAULTS = Options()
_hubs: weakref.WeakSet[Hub] = weakref.WeakSet()


def _shutdown_at_exit(reference: weakref.ref[Hub]) -> None:
    hub = reference()
    if hub is not None:
        hub.shutdown(_EXIT_TIMEOUT)


def _start_afresh_in_child() -> None:
    for hub in list(_hubs):
        hub.turnstile.forget()
        hub._start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh_in_child)
