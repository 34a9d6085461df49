"""Tokens are required at ``/live``; ``/ws`` is open, so that the test server can warm up."""

from __future__ import annotations

import control
import remote
from flask import Flask

from cartows import CartoWS, Hub
from cartows.auth import JWTAuth

app = Flask(__name__)
hub = Hub()
remote.install(app, hub)
CartoWS(app, hub)
ws = CartoWS(app, hub, path="/live")
ws.authenticate(JWTAuth(**app.config["JWT"]))
control.install(app, ws)
