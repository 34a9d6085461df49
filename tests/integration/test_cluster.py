"""Many workers on one Redis: events reach the clients of all, clients resume at any, and workers come and go."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.support.cluster import (
    Cluster,
    check_order,
    events,
    ids,
    label,
    labels,
    read_until_labels,
)
from tests.support.event_helpers import check_not_recovered, since
from tests.support.harness import ROOT, epoch_and_number
from tests.support.redis.server import Redis
from tests.support.waiting import wait_until

EVENTS = "cartows:{0}:events"

# Events of all workers ------------------------------------------------------------------------------------------------


def test_an_event_of_any_worker_reaches_the_clients_of_all_with_one_id_and_in_one_order(cluster: Cluster) -> None:
    pids = cluster.pids()
    peers = [cluster.connect(at=pid) for pid in pids for _ in range(2)]
    with ThreadPoolExecutor(6) as publishers:
        published = list(publishers.map(lambda pid: cluster.publish_with_results(20, at=pid), pids * 2))
    assert {result["status"] for _, results in published for result in results} == {"stored"}, cluster.server.app_log()
    received = cluster.received(*peers)
    assert all(each == received[0] for each in received)
    numbers = ids(received[0])
    assert numbers == list(range(numbers[0], numbers[0] + 6 * 20))
    known = {label(message): message["id"] for message in received[0]}
    for names, results in published:
        assert [name for name in labels(received[0]) if name in names] == names
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
            assert labels(read_until_labels(peer, fence)) == [*sent[room], *["everywhere"] * len(pids), fence]


def test_a_separate_process_publishes_to_all_workers(cluster: Cluster, redis: Redis) -> None:
    peers = [cluster.connect(at=pid) for pid in cluster.pids()]
    with publisher(redis.url) as publish:
        results = publish("outside", 5)
    assert [result["status"] for result in results] == ["stored"] * 5
    for messages in cluster.received(*peers):
        assert [(label(message), message["id"]) for message in messages] == [
            (f"outside.{number}", result["id"]) for number, result in enumerate(results)
        ]


@contextlib.contextmanager
def publisher(url: str) -> Iterator[Callable[[str, int], list[dict[str, Any]]]]:
    """Run a process without clients; yield a function that publishes there and returns the results."""
    command = [sys.executable, "-m", "tests.support.redis.publishing", url]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin is not None and running.stdout is not None

        def publish(by: str, count: int) -> list[dict[str, Any]]:
            print(json.dumps({"by": by, "numbers": list(range(count))}), file=running.stdin, flush=True)
            found: list[dict[str, Any]] = json.loads(running.stdout.readline())
            return found

        yield publish
        running.stdin.close()


# Resume ---------------------------------------------------------------------------------------------------------------


def test_a_client_resumes_at_another_worker(cluster: Cluster) -> None:
    here, there, third = cluster.pids()
    witness = cluster.connect(at=third)
    peer = cluster.connect(at=here)
    before = cluster.publish(3, at=here)
    seen = read_until_labels(peer, before[-1])
    peer.close()
    missed = [name for pid in (third, here, there) for name in cluster.publish(4, at=pid)]
    for pid in (there, third, here):
        back = cluster.connect(since(seen[-1]["id"]), at=pid)
        assert back.hello["data"]["recovered"] is True
        assert labels(read_until_labels(back, missed[-1])) == missed
    (everything,) = cluster.received(witness)
    assert labels(everything) == before + missed


def test_a_client_resumes_after_a_restart_of_all_workers(
    make_redis: Callable[..., Redis], make_cluster: Callable[..., Cluster]
) -> None:
    cluster = make_cluster(make_redis().url)
    first = cluster.connect().hello["id"]
    names = [name for pid in cluster.pids() for name in cluster.publish(3, at=pid)]
    (last,) = cluster.publish()
    start = cluster.connect()
    id = start.hello["id"]
    start.close()
    old = cluster.pids()
    cluster.server.signal(signal.SIGHUP)
    pids = cluster.await_workers(without=old)
    wait_until(lambda: not [pid for pid in old if pid in cluster.pids()], "the old workers to go")
    for pid in pids:
        back = cluster.connect(since(first), at=pid)
        assert back.hello["data"] | {"recovered": True, "replayed": 10} == back.hello["data"]
        assert labels(read_until_labels(back, last)) == [*names, last]
        assert back.hello["id"] == first
    (new,) = cluster.publish(at=pids[0])
    back = cluster.connect(since(id), at=pids[1])
    assert labels(read_until_labels(back, new)) == [new]


def test_a_resume_waits_for_an_id_that_another_worker_has_just_stored(cluster: Cluster) -> None:
    """A page that posts, and connects with the id from the answer, misses nothing, whichever workers it reaches."""
    here, there, _ = cluster.pids()
    for _ in range(10):
        _, results = cluster.publish_with_results(1, at=here)
        back = cluster.connect(since(results[0]["id"]), at=there)
        assert back.hello["data"]["recovered"] is True, back.hello
        assert back.hello["data"]["replayed"] == 0
        names = cluster.publish(2, at=here)
        assert labels(read_until_labels(back, names[-1])) == names


@pytest.mark.parametrize("given", ["future", "unproven", "another event", "another epoch", "degraded", "garbage"])
def test_an_id_outside_the_history_is_not_recovered(cluster: Cluster, given: str) -> None:
    _, results = cluster.publish_with_results(1)
    epoch, number = epoch_and_number(results[0]["id"])
    id = {
        "future": f"{epoch}.{number + 100_000}",
        "unproven": f"{epoch}.{number}",
        "another event": f"{results[0]['id'].partition('-')[0]}-{'0' * 6}",
        "another epoch": f"{int(epoch, 16) ^ 1:08x}.{number}",
        "degraded": f"{epoch}~{number}",
        "garbage": "..",
    }[given]
    peer = cluster.connect(since(id))
    check_not_recovered(peer.hello)
    names = cluster.publish(2)
    assert labels(read_until_labels(peer, names[-1])) == names


# Workers --------------------------------------------------------------------------------------------------------------


def test_a_killed_worker_affects_no_client_of_the_others(own: Cluster) -> None:
    victim, *others = own.pids()
    lost, stays = own.connect(at=victim), own.connect(at=others[0])
    before = own.publish(3, at=victim)
    last = read_until_labels(lost, before[-1])[-1]["id"]
    os.kill(victim, signal.SIGKILL)
    assert lost.ended()[1].code == 1006
    during = [name for pid in others for name in own.publish(2, at=pid)]
    back = own.connect(since(last), at=others[1])
    assert back.hello["data"]["recovered"] is True
    pids = own.await_connected()
    (new,) = [pid for pid in pids if pid not in others]
    after = own.publish(2, at=new)
    assert labels(read_until_labels(stays, after[-1])) == before + during + after
    assert labels(read_until_labels(back, after[-1])) == during + after
    again = own.connect(since(last), at=new)
    assert labels(read_until_labels(again, after[-1])) == during + after
    # Versions of gunicorn differ in whether they log it.
    assert "Traceback" not in own.server.problems()


def test_a_paused_worker_catches_up(cluster: Cluster) -> None:
    victim, *others = cluster.pids()
    peer, stays = cluster.connect(at=victim), cluster.connect(at=others[0])
    before = cluster.publish(2, at=victim)
    os.kill(victim, signal.SIGSTOP)
    try:
        during = [name for pid in others for name in cluster.publish(200, at=pid)]
        seen = read_until_labels(stays, during[-1])
    finally:
        os.kill(victim, signal.SIGCONT)
    after = cluster.publish(2, at=victim)
    seen += read_until_labels(stays, after[-1])
    assert labels(seen) == before + during + after
    assert read_until_labels(peer, after[-1]) == seen


def test_events_stored_when_the_server_is_terminated_are_delivered_before_the_close(own: Cluster) -> None:
    pids = own.pids()
    peers = [own.connect(at=pid) for pid in pids]
    names: list[str] = []
    stored: set[str] = set()

    def publish(pid: int) -> None:
        with contextlib.suppress(Exception):
            while True:
                found, results = own.publish_with_results(10, at=pid)
                names.extend(found)
                stored.update(name for name, result in zip(found, results, strict=True) if result["status"] == "stored")

    with ThreadPoolExecutor(3) as publishers:
        publishing = [publishers.submit(publish, pid) for pid in pids]
        wait_until(lambda: len(stored) > 300, "enough stored events")
        own.server.signal(signal.SIGTERM)
        own.server._terminated = True
        ended = [peer.ended() for peer in peers]
        own.server.await_exit()
        del publishing
    received = [set(labels(events(messages))) for messages, _ in ended]
    for pid, (messages, closed) in zip(pids, ended, strict=True):
        assert closed.code == 1012, (pid, closed)
        assert [label(message) for message in messages][-1] == "disconnect"
        check_order(labels(messages))
        assert ids(messages) == list(range(ids(messages)[0], ids(messages)[0] + len(events(messages))))
    # The client that was closed last has received the most: no event that was stored before is missing there.
    assert stored - set().union(*received) == set()


@pytest.mark.parametrize("arguments", [("--preload",)], ids=["preload"])
def test_the_workers_of_a_preloading_master_publish_independently(
    make_redis: Callable[..., Redis], make_cluster: Callable[..., Cluster], arguments: tuple[str, ...]
) -> None:
    redis = make_redis()
    cluster = make_cluster(redis.url, arguments=arguments)
    pids = cluster.pids()
    peers = [cluster.connect(at=pid) for pid in pids]
    sent = [name for pid in pids for name in cluster.publish(3, at=pid)]
    for messages in cluster.received(*peers):
        assert labels(messages) == sent
    origins = {fields[b"o"] for _, fields in redis.do("XRANGE", EVENTS, "-", "+")}
    assert len(origins) == 3
