"""Many workers on one Redis that loses events: a flush, a restart, a failover."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.cluster import (
    Cluster,
    check_order,
    events,
    events_of,
    ids,
    labels,
    read_until_labels,
)
from tests.support.event_helpers import ask, check_not_recovered, since
from tests.support.harness import epoch_and_number
from tests.support.redis.server import Proxy, Redis
from tests.support.waiting import wait_until

EVENTS = "cartows:{0}:events"

# Losses of Redis ------------------------------------------------------------------------------------------------------


def check_new_epoch(cluster: Cluster, lose: Callable[[], None]) -> None:
    """Check that after a loss all clients are told to reload, and from then on receive everything."""
    pids = cluster.pids()
    peers = [cluster.connect(at=pid) for pid in pids]
    sent = cluster.publish(3)
    received = [read_until_labels(peer, sent[-1]) for peer in peers]
    old = received[0][-1]["id"]
    lose()
    restored = []
    for peer in peers:
        messages = read_until_labels(peer, "restored")
        assert labels(messages) in (["restored"], ["degraded", "restored"])
        restored.append(messages[-1])
    for message in restored:
        assert message["data"] == {"recovered": False}
        assert message["id"].split(".")[0] != old.split(".")[0]
    cluster.await_connected()
    # Several workers may notice at once; the last epoch is the one that counts.
    after = [name for pid in pids for name in cluster.publish(2, at=pid)]
    received = [read_until_labels(peer, after[-1]) for peer in peers]
    for messages in received:
        found = [message for message in messages if message["type"] != "restored"]
        assert labels(found) == after
        assert ids(found) == list(range(ids(found)[0], ids(found)[0] + len(after)))
        assert ids(found)[0] > epoch_and_number(old)[1]
    assert len({received[place][-1]["id"] for place in range(3)}) == 1
    for pid in pids:
        check_not_recovered(cluster.connect(since(old), at=pid).hello)
        back = cluster.connect(since(events(received[0])[0]["id"]), at=pid)
        assert back.hello["data"]["recovered"] is True
        assert labels(read_until_labels(back, after[-1])) == after[1:]


def test_a_flush_makes_all_clients_reload(cluster: Cluster, redis: Redis) -> None:
    check_new_epoch(cluster, redis.flush)


def test_a_restart_that_has_lost_everything_makes_all_clients_reload(cluster: Cluster, redis: Redis) -> None:
    def lose() -> None:
        redis.flush()
        redis.restart()

    check_new_epoch(cluster, lose)


def test_events_that_are_published_into_an_emptied_redis_reach_all(cluster: Cluster, redis: Redis) -> None:
    """A publisher may come before any worker has noticed the loss; what it is told is stored is not lost."""
    pids = cluster.pids()
    peers = [cluster.connect(at=pid) for pid in pids]
    cluster.publish(5, at=pids[0])
    cluster.received(*peers)
    redis.flush()
    after = [name for _ in range(3) for pid in pids for name in cluster.publish(2, at=pid)]
    for peer in peers:
        messages = read_until_labels(peer, after[-1])
        while "restored" not in labels(messages):
            messages += read_until_labels(peer, "restored")
        last = max(place for place, name in enumerate(labels(messages)) if name == "restored")
        assert messages[last]["data"] == {"recovered": False}
        # From then on nothing may be missing; reloading covers what came before it, or with it.
        _, position = epoch_and_number(messages[last]["id"])
        rest = events(messages[last:])
        assert ids(rest) == list(range(position + 1, position + 1 + len(rest)))
    cluster.await_connected()
    (fence,) = cluster.publish()
    assert all(labels(read_until_labels(peer, fence))[-1] == fence for peer in peers)


def test_a_failover_with_a_loss_makes_all_clients_reload(
    make_redis: Callable[..., Redis], make_cluster: Callable[..., Cluster]
) -> None:
    primary, replica = make_redis(repl_diskless_sync_delay=0), make_redis()
    proxy = Proxy(primary.port)
    try:
        cluster = make_cluster(primary.url_of(proxy.port))
        cluster.publish(4)
        replica.replicate(primary)
        # From here on the replica receives nothing; REPLICAOF NO ONE keeps its data.
        replica.promote()

        def fail_over() -> None:
            primary.pause()
            proxy._target = replica.port
            proxy.cut()

        check_new_epoch(cluster, fail_over)
        primary.resume()
        cluster.server.stop()
    finally:
        proxy.close()


def test_a_failover_without_a_loss_is_an_outage_at_most(
    make_redis: Callable[..., Redis], make_cluster: Callable[..., Cluster]
) -> None:
    primary, replica = make_redis(repl_diskless_sync_delay=0), make_redis()
    proxy = Proxy(primary.port)
    try:
        cluster = make_cluster(primary.url_of(proxy.port))
        pids = cluster.pids()
        peers = [cluster.connect(at=pid) for pid in pids]
        replica.replicate(primary)
        sent = cluster.publish(4)
        wait_until(lambda: replica.do("XLEN", EVENTS) == len(sent), "the replica to have received everything")
        primary.kill()
        for pid in pids:
            sent += cluster.publish(2, at=pid)
        replica.promote()
        proxy._target = replica.port
        proxy.cut()
        received = [read_until_labels(peer, "restored") for peer in peers]
        cluster.await_connected()
        (fence,), results = cluster.publish_with_results()
        assert results[0]["status"] == "stored", cluster.server.app_log()
        for peer, messages in zip(peers, received, strict=True):
            messages += read_until_labels(peer, fence)
            assert sorted(events_of(labels(messages))) == sorted([*sent, fence])
            check_order(labels(messages))
            assert all(message["data"]["recovered"] for message in messages if message["type"] == "restored")
        cluster.server.stop()
    finally:
        proxy.close()


# Numbers that are used again ------------------------------------------------------------------------------------------


def check_no_way_back(cluster: Cluster, stranger: str, known: str, missed: list[str]) -> None:
    """Check that an event of another history is no position here, by query and by `subscribe`, and that a common one is."""
    for pid in cluster.pids():
        check_not_recovered(cluster.connect(since(stranger), at=pid).hello)
        back = cluster.connect(since(known), at=pid)
        assert back.hello["data"]["recovered"] is True
        assert labels(read_until_labels(back, missed[-1])) == missed
        peer = cluster.connect("/ws?board_id=elsewhere", at=pid)
        *_, answer = ask(peer, "subscribe", {"board_id": "b1", "since": stranger})
        assert answer["data"]["recovered"] is False, answer
        *replayed, answer = ask(peer, "subscribe", {"board_id": "b1", "since": known})
        assert answer["data"]["recovered"] is True, answer
        assert labels(replayed) == missed


def test_numbers_that_an_older_redis_uses_again_are_no_positions(
    make_redis: Callable[..., Redis], make_cluster: Callable[..., Cluster]
) -> None:
    """Redis and all workers go down together, and Redis comes back with a snapshot that lacks the last events."""
    redis = make_redis()
    cluster = make_cluster(redis.url)
    peer = cluster.connect()
    (first,) = cluster.publish(board_id="b1")
    known = read_until_labels(peer, first)[-1]["id"]
    redis.do("SAVE")
    lost, results = cluster.publish_with_results(20, board_id="b1")
    seen = read_until_labels(peer, lost[-1])[-1]["id"]
    assert seen == results[-1]["id"]
    redis.kill()
    cluster.server.kill()
    redis.start()
    cluster = make_cluster(redis.url)
    again = [name for pid in cluster.pids() for name in cluster.publish(20, at=pid, board_id="b1")]
    # What it had and what is new is in one epoch, in which the numbers of the lost events are used again.
    _, results = cluster.publish_with_results(1, board_id="b1")
    assert epoch_and_number(results[0]["id"]) > epoch_and_number(seen)
    assert epoch_and_number(results[0]["id"])[0] == epoch_and_number(seen)[0]
    cluster.received(*(cluster.connect(at=pid) for pid in cluster.pids()))
    witness = cluster.connect(since(known))
    missed = [name for name in events_of(labels(read_until_labels(witness, again[-1])))]
    # The event of this process, and the one that was waited for above.
    missed += events_of(labels([witness.receive() for _ in range(2)]))
    check_no_way_back(cluster, seen, known, missed)


def test_a_client_of_the_other_side_of_a_partition_loads_again(
    make_redis: Callable[..., Redis], make_cluster: Callable[..., Cluster]
) -> None:
    """Some workers stay at the old primary, others are at the replica that was promoted: one epoch, and two histories."""
    primary, replica = make_redis(repl_diskless_sync_delay=0), make_redis()
    one = make_cluster(primary.url)
    peer = one.connect()
    (first,) = one.publish(board_id="b1")
    known = read_until_labels(peer, first)[-1]["id"]
    replica.replicate(primary)
    replica.promote()
    other = make_cluster(replica.url)
    here = one.publish(5, board_id="b1")
    there = other.publish(9, board_id="b1")
    strangers = [message["id"] for message in read_until_labels(peer, here[-1])]
    one.server.stop()
    for stranger in strangers:
        check_no_way_back(other, stranger, known, there)
