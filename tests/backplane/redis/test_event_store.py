"""The scripts: numbers, epochs, and how a loss at the broker is detected; against a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise

import pytest

from cartows.backplane.base import OutgoingEvent
from cartows.backplane.redis import event_store
from cartows.backplane.redis.connect import BrokerError
from cartows.backplane.redis.event_store import KEPT, Store, Stored, record_of
from cartows.rooms import EVERYONE, Audience
from tests.support.redis.events import NAMES, event, numbers_of, stored, stream, wire_id
from tests.support.redis.server import Redis

A, B = "a" * 16, "b" * 16


@pytest.fixture
def store(server: Redis, make_store: Callable[..., Store]) -> Store:
    return make_store(server.url)


def batch(first: int, size: int = 1) -> list[OutgoingEvent]:
    return [event(number) for number in range(first, first + size)]


# Storing ----------------------------------------------------------------------------------------------------------


def test_the_first_event_begins_an_epoch_and_numbers_grow_by_one_over_all_origins(server: Redis, store: Store) -> None:
    epoch, number, size, _ = store.store(A, 1, batch(10, 3), 0)
    assert (len(epoch), number, size) == (8, 1, 3)
    assert store.store(B, 1, batch(20), 0)[:3] == (epoch, 4, 1)
    assert store.store(A, 4, batch(13), 0)[:3] == (epoch, 5, 1)
    assert [(each.number, each.epoch, each.origin, each.seq) for each in stream(server)] == [
        (1, epoch, A, 1),
        (2, epoch, A, 2),
        (3, epoch, A, 3),
        (4, epoch, B, 1),
        (5, epoch, A, 4),
    ]
    assert store.position() == (epoch, 5)


@pytest.mark.parametrize(
    "given",
    [
        OutgoingEvent("a", b"{}", EVERYONE),
        OutgoingEvent("b.updated", b'{"data":1}', Audience((("board_id", "b1"), ("k", "ü \ud800"))), ("task", "t1"), True),
        OutgoingEvent("ü", b"{" + bytes(range(256)) + b"}", Audience((), unfiltered=False)),
    ],
)
def test_an_event_is_read_as_it_was_stored(server: Redis, store: Store, given: OutgoingEvent) -> None:
    store.store(A, 1, [given], 0)
    assert [record.event for record in stream(server)] == [given]


def test_what_cartows_did_not_write_is_rejected() -> None:
    with pytest.raises(ValueError, match="not the id of an event"):
        record_of(b"5-1", {})
    with pytest.raises(KeyError):
        record_of(b"5-0", {b"field": b"value"})


WRITTEN = {b"e": b"x", b"o": b"x", b"s": b"1", b"p": b"", b"t": b"a", b"b": b"{}", b"m": b"", b"k": b""}
AUDIENCE = b'{"r":[["board_id","b1"]],"u":true,"e":false}'


@pytest.mark.parametrize(
    "changed",
    [
        # Keys of dicts later on: what has no hash, or one that can be chosen, must not come this far.
        {b"a": b'{"r":[["board_id",[]]],"u":true,"e":false}'},
        {b"a": b'{"r":[["board_id",2305843009213693951],["board_id",4611686018427387902]],"u":true,"e":false}'},
        {b"a": b'{"r":[[{},"b1"]],"u":true,"e":false}'},
        {b"a": b'{"r":[["a","b","c"]],"u":true,"e":false}'},
        {b"a": b'{"r":{"a":"b"},"u":true,"e":false}'},
        {b"a": b'{"r":[],"u":[],"e":false}'},
        {b"a": b'{"r":[],"u":true,"e":1}'},
        {b"a": b'{"r":[],"u":true}'},
        {b"a": b"[]"},
        {b"m": b'["task",[]]'},
        {b"m": b'["task",7]'},
        {b"m": b'{"task":1}'},
        {b"m": b'"ab"'},
    ],
    ids=str,
)
def test_an_entry_with_a_room_or_an_entity_that_is_not_made_of_strings_is_rejected(changed: dict[bytes, bytes]) -> None:
    assert record_of(b"5-0", {**WRITTEN, b"a": AUDIENCE}).event.audience.rooms == (("board_id", "b1"),)
    with pytest.raises((ValueError, TypeError)):
        record_of(b"5-0", {**WRITTEN, b"a": AUDIENCE, **changed})


def test_the_cache_of_audiences_holds_none_that_is_large() -> None:
    before = event_store._audience.cache_info().currsize
    rooms = [["board_id", f"b{number}"] for number in range(1000)]
    for number in range(3):
        text = json.dumps({"r": [*rooms, ["board_id", f"last {number}"]], "u": True, "e": False}).encode()
        assert len(record_of(b"5-0", {**WRITTEN, b"a": text}).event.audience.rooms) == 1001
    assert event_store._audience.cache_info().currsize == before


def test_a_batch_is_stored_once_however_often_it_is_sent(server: Redis, store: Store) -> None:
    first = store.store(A, 1, batch(1, 3), 0)
    store.store(B, 1, batch(90), 0)
    assert store.store(A, 1, batch(1, 3), 4) == first
    assert store.store(A, 2, batch(2, 2), 4)[:3] == (first.epoch, 2, 2)
    assert stored(server) == [1, 2, 3, 90]


def test_of_a_batch_that_has_grown_since_the_rest_is_still_to_be_stored(server: Redis, store: Store) -> None:
    store.store(A, 1, batch(1, 2), 0)
    assert store.store(A, 1, batch(1, 3), 0)[1:3] == (1, 2)
    assert store.store(A, 3, batch(3), 0)[1:3] == (3, 1)
    assert stored(server) == [1, 2, 3]


def test_a_batch_that_arrives_after_a_later_one_is_not_stored_again(server: Redis, store: Store) -> None:
    store.store(A, 1, batch(1, 2), 0)
    store.store(A, 3, batch(3), 0)
    with pytest.raises(BrokerError, match="CARTOWSOLD"):
        store.store(A, 1, batch(1, 2), 0)
    assert stored(server) == [1, 2, 3]


def test_a_batch_that_is_sent_again_in_another_epoch_keeps_its_first_number(server: Redis, store: Store) -> None:
    epoch, *_ = first = store.store(A, 1, batch(1, 2), 0)
    lost = store.check(epoch, 50)
    assert lost.state == "lost"
    assert store.store(A, 1, batch(1, 2), 50) == first
    assert store.store(A, 3, batch(3), 50)[:3] == (lost.epoch, 51, 1)


def test_the_stream_is_trimmed_and_the_numbers_go_on(server: Redis, store: Store) -> None:
    fill = "for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], i .. '-0', 'e', 'x') end"
    server.do("EVAL", fill, 1, NAMES.events, KEPT + 500)
    number = store.store(A, 1, batch(1, 100), 0).number
    assert number == KEPT + 501
    assert KEPT <= server.do("XLEN", NAMES.events) < KEPT + 200
    assert server.do("TTL", NAMES.origin(A)) > 3600


def test_scripts_are_sent_again_to_a_server_that_has_forgotten_them(server: Redis, store: Store) -> None:
    epoch, *_ = store.store(A, 1, batch(1), 0)
    server.do("SCRIPT", "FLUSH")
    assert store.store(A, 2, batch(2), 1)[:3] == (epoch, 2, 1)
    assert store.check(epoch, 2, stream(server)[1])[:3] == ("fine", epoch, 2)


# A broker that has lost something ---------------------------------------------------------------------------------


def test_after_a_flush_numbers_go_on_above_what_the_publisher_has_seen_in_a_new_epoch(server: Redis, store: Store) -> None:
    epoch, *_ = store.store(A, 1, batch(1, 5), 0)
    server.flush()
    other, number, *_ = store.store(A, 6, batch(6), 5)
    assert other != epoch
    assert number == 6


def test_a_publisher_that_has_seen_more_than_the_broker_begins_another_epoch(server: Redis, store: Store) -> None:
    epoch, *_ = store.store(A, 1, batch(1, 5), 0)
    assert store.store(B, 1, batch(9), 5)[:3] == (epoch, 6, 1)
    other, number, *_ = store.store(B, 2, batch(10), 9)
    assert (other != epoch, number) == (True, 10)


def test_a_lost_hash_begins_an_epoch_above_the_stream(server: Redis, store: Store) -> None:
    epoch, *_ = store.store(A, 1, batch(1, 5), 0)
    server.do("DEL", NAMES.meta)
    other, number, *_ = store.store(B, 1, batch(6), 0)
    assert (other != epoch, number) == (True, 6)
    assert store.store(B, 2, batch(7), 0)[:3] == (other, 7, 1)
    assert stored(server) == [1, 2, 3, 4, 5, 6, 7]


def test_a_lost_hash_is_noticed_even_when_the_stream_is_empty(server: Redis, store: Store) -> None:
    store.store(A, 1, batch(1, 5), 0)
    server.do("DEL", NAMES.meta)
    server.do("XTRIM", NAMES.events, "MAXLEN", 0)
    assert store.store(B, 1, batch(6), 0).number == 6
    server.do("DEL", NAMES.meta)
    server.do("XTRIM", NAMES.events, "MAXLEN", 0)
    assert store.check("", 0)[:3:2] == ("changed", 6)


def test_a_lost_stream_lets_the_numbers_go_on(server: Redis, store: Store) -> None:
    epoch, *_ = store.store(A, 1, batch(1, 5), 0)
    server.do("DEL", NAMES.events)
    assert store.store(A, 6, batch(6), 5)[:3] == (epoch, 6, 1)


def test_another_layout_is_not_changed(server: Redis, store: Store) -> None:
    server.do("HSET", NAMES.meta, "version", "2", "epoch", "e", "number", "7")
    for attempt in (lambda: store.store(A, 1, batch(1), 0), lambda: store.check("", 0)):
        with pytest.raises(BrokerError, match=r"version 2 of its layout, not 1.*Another version of cartows"):
            attempt()
    assert server.do("DBSIZE") == 1


def test_a_key_of_another_application_is_not_changed(server: Redis, store: Store) -> None:
    server.do("SET", NAMES.events, "mine")
    with pytest.raises(BrokerError, match="Another application uses a key that begins with cartows"):
        store.store(A, 1, batch(1), 0)
    assert server.do("DBSIZE") == 1


def test_a_full_server_stores_nothing_of_a_batch(server: Redis, store: Store) -> None:
    epoch, *_ = store.store(A, 1, batch(1), 0)
    server.config("maxmemory", "100kb")
    with pytest.raises(BrokerError, match="It is full"):
        store.store(A, 2, batch(2, 3), 1)
    assert stored(server) == [1]
    server.config("maxmemory", "0")
    assert store.store(A, 2, batch(2, 3), 1)[:3] == (epoch, 2, 3)


# Checking ---------------------------------------------------------------------------------------------------------


def test_checking_an_empty_server_begins_the_first_epoch(store: Store) -> None:
    state, epoch, number, _ = store.check("", 0)
    assert (state, len(epoch), number) == ("changed", 8, 0)
    assert store.check("", 0)[:3] == ("changed", epoch, 0)
    assert store.check(epoch, 0)[:3] == ("fine", epoch, 0)
    assert store.store(A, 1, batch(1), 0) == Stored(epoch, 1, 1)


def test_a_position_that_the_stream_still_has_is_fine(server: Redis, store: Store) -> None:
    epoch, *_ = store.store(A, 1, batch(1, 5), 0)
    records = stream(server)
    for last in (None, records[2], records[4]):
        assert store.check(epoch, 3, last)[:3] == ("fine", epoch, 5)
    server.do("XTRIM", NAMES.events, "MAXLEN", 1)
    assert store.check(epoch, 3, records[2])[:3] == ("fine", epoch, 5)


def test_of_all_processes_that_detect_a_loss_one_begins_the_epoch(server: Redis, store: Store) -> None:
    epoch, *_ = store.store(A, 1, batch(1, 5), 0)
    records = stream(server)
    server.flush()
    lost = store.check(epoch, 5, records[4])
    assert (lost.state, lost.number) == ("lost", 5)
    assert lost.epoch != epoch
    assert store.check(epoch, 4, records[3])[:3] == ("changed", lost.epoch, 5)
    assert store.store(B, 1, batch(6), 0)[:3] == (lost.epoch, 6, 1)


def test_an_epoch_that_begins_below_what_was_seen_does_not_last(server: Redis, store: Store) -> None:
    epoch, *_ = store.store(A, 1, batch(1, 5), 0)
    records = stream(server)
    server.flush()
    low = store.store(B, 1, batch(6), 0)
    assert low.number == 1
    lost = store.check(epoch, 5, records[4])
    assert (lost.state, lost.number) == ("lost", 5)
    assert lost.epoch not in (epoch, low.epoch)
    assert numbers_of([record.event for record in stream(server)]) == [6]


def test_another_event_under_the_number_that_was_read_is_a_loss(server: Redis, store: Store) -> None:
    epoch, *_ = store.store(A, 1, batch(1, 5), 0)
    # As if the last two had been stored at a server that has since been replaced by one that had not received them.
    assert store.check(epoch, 4, stream(server)[3]._replace(origin=B, seq=1)).state == "lost"
    (now, number) = store.position()
    assert (now != epoch, number) == (True, 5)


def test_a_replica_that_has_not_received_everything_takes_over(
    make_redis: Callable[..., Redis], make_store: Callable[..., Store]
) -> None:
    primary, replica = make_redis(), make_redis()
    before = make_store(primary.url)
    epoch, *_ = before.store(A, 1, batch(1, 3), 0)
    replica.replicate(primary)
    replica.pause()
    before.store(A, 4, batch(4, 2), 3)
    last = stream(primary)[4]
    primary.kill()
    replica.resume()
    replica.promote()
    # What the primary sent before it was killed may still reach the replica, which would then have lost nothing.
    if replica.do("HGET", NAMES.meta, "number") == b"5":
        for number in (4, 5):
            replica.do("XDEL", NAMES.events, f"{number}-0")
        replica.do("HSET", NAMES.meta, "number", "3")
        replica.do("DEL", NAMES.origin(A))
    after = make_store(replica.url)
    assert after.check(epoch, 5, last).state == "lost"
    assert after.store(B, 1, batch(6), 0).number == 6


# Chains -----------------------------------------------------------------------------------------------------------


def test_the_ids_of_a_batch_are_those_of_its_entries_also_when_it_is_sent_again(server: Redis, store: Store) -> None:
    store.store(B, 1, batch(90), 0)
    found = store.store(A, 1, batch(1, 3), 0)
    ids = [wire_id(record) for record in stream(server)]
    assert list(found.ids(A, 1)) == ids[1:]
    assert len(set(ids)) == 4
    store.store(B, 2, batch(91), 0)
    for first in (1, 2, 3):
        again = store.store(A, first, batch(first, 4 - first), 4)
        assert list(again.ids(A, first)) == ids[first:]


def test_the_same_event_under_the_same_number_behind_another_one_has_another_mark(
    make_redis: Callable[..., Redis], make_store: Callable[..., Store]
) -> None:
    """Two servers of one epoch that were separated; a publisher that stored at one has stored again at the other."""
    primary, replica = make_redis(), make_redis()
    before = make_store(primary.url)
    epoch, *_ = before.store(A, 1, batch(1, 2), 0)
    replica.replicate(primary)
    replica.promote()
    after = make_store(replica.url)
    for store, origin in ((before, "c" * 16), (after, "d" * 16)):
        assert store.store(origin, 1, batch(3), 2)[:3] == (epoch, 3, 1)
        assert store.store(A, 3, batch(4, 2), 2)[:3] == (epoch, 4, 2)
    here, there = stream(primary), stream(replica)
    assert [wire_id(record) for record in here[:2]] == [wire_id(record) for record in there[:2]]
    assert (here[4].origin, here[4].seq, here[4].previous) == (there[4].origin, there[4].seq, there[4].previous)
    for one, other in zip(here[2:], there[2:], strict=True):
        assert wire_id(one) != wire_id(other)
    assert not there[4].follows(here[3], here[3].chain)
    assert after.check(epoch, 5, here[4]).state == "lost"


def test_a_stream_of_an_earlier_version_goes_on(server: Redis, store: Store) -> None:
    epoch, *_ = store.store(A, 1, batch(1, 2), 0)
    # The same without chains.
    with server.client() as client:
        entries = client.xrange(NAMES.events)
        client.delete(NAMES.events)
        for id, fields in entries:
            client.xadd(NAMES.events, {name: value for name, value in fields.items() if name != b"c"}, id=id)
        client.hdel(NAMES.meta, "chained", "chain")
        client.hdel(NAMES.origin(A), "chain")
    assert store.store(A, 3, batch(3, 2), 2)[:3] == (epoch, 3, 2)
    records = stream(server)
    assert [record.number for record in records] == [1, 2, 3, 4]
    assert len({wire_id(record) for record in records}) == 4
    for last, record in pairwise(records):
        assert record.follows(last, last.chain)
        assert store.check(epoch, 4, record)[:3] == ("fine", epoch, 4)
    # While both run, an earlier version adds its entries without a chain.
    with server.client() as client:
        client.xadd(NAMES.events, {**entries[0][1], "s": "9", "p": f"{A}:4"}, id="5-0")
        client.hset(NAMES.meta, mapping={"number": "5", "last": f"{A}:9"})
    store.store(B, 1, batch(6), 5)
    records = stream(server)
    assert records[5].follows(records[4], records[4].chain)


# What something else writes -----------------------------------------------------------------------------------------

LAST = 2**64 - 1


@pytest.mark.parametrize("id", [f"{LAST}-{LAST}", f"{LAST}-0", f"{2**53 + 1}-0", f"{2**52 - 5}-3"])
def test_an_id_at_the_end_of_the_range_costs_an_epoch_and_no_outage(server: Redis, store: Store, id: str) -> None:
    epoch, *_ = store.store(A, 1, batch(1, 5), 0)
    server.do("XADD", NAMES.events, id, "planted", "1")
    other, number, *_ = store.store(A, 6, batch(6), 5)
    assert (other != epoch, number) == (True, 6)
    assert store.store(B, 1, batch(7), 6)[:3] == (other, 7, 1)
    assert stored(server) == [6, 7]
    # And where the hash was lost with it.
    server.do("XADD", NAMES.events, id, "planted", "1")
    server.do("DEL", NAMES.meta)
    assert store.check("", 7)[:3:2] == ("changed", 7)
    assert store.store(B, 2, batch(8), 7).number == 8


@pytest.mark.parametrize(
    ("name", "value"),
    [("number", "abc"), ("number", "-1"), ("number", "1.5"), ("number", str(LAST)), ("number", "nan"), ("epoch", "\xff.~")],
)
def test_a_hash_that_something_else_has_changed_is_a_loss(server: Redis, store: Store, name: str, value: str) -> None:
    epoch, *_ = store.store(A, 1, batch(1, 5), 0)
    last = stream(server)[4]
    server.do("HSET", NAMES.meta, name, value)
    found = store.check(epoch, 5, last)
    assert (found.state, found.number) == ("lost", 5)
    server.do("HSET", NAMES.meta, name, value)
    assert store.store(A, 6, batch(6), 5).number == 6
