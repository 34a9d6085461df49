"""Flask-Limiter in front of the upgrade route, as it stands in front of any other view."""

from __future__ import annotations

import remote
from flask import Flask, request
from flask_limiter import Limiter

from cartows import CartoWS, Hub

app = Flask(__name__)
hub = Hub()
remote.install(app, hub)
CartoWS(app, hub)
limiter = Limiter(
    lambda: request.headers.get("X-Visitor", "anonymous"),
    app=app,
    storage_uri="memory://",
    strategy="moving-window",
    headers_enabled=True,
)
app.view_functions["cartows"] = limiter.limit("3 per minute")(app.view_functions["cartows"])
