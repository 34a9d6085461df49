"""What the clients of a process receive during an outage of the broker, before and after it."""

from __future__ import annotations

from cartows.backplane.base import Snapshot
from tests.support.redis.events import Reader, RecordingSink, stored
from tests.support.redis.server import Proxy, Redis
from tests.support.redis.writers import MakeWriter, await_recovery, publish, send, start_outage
from tests.support.waiting import wait_until


def test_events_come_from_the_reader_alone_while_the_broker_is_reachable(server: Redis, make_writer: MakeWriter) -> None:
    sink = RecordingSink()
    writer = make_writer(server.url, sink=sink)
    send(writer, range(3))
    assert sink.calls == []
    Reader(server, writer).read()
    assert sink.calls == [("entry", 0, False), ("entry", 1, False), ("entry", 2, False)]


def test_an_outage_delivers_in_order_and_nothing_twice(server: Redis, make_writer: MakeWriter) -> None:
    sink = RecordingSink()
    writer, other = make_writer(server.url, sink=sink), make_writer(server.url)
    reader = Reader(server, writer)
    send(writer, range(2))
    reader.read()
    # Stored and not read back when the broker goes.
    send(writer, range(2, 4))
    publish(other, 100)
    server.pause()
    start_outage(writer, 4)
    publish(writer, 5)
    assert sink.calls[2:] == ["broker_lost", ("local", 2), ("local", 3), ("local", 4), ("local", 5)]
    server.resume()
    await_recovery(writer)
    assert writer.target() == 7
    del sink.calls[:]
    reader.read()
    assert sink.calls == [
        ("entry", 2, True),
        ("entry", 3, True),
        ("entry", 100, False),
        ("entry", 4, True),
        ("entry", 5, True),
        "broker_restored",
    ]
    assert writer.target() is None
    publish(writer, 6)
    reader.read()
    assert sink.calls[-1] == ("entry", 6, False)


def test_an_event_that_was_read_before_its_answer_is_not_delivered_twice(
    server: Redis, proxy: Proxy, make_writer: MakeWriter
) -> None:
    sink = RecordingSink()
    # The reader must be through before the breaker opens.
    writer = make_writer(server.url_of(proxy.port), sink=sink, timeout=3.0)
    reader = Reader(server, writer)
    publish(writer, 0)
    proxy.answers = lambda answer: b""
    publish(writer, 1, 0.0)
    wait_until(lambda: stored(server) == [0, 1], "the event to arrive")
    reader.read()
    wait_until(lambda: writer.stats()["away"], "the breaker to open")
    assert sink.calls == [("entry", 0, False), ("entry", 1, False), "broker_lost"]
    publish(writer, 2)
    proxy.answers = bytes
    await_recovery(writer)
    reader.read()
    assert sink.calls[3:] == [("local", 2), ("entry", 2, True), "broker_restored"]


def test_a_reader_that_has_lost_its_connection_starts_an_outage_until_it_reads_again(
    server: Redis, make_writer: MakeWriter
) -> None:
    sink = RecordingSink()
    writer = make_writer(server.url, sink=sink)
    reader = Reader(server, writer)
    send(writer, range(2))
    writer.broker_lost("Reading events failed")
    writer.broker_lost("Reading events failed")
    assert sink.calls == ["broker_lost", ("local", 0), ("local", 1)]
    # The writer can store; but a publisher need not wait, since its own clients receive the event at once.
    assert publish(writer, 2).status == "spooled"
    wait_until(lambda: stored(server) == [0, 1, 2], "the event to be stored")
    assert writer.stats()["away"]
    reader.read()
    await_recovery(writer)
    reader.read()
    assert sink.calls[3:] == [("local", 2), ("entry", 0, True), ("entry", 1, True), ("entry", 2, True), "broker_restored"]


def test_two_outages_in_a_row_degrade_clients_once(server: Redis, make_writer: MakeWriter) -> None:
    sink = RecordingSink()
    writer = make_writer(server.url, sink=sink)
    reader = Reader(server, writer)
    server.pause()
    start_outage(writer, 0)
    server.resume()
    await_recovery(writer)
    publish(writer, 1)
    server.pause()
    start_outage(writer, 2)
    server.resume()
    await_recovery(writer)
    reader.read()
    assert sink.calls == [
        "broker_lost",
        ("local", 0),
        ("local", 1),
        ("local", 2),
        ("entry", 0, True),
        ("entry", 1, True),
        ("entry", 2, True),
        "broker_restored",
    ]


def test_events_before_a_new_epoch_are_not_waited_for(server: Redis, make_writer: MakeWriter) -> None:
    sink = RecordingSink()
    writer = make_writer(server.url, size=5, sink=sink)
    send(writer, range(5))
    writer.new_epoch(Snapshot("f" * 8, 5))
    # There is room again, and lost events are not put to local clients later.
    assert publish(writer, 5).status == "stored"
    writer.broker_lost("Reading events failed")
    assert sink.calls == [("new_epoch", 5), "broker_lost", ("local", 5)]
    assert writer.seen() == 6


def test_a_recovery_does_not_wait_for_numbers_that_were_lost(server: Redis, make_writer: MakeWriter) -> None:
    sink = RecordingSink()
    writer = make_writer(server.url, sink=sink)
    server.pause()
    start_outage(writer, 0)
    server.resume()
    await_recovery(writer)
    assert writer.target() == 1
    writer.new_epoch(Snapshot("f" * 8, 0))
    writer.deliver([], 0)
    assert sink.calls[-1] == "broker_restored"
