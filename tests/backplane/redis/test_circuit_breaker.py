"""Outages of the broker: publishers do not wait, and nothing is lost, duplicated or reordered."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.redis.events import NAMES, numbers_of, stored, stream
from tests.support.redis.server import HOST, Proxy, Redis, free_port
from tests.support.redis.writers import AT_ONCE, GRACE, TIMEOUT, MakeWriter, await_recovery, publish, send, start_outage
from tests.support.waiting import wait_until


def test_a_paused_server_delays_a_publisher_until_its_deadline_and_the_next_not_at_all(
    server: Redis, make_writer: MakeWriter
) -> None:
    writer = make_writer(server.url)
    publish(writer, 0)
    server.pause()
    start = time.monotonic()
    start_outage(writer, 1)
    assert time.monotonic() - start < TIMEOUT + GRACE
    start = time.monotonic()
    assert send(writer, range(2, 100)) == ["spooled"] * 98
    assert time.monotonic() - start < AT_ONCE
    assert writer.stats()["spooled"] == 99
    server.resume()
    await_recovery(writer)
    assert stored(server) == list(range(100))
    assert publish(writer, 100).status == "stored"


def test_twenty_publishers_on_a_paused_server_share_one_deadline(server: Redis, make_writer: MakeWriter) -> None:
    writer = make_writer(server.url)
    publish(writer, 0)
    server.pause()
    took: list[float] = []
    statuses: list[str | None] = []

    def run(number: int) -> None:
        start = time.monotonic()
        statuses.append(publish(writer, number, TIMEOUT).status)
        took.append(time.monotonic() - start)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(1, 21)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == ["spooled"] * 20
    assert max(took) < TIMEOUT + GRACE
    server.resume()
    await_recovery(writer)
    assert sorted(stored(server)) == list(range(21))


def test_a_publisher_does_not_wait_for_a_name_to_be_looked_up(make_writer: MakeWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = threading.Event(), threading.Event()

    def slow(*arguments: Any, **more: Any) -> Any:
        asked.set()
        answer.wait(30)
        raise OSError("no such host")

    monkeypatch.setattr("socket.getaddrinfo", slow)
    writer = make_writer("redis://cache")
    start = time.monotonic()
    assert publish(writer, 0, 0.2).status == "spooled"
    assert time.monotonic() - start < 0.2 + GRACE
    assert asked.wait(30)
    answer.set()
    wait_until(lambda: writer.stats()["away"], "the breaker to open")


def _client_pause(server: Redis, proxy: Proxy) -> Callable[[], Any]:
    server.do("CLIENT", "PAUSE", 60_000, "WRITE")
    return lambda: server.do("CLIENT", "UNPAUSE")


def _stop(server: Redis, proxy: Proxy) -> Callable[[], Any]:
    server.pause()
    return server.resume


def _kill(server: Redis, proxy: Proxy) -> Callable[[], Any]:
    server.kill()
    return server.start


def _full(server: Redis, proxy: Proxy) -> Callable[[], Any]:
    server.config("maxmemory", "100kb")
    return lambda: server.config("maxmemory", 0)


def _replica(server: Redis, proxy: Proxy) -> Callable[[], Any]:
    server.do("REPLICAOF", HOST, free_port())
    return server.promote


def _password(server: Redis, proxy: Proxy) -> Callable[[], Any]:
    server.config("requirepass", "new")
    server.password = "new"
    server.kill_clients()
    return lambda: (server.config("requirepass", ""), setattr(server, "password", None))


def _layout(server: Redis, proxy: Proxy) -> Callable[[], Any]:
    server.do("HSET", NAMES.meta, "version", "2")
    return lambda: server.do("HSET", NAMES.meta, "version", "1")


def _cut(server: Redis, proxy: Proxy) -> Callable[[], Any]:
    proxy.open.clear()
    return lambda: (proxy.cut(), proxy.open.set())


FAULTS = {
    "CLIENT PAUSE": (_client_pause, "no answer within"),
    "SIGSTOP": (_stop, "no answer within"),
    # The proxy accepts connections where the server does not.
    "kill -9": (_kill, "It was stopped"),
    "OOM": (_full, "It is full"),
    "READONLY": (_replica, "It is a replica"),
    "NOAUTH": (_password, "It requires a password"),
    "another layout": (_layout, "Another version of cartows"),
    "lost packets": (_cut, "no answer within"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_outage_loses_nothing_duplicates_nothing_and_keeps_the_order_of_every_thread(
    name: str, make_redis: Callable[..., Redis], make_writer: MakeWriter, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_redis(persistent=True, appendfsync="always")
    proxy = Proxy(server.port)
    # A slow machine must not answer later than this: that would be another outage.
    writer = make_writer(server.url_of(proxy.port), timeout=1.5)
    fail, expected = FAULTS[name]
    statuses: list[str | None] = []
    slowest = [0.0]
    stop = threading.Event()
    counts = [0] * 4

    def run(index: int) -> None:
        while not stop.is_set():
            start = time.monotonic()
            outcome = publish(writer, counts[index], 0.3, by=str(index))
            slowest[0] = max(slowest[0], time.monotonic() - start)
            counts[index] += 1
            statuses.append(outcome.status)
            # Slowly enough for the slowest broker to catch up meanwhile.
            stop.wait(0.01)

    def await_events(status: str) -> None:
        enough = statuses.count(status) + 40
        wait_until(lambda: statuses.count(status) > enough, f"events to be {status}")

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    try:
        for thread in threads:
            thread.start()
        for _ in range(2):
            await_events("stored")
            repair = fail(server, proxy)
            wait_until(lambda: writer.stats()["away"], "the outage to be noticed")
            await_events("spooled")
            repair()
            await_recovery(writer)
        stop.set()
        for thread in threads:
            thread.join()
        await_recovery(writer)
        events = [record.event for record in stream(server)]
        for index, count in enumerate(counts):
            assert numbers_of(events, str(index)) == list(range(count))
        assert [record.number for record in stream(server)] == list(range(1, sum(counts) + 1))
        assert set(statuses) == {"stored", "spooled"}
        assert slowest[0] < 0.3 + GRACE
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        writer.stop(5.0)
        proxy.close()
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 4
    for lost, restored in (warnings[:2], warnings[2:]):
        assert expected in lost
        assert "events wait in this process" in lost
        assert "the broker is back" in restored


def test_a_server_that_comes_back_empty_stores_the_spool_in_another_epoch(server: Redis, make_writer: MakeWriter) -> None:
    writer = make_writer(server.url)
    first = [publish(writer, number) for number in range(5)]
    server.kill()
    assert send(writer, range(5, 10)) == ["spooled"] * 5
    server.start()
    await_recovery(writer)
    records = stream(server)
    assert numbers_of([record.event for record in records]) == [5, 6, 7, 8, 9]
    assert [record.number for record in records] == [6, 7, 8, 9, 10]
    assert first[0].id is not None
    assert records[0].epoch != first[0].id.partition(".")[0]


def test_a_flush_is_no_outage_and_numbers_go_on(server: Redis, make_writer: MakeWriter) -> None:
    writer = make_writer(server.url)
    send(writer, range(5))
    server.flush()
    outcome = publish(writer, 5)
    assert outcome.status == "stored"
    assert [record.number for record in stream(server)] == [6]
