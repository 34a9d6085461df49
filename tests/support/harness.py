"""Real servers as subprocesses, each on a port of its own, watched from the outside.

A ``Server`` is one running gunicorn or Flask server with one of the apps of ``tests/apps``. It records how many threads and
descriptors its worker has without clients, and ``check`` fails when a test leaves more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import itertools
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

from tests.support import process
from tests.support.clients import Peer, without_tls
from tests.support.raw_client import Json, RawClient, Response
from tests.support.waiting import DEADLINE, wait_until

HERE = Path(__file__).parent
APPS = HERE.parent / "apps"
ROOT = HERE.parent.parent

HOST = "127.0.0.1"

# How long a server may take to answer its first request; a busy machine imports Flask slowly.
START = 40.0


@dataclasses.dataclass(frozen=True)
class Kind:
    """A server and the way in which it serves sockets."""

    name: str
    server: str
    #: The value of ``CARTOWS_HANDOFF``; None leaves the choice to the library.
    handoff: bool | None = None
    #: TLS terminated in the worker.
    tls: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def attached(self) -> bool:
        """Return whether the request's thread stays with its socket."""
        return self.tls or self.handoff is False


GTHREAD = Kind("gthread", "gthread")
GTHREAD_ATTACHED = Kind("gthread-attached", "gthread", handoff=False)
GTHREAD_TLS = Kind("gthread-tls", "gthread", tls=True)
SYNC = Kind("sync", "sync")
FLASK = Kind("flask", "flask")
FLASK_ATTACHED = Kind("flask-attached", "flask", handoff=False)

#: Every kind but attached sockets on a sync worker, whose only thread they would block.
EVERYWHERE = (GTHREAD, GTHREAD_ATTACHED, GTHREAD_TLS, SYNC, FLASK, FLASK_ATTACHED)
#: gunicorn's gthread, which most apps use, with both ways of serving.
BOTH_WAYS = (GTHREAD, GTHREAD_ATTACHED)
HANDED_OFF = (GTHREAD, SYNC, FLASK)


#: The WebSocket path of apps that have another than the default.
PATHS = {"in_blueprint": "/api/live/ws", "own_route": "/live", "two_apps": "/a/ws"}


