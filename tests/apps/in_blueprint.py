"""The socket lives in a blueprint with a prefix, beside the blueprint's own routes."""

from __future__ import annotations

import remote
from flask import Blueprint, Flask, url_for
from flask.typing import ResponseReturnValue

from cartows import CartoWS, Hub

hub = Hub()
live = Blueprint("live", __name__, url_prefix="/api/live")
CartoWS(live, hub)


@live.get("/where")
def where() -> ResponseReturnValue:
    return url_for("live.where")


app = Flask(__name__)
remote.install(app, hub)
app.register_blueprint(live)
