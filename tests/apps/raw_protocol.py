"""A protocol of the app's own instead of the JSON one: text is answered in text, bytes in bytes."""

from __future__ import annotations

import threading

import remote
from flask import Flask, jsonify
from flask.typing import ResponseReturnValue

from cartows import CartoWS, Client, Hub

#: Handlers that wait for a request to /release, and what they wait for.
waiting: list[str] = []
released = threading.Event()


class Echo(Client):
    """Answer in kind; fail, wait or leave on demand."""

    def handle_incoming_message(self, data: str | bytes) -> None:
        if data == "raise":
            raise RuntimeError("the app's handler fails")
        if data == "leave":
            self.close(4001, "as you wish")
            return
        if data == "wait":
            waiting.append(self.id)
            released.wait(30)
            self.send("released")
            return
        self.send(data.upper())


app = Flask(__name__)
hub = Hub()
remote.install(app, hub)
CartoWS(app, hub, client_class=Echo, greeting=False)


@app.get("/waiting")
def look() -> ResponseReturnValue:
    return jsonify(len(waiting))


@app.post("/release")
def release() -> ResponseReturnValue:
    released.set()
    return "", 204
