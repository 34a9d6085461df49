"""Many workers on one Redis: who is where is known to all of them, and whoever is put out is put out everywhere."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.support.cluster import Cluster, until
from tests.support.live import read_until, subscribe
from tests.support.raw_client import Json
from tests.support.redis.server import Redis
from tests.support.waiting import wait_until

ROOM = "lounge"


@pytest.fixture
def people(redis: Redis, make_cluster: Callable[..., Cluster]) -> Cluster:
    return make_cluster(redis.url, fresh=False, CARTOWS_PRESENCE_LEAVE_WAIT=0.1)


class PresenceEntry:
    """A client that shows itself in the room, and what it has been told of who is there."""

    def __init__(self, cluster: Cluster, name: str, at: int) -> None:
        self.peer = cluster.connect(at=at)
        self.peer.send({"type": "subscribe", "data": {"board_id": ROOM, "presence": {"name": name}}})
        read_until(self.peer, "subscribed")
        self._names: dict[str, str] = {}

    def await_names(self, *wanted: str) -> None:
        """Read until there are just these."""
        while True:
            self._hear(self.peer.receive())
            if sorted(self._names.values()) == sorted(wanted):
                return

    def _hear(self, message: Json) -> None:
        data = message["data"]
        if message["type"] == "presence.state":
            self._names.clear()
        for came in (data.get("present") or data.get("joins") or {}).values():
            self._names.update({entry["ref"]: entry["meta"]["name"] for entry in came})
        for left in data.get("leaves", {}).values():
            for entry in left:
                del self._names[entry["ref"]]


def test_people_of_all_workers_see_each_other_come_and_go(people: Cluster) -> None:
    first, second, third = people.pids()
    ann = PresenceEntry(people, "ann", first)
    ann.await_names("ann")
    bob = PresenceEntry(people, "bob", second)
    ann.await_names("ann", "bob")
    wait_until(lambda: people.request("GET", f"/present/{ROOM}", at=third)["who"] == ["root"], "the third")
    bob.await_names("ann", "bob")
    ann.peer.close()
    bob.await_names("bob")
    carl = PresenceEntry(people, "carl", third)
    bob.await_names("bob", "carl")
    carl.await_names("bob", "carl")


def test_the_people_of_a_worker_that_ends_in_good_order_leave_at_once(own: Cluster) -> None:
    first, second, _ = own.pids()
    ann = PresenceEntry(own, "ann", first)
    PresenceEntry(own, "bob", second)
    ann.await_names("ann", "bob")
    os.kill(second, signal.SIGTERM)
    # Far sooner than a lease runs out.
    ann.await_names("ann")


def test_whoever_is_put_out_is_put_out_at_every_worker(people: Cluster) -> None:
    first, second, third = people.pids()
    tabs = [people.connect("/ws?user=zoe&board_id=zoe", at=pid) for pid in (first, first, second)]
    others = [people.connect("/ws", at=pid) for pid in (first, second, third)]
    assert people.request("POST", "/disconnect/zoe", {}, at=third) == {"closed": 0}
    for tab in tabs:
        messages, closed = tab.ended()
        assert (messages[-1]["type"], closed.code) == ("disconnect", 3503)
    (fence,) = people.publish(1)
    for other in others:
        until(other, fence)


def test_a_worker_that_has_done_nothing_yet_puts_out_at_the_others(own: Cluster, make_redis: Callable[..., Redis]) -> None:
    first, second, third = own.pids()
    tab = own.connect("/ws?user=zoe&board_id=zoe", at=first)
    os.kill(third, signal.SIGTERM)
    (fresh,) = [pid for pid in own.await_workers(without=[third]) if pid not in (first, second)]
    own.request("POST", "/disconnect/zoe", {}, at=fresh)
    assert tab.ended()[1].code == 3503


def test_what_is_asked_again_is_asked_again_at_every_worker(people: Cluster) -> None:
    first, second, third = people.pids()
    tab = people.connect("/ws?user=yan&board_id=yan1", at=first)
    subscribe(tab, board_id="yan2")
    for pid in (first, second, third):
        people.request("POST", "/denied", ["yan2"], at=pid)
    people.request("POST", "/reauthorize/yan", {}, at=second)
    assert read_until(tab, "unsubscribed")[-1]["data"] == {"board_id": ["yan1"]}
