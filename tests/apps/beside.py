"""The route of cartows beside other flask-sock routes of the app, registered before and after it."""

from __future__ import annotations

import json
from typing import Any

import flask_sock
import remote
from flask import Flask

from cartows import CartoWS, Hub

app = Flask(__name__)
hub = Hub()
remote.install(app, hub)
sock = flask_sock.Sock(app)


def _describe(ws: Any) -> str:
    kind = type(ws)
    return json.dumps(
        {
            "class": f"{kind.__module__}.{kind.__qualname__}",
            "ping_interval": ws.ping_interval,
            "max_message_size": ws.max_message_size,
        }
    )


@sock.route("/before")  # type: ignore[untyped-decorator]
def before(ws: Any) -> None:
    ws.send(_describe(ws))
    while True:
        ws.send(ws.receive())


CartoWS(app, hub)


@sock.route("/after/<name>")  # type: ignore[untyped-decorator]
def after(ws: Any, name: str) -> None:
    ws.send(_describe(ws))
    ws.send(name)
    ws.close(4321, "the app's reason")


@sock.route("/raising")  # type: ignore[untyped-decorator]
def raising(ws: Any) -> None:
    ws.receive()
    raise RuntimeError("the app's own route fails as it always did")
