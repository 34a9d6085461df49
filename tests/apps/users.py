"""An app that trusts the name its users give, behind a proxy or not: for limits, origins and disconnects."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any

import control
import remote
from flask import Flask, Request, request
from flask.typing import ResponseReturnValue
from flask_sock import Sock
from werkzeug.middleware.proxy_fix import ProxyFix

from cartows import CartoWS, Client, Credentials, Hub, Message, new_message

#: What `authorize` denies: rooms, and [None, None] for everything.
denied: list[list[str | None]] = []
#: The events that handlers wait for, by name.
gates: defaultdict[str, threading.Event] = defaultdict(threading.Event)


class UserClient(Client):
    """A client that keeps the arguments of its request, or raises if they say so."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.arguments = request.args.to_dict()
        if "raise" in self.arguments:
            raise RuntimeError("the app's client class fails")


def good_origin(request: Request) -> bool:
    """Return whether the app accepts an origin."""
    if request.headers["Origin"] == "https://raising.example":
        raise RuntimeError("the app's origin check fails")
    return request.headers["Origin"].endswith(".good.example")


app = Flask(__name__)
hub = Hub()
remote.install(app, hub)
if app.config.get("PROXIES"):
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1)  # type: ignore[method-assign]
if app.config.get("OWN_ORIGIN_CHECK"):
    app.config["CARTOWS_ALLOWED_ORIGINS"] = good_origin
ws = CartoWS(app, hub, client_class=UserClient)
control.install(app, ws)
sock = Sock(app)


@ws.authenticate
def authenticate(request: Request) -> str | Credentials | None:
    name = request.args.get("as")
    if name == "stranger":
        return None
    return Credentials(None) if name is None else name


@ws.authorize
def authorize(identity: Any, key: str | None, value: str | None) -> bool:
    return [key, value] not in denied


@ws.on_connect
def on_connect(client: Client) -> bool:
    arguments = getattr(client, "arguments", {})
    if "gate" in arguments:
        gates[arguments["gate"]].wait(30)
    return "refuse" not in arguments


@ws.on("echo")
def echo(client: Client, message: Message) -> None:
    client.send(new_message("echoed", message.data))


@ws.on("busy")
def busy(client: Client, message: Message) -> None:
    gates[message.data].wait(30)
    client.send(new_message("free"))


@app.post("/gates/<name>")
def open_gate(name: str) -> ResponseReturnValue:
    gates[name].set()
    return "", 204


@sock.route("/own")  # type: ignore[untyped-decorator]
def own(connection: Any) -> None:
    ws.handler.handle_websocket(connection)


@app.post("/denied")
def deny() -> ResponseReturnValue:
    denied[:] = request.get_json()
    return "", 204
