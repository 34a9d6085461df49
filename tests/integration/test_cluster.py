"""Many workers on one Redis: what reaches whom, coming back at another worker, and what an outage may cost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.support.cluster import PUBLISH_TIMEOUT, Cluster, events, ids, label, labels, until
from tests.support.harness import ROOT
from tests.support.live import check_not_recovered, since
from tests.support.redis.server import Proxy, Redis
from tests.support.waiting import wait_until

EVENTS, META = "cartows:{0}:events", "cartows:{0}:meta"

# Everybody hears everybody -----------------------------------------------------------------------------------------


def test_an_event_of_any_worker_reaches_the_clients_of_all_with_one_id_and_in_one_order(cluster: Cluster) -> None:
    pids = cluster.pids()
    peers = [cluster.connect(at=pid) for pid in pids for _ in range(2)]
    with ThreadPoolExecutor(6) as publishers:
        published = list(publishers.map(lambda pid: cluster.publish_and_tell(20, at=pid), pids * 2))
    assert {result["status"] for _, results in published for result in results} == {"stored"}, cluster.server.app_log()
    heard = cluster.heard(*peers)
    assert all(each == heard[0] for each in heard)
    numbers = ids(heard[0])
    assert numbers == list(range(numbers[0], numbers[0] + 6 * 20))
    known = {label(message): message["id"] for message in heard[0]}
    for names, results in published:
        assert [name for name in labels(heard[0]) if name in names] == names
        assert [known[name] for name in names] == [result["id"] for result in results]


def test_filters_and_what_the_app_allows_hold_at_every_worker(cluster: Cluster) -> None:
    pids = cluster.pids()
    by_room = {
        room: [cluster.connect(f"/ws?board_id={room}&user={user}", at=pid) for pid in pids]
        for room, user in (("ann1", "ann"), ("bob1", "bob"), ("ann2", "root"))
    }
    sent = {room: [name for pid in pids for name in cluster.publish(2, at=pid, board_id=room)] for room in by_room}
    for pid in pids:
        cluster.server.call(("broadcast", ("everywhere",), {}))
        with pytest.raises(InvalidStatus, match="403"):
            cluster.connect("/ws?board_id=ann1&user=bob", at=pid)
    (fence,) = cluster.publish(1, board_id=list(by_room))
    for room, peers in by_room.items():
        for peer in peers:
            assert labels(until(peer, fence)) == [*sent[room], fence]


def test_a_process_of_its_own_publishes_to_all_workers(cluster: Cluster, redis: Redis) -> None:
    peers = [cluster.connect(at=pid) for pid in cluster.pids()]
    with publisher(redis.url) as publish:
        results = publish("outside", 5)
    assert [result["status"] for result in results] == ["stored"] * 5
    for messages in cluster.heard(*peers):
        assert [(label(message), message["id"]) for message in messages] == [
            (f"outside.{number}", result["id"]) for number, result in enumerate(results)
        ]


@contextlib.contextmanager
def publisher(url: str) -> Iterator[Callable[[str, int], list[dict[str, Any]]]]:
    """Run a process that serves nobody; what it is asked to publish it answers with what became of it."""
    command = [sys.executable, "-m", "tests.support.redis.publishing", url]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin is not None and running.stdout is not None

        def publish(by: str, count: int) -> list[dict[str, Any]]:
            print(json.dumps({"by": by, "numbers": list(range(count))}), file=running.stdin, flush=True)
            found: list[dict[str, Any]] = json.loads(running.stdout.readline())
            return found

        yield publish
        running.stdin.close()


# Coming back -------------------------------------------------------------------------------------------------------


def test_a_client_comes_back_at_another_worker(cluster: Cluster) -> None:
    here, there, third = cluster.pids()
    witness = cluster.connect(at=third)
    peer = cluster.connect(at=here)
    before = cluster.publish(3, at=here)
    seen = until(peer, before[-1])
    peer.close()
    missed = [name for pid in (third, here, there) for name in cluster.publish(4, at=pid)]
    for pid in (there, third, here):
        back = cluster.connect(since(seen[-1]["id"]), at=pid)
        assert back.hello["data"]["recovered"] is True
        assert labels(until(back, missed[-1])) == missed
    (everything,) = cluster.heard(witness)
    assert labels(everything) == before + missed


def test_a_client_comes_back_after_a_restart_of_all_workers(
    make_redis: Callable[..., Redis], make_cluster: Callable[..., Cluster]
) -> None:
    cluster = make_cluster(make_redis().url)
    names = [name for pid in cluster.pids() for name in cluster.publish(3, at=pid)]
    (last,) = cluster.publish()
    start = cluster.connect()
    id = start.hello["id"]
    epoch, _, number = id.rpartition(".")
    start.close()
    old = cluster.pids()
    cluster.server.signal(signal.SIGHUP)
    pids = cluster.await_workers(without=old)
    wait_until(lambda: not [pid for pid in old if pid in cluster.pids()], "the old workers to go")
    for pid in pids:
        back = cluster.connect(since(f"{epoch}.{int(number) - 10}"), at=pid)
        assert back.hello["data"] | {"recovered": True, "replayed": 10} == back.hello["data"]
        assert labels(until(back, last)) == [*names, last]
        assert back.hello["id"] == f"{epoch}.{int(number) - 10}"
    (new,) = cluster.publish(at=pids[0])
    back = cluster.connect(since(id), at=pids[1])
    assert labels(until(back, new)) == [new]


def test_the_id_in_another_workers_answer_is_waited_for(cluster: Cluster) -> None:
    """A page that posts, and connects with the id it was given, misses nothing, wherever both go."""
    here, there, _ = cluster.pids()
    for _ in range(10):
        _, results = cluster.publish_and_tell(1, at=here)
        back = cluster.connect(since(results[0]["id"]), at=there)
        assert back.hello["data"]["recovered"] is True, back.hello
        assert back.hello["data"]["replayed"] == 0
        names = cluster.publish(2, at=here)
        assert labels(until(back, names[-1])) == names


@pytest.mark.parametrize("given", ["future", "another epoch", "degraded", "nonsense"])
def test_an_id_that_leads_nowhere_is_not_recovered(cluster: Cluster, given: str) -> None:
    _, results = cluster.publish_and_tell(1)
    epoch, _, number = results[0]["id"].rpartition(".")
    id = {
        "future": f"{epoch}.{int(number) + 100_000}",
        "another epoch": f"{int(epoch, 16) ^ 1:08x}.{number}",
        "degraded": f"{epoch}~{number}",
        "nonsense": "..",
    }[given]
    peer = cluster.connect(since(id))
    check_not_recovered(peer.hello)
    names = cluster.publish(2)
    assert labels(until(peer, names[-1])) == names


# Outages -----------------------------------------------------------------------------------------------------------


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
        # What would end the pause is a command that waits as well.
        redis.restart()


@contextlib.contextmanager
def killed(redis: Redis) -> Iterator[None]:
    redis.kill()
    try:
        yield
    finally:
        redis.start()


@contextlib.contextmanager
def full(redis: Redis) -> Iterator[None]:
    redis.config("maxmemory", "1mb")
    try:
        yield
    finally:
        redis.config("maxmemory", "0")


@contextlib.contextmanager
def refused(redis: Redis) -> Iterator[None]:
    """Have a newer version of the library write there: Redis answers, but with nothing that can be used."""
    redis.do("HSET", META, "version", "2")
    before, began = commands(redis), time.monotonic()
    try:
        yield
        tried, took = commands(redis) - before, time.monotonic() - began
    finally:
        redis.do("HSET", META, "version", "1")
    # It is tried again, and not as fast as can be; at first each of several threads does so at once.
    assert tried < 150 + 300 * took, (tried, took)


def commands(redis: Redis) -> int:
    """Return how many commands a server has carried out."""
    return int(redis.do("INFO", "stats")["total_commands_processed"])


@contextlib.contextmanager
def swallowed(proxy: Proxy) -> Iterator[None]:
    proxy.open.clear()
    try:
        yield
    finally:
        proxy.open.set()
        # What was eaten is missing from the streams of bytes for good.
        proxy.cut()


def check_outage(cluster: Cluster, outage: contextlib.AbstractContextManager[None]) -> None:
    """Check everything that is promised of an outage, from before it until after it."""
    pids = cluster.pids()
    peers = {pid: [cluster.connect(at=pid), cluster.connect("/ws?board_id=b1", at=pid)] for pid in pids}
    everybody = [peer for both in peers.values() for peer in both]
    gone = cluster.connect(at=pids[0])
    first = cluster.publish(2, board_id="b1")
    told = {id(peer): until(peer, first[-1]) for peer in everybody}
    before = until(gone, first[-1])[-1]["id"]
    gone.close()
    local: dict[int, list[str]] = {}
    with outage:
        with ThreadPoolExecutor(len(pids)) as publishers:
            results = list(publishers.map(lambda pid: cluster.publish_and_tell(6, at=pid, board_id="b1"), pids))
        for pid, (names, outcomes) in zip(pids, results, strict=True):
            local[pid] = names
            assert [(each["status"], each["id"]) for each in outcomes] == [("spooled", None)] * 6
            # The breaker spares all but those who were there when it opened.
            assert sum(each["took"] > PUBLISH_TIMEOUT / 2 for each in outcomes) <= 1, outcomes
        for pid in pids:
            for peer in peers[pid]:
                told[id(peer)] += (meanwhile := until(peer, "degraded", *local[pid]))
                assert labels(meanwhile) == ["degraded", *local[pid]]
                assert not [message for message in meanwhile[1:] if "id" in message]
        # Who drops in between, wherever it comes back, loads everything again.
        during = told[id(everybody[0])][-7]["id"]
        late = []
        for number, pid in enumerate(pids):
            late.append(cluster.connect(since(before if number else during), at=pid))
            check_not_recovered(late[-1].hello)
            assert late[-1].receive()["type"] == "degraded"
        fresh = cluster.connect(at=pids[0])
        assert fresh.receive()["type"] == "degraded"
        late.append(fresh)
        here = cluster.publish(1, at=pids[0], board_id="b1")
        assert labels(until(fresh, here[0])) == here
        local[pids[0]] += here
    cluster.await_calm()
    for peer in everybody:
        told[id(peer)] += until(peer, "restored")
    for peer in late:
        missed = until(peer, "restored")
        assert missed[-1]["data"] == {"recovered": True}
    after = [name for pid in pids for name in cluster.publish(2, at=pid, board_id="b1")]
    spooled = [name for names in local.values() for name in names]
    for pid in pids:
        for peer in peers[pid]:
            told[id(peer)] += until(peer, after[-1])
            check_told(told[id(peer)], first, spooled, after)
    for peer in late:
        rest = labels(until(peer, after[-1]))
        assert rest[-len(after) :] == after
        assert len(set(rest)) == len(rest)
        check_order(rest)
    # Who was away all the time is brought everything, by whichever worker; who left in between is not.
    for pid in pids:
        back = cluster.connect(since(before), at=pid)
        assert back.hello["data"]["recovered"] is True
        replayed = until(back, after[-1])
        assert sorted(labels(replayed)) == sorted(spooled + after)
        assert labels(replayed)[-len(after) :] == after
        check_order(labels(replayed))
        assert ids(replayed) == list(range(ids(replayed)[0], ids(replayed)[0] + len(replayed)))
    check_not_recovered(cluster.connect(since(during)).hello)


def check_told(messages: list[dict[str, Any]], first: list[str], spooled: list[str], after: list[str]) -> None:
    """Check what a client has heard that stayed: everything, once, in order per publisher, with ids where they are due."""
    names = labels(messages)
    words = [place for place, name in enumerate(names) if name in ("degraded", "restored")]
    assert [names[place] for place in words] == ["degraded", "restored"]
    begun, over = words
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
    assert int(messages[over]["id"].rpartition(".")[2]) < numbers[0]


def events_of(names: list[str]) -> list[str]:
    return [name for name in names if "." in name]


def check_order(names: list[str]) -> None:
    """Check that the events of each publisher come in the order in which it has published them."""
    last: dict[str, int] = {}
    for by, number in (name.split(".") for name in events_of(names)):
        assert last.get(by, -1) < int(number), names
        last[by] = int(number)


@pytest.mark.parametrize("outage", [paused, paused_clients, killed, full, refused], ids=lambda outage: outage.__name__)
def test_an_outage_holds_nobody_up_and_loses_nothing(
    cluster: Cluster, redis: Redis, outage: Callable[[Redis], contextlib.AbstractContextManager[None]]
) -> None:
    check_outage(cluster, outage(redis))


def test_a_network_that_eats_packets_holds_nobody_up_and_loses_nothing(
    make_redis: Callable[..., Redis], make_cluster: Callable[..., Cluster]
) -> None:
    redis = make_redis()
    proxy = Proxy(redis.port)
    try:
        cluster = make_cluster(redis.url_of(proxy.port))
        check_outage(cluster, swallowed(proxy))
        # And once more: what one outage leaves behind must not trouble the next.
        check_outage(cluster, swallowed(proxy))
        cluster.server.stop()
    finally:
        proxy.close()


def test_clients_are_told_of_an_outage_though_nobody_publishes(cluster: Cluster, redis: Redis) -> None:
    peers = [cluster.connect(at=pid) for pid in cluster.pids()]
    for outage in (refused, killed, paused):
        with outage(redis):
            told = [peer.receive() for peer in peers]
            assert labels(told) == ["degraded"] * len(peers)
        for peer in peers:
            assert labels(until(peer, "restored")) == ["restored"]
    cluster.await_calm()
    assert cluster.heard(*peers) == [[], [], []]


def test_what_is_over_the_bound_of_the_spool_is_refused_and_heard_by_nobody(
    make_redis: Callable[..., Redis], make_cluster: Callable[..., Cluster]
) -> None:
    redis = make_redis(persistent=True)
    cluster = make_cluster(redis.url, CARTOWS_SPOOL_SIZE=5)
    here, there, _ = cluster.pids()
    peer, other = cluster.connect(at=here), cluster.connect(at=there)
    with killed(redis):
        names, results = cluster.publish_and_tell(9, at=here)
        assert [each["status"] for each in results] == ["spooled"] * 5 + [None] * 4
        assert all("CARTOWS_SPOOL_SIZE=5" in each["reason"] for each in results[5:])
    told = [until(each, "restored") for each in (peer, other)]
    cluster.await_calm()
    (fence,) = cluster.publish(at=there)
    told = [messages + until(each, fence) for messages, each in zip(told, (peer, other), strict=True)]
    assert [events_of(labels(messages)) for messages in told] == [[*names[:5], fence]] * 2
    log = [line for line in cluster.server.app_log() if line.startswith("WARNING")]
    assert len([line for line in log if "CARTOWS_SPOOL_SIZE=5" in line]) == 1, log
    assert len([line for line in log if "5 events that had waited here were stored, 4 were refused" in line]) == 1, log


def test_what_a_worker_publishes_first_is_not_heard_again_in_an_outage(
    make_redis: Callable[..., Redis], make_cluster: Callable[..., Cluster]
) -> None:
    """The first request of a process may be on its way before its hub has begun."""
    redis = make_redis()
    cluster = make_cluster(redis.url, calm=False)
    pids = cluster.pids()
    with ThreadPoolExecutor(12) as publishers:
        list(publishers.map(lambda pid: cluster.publish(5, at=pid), pids * 4))
    peers = {pid: cluster.connect(at=pid) for pid in pids}
    cluster.heard(*peers.values())
    with killed(redis):
        for pid, peer in peers.items():
            names = cluster.publish(2, at=pid)
            assert labels(until(peer, names[-1])) == ["degraded", *names]


def test_outages_that_follow_on_each_other_lose_nothing(cluster: Cluster, redis: Redis) -> None:
    """Each begins as soon as a worker says that the last is over, while the others may still be at it."""
    pids = cluster.pids()
    peers = {pid: cluster.connect(at=pid) for pid in pids}
    told: dict[int, list[Any]] = {pid: [] for pid in pids}
    sent: list[str] = []
    for turn in range(4):
        with paused(redis) if turn % 2 else killed(redis):
            for pid in pids:
                sent += cluster.publish(3, at=pid)
        told[pids[turn % 3]] += until(peers[pids[turn % 3]], "restored")
    cluster.await_calm()
    last = cluster.publish(1)
    for pid in pids:
        told[pid] += until(peers[pid], *last)
        names = labels(told[pid])
        assert sorted(events_of(names)) == sorted(sent + last)
        check_order(names)
        assert {json_of(message) for message in told[pid] if message["type"] == "restored"} <= {True}


def json_of(message: dict[str, Any]) -> Any:
    return message["data"]["recovered"]


def test_connections_that_are_killed_are_not_noticed(cluster: Cluster, redis: Redis) -> None:
    pids = cluster.pids()
    peers = [cluster.connect(at=pid) for pid in pids]
    sent = []
    for _ in range(5):
        assert redis.kill_clients() >= 3
        for pid in pids:
            names, results = cluster.publish_and_tell(2, at=pid)
            assert [each["status"] for each in results] == ["stored", "stored"], results
            sent += names
    for messages in cluster.heard(*peers):
        assert labels(messages) == sent


# What Redis loses ----------------------------------------------------------------------------------------------------


def check_started_over(cluster: Cluster, lose: Callable[[], None], *, sees: list[str] | None = None) -> None:
    """Check that after a loss everybody is told to reload, and from then on hears everything."""
    pids = cluster.pids()
    peers = [cluster.connect(at=pid) for pid in pids]
    sent = cluster.publish(3)
    heard = [until(peer, sent[-1]) for peer in peers]
    old = heard[0][-1]["id"]
    lose()
    restored = []
    for peer in peers:
        messages = until(peer, "restored")
        assert labels(messages) in (["restored"], ["degraded", "restored"])
        restored.append(messages[-1])
    for message in restored:
        assert message["data"] == {"recovered": False}
        assert message["id"].split(".")[0] != old.split(".")[0]
    cluster.await_calm()
    # Several may notice at once; the last epoch is the one for all.
    after = [name for pid in pids for name in cluster.publish(2, at=pid)]
    heard = [until(peer, after[-1]) for peer in peers]
    for messages in heard:
        found = [message for message in messages if message["type"] != "restored"]
        assert labels(found) == after
        assert ids(found) == list(range(ids(found)[0], ids(found)[0] + len(after)))
        assert ids(found)[0] > int(old.split(".")[1])
    assert len({heard[place][-1]["id"] for place in range(3)}) == 1
    for pid in pids:
        check_not_recovered(cluster.connect(since(old), at=pid).hello)
        back = cluster.connect(since(events(heard[0])[0]["id"]), at=pid)
        assert back.hello["data"]["recovered"] is True
        assert labels(until(back, after[-1])) == after[1:]


def test_a_flush_has_everybody_reload(cluster: Cluster, redis: Redis) -> None:
    check_started_over(cluster, redis.flush)


def test_a_restart_that_has_lost_everything_has_everybody_reload(cluster: Cluster, redis: Redis) -> None:
    def lose() -> None:
        redis.flush()
        redis.restart()

    check_started_over(cluster, lose)


def test_events_that_are_published_into_an_emptied_redis_reach_all(cluster: Cluster, redis: Redis) -> None:
    """A publisher may come before anybody has noticed the loss; what it is told of as stored is not lost."""
    pids = cluster.pids()
    peers = [cluster.connect(at=pid) for pid in pids]
    cluster.publish(5, at=pids[0])
    cluster.heard(*peers)
    redis.flush()
    after = [name for _ in range(3) for pid in pids for name in cluster.publish(2, at=pid)]
    for peer in peers:
        messages = until(peer, after[-1])
        while "restored" not in labels(messages):
            messages += until(peer, "restored")
        last = max(place for place, name in enumerate(labels(messages)) if name == "restored")
        assert messages[last]["data"] == {"recovered": False}
        # From then on nothing may be missing: before it, or with it, is what reloading brings.
        position = int(messages[last]["id"].split(".")[1])
        rest = events(messages[last:])
        assert ids(rest) == list(range(position + 1, position + 1 + len(rest)))
    cluster.await_calm()
    (fence,) = cluster.publish()
    assert all(labels(until(peer, fence))[-1] == fence for peer in peers)


def test_a_failover_with_a_loss_has_everybody_reload(
    make_redis: Callable[..., Redis], make_cluster: Callable[..., Cluster]
) -> None:
    primary, replica = make_redis(repl_diskless_sync_delay=0), make_redis()
    proxy = Proxy(primary.port)
    try:
        cluster = make_cluster(primary.url_of(proxy.port))
        cluster.publish(4)
        replica.replicate(primary)
        # From here on the replica hears nothing; REPLICAOF NO ONE keeps what it has.
        replica.promote()

        def fail_over() -> None:
            primary.pause()
            proxy._target = replica.port
            proxy.cut()

        check_started_over(cluster, fail_over)
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
        wait_until(lambda: replica.do("XLEN", EVENTS) == len(sent), "the replica to have heard everything")
        primary.kill()
        for pid in pids:
            sent += cluster.publish(2, at=pid)
        replica.promote()
        proxy._target = replica.port
        proxy.cut()
        told = [until(peer, "restored") for peer in peers]
        cluster.await_calm()
        (fence,), results = cluster.publish_and_tell()
        assert results[0]["how"] == "stored", cluster.server.app_log()
        for peer, messages in zip(peers, told, strict=True):
            messages += until(peer, fence)
            assert sorted(events_of(labels(messages))) == sorted([*sent, fence])
            check_order(labels(messages))
            assert all(json_of(message) for message in messages if message["type"] == "restored")
        cluster.server.stop()
    finally:
        proxy.close()


# A Redis that is not there at the start ----------------------------------------------------------------------------------


def check_alone(cluster: Cluster) -> dict[int, Any]:
    """Check that each worker serves its own clients; returns a client of each."""
    peers = {}
    for pid in cluster.await_workers():
        peer = peers[pid] = cluster.connect(at=pid)
        names, results = cluster.publish_and_tell(3, at=pid)
        assert [each["status"] for each in results] == ["spooled"] * 3
        messages = until(peer, names[-1])
        assert events_of(labels(messages)) == names
        assert "degraded" in labels(messages)
        assert not [message for message in events(messages) if "id" in message]
    return peers


def check_together(cluster: Cluster, peers: dict[int, Any]) -> None:
    """Check that the workers have found each other, and that clients were told so."""
    for pid, peer in peers.items():
        assert until(peer, "restored")[-1]["data"] == {"recovered": False}
        # Who has a place to come back to is not told of events that have none.
        (name,) = cluster.publish(1, at=pid)
        assert not [message for message in events(until(peer, name)) if "id" not in message]
    cluster.await_calm()
    sent = [name for pid in peers for name in cluster.publish(2, at=pid)]
    heard = [[message for message in until(peer, sent[-1]) if label(message) in sent] for peer in peers.values()]
    assert labels(heard[0]) == sent
    assert all(each == heard[0] for each in heard)


def test_a_redis_that_comes_later_is_taken(
    tmp_path_factory: pytest.TempPathFactory, make_cluster: Callable[..., Cluster]
) -> None:
    redis = Redis(tmp_path_factory.mktemp("redis"))
    redis.kill()
    try:
        cluster = make_cluster(redis.url, calm=False)
        peers = check_alone(cluster)
        log = cluster.server.app_log()
        assert 3 <= len([line for line in log if "Nothing listens there" in line]) <= 6, log
        redis.start()
        check_together(cluster, peers)
        cluster.server.stop()
    finally:
        redis.stop()


def test_a_wrong_password_is_said_and_serves_on(make_redis: Callable[..., Redis], make_cluster: Callable[..., Cluster]) -> None:
    redis = make_redis(requirepass="right")
    cluster = make_cluster(redis.url.replace("right", "secretly-wrong"), calm=False)
    peers = check_alone(cluster)
    assert "CARTOWS_REDIS_URL" in cluster.server.log()
    assert "secretly-wrong" not in cluster.server.log()
    # An operator may mend it at the other end.
    redis.config("requirepass", "secretly-wrong")
    redis.password = "secretly-wrong"
    check_together(cluster, peers)


# Workers -------------------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_takes_nobody_with_it(own: Cluster) -> None:
    victim, *others = own.pids()
    lost, stays = own.connect(at=victim), own.connect(at=others[0])
    before = own.publish(3, at=victim)
    last = until(lost, before[-1])[-1]["id"]
    os.kill(victim, signal.SIGKILL)
    assert lost.ended()[1].code == 1006
    during = [name for pid in others for name in own.publish(2, at=pid)]
    back = own.connect(since(last), at=others[1])
    assert back.hello["data"]["recovered"] is True
    pids = own.await_calm()
    (new,) = [pid for pid in pids if pid not in others]
    after = own.publish(2, at=new)
    assert labels(until(stays, after[-1])) == before + during + after
    assert labels(until(back, after[-1])) == during + after
    again = own.connect(since(last), at=new)
    assert labels(until(again, after[-1])) == during + after
    # Versions of gunicorn differ in whether they complain of it.
    assert "Traceback" not in own.server.problems()


def test_a_paused_worker_catches_up(cluster: Cluster) -> None:
    victim, *others = cluster.pids()
    peer, stays = cluster.connect(at=victim), cluster.connect(at=others[0])
    before = cluster.publish(2, at=victim)
    os.kill(victim, signal.SIGSTOP)
    try:
        during = [name for pid in others for name in cluster.publish(200, at=pid)]
        seen = until(stays, during[-1])
    finally:
        os.kill(victim, signal.SIGCONT)
    after = cluster.publish(2, at=victim)
    seen += until(stays, after[-1])
    assert labels(seen) == before + during + after
    assert until(peer, after[-1]) == seen


def test_what_is_stored_when_a_worker_is_told_to_end_is_heard_before_the_goodbye(own: Cluster) -> None:
    pids = own.pids()
    peers = [own.connect(at=pid) for pid in pids]
    names: list[str] = []
    stored: set[str] = set()

    def flow(pid: int) -> None:
        with contextlib.suppress(Exception):
            while True:
                found, results = own.publish_and_tell(10, at=pid)
                names.extend(found)
                stored.update(name for name, result in zip(found, results, strict=True) if result["status"] == "stored")

    with ThreadPoolExecutor(3) as publishers:
        flows = [publishers.submit(flow, pid) for pid in pids]
        wait_until(lambda: len(stored) > 300, "a flow")
        own.server.signal(signal.SIGTERM)
        own.server._terminated = True
        ended = [peer.ended() for peer in peers]
        own.server.await_exit()
        del flows
    heard = [set(labels(events(messages))) for messages, _ in ended]
    for pid, (messages, closed) in zip(pids, ended, strict=True):
        assert closed.code == 1012, (pid, closed)
        assert [label(message) for message in messages][-1] == "disconnect"
        check_order(labels(messages))
        assert ids(messages) == list(range(ids(messages)[0], ids(messages)[0] + len(events(messages))))
    # Whoever ended last has heard the most; of what the others were told of as stored nothing is missing there.
    assert stored - set().union(*heard) == set()


@pytest.mark.parametrize("arguments", [("--preload",)], ids=["preload"])
def test_the_workers_of_a_preloading_master_are_publishers_of_their_own(
    make_redis: Callable[..., Redis], make_cluster: Callable[..., Cluster], arguments: tuple[str, ...]
) -> None:
    redis = make_redis()
    cluster = make_cluster(redis.url, arguments=arguments)
    pids = cluster.pids()
    peers = [cluster.connect(at=pid) for pid in pids]
    sent = [name for pid in pids for name in cluster.publish(3, at=pid)]
    for messages in cluster.heard(*peers):
        assert labels(messages) == sent
    origins = {fields[b"o"] for _, fields in redis.do("XRANGE", EVENTS, "-", "+")}
    assert len(origins) == 3
