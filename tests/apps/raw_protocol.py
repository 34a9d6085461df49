"""A protocol of the app's own instead of the JSON one: strings are answered with strings, bytes with bytes."""

from __future__ import annotations

import threading

import remote
from flask import Flask, jsonify
from flask.typing import ResponseReturnValue

from cartows import CartoWS, Client, Hub

#: The clients whose handlers wait for a request to /release, and the event they wait for.
waiting: list[str] = []
released = threading.Event()


class Echo(Client):
    """A client that echoes in upper case, and raises, waits or closes on demand."""

    def handle_incoming_message(self, data: str | bytes) -> None:
        if data == "raise":
            raise RuntimeError("the app's handler fails")
        if data == "leave":
            self.close(4001, "as requested")
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
def get_waiting() -> ResponseReturnValue:
    return jsonify(len(waiting))


@app.post("/release")
def release() -> ResponseReturnValue:
    released.set()
    return "", 204
