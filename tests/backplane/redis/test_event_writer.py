"""The lane: what a publisher waits for and is told, and in which order events arrive, whatever the broker does."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from cartows.backplane.base import BackplaneResult, Snapshot
from cartows.backplane.redis.event_writer import EventWriter
from tests.backplane.redis.conftest import TIMEOUT
from tests.support.process import wait_for
from tests.support.redis.events import NAMES, Ears, Reader, event, numbers_of, stored, stream
from tests.support.redis.server import HOST, Proxy, Redis, free_port

MakeLane = Callable[..., EventWriter]

# How much longer than its deadline a publisher may take on a busy machine, in seconds.
GRACE = 3.0

# A publisher that is not to wait is through long before this.
AT_ONCE = 3.0


def publish(lane: EventWriter, number: int, timeout: float = 10.0, **more: Any) -> BackplaneResult:
    return lane.publish(event(number, **more), timeout)


def send(lane: EventWriter, numbers: range, timeout: float = 10.0) -> list[str | None]:
    """Publish several and return what became of each."""
    return [publish(lane, number, timeout).status for number in numbers]


def back(lane: EventWriter, within: float = 30.0) -> None:
    """Wait until everything is stored."""
    wait_for(lambda: not lane.stats()["away"] and not lane.stats()["spooled"], lambda: f"the lane: {lane.stats()}", within)


def take_away(lane: EventWriter, number: int) -> None:
    """Publish an event that finds the broker away."""
    assert publish(lane, number, TIMEOUT).status == "spooled"
    wait_for(lambda: lane.stats()["away"], "the breaker to open")


# While the broker is there ----------------------------------------------------------------------------------------


def test_events_are_stored_in_order_and_told_their_ids(server: Redis, make_lane: MakeLane) -> None:
    lane = make_lane(server.url, timeout=10.0)
    outcomes = [publish(lane, number) for number in range(100)]
    records = stream(server)
    assert [outcome.status for outcome in outcomes] == ["stored"] * 100
    assert [outcome.id for outcome in outcomes] == [f"{record.epoch}.{record.number}" for record in records]
    assert [record.seq for record in records] == list(range(1, 101))
    assert {record.origin for record in records} == {lane.origin}
    assert stored(server) == list(range(100))
    assert lane.stats() == {
        "published": 100,
        "spooled": 0,
        "stored": 100,
        "refused": 0,
        "retried": 0,
        "outages": 0,
        "away": False,
    }


def test_many_threads_keep_their_orders_and_share_batches(server: Redis, make_lane: MakeLane) -> None:
    lane = make_lane(server.url)
    names = [f"thread {index}" for index in range(8)]
    threads = [threading.Thread(target=lambda name=name: [publish(lane, n, by=name) for n in range(50)]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = [record.event for record in stream(server)]
    assert [record.number for record in stream(server)] == list(range(1, 401))
    for name in names:
        assert numbers_of(events, name) == list(range(50))


def test_a_lane_without_events_starts_nothing(make_lane: MakeLane) -> None:
    lane = make_lane(f"redis://{HOST}:{free_port()}")
    assert not [thread for thread in threading.enumerate() if thread.name == "cartows-publisher"]
    assert lane.stop(1.0) == 0


def test_large_events_go_in_batches_of_their_own(server: Redis, make_lane: MakeLane) -> None:
    lane = make_lane(server.url, timeout=10.0)
    server.pause()
    for number in range(10):
        assert publish(lane, number, 0.0, padding=200_000).status == "spooled"
    server.resume()
    back(lane)
    assert stored(server) == list(range(10))


# One failure ------------------------------------------------------------------------------------------------------


def test_a_connection_that_is_killed_costs_nothing(server: Redis, make_lane: MakeLane) -> None:
    lane = make_lane(server.url, timeout=10.0)
    for number in range(20):
        assert publish(lane, number).status == "stored"
        server.kill_clients()
    assert stored(server) == list(range(20))
    assert lane.stats()["outages"] == 0


def test_a_connection_that_is_killed_while_it_waits_for_an_answer_costs_nothing(server: Redis, make_lane: MakeLane) -> None:
    lane = make_lane(server.url, timeout=20.0)
    publish(lane, 0)
    server.do("CLIENT", "PAUSE", 60_000, "WRITE")
    outcomes: list[BackplaneResult] = []
    waiting = threading.Thread(target=lambda: outcomes.append(publish(lane, 1, 20.0)))
    waiting.start()
    (first,) = server.connections()
    wait_for(lambda: server.held(first), "the event to be sent")
    server.kill_clients()
    wait_for(lambda: [id for id in server.connections() if id != first], "the second try")
    server.do("CLIENT", "UNPAUSE")
    waiting.join()
    assert [outcome.status for outcome in outcomes] == ["stored"]
    assert stored(server) == [0, 1]
    assert (lane.stats()["retried"], lane.stats()["outages"]) == (1, 0)


def test_a_lost_answer_is_asked_for_again_and_stores_nothing_twice(server: Redis, proxy: Proxy, make_lane: MakeLane) -> None:
    lane = make_lane(server.url_of(proxy.port), timeout=10.0)
    publish(lane, 0)
    lost = []

    def drop(answer: bytes) -> bytes | None:
        proxy.answers = bytes
        lost.append(answer)
        return None

    proxy.answers = drop
    outcome = publish(lane, 1)
    assert lost
    assert (outcome.status, outcome.id) == ("stored", f"{stream(server)[1].epoch}.2")
    publish(lane, 2)
    assert stored(server) == [0, 1, 2]
    assert lane.stats()["retried"] == 1
    assert lane.stats()["outages"] == 0


def test_an_answer_that_is_swallowed_stores_nothing_twice(server: Redis, proxy: Proxy, make_lane: MakeLane) -> None:
    lane = make_lane(server.url_of(proxy.port))
    publish(lane, 0)
    proxy.answers = lambda answer: b""
    take_away(lane, 1)
    assert publish(lane, 2, TIMEOUT).status == "spooled"
    wait_for(lambda: stored(server) == [0, 1], "the event to arrive")
    proxy.answers = bytes
    back(lane)
    assert stored(server) == [0, 1, 2]


def test_a_request_that_arrives_after_it_was_sent_again_stores_nothing_twice(server: Redis, make_lane: MakeLane) -> None:
    lane = make_lane(server.url, timeout=0.2)
    publish(lane, 0)
    server.pause()
    # The server finds all these tries in its sockets when it goes on.
    for number in range(1, 6):
        publish(lane, number, 0.0)
    wait_for(lambda: lane.stats()["retried"] >= 3, "several tries")
    server.resume()
    back(lane)
    assert stored(server) == [0, 1, 2, 3, 4, 5]


def test_forgotten_scripts_are_no_outage(server: Redis, make_lane: MakeLane) -> None:
    lane = make_lane(server.url, timeout=10.0)
    publish(lane, 0)
    server.do("SCRIPT", "FLUSH")
    assert publish(lane, 1).status == "stored"
    assert lane.stats()["outages"] == 0


# While the broker is away -----------------------------------------------------------------------------------------


def test_a_paused_server_holds_a_publisher_until_its_deadline_and_the_next_not_at_all(
    server: Redis, make_lane: MakeLane
) -> None:
    lane = make_lane(server.url)
    publish(lane, 0)
    server.pause()
    start = time.monotonic()
    take_away(lane, 1)
    assert time.monotonic() - start < TIMEOUT + GRACE
    start = time.monotonic()
    assert send(lane, range(2, 100)) == ["spooled"] * 98
    assert time.monotonic() - start < AT_ONCE
    assert lane.stats()["spooled"] == 99
    server.resume()
    back(lane)
    assert stored(server) == list(range(100))
    assert publish(lane, 100).status == "stored"


def test_twenty_publishers_on_a_paused_server_share_one_deadline(server: Redis, make_lane: MakeLane) -> None:
    lane = make_lane(server.url)
    publish(lane, 0)
    server.pause()
    took: list[float] = []
    hows: list[str | None] = []

    def run(number: int) -> None:
        start = time.monotonic()
        hows.append(publish(lane, number, TIMEOUT).status)
        took.append(time.monotonic() - start)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(1, 21)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hows == ["spooled"] * 20
    assert max(took) < TIMEOUT + GRACE
    server.resume()
    back(lane)
    assert sorted(stored(server)) == list(range(21))


def test_a_publisher_does_not_wait_for_a_name_to_be_looked_up(make_lane: MakeLane, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = threading.Event(), threading.Event()

    def slow(*arguments: Any, **more: Any) -> Any:
        asked.set()
        answer.wait(30)
        raise OSError("no such host")

    monkeypatch.setattr("socket.getaddrinfo", slow)
    lane = make_lane("redis://cache")
    start = time.monotonic()
    assert publish(lane, 0, 0.2).status == "spooled"
    assert time.monotonic() - start < 0.2 + GRACE
    assert asked.wait(30)
    answer.set()
    wait_for(lambda: lane.stats()["away"], "the breaker to open")


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
    # The proxy takes connections where the server does not.
    "kill -9": (_kill, "It was stopped"),
    "OOM": (_full, "It is full"),
    "READONLY": (_replica, "It is a replica"),
    "NOAUTH": (_password, "It wants a password"),
    "another layout": (_layout, "Another version of cartows"),
    "eaten packets": (_cut, "no answer within"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_outage_loses_nothing_doubles_nothing_and_keeps_the_order_of_every_thread(
    name: str, make_redis: Callable[..., Redis], make_lane: MakeLane, caplog: pytest.LogCaptureFixture
) -> None:
    server = make_redis(persistent=True, appendfsync="always")
    proxy = Proxy(server.port)
    # One answer that is later than this is an outage that nobody made.
    lane = make_lane(server.url_of(proxy.port), timeout=1.5)
    fail, said = FAULTS[name]
    hows: list[str | None] = []
    longest = [0.0]
    stop = threading.Event()
    counts = [0] * 4

    def run(index: int) -> None:
        while not stop.is_set():
            start = time.monotonic()
            outcome = publish(lane, counts[index], 0.3, by=str(index))
            longest[0] = max(longest[0], time.monotonic() - start)
            counts[index] += 1
            hows.append(outcome.status)
            # Slowly enough for the slowest broker to catch up meanwhile.
            stop.wait(0.01)

    def await_events(how: str) -> None:
        enough = hows.count(how) + 40
        wait_for(lambda: hows.count(how) > enough, f"events to be {how}")

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    try:
        for thread in threads:
            thread.start()
        for _ in range(2):
            await_events("stored")
            mend = fail(server, proxy)
            wait_for(lambda: lane.stats()["away"], "the outage to be noticed")
            await_events("spooled")
            mend()
            back(lane)
        stop.set()
        for thread in threads:
            thread.join()
        back(lane)
        events = [record.event for record in stream(server)]
        for index, count in enumerate(counts):
            assert numbers_of(events, str(index)) == list(range(count))
        assert [record.number for record in stream(server)] == list(range(1, sum(counts) + 1))
        assert set(hows) == {"stored", "spooled"}
        assert longest[0] < 0.3 + GRACE
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        lane.stop(5.0)
        proxy.close()
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 4
    for away, again in (warnings[:2], warnings[2:]):
        assert said in away
        assert "events wait in this process" in away
        assert "the broker is back" in again


def test_a_server_that_comes_back_empty_has_what_was_spooled_in_another_epoch(server: Redis, make_lane: MakeLane) -> None:
    lane = make_lane(server.url)
    first = [publish(lane, number) for number in range(5)]
    server.kill()
    assert send(lane, range(5, 10)) == ["spooled"] * 5
    server.start()
    back(lane)
    records = stream(server)
    assert numbers_of([record.event for record in records]) == [5, 6, 7, 8, 9]
    assert [record.number for record in records] == [6, 7, 8, 9, 10]
    assert first[0].id is not None
    assert records[0].epoch != first[0].id.partition(".")[0]


def test_a_flush_is_no_outage_and_numbers_go_on(server: Redis, make_lane: MakeLane) -> None:
    lane = make_lane(server.url)
    send(lane, range(5))
    server.flush()
    outcome = publish(lane, 5)
    assert outcome.status == "stored"
    assert [record.number for record in stream(server)] == [6]


# The spool's bounds -----------------------------------------------------------------------------------------------


def test_over_the_bound_of_events_publishers_are_refused_and_counted(make_lane: MakeLane) -> None:
    lane = make_lane(f"redis://{HOST}:{free_port()}", size=10)
    assert send(lane, range(10)) == ["spooled"] * 10
    start = time.monotonic()
    outcomes = [publish(lane, number) for number in range(5)]
    assert time.monotonic() - start < AT_ONCE
    assert [outcome.status for outcome in outcomes] == [None] * 5
    assert "CARTOWS_SPOOL_SIZE=10" in (outcomes[0].reason or "")
    assert (lane.stats()["refused"], lane.stats()["spooled"]) == (5, 10)


def test_over_the_bound_of_bytes_publishers_are_refused(make_lane: MakeLane) -> None:
    lane = make_lane(f"redis://{HOST}:{free_port()}", max_bytes=10_000)
    assert publish(lane, 0, padding=8_000).status == "spooled"
    assert publish(lane, 1, padding=8_000).status is None
    assert publish(lane, 2).status == "spooled"


def test_an_event_larger_than_the_bound_is_taken_when_nothing_else_waits(server: Redis, make_lane: MakeLane) -> None:
    lane = make_lane(server.url, max_bytes=1_000)
    assert publish(lane, 0, padding=8_000).status == "stored"


def test_what_was_refused_is_said_when_the_broker_is_back(
    server: Redis, make_lane: MakeLane, caplog: pytest.LogCaptureFixture
) -> None:
    lane = make_lane(server.url, size=10)
    server.kill()
    send(lane, range(15))
    server.start()
    back(lane)
    assert stored(server) == list(range(10))
    wait_for(lambda: "10 events that had waited here were stored, 5 were refused" in caplog.text, "the log")


def test_while_the_reader_lags_publishers_wait_for_room(server: Redis, make_lane: MakeLane) -> None:
    ears = Ears()
    lane = make_lane(server.url, size=10, sink=ears)
    reader = Reader(server, lane)
    assert send(lane, range(10)) == ["stored"] * 10
    start = time.monotonic()
    assert publish(lane, 10, 0.2).status is None
    assert time.monotonic() - start >= 0.2
    waiting = threading.Thread(target=publish, args=(lane, 11))
    waiting.start()
    reader.read()
    waiting.join()
    reader.read()
    assert ears.heard == [*range(10), 11]


# What this process's own clients hear -----------------------------------------------------------------------------


def test_events_come_by_the_reader_alone_while_the_broker_is_there(server: Redis, make_lane: MakeLane) -> None:
    ears = Ears()
    lane = make_lane(server.url, sink=ears)
    send(lane, range(3))
    assert ears.told == []
    Reader(server, lane).read()
    assert ears.told == [("entry", 0, False), ("entry", 1, False), ("entry", 2, False)]


def test_an_outage_is_heard_in_order_and_nothing_twice(server: Redis, make_lane: MakeLane) -> None:
    ears = Ears()
    lane, other = make_lane(server.url, sink=ears), make_lane(server.url)
    reader = Reader(server, lane)
    send(lane, range(2))
    reader.read()
    # Stored and not read back when the broker goes.
    send(lane, range(2, 4))
    publish(other, 100)
    server.pause()
    take_away(lane, 4)
    publish(lane, 5)
    assert ears.told[2:] == ["cut off", ("local", 2), ("local", 3), ("local", 4), ("local", 5)]
    server.resume()
    back(lane)
    assert lane.target() == 7
    del ears.told[:]
    reader.read()
    assert ears.told == [
        ("entry", 2, True),
        ("entry", 3, True),
        ("entry", 100, False),
        ("entry", 4, True),
        ("entry", 5, True),
        "broker_restored",
    ]
    assert lane.target() is None
    publish(lane, 6)
    reader.read()
    assert ears.told[-1] == ("entry", 6, False)


def test_a_reader_that_is_ahead_of_the_answer_is_believed(server: Redis, proxy: Proxy, make_lane: MakeLane) -> None:
    ears = Ears()
    # The reader must be through before the breaker opens.
    lane = make_lane(server.url_of(proxy.port), sink=ears, timeout=3.0)
    reader = Reader(server, lane)
    publish(lane, 0)
    proxy.answers = lambda answer: b""
    publish(lane, 1, 0.0)
    wait_for(lambda: stored(server) == [0, 1], "the event to arrive")
    reader.read()
    wait_for(lambda: lane.stats()["away"], "the breaker to open")
    assert ears.told == [("entry", 0, False), ("entry", 1, False), "cut off"]
    publish(lane, 2)
    proxy.answers = bytes
    back(lane)
    reader.read()
    assert ears.told[3:] == [("local", 2), ("entry", 2, True), "broker_restored"]


def test_a_reader_that_lost_its_connection_makes_an_outage_until_it_reads_again(server: Redis, make_lane: MakeLane) -> None:
    ears = Ears()
    lane = make_lane(server.url, sink=ears)
    reader = Reader(server, lane)
    send(lane, range(2))
    lane.go_away("Reading events failed")
    lane.go_away("Reading events failed")
    assert ears.told == ["cut off", ("local", 0), ("local", 1)]
    # The lane can store; publishers are not told to wait for what their own clients hear at once.
    assert publish(lane, 2).status == "spooled"
    wait_for(lambda: stored(server) == [0, 1, 2], "the event to be stored")
    assert lane.stats()["away"]
    reader.read()
    back(lane)
    reader.read()
    assert ears.told[3:] == [("local", 2), ("entry", 0, True), ("entry", 1, True), ("entry", 2, True), "broker_restored"]


def test_two_outages_in_a_row_cut_clients_off_once(server: Redis, make_lane: MakeLane) -> None:
    ears = Ears()
    lane = make_lane(server.url, sink=ears)
    reader = Reader(server, lane)
    server.pause()
    take_away(lane, 0)
    server.resume()
    back(lane)
    publish(lane, 1)
    server.pause()
    take_away(lane, 2)
    server.resume()
    back(lane)
    reader.read()
    assert ears.told == [
        "cut off",
        ("local", 0),
        ("local", 1),
        ("local", 2),
        ("entry", 0, True),
        ("entry", 1, True),
        ("entry", 2, True),
        "broker_restored",
    ]


def test_a_new_past_is_not_waited_for(server: Redis, make_lane: MakeLane) -> None:
    ears = Ears()
    lane = make_lane(server.url, size=5, sink=ears)
    send(lane, range(5))
    lane.new_epoch(Snapshot("f" * 8, 5))
    # There is room again, and what was lost is not put to local clients later.
    assert publish(lane, 5).status == "stored"
    lane.go_away("Reading events failed")
    assert ears.told == [("start over", 5), "cut off", ("local", 5)]
    assert lane.seen() == 6


def test_a_rejoin_does_not_wait_for_numbers_that_were_lost(server: Redis, make_lane: MakeLane) -> None:
    ears = Ears()
    lane = make_lane(server.url, sink=ears)
    server.pause()
    take_away(lane, 0)
    server.resume()
    back(lane)
    assert lane.target() == 1
    lane.new_epoch(Snapshot("f" * 8, 0))
    lane.deliver([], 0)
    assert ears.told[-1] == "broker_restored"


# The end ----------------------------------------------------------------------------------------------------------


def test_a_stop_stores_what_waits(server: Redis, make_lane: MakeLane) -> None:
    lane = make_lane(server.url)
    server.pause()
    take_away(lane, 0)
    send(lane, range(1, 200))
    server.resume()
    assert lane.stop(10.0) == 0
    assert stored(server) == list(range(200))
    outcome = publish(lane, 200)
    assert outcome.status is None
    assert "shut" in (outcome.reason or "")


def test_a_stop_ends_in_time_and_says_what_is_lost(
    server: Redis, make_lane: MakeLane, caplog: pytest.LogCaptureFixture
) -> None:
    lane = make_lane(server.url)
    publish(lane, 0)
    server.pause()
    take_away(lane, 1)
    publish(lane, 2)
    start = time.monotonic()
    assert lane.stop(0.3) == 2
    assert time.monotonic() - start < 0.3 + GRACE
    assert "2 events that waited for the broker are lost" in caplog.text
    assert lane.stop(0.3) == 2
    assert caplog.text.count("are lost") == 1


def test_a_stop_lets_those_who_wait_go(server: Redis, make_lane: MakeLane) -> None:
    lane = make_lane(server.url, timeout=30.0)
    server.pause()
    outcomes: list[BackplaneResult] = []
    waiting = threading.Thread(target=lambda: outcomes.append(publish(lane, 0, 30.0)))
    waiting.start()
    wait_for(lambda: lane.stats()["spooled"], "the event to be taken")
    lane.stop(0.1)
    waiting.join(5)
    assert outcomes == [BackplaneResult("spooled")]
    server.resume()


def test_no_password_is_logged(make_redis: Callable[..., Redis], make_lane: MakeLane, caplog: pytest.LogCaptureFixture) -> None:
    server = make_redis(requirepass="right")
    caplog.set_level(logging.DEBUG)
    lane = make_lane(f"redis://:hunter2@{HOST}:{server.port}")
    take_away(lane, 0)
    wait_for(lambda: "Check the user and the password" in caplog.text, "the outage to be said")
    assert "hunter2" not in caplog.text
    assert "hunter2" not in repr(vars(lane))
