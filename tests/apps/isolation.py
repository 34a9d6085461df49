"""An app with request hooks and a database, which records what cartows changes around them."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from typing import Any

_before = (sys.getswitchinterval(), logging.getLogger().handlers[:], logging.getLogger().level, logging.lastResort)
_signals_before = {number: signal.getsignal(number) for number in signal.valid_signals()}

import remote  # noqa: E402
from flask import Flask, g, jsonify, request, session  # noqa: E402
from flask.typing import ResponseReturnValue  # noqa: E402

from cartows import CartoWS, Hub  # noqa: E402

app = Flask(__name__)
app.secret_key = "not a secret"
app.config.from_prefixed_env()
hub = Hub()
CartoWS(app, hub)
hub.start()
_after = (sys.getswitchinterval(), logging.getLogger().handlers[:], logging.getLogger().level, logging.lastResort)
_signals_after = {number: signal.getsignal(number) for number in signal.valid_signals()}
_cartows_logger = logging.getLogger("cartows")
_own_handlers = [type(handler).__name__ for handler in _cartows_logger.handlers if type(handler) is not logging.NullHandler]
_own_level = _cartows_logger.level
remote.install(app, hub)


class Database:
    """A pool that counts the sessions it has lent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.lent = 0
        self.total_lent = 0

    def lend(self) -> object:
        with self._lock:
            self.lent += 1
            self.total_lent += 1
        return self

    def release(self) -> None:
        with self._lock:
            self.lent -= 1


database = Database()
#: What the hooks recorded of upgrade requests.
seen: list[dict[str, Any]] = []


@app.before_request
def admit() -> ResponseReturnValue | None:
    if not request.path.startswith("/ws"):
        return None
    g.database = database.lend()
    seen.append({"user": session.get("user"), "board": request.args.getlist("board_id"), "endpoint": request.endpoint})
    if request.headers.get("X-Refuse"):
        return {"code": "NOT_TODAY", "message": "the app's own message"}, 418
    return None


@app.teardown_appcontext
def release(error: BaseException | None) -> None:
    if g.pop("database", None) is not None:
        database.release()
        seen.append({"torn down with": None if error is None else repr(error)})


@app.post("/login/<user>")
def login(user: str) -> ResponseReturnValue:
    session["user"] = user
    return "", 204


@app.get("/seen")
def get_seen() -> ResponseReturnValue:
    return jsonify(seen=seen, lent=database.lent, total_lent=database.total_lent)


@app.get("/untouched")
def untouched() -> ResponseReturnValue:
    return jsonify(
        globals_unchanged=_before == _after,
        signals_unchanged=_signals_before == _signals_after,
        own_handlers=_own_handlers,
        own_level=_own_level,
        propagates=_cartows_logger.propagate,
        logger_class=logging.getLoggerClass() is logging.Logger,
    )
