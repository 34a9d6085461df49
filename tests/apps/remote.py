"""The tests' remote control of an app under test: publish through its hub, inspect its process."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import threading
import time
from typing import Any

from flask import Blueprint, Flask, jsonify, request
from flask.typing import ResponseReturnValue

from cartows import Hub, PublishResult, new_message

# Barriers of pool threads, so that all of them exist before a test counts threads.
_meetings: dict[tuple[int, str], threading.Barrier] = {}
_meetings_lock = threading.Lock()


def _result(result: PublishResult) -> dict[str, Any]:
    return {"accepted": result.accepted, "status": result.status, "id": result.id, "reason": result.reason}


def _argument(value: Any) -> Any:
    """Return an argument from its JSON: a message where it is marked as one, else the value itself."""
    if isinstance(value, dict) and set(value) == {"$message"}:
        return new_message(*value["$message"])
    return value


def install(app: Flask, hub: Hub) -> None:
    """Read the app's settings from ``FLASK_*``, log to the server's stderr, and add the ``/remote`` routes."""
    app.config.from_prefixed_env()
    if "SWITCH_INTERVAL" in app.config:
        sys.setswitchinterval(app.config["SWITCH_INTERVAL"])
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="app-log %(levelname)s %(name)s: %(message)s")
    remote = Blueprint("remote", __name__, url_prefix="/remote")

    @remote.post("/publish")
    def publish() -> ResponseReturnValue:
        """Call the hub's methods in order: a list of [name, arguments, keyword arguments].

        Answer once the hub has delivered all of that: a client that connects in the same iteration comes before the event.
        """
        results = [
            getattr(hub, name)(*map(_argument, arguments), **keywords) for name, arguments, keywords in request.get_json()
        ]
        newest = max((_number(result.id) for result in results if result.id), default=0)
        deadline = time.monotonic() + 10
        while hub.position < newest and time.monotonic() < deadline:
            time.sleep(0.001)
        return jsonify([_result(result) for result in results])

    @remote.post("/flood")
    def flood() -> ResponseReturnValue:
        """Publish ``count`` events of about ``size`` bytes, as fast as the hub takes them."""
        wanted = request.get_json()
        padding = "x" * wanted["size"]
        results = [
            hub.broadcast_task_created(f"t{number}", wanted.get("board", "b1"), {"number": number, "padding": padding})
            for number in range(wanted["count"])
        ]
        return {"accepted": sum(result.accepted for result in results)}

    @remote.get("/hub")
    def hub_state() -> ResponseReturnValue:
        return {"clients": hub.client_count(), "ids": [client.id for client in hub.get_clients()], "stats": hub.stats()}

    @remote.get("/process")
    def process() -> ResponseReturnValue:
        gc.collect()
        return {
            "pid": os.getpid(),
            "switch_interval": sys.getswitchinterval(),
            "threads": sorted(thread.name for thread in threading.enumerate()),
        }

    @remote.get("/meet/<int:count>/<name>")
    def meet(count: int, name: str) -> ResponseReturnValue:
        """Answer once ``count`` requests of that name are being served at once."""
        with _meetings_lock:
            barrier = _meetings.setdefault((count, name), threading.Barrier(count))
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait(10)
            return {"met": True}
        return {"met": False}, 503

    app.register_blueprint(remote)


def _number(id: str) -> int:
    """Return the number in an id."""
    return int(id.partition(".")[2].partition("-")[0])
