"""A server that goes and comes back on its port, as it does when a new version is deployed, or when it is killed."""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from pathlib import Path

from tests.support.harness import HOST, Plan, Server
from tests.support.waiting import DEADLINE


def quiet_port() -> int:
    """Return a free port that the kernel gives to nobody who does not name it: it is still free after a restart."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            # As gunicorn does, or an ended server's last connections would be in its way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port


class _Returning(Server):
    """A server on a port that is known before; its pages may be there before anybody has counted its threads."""

    def __init__(self, plan: Plan, directory: Path, port: int) -> None:
        self._port = port
        super().__init__(plan, directory, None)

    def _command(self) -> list[str]:
        command = super()._command()
        command[command.index("--bind") + 1] = f"{HOST}:{self._port}"
        return command

    def _warm_up(self) -> None:
        pass


class Station:
    """One address, and the servers that come and go there."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        self.plan = plan
        self._directory = directory
        self._starts = 0
        self.port = quiet_port()
        self.start()

    def start(self) -> float:
        """Start a server; returns when it answered for the first time, as ``time.time`` counts."""
        self._starts += 1
        directory = self._directory / str(self._starts)
        directory.mkdir()
        self.server = _Returning(self.plan, directory, self.port)
        return time.time()

    def stop(self) -> None:
        """End it as an operator does (SIGTERM), and look at its last words."""
        self.server.stop()

    def kill(self) -> None:
        """End it as the kernel does when memory runs out (SIGKILL)."""
        self.server.kill()


class Load:
    """Changes of a board, one after another, as fast as ``rate`` a second, whether or not there is a server."""

    def __init__(self, port: int, board: str, rate: int) -> None:
        self._port, self._path, self._pause = port, f"/change/{board}", 1 / rate
        #: How many a server has answered.
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
        assert not self._thread.is_alive(), "the load goes on"

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
