"""What a process announces: in few entries, again after an outage, and nothing that piles up."""

from __future__ import annotations

import logging
import threading
from time import monotonic

import pytest

from cartows.backplane.redis import presence_leases
from cartows.backplane.redis.connect import BrokerError
from cartows.backplane.redis.presence_announcer import _LINGER, MAX_COMMANDS
from cartows.backplane.redis.presence_status import PresenceStatus
from tests.presence.test_presence import Client
from tests.support.redis.presence import BOARD, LONG, Start, agree, logged
from tests.support.redis.server import Redis
from tests.support.waiting import wait_until


def test_many_joins_are_announced_in_few_entries(start: Start, server: Redis) -> None:
    one, two = start(limit=10), start(limit=10)
    agree(one, two)
    before, began = server.do("XLEN", "cartows:{0}:presence"), monotonic()
    crowd: list[Client] = []
    for n in range(300):
        crowd.append(one.enter(Client(f"user {n}"), {"text": "x" * 100}))
        # One iteration of the hub each.
        threading.Event().wait(0.001)
    agree(one, two)
    # One for each shortest period that has passed, and those that exceed the bounds of one.
    max_entries = (monotonic() - began) / _LINGER + len(crowd) / presence_leases._MAX_CHANGES + 5
    assert server.do("XLEN", "cartows:{0}:presence") - before <= max_entries
    for member in crowd:
        one.leave(member)
    agree(one, two, names=[])
    assert server.do("HLEN", f"cartows:{{0}}:people:{one.sync.process}") == 1


def test_many_entries_are_announced_at_once(start: Start) -> None:
    one = start(limit=10)
    with one.lock:
        for n in range(5000):
            one.presence.enter(Client(f"user {n}"), BOARD, {"text": "x" * 200})
        one.publish_changes()
    two = start(limit=10)
    agree(one, two)
    assert len(two.names()) == 5000


def test_a_paused_redis_loses_no_change(start: Start, server: Redis, caplog: pytest.LogCaptureFixture) -> None:
    one, two = start(), start()
    one.enter(Client("ann"))
    ben = two.enter(Client("ben"))
    agree(one, two, names=["ann", "ben"])
    server.pause()
    # The announcers notice when they renew their leases, at the latest.
    wait_until(lambda: not (one.sync._announcer._following or two.sync._announcer._following), "each to notice")
    cat = one.enter(Client("cat"), {"at": 1})
    one.enter(cat, {"at": 2})
    two.leave(ben)
    assert one.names() == ["ann", "ben", "cat"]
    assert two.names() == ["ann"]
    server.resume()
    agree(one, two, names=["ann", "cat"])
    assert two.left == ["ben"]
    assert one.left == ["ben"]
    wait_until(lambda: len(logged(caplog)) == 4, "each to log the outage and its end once")
    assert [("shared with other processes again" in line) for line in logged(caplog)].count(True) == 2


@pytest.mark.parametrize("event", ["restart", "flush", "kill_clients"])
def test_a_redis_that_comes_back_empty_gets_all_entries_and_none_leaves(start: Start, server: Redis, event: str) -> None:
    # Enough time for every process to take a lease again.
    periods = LONG._replace(grace=15.0)
    one, two, three = (start(periods=periods) for _ in range(3))
    one.enter(Client("ann"))
    two.enter(Client("ben"))
    agree(one, two, three, names=["ann", "ben"])
    getattr(server, event)()
    one.enter(Client("cat"))
    agree(one, two, three, names=["ann", "ben", "cat"])
    two.enter(Client("dan"))
    agree(one, two, three, names=["ann", "ben", "cat", "dan"])
    assert [each.left for each in (one, two, three)] == [[]] * 3
    wait_until(lambda: server.do("SCARD", "cartows:{0}:procs") == 3, "every process to have its lease")


def test_killed_connections_are_no_line(start: Start, server: Redis, caplog: pytest.LogCaptureFixture) -> None:
    """CLIENT KILL closes those of all processes at once, each of which has another one a moment later."""
    processes = [start() for _ in range(3)]
    for number in range(3):
        server.kill_clients()
        processes[number].enter(Client(f"user {number}"))
        processes[number].sync.reauthorize(f"user {number}")
        agree(*processes, names=[f"user {each}" for each in range(number + 1)])
        others = [each for each in processes if each is not processes[number]]
        wait_until(lambda: all((f"user {number}",) in each.commands for each in others), "a command")  # noqa: B023
    assert logged(caplog) == []


def test_a_connection_that_comes_and_goes_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    status = PresenceStatus(logging.getLogger("cartows.test"), lambda: now)
    closed = BrokerError("closed", broken=True)
    for _ in range(50):
        status.works("listener")
        status.failed("listener", closed)
        assert logged(caplog) == []
    for _ in range(50):
        status.failed("listener", closed)
        status.failed("announcer", closed)
        status.works("listener")
        status.works("announcer")
    assert len(logged(caplog)) == 2
    now += 61
    status.failed("announcer", BrokerError("no answer"))
    assert len(logged(caplog)) == 3
    assert "no answer" in logged(caplog)[-1]


@pytest.mark.parametrize("removed", [False, True])
def test_an_id_at_the_end_of_the_range_does_not_end_presence(start: Start, server: Redis, removed: bool) -> None:
    one, two = start(), start()
    one.enter(Client("ann"))
    agree(one, two, names=["ann"])
    id = f"{2**64 - 1}-{2**64 - 1}"
    server.do("XADD", "cartows:{0}:presence", id, "a", "b")
    if removed:
        server.do("XDEL", "cartows:{0}:presence", id)
    two.enter(Client("ben"))
    agree(one, two, names=["ann", "ben"])
    one.enter(Client("cat"))
    agree(one, two, names=["ann", "ben", "cat"])


def test_nothing_piles_up_while_redis_is_away(start: Start, server: Redis, caplog: pytest.LogCaptureFixture) -> None:
    one = start(limit=10)
    agree(one)
    server.kill()
    wait_until(lambda: logged(caplog), "an outage to be noticed")
    announcer = one.sync._announcer
    wait_until(lambda: not announcer._following, "the announcer to notice")
    for n in range(MAX_COMMANDS + 10):
        one.enter(Client(f"user {n}"))
        one.sync.reauthorize(f"user {n}")
    # While it tries, changes wait for it; each attempt that fails drops them.
    wait_until(lambda: announcer._pending == {}, "what waits to be dropped")
    assert len(announcer._commands) == MAX_COMMANDS
    assert [line for line in logged(caplog) if "dropped" in line] == [
        "cartows: more than 1000 commands for other processes wait for Redis; the oldest are dropped"
    ]
    assert len([line for line in logged(caplog) if "not shared" in line]) == 1
