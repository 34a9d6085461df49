"""The app's own flask-sock routes with the handler of cartows as their body, without the extension's route."""

from __future__ import annotations

from typing import Any

import remote
from flask import Flask
from flask_sock import Sock

from cartows import Handler, Hub

app = Flask(__name__)
hub = Hub()
remote.install(app, hub)
sock = Sock(app)
handler = Handler(hub)
picky = Handler(hub)
picky.set_check_origin(lambda request: request.headers.get("Origin") == "https://good.example")


@sock.route("/live")  # type: ignore[untyped-decorator]
def live(ws: Any) -> None:
    handler.handle_websocket(ws)


@sock.route("/picky")  # type: ignore[untyped-decorator]
def live_for_some(ws: Any) -> None:
    picky.handle_websocket(ws)


@sock.route("/echo")  # type: ignore[untyped-decorator]
def echo(ws: Any) -> None:
    while True:
        ws.send(ws.receive())
