"""Several extensions in one app, and own routes for their hubs; ``/ws`` is open, so that the test server can warm up."""

from __future__ import annotations

from typing import Any

import control
import remote
from flask import Blueprint, Flask, Request
from flask_sock import Sock

from cartows import CartoWS, Handler, Hub

app = Flask(__name__)
staff_hub, shared_hub, hub = Hub(), Hub(), Hub()
remote.install(app, hub)
sock = Sock(app)

staff = CartoWS(app, staff_hub, path="/staff")
one, other = CartoWS(app, shared_hub, path="/one"), CartoWS(app, shared_hub, path="/other")
control.install(app, CartoWS(app, hub))

# The same extension, registered twice.
blueprint = Blueprint("api", __name__)
twice = CartoWS(blueprint, Hub())
app.register_blueprint(blueprint, url_prefix="/v1")
app.register_blueprint(blueprint, url_prefix="/v2", name="api2")


@twice.authenticate
@one.authenticate
@staff.authenticate
def authenticate(request: Request) -> str | None:
    return request.args.get("as")


@staff.authorize
def authorize(identity: Any, key: str | None, value: str | None) -> bool:
    return value == "b1"


@sock.route("/own-staff")  # type: ignore[untyped-decorator]
def own_staff(connection: Any) -> None:
    Handler(staff_hub).handle_websocket(connection)


@sock.route("/own-shared")  # type: ignore[untyped-decorator]
def own_shared(connection: Any) -> None:
    Handler(shared_hub).handle_websocket(connection)


@sock.route("/own-one")  # type: ignore[untyped-decorator]
def own_one(connection: Any) -> None:
    one.handler.handle_websocket(connection)


@sock.route("/own-twice")  # type: ignore[untyped-decorator]
def own_twice(connection: Any) -> None:
    Handler(twice.hub).handle_websocket(connection)


@sock.route("/own-open")  # type: ignore[untyped-decorator]
def own_open(connection: Any) -> None:
    Handler(hub).handle_websocket(connection)
