"""A process without Flask and clients, like a Celery task or a cron job: publishes two numbers a second."""

import itertools
import os
import threading

import store

from cartows import Publisher

PERIOD = 0.5
SOURCE = "publisher"


def main():
    publisher = Publisher(os.environ["FLASK_CARTOWS_REDIS_URL"])
    pause = threading.Event()
    for n in itertools.count(store.last_of(SOURCE) + 1):
        store.write(SOURCE, n)
        # While Redis is unreachable this returns at once with status="spooled"; only a full spool refuses.
        while not publisher.broadcast("number", {"source": SOURCE, "n": n}, filters={"board_id": "cluster"}).accepted:
            pause.wait(PERIOD)
        pause.wait(PERIOD)


if __name__ == "__main__":
    main()
