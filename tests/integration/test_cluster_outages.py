"""Many workers on one Redis: an outage delays no publisher, loses nothing, and clients are notified."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.cluster import (
    PUBLISH_TIMEOUT,
    Cluster,
    check_order,
    events,
    events_of,
    ids,
    label,
    labels,
    read_until_labels,
)
from tests.support.event_helpers import check_not_recovered, since
from tests.support.harness import epoch_and_number
from tests.support.redis.server import Proxy, Redis

META = "cartows:{0}:meta"

# Outages --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def paused(redis: Redis) -> Iterator[None]:
    redis.pause()
    try:
        yield
    finally:
        redis.resume()


@contextlib.contextmanager
def paused_clients(redis: Redis) -> Iterator[None]:
    redis.do("CLIENT", "PAUSE", 60_000, "ALL")
    try:
        yield
    finally:
        # A command to end the pause would wait as well.
        redis.restart()


@contextlib.contextmanager
def killed(redis: Redis) -> Iterator[None]:
    redis.kill()
    try:
        yield
    finally:
        redis.start()


@contextlib.contextmanager
def out_of_memory(redis: Redis) -> Iterator[None]:
    redis.config("maxmemory", "1mb")
    try:
        yield
    finally:
        redis.config("maxmemory", "0")


@contextlib.contextmanager
def refused(redis: Redis) -> Iterator[None]:
    """Pretend that a newer version of the library writes there: Redis answers, but cannot be used."""
    redis.do("HSET", META, "version", "2")
    before, began = commands(redis), time.monotonic()
    try:
        yield
        tried, took = commands(redis) - before, time.monotonic() - began
    finally:
        redis.do("HSET", META, "version", "1")
    # Workers retry with pauses; only the first tries, of several threads, are at once.
    assert tried < 150 + 300 * took, (tried, took)


def commands(redis: Redis) -> int:
    """Return how many commands a server has carried out."""
    return int(redis.do("INFO", "stats")["total_commands_processed"])


@contextlib.contextmanager
def dropped_packets(proxy: Proxy) -> Iterator[None]:
    proxy.open.clear()
    try:
        yield
    finally:
        proxy.open.set()
        # The dropped bytes are missing from the streams for good.
        proxy.cut()


def check_outage(cluster: Cluster, outage: contextlib.AbstractContextManager[None]) -> None:
    """Check every guarantee for an outage, from before it until after it."""
    pids = cluster.pids()
    peers = {pid: [cluster.connect(at=pid), cluster.connect("/ws?board_id=b1", at=pid)] for pid in pids}
    all_peers = [peer for both in peers.values() for peer in both]
    gone = cluster.connect(at=pids[0])
    first = cluster.publish(2, board_id="b1")
    received = {id(peer): read_until_labels(peer, first[-1]) for peer in all_peers}
    before = read_until_labels(gone, first[-1])[-1]["id"]
    gone.close()
    local: dict[int, list[str]] = {}
    with outage:
        with ThreadPoolExecutor(len(pids)) as publishers:
            results = list(publishers.map(lambda pid: cluster.publish_with_results(6, at=pid, board_id="b1"), pids))
        for pid, (names, outcomes) in zip(pids, results, strict=True):
            local[pid] = names
            assert [(each["status"], each["id"]) for each in outcomes] == [("spooled", None)] * 6
            # The circuit breaker spares all publishers but those that waited when it opened.
            assert sum(each["took"] > PUBLISH_TIMEOUT / 2 for each in outcomes) <= 1, outcomes
        for pid in pids:
            for peer in peers[pid]:
                received[id(peer)] += (meanwhile := read_until_labels(peer, "degraded", *local[pid]))
                assert labels(meanwhile) == ["degraded", *local[pid]]
                assert not [message for message in meanwhile[1:] if "id" in message]
        # A client that drops meanwhile has to reload, whichever worker it returns to.
        during = received[id(all_peers[0])][-7]["id"]
        late = []
        for number, pid in enumerate(pids):
            late.append(cluster.connect(since(before if number else during), at=pid))
            check_not_recovered(late[-1].hello)
            assert late[-1].receive()["type"] == "degraded"
        fresh = cluster.connect(at=pids[0])
        assert fresh.receive()["type"] == "degraded"
        late.append(fresh)
        here = cluster.publish(1, at=pids[0], board_id="b1")
        assert labels(read_until_labels(fresh, here[0])) == here
        local[pids[0]] += here
    cluster.await_connected()
    for peer in all_peers:
        received[id(peer)] += read_until_labels(peer, "restored")
    for peer in late:
        missed = read_until_labels(peer, "restored")
        assert missed[-1]["data"] == {"recovered": True}
    after = [name for pid in pids for name in cluster.publish(2, at=pid, board_id="b1")]
    spooled = [name for names in local.values() for name in names]
    for pid in pids:
        for peer in peers[pid]:
            received[id(peer)] += read_until_labels(peer, after[-1])
            check_received(received[id(peer)], first, spooled, after)
    for peer in late:
        rest = labels(read_until_labels(peer, after[-1]))
        assert rest[-len(after) :] == after
        assert len(set(rest)) == len(rest)
        check_order(rest)
    # A client that was away all the time gets a replay from any worker; one that left meanwhile does not.
    for pid in pids:
        back = cluster.connect(since(before), at=pid)
        assert back.hello["data"]["recovered"] is True
        replayed = read_until_labels(back, after[-1])
        assert sorted(labels(replayed)) == sorted(spooled + after)
        assert labels(replayed)[-len(after) :] == after
        check_order(labels(replayed))
        assert ids(replayed) == list(range(ids(replayed)[0], ids(replayed)[0] + len(replayed)))
    check_not_recovered(cluster.connect(since(during)).hello)


def check_received(messages: list[dict[str, Any]], first: list[str], spooled: list[str], after: list[str]) -> None:
    """Check what a connected client received: every event once, in order per publisher, with ids outside of the outage."""
    names = labels(messages)
    notices = [place for place, name in enumerate(names) if name in ("degraded", "restored")]
    assert [names[place] for place in notices] == ["degraded", "restored"]
    begun, over = notices
    assert names[:begun] == first
    assert sorted(events_of(names)) == sorted(first + spooled + after)
    assert names[-len(after) :] == after
    check_order(names)
    assert not [message for message in messages[begun + 1 : over] if "id" in message]
    with_ids = [message for message in messages[over + 1 :] if "id" in message]
    assert len(with_ids) == len(messages) - over - 1
    assert messages[over]["data"] == {"recovered": True}
    numbers = ids(with_ids)
    assert numbers == sorted(set(numbers))
    assert "~" in messages[begun]["id"] and "." in messages[over]["id"]
    assert epoch_and_number(messages[over]["id"])[1] < numbers[0]


@pytest.mark.parametrize("outage", [paused, paused_clients, killed, out_of_memory, refused], ids=lambda outage: outage.__name__)
def test_an_outage_delays_no_publisher_and_loses_nothing(
    cluster: Cluster, redis: Redis, outage: Callable[[Redis], contextlib.AbstractContextManager[None]]
) -> None:
    check_outage(cluster, outage(redis))


def test_a_network_that_drops_packets_delays_no_publisher_and_loses_nothing(
    make_redis: Callable[..., Redis], make_cluster: Callable[..., Cluster]
) -> None:
    redis = make_redis()
    proxy = Proxy(redis.port)
    try:
        cluster = make_cluster(redis.url_of(proxy.port))
        check_outage(cluster, dropped_packets(proxy))
        # Twice: the state after one outage must not break the next.
        check_outage(cluster, dropped_packets(proxy))
        cluster.server.stop()
    finally:
        proxy.close()


def test_clients_are_notified_of_an_outage_without_any_publication(cluster: Cluster, redis: Redis) -> None:
    peers = [cluster.connect(at=pid) for pid in cluster.pids()]
    for outage in (refused, killed, paused):
        with outage(redis):
            received = [peer.receive() for peer in peers]
            assert labels(received) == ["degraded"] * len(peers)
        for peer in peers:
            assert labels(read_until_labels(peer, "restored")) == ["restored"]
    cluster.await_connected()
    assert cluster.received(*peers) == [[], [], []]


def test_events_beyond_the_spool_size_are_refused_and_not_delivered(
    make_redis: Callable[..., Redis], make_cluster: Callable[..., Cluster]
) -> None:
    redis = make_redis(persistent=True)
    cluster = make_cluster(redis.url, CARTOWS_SPOOL_SIZE=5)
    here, there, _ = cluster.pids()
    peer, other = cluster.connect(at=here), cluster.connect(at=there)
    with killed(redis):
        names, results = cluster.publish_with_results(9, at=here)
        assert [each["status"] for each in results] == ["spooled"] * 5 + [None] * 4
        assert all("CARTOWS_SPOOL_SIZE=5" in each["reason"] for each in results[5:])
    received = [read_until_labels(each, "restored") for each in (peer, other)]
    cluster.await_connected()
    (fence,) = cluster.publish(at=there)
    received = [messages + read_until_labels(each, fence) for messages, each in zip(received, (peer, other), strict=True)]
    assert [events_of(labels(messages)) for messages in received] == [[*names[:5], fence]] * 2
    log = [line for line in cluster.server.app_log() if line.startswith("WARNING")]
    assert len([line for line in log if "CARTOWS_SPOOL_SIZE=5" in line]) == 1, log
    assert len([line for line in log if "5 events that had waited here were stored, 4 were rejected" in line]) == 1, log


def test_the_first_events_of_a_worker_are_not_delivered_again_in_an_outage(
    make_redis: Callable[..., Redis], make_cluster: Callable[..., Cluster]
) -> None:
    """The first request of a process may be under way before its hub has started."""
    redis = make_redis()
    cluster = make_cluster(redis.url, connected=False)
    pids = cluster.pids()
    with ThreadPoolExecutor(12) as publishers:
        list(publishers.map(lambda pid: cluster.publish(5, at=pid), pids * 4))
    peers = {pid: cluster.connect(at=pid) for pid in pids}
    cluster.received(*peers.values())
    with killed(redis):
        for pid, peer in peers.items():
            names = cluster.publish(2, at=pid)
            assert labels(read_until_labels(peer, names[-1])) == ["degraded", *names]


def test_outages_that_follow_on_each_other_lose_nothing(cluster: Cluster, redis: Redis) -> None:
    """Each begins as soon as one worker announces the end of the last, while the others may not have noticed yet."""
    pids = cluster.pids()
    peers = {pid: cluster.connect(at=pid) for pid in pids}
    received: dict[int, list[Any]] = {pid: [] for pid in pids}
    sent: list[str] = []
    for round in range(4):
        with paused(redis) if round % 2 else killed(redis):
            for pid in pids:
                sent += cluster.publish(3, at=pid)
        received[pids[round % 3]] += read_until_labels(peers[pids[round % 3]], "restored")
    cluster.await_connected()
    last = cluster.publish(1)
    for pid in pids:
        received[pid] += read_until_labels(peers[pid], *last)
        names = labels(received[pid])
        assert sorted(events_of(names)) == sorted(sent + last)
        check_order(names)
        assert {message["data"]["recovered"] for message in received[pid] if message["type"] == "restored"} <= {True}


def test_killed_connections_to_redis_are_not_noticed(cluster: Cluster, redis: Redis) -> None:
    pids = cluster.pids()
    peers = [cluster.connect(at=pid) for pid in pids]
    sent = []
    for _ in range(5):
        assert redis.kill_clients() >= 3
        for pid in pids:
            names, results = cluster.publish_with_results(2, at=pid)
            assert [each["status"] for each in results] == ["stored", "stored"], results
            sent += names
    for messages in cluster.received(*peers):
        assert labels(messages) == sent


# Redis is unavailable at the start ------------------------------------------------------------------------------------


def check_without_broker(cluster: Cluster) -> dict[int, Any]:
    """Check that each worker serves its own clients; return a client of each."""
    peers = {}
    for pid in cluster.await_workers():
        peer = peers[pid] = cluster.connect(at=pid)
        names, results = cluster.publish_with_results(3, at=pid)
        assert [each["status"] for each in results] == ["spooled"] * 3
        messages = read_until_labels(peer, names[-1])
        assert events_of(labels(messages)) == names
        assert "degraded" in labels(messages)
        assert not [message for message in events(messages) if "id" in message]
    return peers


def check_with_broker(cluster: Cluster, peers: dict[int, Any]) -> None:
    """Check that the workers share their events, and that clients were notified."""
    for pid, peer in peers.items():
        assert read_until_labels(peer, "restored")[-1]["data"] == {"recovered": False}
        # A client that has a position again does not receive events without an id.
        (name,) = cluster.publish(1, at=pid)
        assert not [message for message in events(read_until_labels(peer, name)) if "id" not in message]
    cluster.await_connected()
    sent = [name for pid in peers for name in cluster.publish(2, at=pid)]
    received = [[message for message in read_until_labels(peer, sent[-1]) if label(message) in sent] for peer in peers.values()]
    assert labels(received[0]) == sent
    assert all(each == received[0] for each in received)


def test_a_redis_that_starts_later_is_used(
    tmp_path_factory: pytest.TempPathFactory, make_cluster: Callable[..., Cluster]
) -> None:
    redis = Redis(tmp_path_factory.mktemp("redis"))
    redis.kill()
    try:
        cluster = make_cluster(redis.url, connected=False)
        peers = check_without_broker(cluster)
        log = cluster.server.app_log()
        assert 3 <= len([line for line in log if "Nothing listens there" in line]) <= 6, log
        redis.start()
        check_with_broker(cluster, peers)
        cluster.server.stop()
    finally:
        redis.stop()


def test_a_wrong_password_is_logged_and_the_workers_serve_on(
    make_redis: Callable[..., Redis], make_cluster: Callable[..., Cluster]
) -> None:
    redis = make_redis(requirepass="right")
    cluster = make_cluster(redis.url.replace("right", "secretly-wrong"), connected=False)
    peers = check_without_broker(cluster)
    assert "CARTOWS_REDIS_URL" in cluster.server.log()
    assert "secretly-wrong" not in cluster.server.log()
    # An operator may fix it on the side of Redis.
    redis.config("requirepass", "secretly-wrong")
    redis.password = "secretly-wrong"
    check_with_broker(cluster, peers)
