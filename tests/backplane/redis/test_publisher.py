"""The Publisher: the broadcast methods in a process without clients, against a real server."""

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cartows import MessageError, Options, OptionsError, PublisherClosed, new_message
from cartows.publisher import Publisher
from tests.support.redis.events import stream, wire_id
from tests.support.redis.server import HOST, Redis, free_port
from tests.support.waiting import wait_until

SECRET = "hunter2"

Make = Callable[..., Publisher]


@pytest.fixture
def make() -> Iterator[Make]:
    """Make publishers that end with the test."""
    publishers: list[Publisher] = []

    def start(url: str, **arguments: Any) -> Publisher:
        options = arguments.pop("options", None) or Options(publish_timeout=0.5)
        publisher = Publisher(url, options=options, **arguments)
        publishers.append(publisher)
        return publisher

    yield start
    for publisher in publishers:
        publisher.close(0)


def messages(server: Redis) -> list[dict[str, Any]]:
    """Return what is stored, as clients get it but for its id."""
    return [json.loads(record.event.body) for record in stream(server)]


def test_a_broadcast_is_stored_for_its_recipients(server: Redis, make: Make) -> None:
    publisher = make(server.url)
    result = publisher.broadcast_task_updated("t1", "b1", {"title": "y"}, project_id="p1")
    (record,) = stream(server)
    assert result == (True, "stored", wire_id(record), None)
    assert record.event.type == "task.updated"
    assert set(record.event.audience.rooms) == {("project_id", "p1"), ("board_id", "b1")}
    assert record.event.audience.unfiltered
    assert (record.event.entity, record.event.merges) == (("task", "t1"), True)
    (message,) = messages(server)
    assert message["data"] == {
        "task_id": "t1",
        "board_id": "b1",
        "project_id": "p1",
        "action": "updated",
        "changes": {"title": "y"},
    }
    assert "id" not in message


def test_every_kind_of_broadcast_is_stored(server: Redis, make: Make) -> None:
    publisher = make(server.url)
    results = [
        publisher.broadcast_message(new_message("a", 1)),
        publisher.broadcast_to_filtered(new_message("b", 2), "board_id", 5),
        publisher.broadcast("c", 3, filters={"project_id": ["p1", "p2"]}),
        publisher.broadcast_task_created("t1", "b1", {"project_id": "p1"}),
        publisher.broadcast_task_deleted("t1", "b1", project_id="p1"),
        publisher.broadcast_project_created("p1", {}),
        publisher.broadcast_project_updated("p1", {}),
        publisher.broadcast_board_updated("b1", "p1", {}),
    ]
    assert [result.status for result in results] == ["stored"] * 8
    audiences = [record.event.audience for record in stream(server)]
    assert audiences[0].everyone
    assert audiences[1] == ((("board_id", "5"),), False, False)
    assert [message["type"] for message in messages(server)][3:5] == ["task.created", "task.deleted"]


def test_filter_keys_are_those_of_the_options(server: Redis, make: Make) -> None:
    publisher = make(server.url, options=Options(filter_keys=("room",)))
    publisher.broadcast("a", filters={"room": 1})
    with pytest.raises(ValueError, match="filter keys are room"):
        publisher.broadcast("a", filters={"board_id": 1})


