"""An app factory: the hub and the extension are made at import, before their app."""

from __future__ import annotations

import remote
from flask import Flask

from cartows import CartoWS, Hub

hub = Hub()
ws = CartoWS(hub=hub)


def create_app() -> Flask:
    app = Flask(__name__)
    remote.install(app, hub)
    ws.init_app(app)
    return app
