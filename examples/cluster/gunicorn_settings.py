"""gunicorn's settings for the example: three workers, and a file for each, which shows ``run.py`` the running ones."""

import contextlib
import os
from pathlib import Path

workers = 3
worker_class = "gthread"
threads = 8
loglevel = "error"
chdir = str(Path(__file__).parent)
bind = os.environ["CLUSTER_BIND"]
pids = Path(os.environ["CLUSTER_WORKERS"])


def post_worker_init(worker):
    (pids / str(worker.pid)).touch()


def child_exit(server, worker):
    with contextlib.suppress(FileNotFoundError):
        (pids / str(worker.pid)).unlink()
