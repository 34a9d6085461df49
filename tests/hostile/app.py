"""The app that is attacked when no other is named; with a key in its config a second endpoint requires tokens."""

from __future__ import annotations

import remote
from flask import Flask

from cartows import CartoWS, Client, Hub, Message, new_message

app = Flask(__name__)
hub = Hub()
remote.install(app, hub)
ws = CartoWS(app, hub)

if "HOSTILE_PUBLIC_KEY" in app.config:
    from cartows.auth import JWTAuth

    KEY = app.config["HOSTILE_PUBLIC_KEY"]
    guarded = CartoWS(app, hub, path="/guarded")
    guarded.authenticate(JWTAuth(KEY, audience="hostile", issuer="tests", rooms_claim="rooms", query_parameter="access_token"))


@ws.on("echo")
def echo(client: Client, message: Message) -> None:
    client.send(new_message("echoed", message.data))


@app.get("/")
def hello() -> str:
    return "hello"
