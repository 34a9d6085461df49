"""An app that broadcasts from every kind of process and thread: from the import on, and in child processes."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from contextlib import suppress

import remote
from flask import Flask
from flask.typing import ResponseReturnValue

from cartows import CartoWS, Hub, HubClosed

# Seconds in which a child process must have broadcast.
AT_MOST = 30.0

app = Flask(__name__)
hub = Hub()
remote.install(app, hub)
CartoWS(app, hub)


def broadcast(source: str) -> None:
    """Broadcast, and log from which process."""
    app.logger.warning("broadcast by %s in process %d", source, os.getpid())
    # The server may be stopped before the scheduler comes to it.
    with suppress(HubClosed):
        assert hub.broadcast("tick", source).accepted


# A scheduler as apps start it.
threading.Thread(target=broadcast, args=("scheduler",), daemon=True).start()


@app.post("/forked")
def forked() -> ResponseReturnValue:
    """Broadcast in a forked child of this process."""
    child = multiprocessing.get_context("fork").Process(target=broadcast, args=("child",))
    child.start()
    child.join(AT_MOST)
    return {"pid": child.pid}


@app.post("/started")
def started() -> ResponseReturnValue:
    """Broadcast in a new process that has the environment of this one, as Celery's or a spawned child's is."""
    code = "from processes import hub; import os; assert hub.broadcast('tick').accepted; print(os.getpid())"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=AT_MOST, check=True)
    return {"pid": int(done.stdout)}


if __name__ == "__main__":
    app.run(port=0, processes=3, threaded=False)
