"""The app of the three workers: Flask, cartows and one page. ``run.py`` starts it, and everything else."""

import itertools
import os
import threading

import store
from flask import Flask, abort, jsonify, render_template, request

from cartows import CartoWS, Hub, new_message

ROOM = {"board_id": "cluster"}
SHOWN = 300

app = Flask(__name__)
# FLASK_CARTOWS_REDIS_URL=redis://... in the environment is all that connects the hubs of the workers.
app.config.from_prefixed_env()

hub = Hub()
ws = CartoWS(app, hub)

# Guards the count of this worker's numbers; held while publishing, so that events are in the order of the numbers.
lock = threading.Lock()
following = itertools.count(1)


@ws.authenticate
def identify(request):
    """Trust the name that the page sends, so that it is the same user at any worker; a real app reads its session."""
    return request.args.get("name") or None


def publish(count):
    """Publish some numbers from this worker; return how many were stored, spooled or refused."""
    source, counts = f"worker {os.getpid()}", {}
    with lock:
        for n in itertools.islice(following, count):
            store.write(source, n)
            result = hub.broadcast("number", {"source": source, "n": n}, filters=ROOM)
            status = result.status or "refused"
            counts[status] = counts.get(status, 0) + 1
    return {"worker": os.getpid(), "statuses": counts}


@ws.on("whereami")
def whereami(client, message):
    client.send(new_message("worker", {"pid": os.getpid()}))


@ws.on("publish")
def publish_here(client, message):
    client.send(new_message("published", publish(5)))


@app.get("/")
def page():
    return render_template("page.html", control=app.config["CLUSTER_CONTROL"])


@app.get("/numbers")
def numbers():
    return jsonify(store.read(SHOWN))


@app.post("/numbers")
def publish_somewhere():
    """Publish from the worker that received the request."""
    count = request.args.get("count", 1, int)
    if not 1 <= count <= 100:
        abort(400, "count must be 1 to 100.")
    return jsonify(publish(count))


@app.errorhandler(400)
def explain(error):
    return jsonify(message=error.description), error.code