def test_a_task_of_no_known_project_is_logged_once(server: Redis, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    publisher = make(server.url)
    publisher.broadcast_task_deleted("t1", "b1")
    publisher.broadcast_task_deleted("t2", "b1")
    assert caplog.text.count("names no project") == 1
    publisher.project_of_board = lambda board: "p9"
    publisher.broadcast_task_deleted("t3", "b1")
    assert stream(server)[-1].event.audience.rooms == (("project_id", "p9"), ("board_id", "b1"))


def test_what_cannot_be_sent_raises_and_stores_nothing(server: Redis, make: Make) -> None:
    publisher = make(server.url, options=Options(send_queue_bytes=1000))
    with pytest.raises(MessageError, match="at data"):
        publisher.broadcast("a", object())
    with pytest.raises(MessageError, match="CARTOWS_SEND_QUEUE_BYTES=1000"):
        publisher.broadcast("a", "x" * 1000)
    assert stream(server) == []
    encoding = make(server.url, enc_hook=lambda value: "encoded")
    encoding.broadcast("a", object())
    assert messages(server)[0]["data"] == "encoded"


def test_an_id_of_the_caller_is_left_out(server: Redis, make: Make) -> None:
    message = new_message("a", 1)
    message.id = "mine"
    make(server.url).broadcast_message(message)
    assert "id" not in messages(server)[0]


def test_after_close_broadcasts_raise(server: Redis) -> None:
    with Publisher(server.url) as publisher:
        publisher.broadcast("a", 1)
        assert not publisher.closed
    assert publisher.closed
    publisher.close()
    with pytest.raises(PublisherClosed, match="The publisher was closed"):
        publisher.broadcast("a", 2)
    assert len(stream(server)) == 1


def test_while_redis_is_away_a_broadcast_is_spooled_and_none_waits_long(server: Redis, make: Make) -> None:
    publisher = make(server.url)
    publisher.broadcast("a", 0)
    server.pause()
    start = time.monotonic()
    assert publisher.broadcast("a", 1) == (True, "spooled", None, None)
    assert time.monotonic() - start < 0.5 + 3
    wait_until(lambda: publisher.stats()["away"], "the outage to be noticed")
    start = time.monotonic()
    assert [publisher.broadcast("a", number).status for number in range(2, 50)] == ["spooled"] * 48
    # 24 s, if each of them waited.
    assert time.monotonic() - start < 5
    server.resume()
    wait_until(lambda: not publisher.stats()["spooled"], "the spool to be stored")
    assert [message["data"] for message in messages(server)] == list(range(50))


def test_over_the_bound_a_broadcast_is_rejected_and_that_is_logged_once(
    server: Redis, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = make(server.url, options=Options(publish_timeout=0.5, spool_size=3))
    server.kill()
    results = [publisher.broadcast("a", number) for number in range(6)]
    assert [result.accepted for result in results] == [True] * 3 + [False] * 3
    assert "CARTOWS_SPOOL_SIZE=3" in (results[-1].reason or "")
    assert caplog.text.count("was not sent") == 1
    server.start()
    wait_until(lambda: not publisher.stats()["away"], "Redis to be back")
    assert publisher.broadcast("a", 6).status == "stored"
    assert "events are accepted again; 3 were rejected so far" in caplog.text


def test_a_publisher_that_was_closed_leaves_no_thread(server: Redis) -> None:
    publisher = Publisher(server.url)
    publisher.broadcast("a", 1)
    publisher.close()
    del publisher
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name == "cartows-publisher"]


# Passwords --------------------------------------------------------------------------------------------------------


def test_a_password_is_shown_nowhere(make_redis: Callable[..., Redis], make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = make_redis(requirepass=SECRET)
    publisher = make(server.url)
    assert publisher.broadcast("a", 1).status == "stored"
    server.config("requirepass", "other")
    server.password = "other"
    server.kill_clients()
    assert publisher.broadcast("a", 2).status == "spooled"
    wait_until(lambda: "Check the user and the password" in caplog.text, "the outage to be logged")
    with pytest.raises(OptionsError) as caught:
        make(f"redis://:{SECRET}@cache:port")
    for shown in (caplog.text, repr(publisher), str(vars(publisher)), str(caught.value), repr(caught.value)):
        assert SECRET not in shown


# Processes --------------------------------------------------------------------------------------------------------


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of these lines."""
    root = str(Path(__file__).parents[3])
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_process_that_ends_while_redis_is_away_logs_what_is_lost(server: Redis) -> None:
    port = free_port()
    done = run(
        "import sys, time\n"
        "from cartows import Options\n"
        "from cartows.publisher import Publisher\n"
        "publisher = Publisher(sys.argv[1], options=Options(publish_timeout=0.2))\n"
        "for number in range(3): publisher.broadcast('a', number)\n"
        "print(time.monotonic(), flush=True)\n",
        f"redis://:{SECRET}@{HOST}:{port}",
    )
    assert done.returncode == 0
    assert "3 events that waited for the broker are lost with this process" in done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr


def test_a_process_that_ends_stores_what_waits_first(server: Redis) -> None:
    # It publishes while the server is paused for longer than a publisher waits, and ends at once.
    server.do("CLIENT", "PAUSE", 600)
    done = run(
        "import sys\n"
        "from cartows import Options\n"
        "from cartows.publisher import Publisher\n"
        "publisher = Publisher(sys.argv[1], options=Options(publish_timeout=0.2))\n"
        "for number in range(3): publisher.broadcast('a', number)\n",
        server.url,
    )
    assert done.returncode == 0
    assert "lost" not in done.stderr
    assert [message["data"] for message in messages(server)] == [0, 1, 2]


def test_a_child_of_a_fork_publishes_for_itself_and_leaves_its_parent_alone(server: Redis) -> None:
    done = run(
        "import os, sys\n"
        "from cartows.publisher import Publisher\n"
        "publisher = Publisher(sys.argv[1])\n"
        "print(publisher.broadcast('a', 'parent').status, flush=True)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    print(publisher.broadcast('a', 'child').status, flush=True)\n"
        "    sys.exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)\n"
        "print(publisher.broadcast('a', 'parent again').status, publisher.stats()['retried'], flush=True)\n",
        server.url,
    )
    assert done.stdout.split() == ["stored", "stored", "7", "stored", "0"], done.stderr
    assert [message["data"] for message in messages(server)] == ["parent", "child", "parent again"]
    assert len({record.origin for record in stream(server)}) == 2


def test_a_publisher_starts_no_hub_and_reads_nothing(server: Redis, make: Make) -> None:
    before = set(threading.enumerate())
    publisher = make(server.url)
    publisher.broadcast("a", 1)
    assert [thread.name for thread in set(threading.enumerate()) - before] == ["cartows-publisher"]
    assert len(server.connections()) == 1
