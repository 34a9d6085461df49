"""An app for many workers, which are addressed by their process ids and publish numbered events."""

from __future__ import annotations

import os
import time
from typing import Any

import remote
from flask import Flask, Request, request
from flask.typing import ResponseReturnValue

from cartows import CartoWS, Client, Hub, new_message

app = Flask(__name__)
hub = Hub()
remote.install(app, hub)
ws = CartoWS(app, hub)


@app.before_request
def is_addressed() -> ResponseReturnValue | None:
    """Refuse a request for another worker: the kernel chooses the worker, and the next try may reach the right one."""
    if request.args.get("at", os.getpid(), int) == os.getpid():
        return None
    return {"pid": os.getpid()}, 421


@ws.authenticate
def authenticate(request: Request) -> str | None:
    return request.args.get("user", "root")


@ws.authorize
def authorize(identity: str, key: str | None, value: str | None) -> bool:
    return value not in denied and (identity == "root" or (value is not None and value.startswith(identity)))


@ws.on("pid")
def send_pid(client: Client, message: Any) -> None:
    client.send(new_message("pid", {"pid": os.getpid()}))


#: Rooms that `authorize` denies, beside those of other users.
denied: set[str] = set()


@app.post("/denied")
def deny() -> ResponseReturnValue:
    denied.update(request.get_json())
    return {"denied": sorted(denied)}


@app.post("/disconnect/<identity>")
def disconnect(identity: str) -> ResponseReturnValue:
    return {"closed": hub.disconnect(identity=identity)}


@app.post("/reauthorize/<identity>")
def reauthorize(identity: str) -> ResponseReturnValue:
    return {"changed": hub.reauthorize(identity)}


@app.get("/present/<value>")
def present(value: str) -> ResponseReturnValue:
    return {"who": sorted(hub.presence("board_id", value))}


@app.get("/pid")
def pid() -> ResponseReturnValue:
    return {"pid": os.getpid(), "stats": hub.stats(), "position": hub.position}


@app.post("/numbered")
def numbered() -> ResponseReturnValue:
    """Publish the events ``numbers`` of publisher ``by``; return the result and the duration of each."""
    wanted = request.get_json()
    results = []
    for number in wanted["numbers"]:
        data = {"by": wanted["by"], "n": number, "pid": os.getpid()}
        began = time.monotonic()
        result = hub.broadcast("numbered", data, filters=wanted.get("filters"))
        took = time.monotonic() - began
        results.append({"n": number, "status": result.status, "id": result.id, "reason": result.reason, "took": took})
    return {"pid": os.getpid(), "results": results}
