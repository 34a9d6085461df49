"""Two apps in one process, /a and /b, each with a hub of its own; the root has the remote control of the first."""

from __future__ import annotations

import remote
from flask import Flask
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from cartows import CartoWS, Hub


def create_app(name: str) -> tuple[Flask, Hub]:
    app, hub = Flask(name), Hub()
    remote.install(app, hub)
    CartoWS(app, hub)
    return app, hub


first, first_hub = create_app("first")
second, second_hub = create_app("second")

app = Flask(__name__)
remote.install(app, first_hub)
app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/a": first, "/b": second})  # type: ignore[method-assign]
