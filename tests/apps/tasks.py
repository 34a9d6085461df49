"""Tasks that change, on disk and as events, and the pages of ``tests/browser/pages`` that show them.

A page that loaded ``/state`` and has received every event since then shows the same as ``/state`` does.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import remote
from flask import Flask, request, send_from_directory
from flask.typing import ResponseReturnValue

from cartows import CartoWS, Hub

PAGES = Path(__file__).resolve().parents[1] / "browser" / "pages"

# The tasks of a board: each is created, changed some times, deleted, and created again.
_TASKS = 20
_LIFE = 7

app = Flask(__name__)
hub = Hub()
remote.install(app, hub)
CartoWS(app, hub)

# Guards what follows, and keeps events in the order of the changes.
_lock = threading.Lock()
# Every task by its board and id.
_boards: dict[str, dict[str, dict[str, Any]]] = {}
# The number of changes of each board, and the ids of the events of this process.
_changes: dict[str, int] = {}
_ids: dict[str, list[str]] = {}
# The file that keeps the tasks over a restart, if any.
_store = os.open(app.config["STORE"], os.O_RDWR | os.O_CREAT | os.O_APPEND) if "STORE" in app.config else None


def _apply(board: str, task: str, now: dict[str, Any] | None) -> None:
    tasks = _boards.setdefault(board, {})
    _changes[board] = _changes.get(board, 0) + 1
    if now is None:
        del tasks[task]
    else:
        tasks[task] = now


def _change(board: str, size: int) -> None:
    """Change the board's next task: first on disk, then in memory, then as an event."""
    with _lock:
        number = _changes.get(board, 0)
        task = f"t{number % _TASKS}"
        before = _boards.get(board, {}).get(task)
        now = None if before and number // _TASKS % _LIFE == _LIFE - 1 else {"id": task, "n": number, "padding": "x" * size}
        if _store is not None:
            os.write(_store, json.dumps([board, task, now]).encode() + b"\n")
        _apply(board, task, now)
        if now is None:
            result = hub.broadcast_task_deleted(task, board)
        elif before is None:
            result = hub.broadcast_task_created(task, board, now)
        else:
            result = hub.broadcast_task_updated(task, board, {"n": number}, now)
        assert result.accepted and result.id, result
        _ids.setdefault(board, []).append(result.id)


if _store is not None:
    for line in Path(app.config["STORE"]).read_text().splitlines():
        _apply(*json.loads(line))


@app.get("/pages/<path:name>")
def page(name: str) -> ResponseReturnValue:
    return send_from_directory(PAGES, name)


@app.get("/state/<board>")
def state(board: str) -> ResponseReturnValue:
    with _lock:
        return {"changes": _changes.get(board, 0), "tasks": _boards.get(board, {})}


@app.get("/ids/<board>")
def ids(board: str) -> ResponseReturnValue:
    """Return the ids of the board's events since the server started, in order."""
    with _lock:
        return {"ids": _ids.get(board, [])}


@app.post("/change/<board>")
def change(board: str) -> ResponseReturnValue:
    """Make ``count`` changes of ``size`` bytes; all at once, or ``rate`` a second, which continues after the answer."""
    count, size = request.args.get("count", 1, int), request.args.get("size", 0, int)
    rate = request.args.get("rate", 0, int)
    if rate:
        threading.Thread(target=_pace, args=(board, size, count, rate), name="pace", daemon=True).start()
    else:
        for _ in range(count):
            _change(board, size)
    return {"changes": _changes.get(board, 0)}


def _pace(board: str, size: int, count: int, rate: int) -> None:
    begin = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, begin + number / rate - time.monotonic()))
        _change(board, size)
