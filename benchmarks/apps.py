"""The Flask apps under test: cartows, a loop as a Flask developer would write it with flask-sock alone, and Flask-SocketIO.

All have the same routes, so that they differ only in how events are delivered:

``/blast?n=&hz=&size=``  broadcasts n events, hz a second (0: unpaced), each with size bytes of text, then answers;
                         with &boards=k to k boards, one after another, with &everyone=1 to all clients of any board
``POST /publish``        broadcasts one event
``/busy?s=``             computes in pure Python for s seconds
``/work``                makes thirty round trips to a database on the same machine
``/hello``               answers a few bytes
``/status``              the process's id and how many clients it has

Threads: routes run on gunicorn's request threads, several at once.
Locks: the baselines' own, around their sets of clients.
Blocks: ``/blast`` between paced events and while the hub's queue is full; ``/work`` on its database socket.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from flask import Flask, request
from flask_sock import Sock
from simple_websocket import ConnectionClosed

ROUND_TRIPS = 30
QUERY = b"x" * 100

BOARD = "board-456"

# The baselines send this in place of the current time.
TIMESTAMP = "2026-11-23T01:23:45.123456Z"

# Broadcasts a task to a board, or to all clients of any board if that is None; returns whether it was accepted, and with Redis
# whether it was stored.
Broadcast = Callable[[str, str | None, dict[str, Any]], bool]


def cartows_app() -> Flask:
    # Imported here, so that the workers of the baselines do not load cartows.
    from cartows import CartoWS, Hub, new_task_created_message

    app = Flask(__name__)
    if "BENCH_REDIS_URL" in os.environ:
        app.config["CARTOWS_REDIS_URL"] = os.environ["BENCH_REDIS_URL"]
    hub = Hub()
    CartoWS(app, hub)

    def broadcast(task_id: str, board: str | None, task: dict[str, Any]) -> bool:
        if board is None:
            result = hub.broadcast_message(new_task_created_message(task_id, BOARD, task))
        else:
            result = hub.broadcast_task_created(task_id, board, task)
        return result.status in ("queued", "stored")

    _add_routes(app, broadcast, hub.client_count)
    return app


def flask_sock_app() -> Flask:
    app = Flask(__name__)
    sock = Sock(app)
    clients: set[Any] = set()
    clients_lock = threading.Lock()

    @sock.route("/ws")  # type: ignore[untyped-decorator]
    def events(ws: Any) -> None:
        with clients_lock:
            clients.add(ws)
        try:
            while True:
                ws.receive()
        finally:
            with clients_lock:
                clients.discard(ws)

    def broadcast(task_id: str, board: str | None, task: dict[str, Any]) -> bool:
        data = {"task_id": task_id, "board_id": BOARD, "action": "created", "task": task}
        message = json.dumps({"type": "task.created", "timestamp": TIMESTAMP, "data": data})
        with clients_lock:
            receivers = list(clients)
        for ws in receivers:
            try:
                ws.send(message)
            except (ConnectionClosed, OSError):
                with clients_lock:
                    clients.discard(ws)
        return True

    _add_routes(app, broadcast, lambda: len(clients))
    return app


def socketio_app() -> Flask:
    """Return the app with Flask-SocketIO and its Redis manager, in the mode of BENCH_ASYNC_MODE."""
    from flask_socketio import SocketIO  # type: ignore[import-untyped, unused-ignore]

    app = Flask(__name__)
    socketio = SocketIO(app, message_queue=os.environ["BENCH_REDIS_URL"], async_mode=os.environ["BENCH_ASYNC_MODE"])
    clients: set[str] = set()
    clients_lock = threading.Lock()

    @socketio.on("connect")  # type: ignore[untyped-decorator]
    def connected(_auth: Any) -> None:
        with clients_lock:
            clients.add(request.sid)  # type: ignore[attr-defined]

    @socketio.on("disconnect")  # type: ignore[untyped-decorator]
    def disconnected(_reason: Any) -> None:
        with clients_lock:
            clients.discard(request.sid)  # type: ignore[attr-defined]

    def broadcast(task_id: str, board: str | None, task: dict[str, Any]) -> bool:
        data = {"task_id": task_id, "board_id": BOARD, "action": "created", "task": task}
        socketio.emit("task.created", {"timestamp": TIMESTAMP, "data": data})
        return True

    _add_routes(app, broadcast, lambda: len(clients))
    return app


def _add_routes(app: Flask, broadcast: Broadcast, client_count: Callable[[], int]) -> None:
    database = _Database()

    @app.get("/blast")
    def blast() -> dict[str, Any]:
        n, hz = request.args.get("n", 0, int), request.args.get("hz", 0.0, float)
        texts = _texts(request.args.get("size", 0, int))
        boards, everyone = request.args.get("boards", 0, int), "everyone" in request.args
        rejected = 0
        began = time.monotonic()
        for i in range(n):
            # Numbered as each client counts what it receives: with boards, it receives one event in so many.
            task_id = f"task-{i // boards if boards else i}"
            board = f"b{i % boards}" if boards else None if everyone else BOARD
            task = {"id": task_id, "title": "Implement WebSocket", "status": "done", "t": time.time()}
            if texts:
                task["text"] = texts[i % len(texts)]
            rejected += not broadcast(task_id, board, task)
            rest = began + (i + 1) / hz - time.monotonic() if hz > 0 else 0
            if rest > 0:
                time.sleep(rest)
        return {"seconds": time.monotonic() - began, "rejected": rejected}

    # Numbers the events of /publish, from the first one on.
    published = itertools.count()

    @app.post("/publish")
    def publish() -> dict[str, Any]:
        task_id = f"task-{next(published)}"
        task = {"id": task_id, "title": "Implement WebSocket", "status": "done", "t": time.time()}
        return {"rejected": int(not broadcast(task_id, BOARD, task))}

    @app.get("/busy")
    def busy() -> dict[str, Any]:
        end = time.monotonic() + request.args.get("s", 1.0, float)
        odd = 0
        while time.monotonic() < end:
            for number in range(1000):
                odd += number & 1
        return {"odd": odd}

    @app.get("/work")
    def work() -> dict[str, Any]:
        return {"bytes": sum(len(database.query(QUERY)) for _ in range(ROUND_TRIPS))}

    @app.get("/hello")
    def hello() -> str:
        return "hello"

    @app.get("/status")
    def status() -> dict[str, Any]:
        return {"pid": os.getpid(), "clients": client_count()}


class _Database:
    """A stand-in for a database driver: one connection per thread, which releases the GIL while it waits, like a real one."""

    def __init__(self) -> None:
        # The connection of each request thread, made on its first query.
        self._local = threading.local()

    def query(self, text: bytes) -> bytes:
        if not hasattr(self._local, "connection"):
            connection = socket.create_connection(("127.0.0.1", int(os.environ["BENCH_ECHO_PORT"])), timeout=30)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._local.connection = connection
        self._local.connection.sendall(text)
        answer = b""
        while len(answer) < len(text):
            got = self._local.connection.recv(4096)
            if not got:
                raise ConnectionError("the benchmark's echo server closed the connection")
            answer += got
        return answer


def _texts(size: int) -> list[str]:
    """Return a few texts of so many bytes, always the same, which compress to about half of their size."""
    if size <= 0:
        return []
    rng = random.Random(size)
    words = ["".join(rng.choices("etaoinshrdlcumwfgypbvk", k=rng.randint(2, 10))) for _ in range(2000)]
    return [" ".join(rng.choices(words, k=size // 4))[:size] for _ in range(16)]
