"""A network cable that can be pulled: a TCP relay that forwards nothing while it is out.

Threads: one of its own moves the bytes; any thread may pull the cable and plug it in.
Locks: ``_lock`` guards the state and the joined sockets; it is never held while waiting.
"""

import contextlib
import select
import socket
import struct
import threading

# With this linger option a closed socket sends RST, not FIN.
RESET = struct.pack("ii", 1, 0)


class Cable:
    """Join every connection to ``listen`` with one of its own to ``server``; both are pairs of host and port."""

    def __init__(self, listen, server):
        self._server = server
        self._listener = socket.create_server(listen)
        # The port that browsers connect to; 0 has become a real one here.
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._plugged = True
        # Each socket's other side; None for one that connects while the cable is out, which gets no answer.
        self._other = {}
        # The bytes that a socket did not accept at once. Meanwhile nothing more is read from its other side.
        self._rest = {}
        # A wakeup pipe, which makes the thread read the state again.
        self._wakeup, self._waker = socket.socketpair()
        threading.Thread(target=self._run, name="cable", daemon=True).start()

    @property
    def plugged(self):
        return self._plugged

    def pull(self):
        """Cut every connection silently: neither side gets a notice, as with a real cable."""
        with self._lock:
            self._plugged = False
        self._waker.send(b"!")

    def plug(self):
        """Let new connections through. The old ones are reset: both sides have sent bytes that were lost."""
        with self._lock:
            if not self._plugged:
                for end in list(self._other):
                    self._drop(end, reset=True)
            self._plugged = True
        self._waker.send(b"!")

    def _run(self):
        while True:
            with self._lock:
                sources = [end for end in self._other if self._other[end] not in self._rest] if self._plugged else []
                sinks = list(self._rest) if self._plugged else []
            try:
                readable, writable, _ = select.select([self._wakeup, self._listener, *sources], sinks, [])
            except (OSError, ValueError):
                continue  # One of them was reset just before.
            if self._wakeup in readable:
                self._wakeup.recv(4096)
            if self._listener in readable:
                self._accept()
            with self._lock:
                # The cable may have been pulled and plugged in since: sockets that were reset then are no longer in the dicts.
                if self._plugged:
                    for end in readable:
                        if end in self._other:
                            self._carry(end)
                    for end in writable:
                        if end in self._rest:
                            self._send(end, self._rest.pop(end))

    def _accept(self):
        browser, _ = self._listener.accept()
        server = None
        if self._plugged:
            with contextlib.suppress(OSError):
                server = socket.create_connection(self._server, timeout=1)
        with self._lock:
            self._other[browser] = server
            if server is not None:
                self._other[server] = browser
                for end in (browser, server):
                    end.setblocking(False)
                    # Otherwise a small frame may wait for the answer to the one before it.
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            elif self._plugged:
                self._drop(browser, reset=True)

    def _carry(self, end):
        """Read what has arrived and forward it; however one side ends, the other ends as well."""
        try:
            data = end.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            self._drop(end, reset=True)
            return
        if data:
            self._send(self._other[end], data)
        else:
            self._drop(end)

    def _send(self, end, data):
        try:
            sent = end.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(end, reset=True)
            return
        if data[sent:]:
            self._rest[end] = data[sent:]

    def _drop(self, end, reset=False):
        """Close a connection's two sockets."""
        for side in (end, self._other.get(end)):
            if side is not None and side in self._other:
                del self._other[side]
                self._rest.pop(side, None)
                if reset:
                    with contextlib.suppress(OSError):
                        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                side.close()
