"""An app whose `authenticate` answers as a view does, by ``?answer=``, at ``/ws`` and at ``/own``, a route of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import control
import flask_login  # type: ignore[import-untyped,unused-ignore]
import remote
from flask import Flask, Request, Response, abort, jsonify, redirect
from flask.typing import ResponseReturnValue
from flask_sock import Sock
from werkzeug.local import LocalProxy

from cartows import CartoWS, Credentials, Hub


class User(flask_login.UserMixin):  # type: ignore[misc,unused-ignore]
    """A user whose session keeps something else than the id, as with Flask-Security."""

    def __init__(self, name: str) -> None:
        self.name = name

    def get_id(self) -> str:
        return f"alternative {self.name}"


class NotLoggedIn(Exception):
    """What the app answers with 422."""


app = Flask(__name__)
app.secret_key = "not a secret"
hub = Hub()
remote.install(app, hub)
ws = CartoWS(app, hub)
control.install(app, ws)
sock = Sock(app)
login = flask_login.LoginManager(app)


@login.request_loader  # type: ignore[untyped-decorator]
def load_user(request: Request) -> User | None:
    name = request.headers.get("X-User")
    return User(name) if name else None


@app.errorhandler(NotLoggedIn)
def not_logged_in(error: NotLoggedIn) -> ResponseReturnValue:
    return {"error": "the app's own words"}, 422


def not_logged_in_raised() -> Any:
    raise NotLoggedIn


def fail() -> Any:
    raise RuntimeError("the app's authenticate fails")


def text(status: int) -> tuple[str, int]:
    return f"the app's own {status}", status


ANSWERS: dict[str, Callable[[], Any]] = {
    "tuple": lambda: text(401),
    "response": lambda: Response("the app's own 403", 403, {"X-From": "the app"}),
    "redirect": lambda: redirect("/login"),
    "json": lambda: jsonify(error="log in"),
    "teapot": lambda: text(418),
    "busy": lambda: text(503),
    "abort": lambda: abort(403, "aborted by the app"),
    "handled": not_logged_in_raised,
    "fail": fail,
    "current_user": lambda: flask_login.current_user,
    "credentials": lambda: Credentials(flask_login.current_user),
    "nothing": lambda: {},
    "none": lambda: LocalProxy(lambda: None),
    "true": lambda: True,
}


@ws.authenticate
def authenticate(request: Request) -> Any:
    return ANSWERS[request.args["answer"]]() if "answer" in request.args else Credentials(None)


@sock.route("/own")  # type: ignore[untyped-decorator]
def own(connection: Any) -> None:
    ws.handler.handle_websocket(connection)


@app.post("/users/<name>/<method>")
def by_user(name: str, method: str) -> ResponseReturnValue:
    """Call a method of the hub with a user object that was loaded for this request."""
    if method == "send_to":
        return {"result": hub.send_to('{"type":"hello"}', identity=User(name))}
    if method == "reauthorize":
        return {"result": hub.reauthorize(User(name))}
    return {"result": hub.disconnect(identity=User(name))}