@dataclasses.dataclass(frozen=True)
class Tls:
    """A throwaway authority's certificate for the server, and the client that trusts it."""

    certificate: Path
    key: Path
    client: ssl.SSLContext


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to start a server; two equal plans may share one."""

    app: str = "quickstart"
    kind: Kind = GTHREAD
    #: Pool threads; None: 4, or 16 where each socket holds one.
    threads: int | None = None
    workers: int = 1
    #: The file limit of the server; 0 leaves it as it is.
    nofile: int = 0
    #: The limit of its address space, in bytes, likewise.
    address_space: int = 0
    #: Whether none of its threads has been started when the test begins, which calls ``warm_up`` itself.
    cold: bool = False
    #: More arguments for the server.
    arguments: tuple[str, ...] = ()
    #: ``app.config``, as JSON.
    config: str = "{}"

    @property
    def pool(self) -> int:
        if self.kind.server == "sync":
            return 1
        return self.threads or (16 if self.kind.attached else 4)


class Server:
    """One running server."""

    def __init__(self, plan: Plan, directory: Path, tls: Tls | None) -> None:
        self.plan = plan
        self.tls = tls if plan.kind.tls else None
        #: The file with everything the server printed.
        self.log_file = directory / "log"
        #: Parts of tracebacks that the test causes on purpose; those are not counted as problems.
        self.expected_tracebacks: list[str] = []
        self._checked = 0
        self._terminated = False
        self._fences = itertools.count()
        self._open: list[Peer | RawClient] = []
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FLASK_")}
        settings = dict(json.loads(plan.config))
        #: The app's WebSocket path.
        self.path: str = PATHS.get(plan.app) or settings.get("CARTOWS_PATH", "/ws")
        if plan.kind.handoff is not None:
            settings.setdefault("CARTOWS_HANDOFF", plan.kind.handoff)
        # Tests send faster than users do; the rate limit has tests of its own.
        settings.setdefault("CARTOWS_RATE_LIMIT", None)
        environment.update({f"FLASK_{name}": json.dumps(value) for name, value in settings.items()})
        paths = [str(ROOT), environment.get("PYTHONPATH", "")]
        environment.update(PYTHONPATH=os.pathsep.join(filter(None, paths)), PYTHONUNBUFFERED="1")
        self._start(environment)

    # -- Starting

    def _start(self, environment: dict[str, str]) -> None:
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                self._command(),
                cwd=APPS,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self.port = self._find_port()
            self._await_answer()
            #: The workers' process ids; those of a Flask server and of a platform without /proc are the server's own.
            self.pids = self._find_workers()
            if self.plan.workers == 1 and not self.plan.cold:
                self.warm_up()
        except BaseException:
            self.kill()
            raise

    def _command(self) -> list[str]:
        plan = self.plan
        module, _, name = plan.app.partition(":")
        command = [sys.executable, str(HERE / "launch.py"), str(plan.nofile), str(plan.address_space)]
        command += [sys.executable, "-m"]
        if plan.kind.server == "flask":
            command += ["flask", "--app", f"{module}:{name or 'app'}", "run", "--no-debug", "--host", HOST, "--port=0"]
        else:
            command += ["gunicorn", "--config", "gunicorn_settings.py", "--bind", f"{HOST}:0"]
            command += ["--workers", str(plan.workers), "--worker-class", plan.kind.server]
            if plan.kind.server == "gthread":
                command += ["--threads", str(plan.pool)]
            if self.tls is not None:
                command += ["--certfile", str(self.tls.certificate), "--keyfile", str(self.tls.key)]
        command += plan.arguments
        if plan.kind.server != "flask":
            command.append(f"{module}:{name or 'app'}")
        return command

    def _find_port(self) -> int:
        """Read the port from what the server prints: one chosen here could be taken by another process in between."""
        pattern = re.compile(r"(?:Listening at:|Running on) https?://[^:\s]+:(\d+)")

        def look() -> list[str]:
            found = pattern.findall(self.log())
            if not found and self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log()}")
            return found

        return int(wait_until(look, lambda: f"the server to listen:\n{self.log()}", START)[0])

    def _await_answer(self) -> None:
        def look() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log()}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                return bool(self.get("/").status)
            return False

        wait_until(look, lambda: f"the server to answer:\n{self.log()}", START)

    def _find_workers(self) -> list[int]:
        if self.plan.kind.server == "flask" or not process.HAS_PROC:
            return [self.process.pid]

        def look() -> list[int]:
            found = process.children(self.process.pid)
            return found if len(found) >= self.plan.workers else []

        return wait_until(look, "the workers")

    def warm_up(self) -> None:
        """Start what stays running anyway (pool threads, the hub thread, the heartbeat), then count threads and descriptors."""
        if self.plan.kind.server == "gthread":
            path = f"/remote/meet/{self.plan.pool}/warm"
            with ThreadPoolExecutor(self.plan.pool) as requests:
                assert all(response.status == 200 for response in requests.map(self.get, [path] * self.plan.pool))
        with RawClient(HOST, self.port, self.tls.client if self.tls else None) as visitor:
            response = visitor.open(self.path)
            assert response.status == 101, response
            self.publish("broadcast", "warm")
        self.await_clients(0)
        self.record_idle()

    def record_idle(self) -> None:
        """Record the numbers of threads and descriptors, once they are stable, as those of an idle worker."""
        readings: list[tuple[int, int]] = []

        def look() -> bool:
            readings.append((self.threads(), len(self.fds())))
            return len(readings) >= 8 and len(set(readings[-8:])) == 1

        wait_until(look, lambda: f"stable numbers of threads and descriptors: {readings[-20:]}")
        self.idle_threads, self.idle_fds = readings[-1]

    # -- Observing

    @property
    def pid(self) -> int:
        """The process that serves."""
        return self.pids[0]

    def threads(self) -> int:
        return process.threads(self.pid)

    def fds(self) -> dict[str, str]:
        return process.fds(self.pid)

    def log(self, start: int = 0) -> str:
        """Return what the server has printed, from that character on."""
        return self.log_file.read_text(errors="replace")[start:]

    def app_log(self, start: int = 0) -> list[str]:
        """Return the lines that the library and the app have logged, each beginning with its level."""
        prefix = "app-log "
        return [
            line.removeprefix(prefix)
            for line in self.log(start).splitlines()
            if line.startswith(prefix) and "werkzeug:" not in line
        ]

    def client_count(self) -> int:
        response = self.get("/remote/hub")
        assert response.status == 200, response
        return int(response.json["clients"])

    def await_clients(self, count: int, deadline: float = DEADLINE) -> None:
        what = f"{count} clients"
        wait_until(lambda: self.client_count() == count, lambda: f"{what}; there are {self.client_count()}", deadline)

    # -- HTTP

    def request(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Response:
        """Make one HTTP request on a connection of its own; a body is sent as JSON."""
        connection = (
            http.client.HTTPConnection(HOST, self.port, timeout=DEADLINE)
            if self.tls is None
            else http.client.HTTPSConnection(HOST, self.port, timeout=DEADLINE, context=self.tls.client)
        )
        sent = {"Connection": "close", "Content-Type": "application/json", **(headers or {})}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), sent)
            response = connection.getresponse()
            return Response(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, **options: Any) -> Response:
        return self.request("GET", path, **options)

    def post(self, path: str, body: Any) -> Response:
        return self.request("POST", path, body)

    def call(self, *calls: tuple[str, tuple[Any, ...], Json]) -> list[Json]:
        """Call methods of the app's hub: (name, arguments, keyword arguments) of each."""
        response = self.post("/remote/publish", [list(call) for call in calls])
        assert response.status == 200, response
        results: list[Json] = response.json
        return results

    def publish(self, name: str, *arguments: Any, **keywords: Any) -> Json:
        """Call one method of the app's hub; return its result, which must be accepted, as a mapping."""
        (result,) = self.call((name, arguments, keywords))
        assert result["accepted"], result
        return result

    def flood(self, count: int, size: int = 100, board: str = "b1") -> int:
        """Publish so many task events in one request; return how many were accepted."""
        response = self.post("/remote/flood", {"count": count, "size": size, "board": board})
        assert response.status == 200, response
        return int(response.json["accepted"])

    def received(self, *peers: Peer | RawClient) -> list[list[Json]]:
        """Return what each client received up to now.

        A message for everyone is published after everything so far. All clients of a hub see one order, so what has not
        arrived before that message never will.
        """
        number = next(self._fences)
        self.publish("broadcast_message", {"$message": ["fence", number]})
        found = []
        for peer in peers:
            messages: list[Json] = []
            while True:
                message = peer.receive()
                if message["type"] == "fence" and message["data"] == number:
                    break
                messages.append(message)
            found.append(messages)
        return found

    # -- WebSocket

    def connect(self, path: str = "/ws", *, greeted: bool = True, **options: Any) -> Peer:
        """Connect a ``websockets`` client and read its greeting; closed at the end of the test."""
        options = {"ping_interval": None, "proxy": None, "max_size": None, "close_timeout": DEADLINE, **options}
        if self.tls is not None:
            with contextlib.ExitStack() as stack:
                plain = stack.enter_context(socket.create_connection((HOST, self.port), DEADLINE))
                options["sock"] = without_tls(self.tls.client.wrap_socket(plain, server_hostname=HOST))
                stack.pop_all()
        connection = connect(f"ws://{HOST}:{self.port}{path}", **options)
        # Left with `close`, below and in Peer. Newer versions of websockets warn about a connection that was never entered.
        connection.__enter__()
        try:
            peer = Peer(connection, greeted=greeted)
        except BaseException:
            connection.close()
            raise
        self._open.append(peer)
        return peer

    def raw(self, **options: Any) -> RawClient:
        """Connect a bare socket; closed at the end of the test."""
        raw = RawClient(HOST, self.port, self.tls.client if self.tls else None, **options)
        self._open.append(raw)
        return raw

    def upgraded(
        self,
        path: str = "/ws",
        headers: Mapping[str, str | None] | None = None,
        *,
        greeted: bool = True,
        **options: Any,
    ) -> RawClient:
        """Connect a bare socket, upgrade it, and read the greeting."""
        raw = self.raw(**options)
        response = raw.open(path, headers)
        assert response.status == 101, response
        if greeted:
            assert raw.receive()["type"] == "connected"
        return raw

    # -- Stopping

    def close_clients(self) -> None:
        """Close every client a test has opened."""
        clients, self._open = self._open, []
        for client in clients:
            with contextlib.suppress(OSError):
                client.close()

    def problems(self) -> str:
        """Return the errors printed since the last check."""
        text = self.log(self._checked)
        self._checked += len(text)
        found = [
            block
            for block in re.split(r"(?=^Traceback |^Exception ignored |^Fatal Python )", text, flags=re.M)[1:]
            if not any(words in block for words in self.expected_tracebacks)
        ]
        found += [line for line in text.splitlines() if "WORKER TIMEOUT" in line or "was sent SIGKILL" in line]
        return "\n".join(found)

    def check(self) -> None:
        """Check that the server is alive and as idle as before any client: no traceback, no extra threads or descriptors."""
        self.close_clients()
        problems = self.problems()
        assert not problems, problems
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log()[-5000:]}")
        if not process.HAS_PROC or self.plan.workers != 1:
            return
        assert process.alive(self.pid), f"the worker died:\n{self.log()[-5000:]}"
        self.await_idle()
        problems = self.problems()
        assert not problems, problems

    def await_idle(self, deadline: float = DEADLINE) -> None:
        """Wait until the worker has no more threads and descriptors than before any client."""
        if process.HAS_PROC:
            wait_limit = time.monotonic() + 1.0
            while not self._is_idle() and time.monotonic() < wait_limit:
                time.sleep(0.02)
            if not self._is_idle():
                # Werkzeug leaves its selector to the garbage collector when a peer resets; in an idle server that does not run.
                self.get("/remote/process")
            wait_until(self._is_idle, self._surplus, deadline)

    def _is_idle(self) -> bool:
        # A lower number is the new measure: a thread that was ending when they were counted does not belong to it.
        threads, fds = self.threads(), len(self.fds())
        self.idle_threads, self.idle_fds = min(self.idle_threads, threads), min(self.idle_fds, fds)
        return threads == self.idle_threads and fds == self.idle_fds

    def _surplus(self) -> str:
        names: object = "?"
        with contextlib.suppress(Exception):
            names = self.get("/remote/process").json["threads"]
        return (
            f"the worker to be idle again: {self.threads()} threads, idle {self.idle_threads}; "
            f"{len(self.fds())} descriptors, idle {self.idle_fds}.\nThreads: {names}\n"
            f"Descriptors: {sorted(self.fds().values())}"
        )

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def await_exit(self, deadline: float = DEADLINE) -> float:
        """Wait until the server and its workers are gone; return how long that took, in seconds."""
        start = time.monotonic()
        try:
            self.process.wait(deadline)
            wait_until(lambda: not any(map(process.alive, self.pids)), "the workers to go", deadline)
        except (subprocess.TimeoutExpired, AssertionError):
            log = self.log()[-5000:]
            self.kill()
            raise AssertionError(f"the server did not end within {deadline} s:\n{log}") from None
        return time.monotonic() - start

    def terminate(self) -> None:
        """Send SIGTERM to the server, once."""
        self.close_clients()
        if not self._terminated and self.process.poll() is None:
            self._terminated = True
            self.signal(signal.SIGTERM)

    def stop(self) -> None:
        """Stop the server as an operator does, and check what it printed."""
        self.terminate()
        self.await_exit()
        problems = self.problems()
        assert not problems, problems

    def kill(self) -> None:
        """Kill the server and its workers."""
        self.close_clients()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)


def event_ids(messages: Iterable[Json]) -> list[int]:
    """Return the numbers in the ids of some events, which must be of one epoch."""
    parts = [epoch_and_number(message["id"]) for message in messages]
    assert len({epoch for epoch, _ in parts}) <= 1, parts
    return [number for _, number in parts]


def epoch_and_number(id: str) -> tuple[str, int]:
    """Return the epoch and the number in the id of an event, without its mark."""
    epoch, _, rest = id.partition(".")
    return epoch, int(rest.partition("-")[0])
