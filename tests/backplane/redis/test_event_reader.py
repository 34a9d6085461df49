"""What a reader does where the stream has what it should not have, or has lost what it had."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from cartows.backplane.base import OutgoingEvent
from cartows.backplane.redis.connect import Broker
from cartows.backplane.redis.event_reader import _MAX_EPOCHS, EventReader
from cartows.backplane.redis.event_store import Store
from cartows.backplane.redis.event_writer import EventWriter
from cartows.options import Options
from cartows.rooms import EVERYONE
from tests.support.redis.events import NAMES, RecordingSink, event, stream
from tests.support.redis.server import Redis
from tests.support.redis.writers import MakeWriter, publish, send
from tests.support.waiting import wait_until

B = "b" * 16


class Process:
    """A process whose reader follows the stream, and its sink."""

    def __init__(self, server: Redis, make_writer: MakeWriter) -> None:
        self.sink = RecordingSink()
        self.writer: EventWriter = make_writer(server.url, sink=self.sink, timeout=5.0)
        options = Options(redis_url=server.url)
        self.reader = EventReader(Broker(server.url), NAMES, options, self.sink, self.writer, logging.getLogger("cartows.test"))
        self.reader.prepare()
        self.reader.start()

    def await_delivered(self, *numbers: int) -> None:
        """Wait until these were the last events to come."""
        expected = list(numbers)
        wait_until(lambda: self.sink.delivered[-len(numbers) :] == expected, lambda: f"{numbers}: {self.sink.calls}")

    @property
    def reloads(self) -> int:
        return len([call for call in self.sink.calls if call[0] == "new_epoch"])


@pytest.fixture
def process(server: Redis, make_writer: MakeWriter) -> Iterator[Process]:
    process = Process(server, make_writer)
    yield process
    process.writer.stop(0)
    process.reader.stop(0)


def reads(server: Redis) -> int:
    """Return how often the stream was checked or read."""
    with server.client() as client:
        stats = client.info("commandstats")
    return sum([stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("xread", "evalsha", "xrevrange")])


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def wrong_epoch(server: Redis) -> str:
    with server.client() as client:
        id, fields = client.xrevrange(NAMES.events, count=1)[0]
        number = int(id.partition(b"-")[0])
        client.xadd(NAMES.events, {**fields, b"e": b"deadbeef"}, id=f"{number + 1}-0")
    return f"{number + 1}-0"


def copied(server: Redis) -> str:
    with server.client() as client:
        ((_, fields),) = client.xrevrange(NAMES.events, count=1)
        return str(client.xadd(NAMES.events, fields).decode())


def without_fields(server: Redis) -> str:
    return str(server.do("XADD", NAMES.events, "*", "a", "b").decode())


def in_the_next_place(server: Redis) -> str:
    return str(server.do("XADD", NAMES.events, f"{stream(server)[-1].number + 1}-0", "a", "b").decode())


def between(server: Redis) -> str:
    return str(server.do("XADD", NAMES.events, f"{stream(server)[-1].number}-7", "a", "b").decode())


def last_of_all(server: Redis) -> str:
    return str(server.do("XADD", NAMES.events, f"{2**64 - 1}-{2**64 - 1}", "a", "b").decode())


@pytest.mark.parametrize("plant", [wrong_epoch, copied, without_fields, in_the_next_place, between, last_of_all])
def test_an_entry_that_is_no_event_costs_one_line_and_one_reload_at_most(
    server: Redis, process: Process, caplog: pytest.LogCaptureFixture, plant: Callable[[Redis], str]
) -> None:
    send(process.writer, range(3))
    process.await_delivered(0, 1, 2)
    id = plant(server)
    wait_until(lambda: logged(caplog), "a line about it")
    before = reads(server)
    # While it is the last entry, the reader waits as usual: a read and a check each second.
    start = process.reader._after
    wait_until(lambda: reads(server) >= before + 4, "the reader to read on")
    assert process.reader._after == start
    assert process.reloads == 0
    (line,) = logged(caplog)
    assert id in line
    assert "database of its own" in line
    assert publish(process.writer, 3).status == "stored"
    # It may be part of the snapshot of a new epoch.
    wait_until(lambda: process.reader._number >= process.writer.seen(), "the reader to come to it")
    send(process.writer, range(4, 8))
    process.await_delivered(4, 5, 6, 7)
    assert process.reloads <= 1
    assert len(logged(caplog)) <= 2


def test_many_entries_that_are_no_events_are_skipped_in_one_line(
    server: Redis, process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    send(process.writer, range(3))
    process.await_delivered(0, 1, 2)
    with server.client() as client:
        pipeline = client.pipeline()
        for number in range(500):
            pipeline.xadd(NAMES.events, {"a": "b"}, id=f"3-{number + 1}")
        pipeline.execute()
    send(process.writer, range(3, 6))
    process.await_delivered(0, 1, 2, 3, 4, 5)
    assert process.reloads == 0
    assert len(logged(caplog)) == 1


def test_an_event_that_cannot_be_read_is_one_reload(
    server: Redis, process: Process, make_store: Callable[..., Store], caplog: pytest.LogCaptureFixture
) -> None:
    send(process.writer, range(3))
    process.await_delivered(0, 1, 2)
    make_store(server.url).store(B, 1, [OutgoingEvent("x", b"not an object", EVERYONE)], 0)
    wait_until(lambda: process.reloads, "the reader to notice")
    send(process.writer, range(3, 6))
    process.await_delivered(3, 4, 5)
    assert process.reloads == 1
    assert len(logged(caplog)) == 1


def test_a_history_of_entries_that_cannot_be_read_is_left_behind(server: Redis, make_store: Callable[..., Store]) -> None:
    """More of them than one page has."""
    store = make_store(server.url)
    store.store(B, 1, [OutgoingEvent("x", b"not an object", EVERYONE)] * 100, 0)
    store.store(B, 101, [event(0)], 0)
    link = Broker(server.url).link(5.0)
    options, sink = Options(redis_url=server.url), RecordingSink()
    writer = EventWriter(lambda: store, 10, 1000, logging.getLogger("cartows.test"), sink)
    for _ in range(2):
        reader = EventReader(Broker(server.url), NAMES, options, sink, writer, logging.getLogger("cartows.test"))
        snapshot = reader.prepare()
        assert snapshot.number - len(snapshot.entries) in (100, 102)
        store.store(B, 102, [OutgoingEvent("x", b"not an object", EVERYONE)], 0)
    link.close()


@pytest.mark.parametrize("what", ["FLUSHALL", "the hash", "the stream and the hash"])
def test_a_redis_that_is_emptied_under_load_is_logged_in_every_process(
    server: Redis, process: Process, make_writer: MakeWriter, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    other = Process(server, make_writer)
    try:
        send(process.writer, range(3))
        process.await_delivered(0, 1, 2)
        other.await_delivered(0, 1, 2)
        # Before any reader can notice, a publisher begins the next epoch.
        with server.client() as client:
            pipeline = client.pipeline(transaction=True)
            if what == "FLUSHALL":
                pipeline.flushall()
            elif what == "the hash":
                pipeline.delete(NAMES.meta)
            else:
                pipeline.delete(NAMES.meta, NAMES.events)
            pipeline.execute()
        send(process.writer, range(3, 6))
        wait_until(lambda: process.reloads and other.reloads, "every process to notice")
        assert len([line for line in logged(caplog) if "has lost events" in line]) == process.reloads + other.reloads
    finally:
        other.writer.stop(0)
        other.reader.stop(0)


def test_many_epochs_one_after_another_wait(server: Redis, process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever makes a reader begin again and again does not do so in a storm."""
    waits: list[int] = []

    def wait() -> float:
        waits.append(process.reloads)
        return 0.0

    monkeypatch.setattr(process.reader._epoch_waits, "wait", wait)
    for number in range(_MAX_EPOCHS + 2):
        server.do("HSET", NAMES.meta, "epoch", f"{number:08x}")
        wait_until(lambda: process.reloads > number, "a new epoch")  # noqa: B023
    assert waits == [_MAX_EPOCHS, _MAX_EPOCHS + 1]


def test_killed_connections_are_no_line(
    server: Redis, process: Process, caplog: pytest.LogCaptureFixture, make_writer: MakeWriter
) -> None:
    for number in range(3):
        assert publish(process.writer, number).status == "stored"
        process.await_delivered(*range(number + 1))
        server.kill_clients()
    publish(process.writer, 3)
    process.await_delivered(0, 1, 2, 3)
    assert logged(caplog) == []
