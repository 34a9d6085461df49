"""An app with hooks: what it sees of the upgrade request, and when it gets its context and its database back."""

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
    """A pool that knows how many of its sessions are lent out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.lent = 0
        self.lent_in_all = 0

    def lend(self) -> object:
        with self._lock:
            self.lent += 1
            self.lent_in_all += 1
        return self

    def take_back(self) -> None:
        with self._lock:
            self.lent -= 1


database = Database()
#: What the hooks saw of upgrade requests.
seen: list[dict[str, Any]] = []


@app.before_request
def admit() -> ResponseReturnValue | None:
    if not request.path.startswith("/ws"):
        return None
    g.database = database.lend()
    seen.append({"user": session.get("user"), "board": request.args.getlist("board_id"), "endpoint": request.endpoint})
    if request.headers.get("X-Refuse"):
        return {"code": "NOT_TODAY", "message": "the app's own words"}, 418
    return None


@app.teardown_appcontext
def give_back(error: BaseException | None) -> None:
    if g.pop("database", None) is not None:
        database.take_back()
        seen.append({"torn down with": None if error is None else repr(error)})


@app.post("/login/<user>")
def login(user: str) -> ResponseReturnValue:
    session["user"] = user
    return "", 204


@app.get("/seen")
def look() -> ResponseReturnValue:
    return jsonify(seen=seen, lent=database.lent, lent_in_all=database.lent_in_all)


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
