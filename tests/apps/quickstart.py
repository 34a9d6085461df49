"""The first ten lines of the README, and the tests' remote control."""

from __future__ import annotations

import remote
from flask import Flask, request
from flask.typing import ResponseReturnValue

from cartows import CartoWS, Hub

app = Flask(__name__)
hub = Hub()
remote.install(app, hub)
CartoWS(app, hub)


@app.post("/tasks")
def create_task() -> ResponseReturnValue:
    task = request.get_json()
    hub.broadcast_task_created(task["id"], task["board_id"], task)
    return task, 201
