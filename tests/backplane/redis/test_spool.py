"""The bounds of the events that wait in a process."""

from __future__ import annotations

import threading
import time

import pytest

from tests.support.redis.events import Reader, RecordingSink, stored
from tests.support.redis.server import HOST, Redis, free_port
from tests.support.redis.writers import AT_ONCE, MakeWriter, await_recovery, publish, send
from tests.support.waiting import wait_until


def test_over_the_bound_of_events_publishers_are_rejected_and_counted(make_writer: MakeWriter) -> None:
    writer = make_writer(f"redis://{HOST}:{free_port()}", size=10)
    assert send(writer, range(10)) == ["spooled"] * 10
    start = time.monotonic()
    outcomes = [publish(writer, number) for number in range(5)]
    assert time.monotonic() - start < AT_ONCE
    assert [outcome.status for outcome in outcomes] == [None] * 5
    assert "CARTOWS_SPOOL_SIZE=10" in (outcomes[0].reason or "")
    assert (writer.stats()["refused"], writer.stats()["spooled"]) == (5, 10)


def test_over_the_bound_of_bytes_publishers_are_rejected(make_writer: MakeWriter) -> None:
    writer = make_writer(f"redis://{HOST}:{free_port()}", max_bytes=10_000)
    assert publish(writer, 0, padding=8_000).status == "spooled"
    assert publish(writer, 1, padding=8_000).status is None
    assert publish(writer, 2).status == "spooled"


def test_an_event_larger_than_the_bound_is_accepted_when_nothing_else_waits(server: Redis, make_writer: MakeWriter) -> None:
    writer = make_writer(server.url, max_bytes=1_000)
    assert publish(writer, 0, padding=8_000).status == "stored"


def test_what_was_rejected_is_logged_when_the_broker_is_back(
    server: Redis, make_writer: MakeWriter, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make_writer(server.url, size=10)
    server.kill()
    send(writer, range(15))
    server.start()
    await_recovery(writer)
    assert stored(server) == list(range(10))
    wait_until(lambda: "10 events that had waited here were stored, 5 were rejected" in caplog.text, "the log")


def test_while_the_reader_lags_publishers_wait_for_room(server: Redis, make_writer: MakeWriter) -> None:
    sink = RecordingSink()
    writer = make_writer(server.url, size=10, sink=sink)
    reader = Reader(server, writer)
    assert send(writer, range(10)) == ["stored"] * 10
    start = time.monotonic()
    assert publish(writer, 10, 0.2).status is None
    assert time.monotonic() - start >= 0.2
    waiting = threading.Thread(target=publish, args=(writer, 11))
    waiting.start()
    reader.read()
    waiting.join()
    reader.read()
    assert sink.delivered == [*range(10), 11]
