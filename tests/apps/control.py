"""Routes that apps with users share: the hub's methods for them over HTTP, and how each client was closed."""

from __future__ import annotations

import logging
from typing import Any

from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue

from cartows import CartoWS, Client


def install(app: Flask, ws: CartoWS) -> None:
    """Add the routes, and log everything: a secret must not appear at any level."""
    logging.getLogger().setLevel(logging.DEBUG)
    hub = ws.hub
    #: How each client was closed, in order.
    ended: list[dict[str, Any]] = []

    @ws.on_disconnect
    def on_disconnect(client: Client) -> None:
        ended.append({"client": client.id, "code": client.close_code, "reason": client.close_reason})

    @app.get("/ended")
    def get_ended() -> ResponseReturnValue:
        return jsonify(ended)

    @app.post("/disconnect")
    def disconnect() -> ResponseReturnValue:
        """Call ``hub.disconnect`` with these keyword arguments."""
        try:
            return {"closed": hub.disconnect(**request.get_json())}
        except (TypeError, ValueError) as error:
            return {"error": type(error).__name__}, 400

    @app.post("/reauthorize/<identity>")
    def reauthorize(identity: str) -> ResponseReturnValue:
        return {"changed": hub.reauthorize(identity)}

    @app.get("/presence/<key>/<value>")
    def presence(key: str, value: str) -> ResponseReturnValue:
        return jsonify(hub.presence(key, value))

    @app.get("/stats")
    def stats() -> ResponseReturnValue:
        return jsonify(hub.stats())
