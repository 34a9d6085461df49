"""Many workers on one Redis: presence, disconnects and authorization apply at all of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.support.cluster import Cluster, read_until_labels
from tests.support.event_helpers import read_until, subscribe
from tests.support.raw_client import Json
from tests.support.redis.server import Redis
from tests.support.waiting import wait_until

ROOM = "lounge"


@pytest.fixture
def workers(redis: Redis, make_cluster: Callable[..., Cluster]) -> Cluster:
    return make_cluster(redis.url, fresh=False, CARTOWS_PRESENCE_LEAVE_WAIT=0.1)


class Member:
    """A client with presence in the room, and the names it has received."""

    def __init__(self, cluster: Cluster, name: str, at: int) -> None:
        self.peer = cluster.connect(at=at)
        self.peer.send({"type": "subscribe", "data": {"board_id": ROOM, "presence": {"name": name}}})
        read_until(self.peer, "subscribed")
        self._names: dict[str, str] = {}

    def await_names(self, *wanted: str) -> None:
        """Read until the room holds exactly these."""
        while True:
            self._apply(self.peer.receive())
            if sorted(self._names.values()) == sorted(wanted):
                return

    def _apply(self, message: Json) -> None:
        data = message["data"]
        if message["type"] == "presence.state":
            self._names.clear()
        for joined in (data.get("present") or data.get("joins") or {}).values():
            self._names.update({entry["ref"]: entry["meta"]["name"] for entry in joined})
        for left in data.get("leaves", {}).values():
            for entry in left:
                del self._names[entry["ref"]]


def test_presence_joins_and_leaves_are_seen_at_all_workers(workers: Cluster) -> None:
    first, second, third = workers.pids()
    ann = Member(workers, "ann", first)
    ann.await_names("ann")
    bob = Member(workers, "bob", second)
    ann.await_names("ann", "bob")
    wait_until(lambda: workers.request("GET", f"/present/{ROOM}", at=third)["who"] == ["root"], "the third")
    bob.await_names("ann", "bob")
    ann.peer.close()
    bob.await_names("bob")
    carl = Member(workers, "carl", third)
    bob.await_names("bob", "carl")
    carl.await_names("bob", "carl")


def test_the_presence_entries_of_a_worker_that_shuts_down_leave_at_once(own: Cluster) -> None:
    first, second, _ = own.pids()
    ann = Member(own, "ann", first)
    Member(own, "bob", second)
    ann.await_names("ann", "bob")
    os.kill(second, signal.SIGTERM)
    # Much earlier than a lease expires.
    ann.await_names("ann")


def test_a_disconnect_applies_at_every_worker(workers: Cluster) -> None:
    first, second, third = workers.pids()
    tabs = [workers.connect("/ws?user=zoe&board_id=zoe", at=pid) for pid in (first, first, second)]
    others = [workers.connect("/ws", at=pid) for pid in (first, second, third)]
    assert workers.request("POST", "/disconnect/zoe", {}, at=third) == {"closed": 0}
    for tab in tabs:
        messages, closed = tab.ended()
        assert (messages[-1]["type"], closed.code) == ("disconnect", 3503)
    (fence,) = workers.publish(1)
    for other in others:
        read_until_labels(other, fence)


def test_a_worker_that_has_done_nothing_yet_disconnects_at_the_others(own: Cluster, make_redis: Callable[..., Redis]) -> None:
    first, second, third = own.pids()
    tab = own.connect("/ws?user=zoe&board_id=zoe", at=first)
    os.kill(third, signal.SIGTERM)
    (fresh,) = [pid for pid in own.await_workers(without=[third]) if pid not in (first, second)]
    own.request("POST", "/disconnect/zoe", {}, at=fresh)
    assert tab.ended()[1].code == 3503


def test_reauthorize_applies_at_every_worker(workers: Cluster) -> None:
    first, second, third = workers.pids()
    tab = workers.connect("/ws?user=yan&board_id=yan1", at=first)
    subscribe(tab, board_id="yan2")
    for pid in (first, second, third):
        workers.request("POST", "/denied", ["yan2"], at=pid)
    workers.request("POST", "/reauthorize/yan", {}, at=second)
    assert read_until(tab, "unsubscribed")[-1]["data"] == {"board_id": ["yan1"]}
