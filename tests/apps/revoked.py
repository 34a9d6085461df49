"""An app whose hooks can be held at gates while its rules change, at ``/ws`` and at ``/own``, a route of its own."""

from __future__ import annotations

import threading
from typing import Any

import control
import remote
from flask import Flask, Request, request
from flask.typing import ResponseReturnValue
from flask_sock import Sock

from cartows import CartoWS, Client, Credentials, Hub, Message, new_message


class Gate:
    """Blocks a hook until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()


#: By the call that is held: ``authenticate ann``, ``authorize b1``, ``on_connect ann``.
gates: dict[str, Gate] = {}
#: The rooms that `authorize` denies, and those it raises on.
rules: dict[str, list[list[str | None]]] = {"deny": [], "fail": []}
#: The names that `authenticate` no longer accepts.
unknown: set[str] = set()

app = Flask(__name__)
hub = Hub()
remote.install(app, hub)
ws = CartoWS(app, hub)
control.install(app, ws)
sock = Sock(app)


def pause(name: str) -> None:
    gate = gates.get(name)
    if gate is not None:
        gate.reached.set()
        gate.opened.wait(30)


@ws.authenticate
def authenticate(request: Request) -> Credentials | None:
    name = request.args.get("as", "guest")
    known = name not in unknown
    pause(f"authenticate {name}")
    return Credentials(name, request.args.get("until", type=float)) if known else None


@ws.authorize
def authorize(identity: Any, key: str | None, value: str | None) -> bool:
    if [key, value] in rules["fail"]:
        raise RuntimeError("the app's authorize fails")
    allowed = [key, value] not in rules["deny"]
    pause(f"authorize {value}")
    return allowed


@ws.on_connect
def on_connect(client: Client) -> None:
    pause(f"on_connect {client.identity}")


@ws.on("echo")
def echo(client: Client, message: Message) -> None:
    client.send(new_message("echoed", message.data))


@sock.route("/own")  # type: ignore[untyped-decorator]
def own(connection: Any) -> None:
    ws.handler.handle_websocket(connection)


@app.put("/gates/<name>")
def close_gate(name: str) -> ResponseReturnValue:
    gates[name] = Gate()
    return "", 204


@app.get("/gates/<name>")
def get_gate(name: str) -> ResponseReturnValue:
    return {"reached": gates[name].reached.is_set()}


@app.delete("/gates/<name>")
def open_gate(name: str) -> ResponseReturnValue:
    gates.pop(name).opened.set()
    return "", 204


@app.post("/rules")
def change_rules() -> ResponseReturnValue:
    rules.update({"deny": [], "fail": [], **request.get_json()})
    return "", 204


@app.post("/unknown")
def forget() -> ResponseReturnValue:
    unknown.clear()
    unknown.update(request.get_json())
    return "", 204
