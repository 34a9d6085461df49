"""A server that is restarted on the same port, as for a deployment or after it was killed, and load while that happens."""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from pathlib import Path

from tests.support.harness import HOST, Plan, Server
from tests.support.waiting import DEADLINE


def reserved_port() -> int:
    """Return a free port outside of the range that the kernel assigns by itself: it is still free after a restart."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            # As gunicorn does; otherwise the last connections of an ended server would block the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port


class _ServerOnPort(Server):
    """A server on a given port. Pages may connect before its threads could be counted, so it does not warm up."""

    def __init__(self, plan: Plan, directory: Path, port: int) -> None:
        self._port = port
        super().__init__(plan, directory, None)

    def _command(self) -> list[str]:
        command = super()._command()
        command[command.index("--bind") + 1] = f"{HOST}:{self._port}"
        return command

    def warm_up(self) -> None:
        pass


class RestartableServer:
    """One port, and the servers that are started on it one after another."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        self.plan = plan
        self._directory = directory
        self._starts = 0
        self.port = reserved_port()
        self.start()

    def start(self) -> float:
        """Start a server; return the time of its first answer, as of ``time.time``."""
        self._starts += 1
        directory = self._directory / str(self._starts)
        directory.mkdir()
        self.server = _ServerOnPort(self.plan, directory, self.port)
        return time.time()

    def stop(self) -> None:
        """Stop it as an operator does (SIGTERM), and check what it printed."""
        self.server.stop()

    def kill(self) -> None:
        """Kill it as the kernel does when memory runs out (SIGKILL)."""
        self.server.kill()


class Load:
    """A thread that changes a board ``rate`` times a second, whether or not a server is running."""

    def __init__(self, port: int, board: str, rate: int) -> None:
        self._port, self._path, self._pause = port, f"/change/{board}", 1 / rate
        #: How many changes a server has confirmed.
        self.made = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "the load did not stop"

    def _run(self) -> None:
        while not self._stop.wait(self._pause):
            connection = http.client.HTTPConnection(HOST, self._port, timeout=DEADLINE)
            try:
                connection.request("POST", self._path, headers={"Connection": "close"})
                self.made += connection.getresponse().status == 200
            except (OSError, http.client.HTTPException):
                continue  # it is being restarted
            finally:
                connection.close()
