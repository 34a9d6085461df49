"""What a publisher waits for and gets, in which order events are stored, and how a writer ends."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import pytest

from cartows.backplane.base import BackplaneResult
from tests.support.redis.events import numbers_of, stored, stream, wire_id
from tests.support.redis.server import HOST, Proxy, Redis, free_port
from tests.support.redis.writers import GRACE, TIMEOUT, MakeWriter, await_recovery, publish, send, start_outage
from tests.support.waiting import wait_until

# While the broker is reachable -------------------------------------------------------------------------------------


def test_events_are_stored_in_order_and_publishers_get_their_ids(server: Redis, make_writer: MakeWriter) -> None:
    writer = make_writer(server.url, timeout=10.0)
    outcomes = [publish(writer, number) for number in range(100)]
    records = stream(server)
    assert [outcome.status for outcome in outcomes] == ["stored"] * 100
    assert [outcome.id for outcome in outcomes] == [wire_id(record) for record in records]
    assert [record.seq for record in records] == list(range(1, 101))
    assert {record.origin for record in records} == {writer.origin}
    assert stored(server) == list(range(100))
    assert writer.stats() == {
        "published": 100,
        "spooled": 0,
        "stored": 100,
        "refused": 0,
        "retried": 0,
        "outages": 0,
        "away": False,
    }


def test_many_threads_keep_their_orders_and_share_batches(server: Redis, make_writer: MakeWriter) -> None:
    writer = make_writer(server.url)
    names = [f"thread {index}" for index in range(8)]
    threads = [threading.Thread(target=lambda name=name: [publish(writer, n, by=name) for n in range(50)]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = [record.event for record in stream(server)]
    assert [record.number for record in stream(server)] == list(range(1, 401))
    for name in names:
        assert numbers_of(events, name) == list(range(50))


def test_a_writer_without_events_starts_no_thread(make_writer: MakeWriter) -> None:
    writer = make_writer(f"redis://{HOST}:{free_port()}")
    assert not [thread for thread in threading.enumerate() if thread.name == "cartows-publisher"]
    assert writer.stop(1.0) == 0


def test_large_events_go_in_batches_of_their_own(server: Redis, make_writer: MakeWriter) -> None:
    writer = make_writer(server.url, timeout=10.0)
    server.pause()
    for number in range(10):
        assert publish(writer, number, 0.0, padding=200_000).status == "spooled"
    server.resume()
    await_recovery(writer)
    assert stored(server) == list(range(10))


# A single failure --------------------------------------------------------------------------------------------------


def test_a_connection_that_is_killed_costs_nothing(server: Redis, make_writer: MakeWriter) -> None:
    writer = make_writer(server.url, timeout=10.0)
    for number in range(20):
        assert publish(writer, number).status == "stored"
        server.kill_clients()
    assert stored(server) == list(range(20))
    assert writer.stats()["outages"] == 0


def test_a_connection_that_is_killed_while_it_waits_for_an_answer_costs_nothing(server: Redis, make_writer: MakeWriter) -> None:
    writer = make_writer(server.url, timeout=20.0)
    publish(writer, 0)
    server.do("CLIENT", "PAUSE", 60_000, "WRITE")
    outcomes: list[BackplaneResult] = []
    waiting = threading.Thread(target=lambda: outcomes.append(publish(writer, 1, 20.0)))
    waiting.start()
    (first,) = server.connections()
    wait_until(lambda: server.held(first), "the event to be sent")
    server.kill_clients()
    wait_until(lambda: [id for id in server.connections() if id != first], "the second attempt")
    server.do("CLIENT", "UNPAUSE")
    waiting.join()
    assert [outcome.status for outcome in outcomes] == ["stored"]
    assert stored(server) == [0, 1]
    assert (writer.stats()["retried"], writer.stats()["outages"]) == (1, 0)


def test_a_lost_answer_is_requested_again_and_stores_nothing_twice(
    server: Redis, proxy: Proxy, make_writer: MakeWriter
) -> None:
    writer = make_writer(server.url_of(proxy.port), timeout=10.0)
    publish(writer, 0)
    lost = []

    def drop(answer: bytes) -> bytes | None:
        proxy.answers = bytes
        lost.append(answer)
        return None

    proxy.answers = drop
    outcome = publish(writer, 1)
    assert lost
    assert (outcome.status, outcome.id) == ("stored", wire_id(stream(server)[1]))
    publish(writer, 2)
    assert stored(server) == [0, 1, 2]
    assert writer.stats()["retried"] == 1
    assert writer.stats()["outages"] == 0


def test_an_answer_that_is_swallowed_stores_nothing_twice(server: Redis, proxy: Proxy, make_writer: MakeWriter) -> None:
    writer = make_writer(server.url_of(proxy.port))
    publish(writer, 0)
    proxy.answers = lambda answer: b""
    start_outage(writer, 1)
    assert publish(writer, 2, TIMEOUT).status == "spooled"
    wait_until(lambda: stored(server) == [0, 1], "the event to arrive")
    proxy.answers = bytes
    await_recovery(writer)
    assert stored(server) == [0, 1, 2]


def test_a_request_that_arrives_after_it_was_sent_again_stores_nothing_twice(server: Redis, make_writer: MakeWriter) -> None:
    writer = make_writer(server.url, timeout=0.2)
    publish(writer, 0)
    server.pause()
    # The server finds all these attempts in its sockets when it resumes.
    for number in range(1, 6):
        publish(writer, number, 0.0)
    wait_until(lambda: writer.stats()["retried"] >= 3, "several attempts")
    server.resume()
    await_recovery(writer)
    assert stored(server) == [0, 1, 2, 3, 4, 5]


def test_forgotten_scripts_are_no_outage(server: Redis, make_writer: MakeWriter) -> None:
    writer = make_writer(server.url, timeout=10.0)
    publish(writer, 0)
    server.do("SCRIPT", "FLUSH")
    assert publish(writer, 1).status == "stored"
    assert writer.stats()["outages"] == 0


# The end -----------------------------------------------------------------------------------------------------------


def test_a_stop_stores_what_waits(server: Redis, make_writer: MakeWriter) -> None:
    writer = make_writer(server.url)
    server.pause()
    start_outage(writer, 0)
    send(writer, range(1, 200))
    server.resume()
    assert writer.stop(10.0) == 0
    assert stored(server) == list(range(200))
    outcome = publish(writer, 200)
    assert outcome.status is None
    assert "shut" in (outcome.reason or "")


def test_a_stop_ends_in_time_and_logs_what_is_lost(
    server: Redis, make_writer: MakeWriter, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make_writer(server.url)
    publish(writer, 0)
    server.pause()
    start_outage(writer, 1)
    publish(writer, 2)
    start = time.monotonic()
    assert writer.stop(0.3) == 2
    assert time.monotonic() - start < 0.3 + GRACE
    assert "2 events that waited for the broker are lost" in caplog.text
    assert writer.stop(0.3) == 2
    assert caplog.text.count("are lost") == 1


def test_a_stop_releases_publishers_that_wait(server: Redis, make_writer: MakeWriter) -> None:
    writer = make_writer(server.url, timeout=30.0)
    server.pause()
    outcomes: list[BackplaneResult] = []
    waiting = threading.Thread(target=lambda: outcomes.append(publish(writer, 0, 30.0)))
    waiting.start()
    wait_until(lambda: writer.stats()["spooled"], "the event to be accepted")
    writer.stop(0.1)
    waiting.join(5)
    assert outcomes == [BackplaneResult("spooled")]
    server.resume()


def test_no_password_is_logged(
    make_redis: Callable[..., Redis], make_writer: MakeWriter, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_redis(requirepass="right")
    caplog.set_level(logging.DEBUG)
    writer = make_writer(f"redis://:hunter2@{HOST}:{server.port}")
    start_outage(writer, 0)
    wait_until(lambda: "Check the user and the password" in caplog.text, "the outage to be logged")
    assert "hunter2" not in caplog.text
    assert "hunter2" not in repr(vars(writer))
