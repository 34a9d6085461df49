"""An app that uses every hook of the extension and returns over HTTP what each recorded."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from typing import Any

import remote
from flask import Flask, Request, current_app, g, has_request_context, jsonify, request, session
from flask.typing import ResponseReturnValue
from flask_sock import Sock

from cartows import CartoWS, Client, Handler, Hub, Message, new_message

app = Flask(__name__)
app.secret_key = "not a secret"
hub = Hub()
remote.install(app, hub)
ws = CartoWS(app, hub)

#: What hooks recorded, in the order of their calls.
records: list[dict[str, Any]] = []
#: The arguments that `authorize` was called with.
asked: list[list[Any]] = []
#: What it denies, and what it raises on.
rules: dict[str, list[list[Any]]] = {"deny": [], "fail": []}
#: The events that handlers wait for, by name.
gates: defaultdict[str, threading.Event] = defaultdict(threading.Event)
PROJECTS = {"placed": "p1"}
RESERVED = ("ping", "pong", "subscribe", "unsubscribe", "auth.refresh")

_lock = threading.Lock()
_contexts = {"begun": 0, "ended": 0}


def _record(hook: str, client: Client, **more: Any) -> dict[str, Any]:
    """Record a call, and mark its app context until that is torn down."""
    record = {
        "hook": hook,
        "client": client.id,
        "app": current_app.name,
        "thread": threading.current_thread().name,
        "leftover": g.get("hook"),
        "request": has_request_context(),
        "registered": client in hub.get_clients(),
        **more,
    }
    g.hook = hook
    with _lock:
        _contexts["begun"] += 1
        records.append(record)
    return record


@app.teardown_appcontext
def leave(error: BaseException | None) -> None:
    if g.pop("hook", None) is not None:
        with _lock:
            _contexts["ended"] += 1


@ws.authorize
def authorize(identity: Any, key: str | None, value: str | None) -> bool:
    with _lock:
        asked.append([identity, key, value])
    if [key, value] in rules["fail"]:
        raise RuntimeError("the app's authorize fails")
    return [key, value] not in rules["deny"]


@ws.project_of_board
def project_of_board(board_id: Any) -> str | None:
    if board_id == "raising":
        raise RuntimeError("the app's project_of_board fails")
    return PROJECTS.get(board_id)


class Visitor(str):
    """An identity with the arguments of its request."""

    arguments: dict[str, Any]


@ws.authenticate
def authenticate(request: Request) -> Visitor | int | bool | None:
    arguments = request.args
    name = session.get("user") or arguments.get("as", "guest")
    if name in ("stranger", "false"):
        return None if name == "stranger" else False
    if name == "raising":
        raise RuntimeError("the app's authenticate fails")
    if "number" in arguments:
        return int(arguments["number"])
    visitor = Visitor(name)
    visitor.arguments = {**arguments, "user": session.get("user"), "path": request.path}
    return visitor


@ws.on_connect
def on_connect(client: Client) -> Any:
    arguments = getattr(client.identity, "arguments", {})
    _record("connect", client, tag=arguments.get("tag"), user=arguments.get("user"), path=arguments.get("path"))
    if "gate" in arguments:
        gates[arguments["gate"]].wait(30)
    answer = arguments.get("answer", "")
    if answer == "exit":
        raise SystemExit("the app's on_connect exits")
    if answer == "raise":
        raise RuntimeError("the app's on_connect fails")
    return {"": None, "true": True, "false": False, "text": "text"}[answer] if not answer.isdigit() else int(answer)


@ws.on_disconnect
def on_disconnect(client: Client) -> None:
    _record("disconnect", client, identity=client.identity, code=client.close_code, reason=client.close_reason)
    current_app.logger.info("gone: %s %s", client.id, client.close_code)
    if client.identity == "announced":
        result = hub.broadcast("left", client.id)
        current_app.logger.info("announced the end of %s: %s", client.id, result.reason)
    if client.identity == "raise-at-end":
        raise RuntimeError("the app's on_disconnect fails")


@ws.on("where")
def where(client: Client, message: Message) -> None:
    record = _record("where", client, kind=type(message).__name__, type=message.type)
    client.send(new_message("here", record))


@ws.on("echo")
def echo(client: Client, message: Message) -> None:
    client.send(new_message("echoed", message.data))


@ws.on("say")
def say(client: Client, message: Message) -> None:
    hub.broadcast("said", {"text": message.data["text"], "by": str(client.identity)})


@ws.on("fail")
def fail(client: Client, message: Message) -> None:
    _record("fail", client)
    raise RuntimeError("the app's handler fails")


@ws.on("exit")
def end_process(client: Client, message: Message) -> None:
    raise SystemExit("the app's handler exits")


@ws.on("wait")
def wait(client: Client, message: Message) -> None:
    _record("wait", client)
    gates[message.data["gate"]].wait(30)
    client.send(new_message("waited"))


@ws.on("leave")
def leave_at_once(client: Client, message: Message) -> None:
    client.close(message.data["code"], "as requested")


async def later(client: Client, message: Message) -> None:
    client.send(new_message("done later"))


def _refused(kind: str) -> bool:
    try:
        ws.on(kind)(echo)
    except ValueError:
        return True
    return False


with contextlib.suppress(TypeError):  # the library may reject a coroutine at once
    ws.on("later")(later)  # type: ignore[arg-type]
refused = [kind for kind in RESERVED if _refused(kind)]


sock = Sock(app)
handler = Handler(hub)


@sock.route("/own")  # type: ignore[untyped-decorator]
def own(connection: Any) -> None:
    ws.handler.handle_websocket(connection)


@sock.route("/by-hand")  # type: ignore[untyped-decorator]
def by_hand(connection: Any) -> None:
    handler.handle_websocket(connection)


@app.post("/rules")
def change_rules() -> ResponseReturnValue:
    rules.update(request.get_json())
    asked.clear()
    return "", 204


@app.get("/asked")
def get_asked() -> ResponseReturnValue:
    return jsonify(asked)


@app.get("/records")
def get_records() -> ResponseReturnValue:
    with _lock:
        return jsonify(records=records, refused=refused, **_contexts)


@app.post("/gates/<name>")
def open_gate(name: str) -> ResponseReturnValue:
    gates[name].set()
    return "", 204


@app.post("/login/<user>")
def login(user: str) -> ResponseReturnValue:
    session["user"] = user
    return "", 204


@app.post("/send-to")
def send_to() -> ResponseReturnValue:
    """Send a string, a message of a type, or bytes to an identity or a client."""
    wanted = request.get_json()
    what = wanted.get("text") or wanted.get("bytes", "").encode() or new_message(wanted.get("type", ""), wanted.get("data"))
    return {"sent": hub.send_to(what, identity=wanted.get("identity"), client_id=wanted.get("client_id"))}


@app.get("/presence/<key>/<value>")
def presence(key: str, value: str) -> ResponseReturnValue:
    return jsonify(hub.presence(key, value))
