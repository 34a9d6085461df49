"""Processes that are killed or stopped, some of them real ones: whose entries leave, and when."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cartows.backplane.redis.presence_announcer import _LINGER
from cartows.backplane.redis.presence_leases import RETRIES, Periods
from tests.presence.test_presence import Client
from tests.support.harness import ROOT
from tests.support.redis.presence import A_MOMENT, LONG, SHORT, Start, agree, members
from tests.support.redis.server import Proxy, Redis
from tests.support.waiting import wait_until

PROGRAM = """
import sys, threading
from tests.presence.test_presence import Client
from tests.support.redis.presence import SHORT, Process
process = Process(sys.argv[1], periods=SHORT)
process.enter(Client("ann"), {"at": 1})
process.sync.start()
for line in sys.stdin:
    process.enter(Client(line.strip()))
process.sync.stop(10)
"""


@pytest.fixture
def program(server: Redis) -> Iterator[subprocess.Popen[str]]:
    """A process of its own, in which ann is present."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, server.url], cwd=ROOT, stdin=subprocess.PIPE, text=True)
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.kill()
    process.wait(10)
    if process.stdin is not None:
        process.stdin.close()


def test_the_periods_keep_the_promise() -> None:
    periods = Periods()
    assert periods.lease + 1.2 * periods.sweep + 2 * _LINGER < 55
    assert periods.grace + 2 * periods.block < 55
    # A timeout to notice an outage, and at worst another one and a wait until the next attempt.
    assert periods.lease + periods.timeout + RETRIES[1] <= 55
    assert periods.renew * 3 < periods.lease
    assert periods.block < periods.timeout < periods.lease - 2 * periods.renew


def test_the_entries_of_a_process_that_was_killed_leave(start: Start, program: subprocess.Popen[str]) -> None:
    one, two = start(periods=SHORT._replace(lease=30.0)), start(periods=SHORT._replace(lease=30.0))
    wait_until(lambda: one.names() == two.names() == ["ann"], "an entry of another process")
    program.kill()
    agree(one, two, names=[])
    assert "ann" in one.left
    assert "ann" in two.left


def test_a_process_that_was_stopped_comes_back_with_its_entries(start: Start, program: subprocess.Popen[str]) -> None:
    one = start(periods=SHORT._replace(lease=30.0))
    wait_until(lambda: one.names() == ["ann"], "an entry of another process")
    program.send_signal(signal.SIGSTOP)
    wait_until(lambda: one.names() == [], "all entries to be removed")
    one.enter(Client("ben"))
    program.send_signal(signal.SIGCONT)
    wait_until(lambda: one.names() == ["ann", "ben"], "all entries to be back")
    assert program.stdin is not None
    program.stdin.write("cat\n")
    program.stdin.flush()
    wait_until(lambda: one.names() == ["ann", "ben", "cat"], "a new entry")
    program.stdin.close()
    wait_until(lambda: one.names() == ["ben"], "an orderly end")
    assert program.wait(10) == 0


@pytest.mark.parametrize("by", ["keeping its lease", "a change"])
def test_a_process_that_was_removed_announces_itself_again(start: Start, server: Redis, by: str) -> None:
    hasty, slow = SHORT._replace(lease=30.0), SHORT._replace(renew=1.0 if by == "keeping its lease" else 3600, grace=3600)
    one, two = start(periods=hasty), start(periods=slow)
    two.enter(Client("ann"))
    agree(one, two, names=["ann"])
    server.do("DEL", f"cartows:{{0}}:lease:{two.sync.process}")
    wait_until(lambda: one.names() == [], "all entries to be removed")
    assert two.names() == ["ann"]
    if by == "a change":
        two.enter(Client("ben"))
    agree(one, two, names=["ann", "ben"] if by == "a change" else ["ann"])


def test_a_process_that_has_lost_its_own_lease_does_not_remove_others_at_once(start: Start, server: Redis) -> None:
    """When Redis was stopped, all leases expire at once although no process has died."""
    one, two = start(periods=LONG._replace(grace=2.0)), start(periods=LONG._replace(grace=2.0))
    one.enter(Client("ann"))
    agree(one, two, names=["ann"])
    applied = two.applied
    server.do("DEL", *(f"cartows:{{0}}:lease:{each.sync.process}" for each in (one, two)))
    wait_until(lambda: two.applied > applied, "the other to announce itself again")
    agree(one, two, names=["ann"])
    assert (one.left, two.left) == ([], [])


def test_processes_that_died_earlier_are_not_shown_and_are_removed(start: Start, server: Redis) -> None:
    one = start()
    one.enter(Client("ann"))
    wait_until(lambda: server.do("HLEN", f"cartows:{{0}}:people:{one.sync.process}") == 2, "ann to be announced")
    one.die()
    server.do("DEL", f"cartows:{{0}}:lease:{one.sync.process}")
    two = start()
    agree(two, names=[])
    wait_until(lambda: members(server) == [two.sync.process], "its remains to be removed")
    assert server.do("EXISTS", f"cartows:{{0}}:people:{one.sync.process}") == 0
    assert two.left == []


def test_a_process_that_dies_while_redis_is_away_is_removed_when_it_is_back(start: Start, server: Redis) -> None:
    one, two = start(), start()
    two.enter(Client("ann"))
    agree(one, two, names=["ann"])
    server.kill()
    two.die()
    server.start()
    agree(one, names=[])


def test_a_dead_process_that_was_removed_in_an_outage_does_not_reappear(start: Start, server: Redis) -> None:
    # The lease of the process that dies has expired by the time that the other removes its entries.
    one, two = start(periods=SHORT._replace(lease=4.0, grace=A_MOMENT)), start(periods=SHORT)
    two.enter(Client("ann"))
    agree(one, two, names=["ann"])
    server.pause()
    wait_until(lambda: one.names() == [], "the others to be removed")
    two.die()
    server.resume()
    wait_until(lambda: server.do("SCARD", "cartows:{0}:procs") == 1, "its remains to be removed")
    agree(one, names=[])
    assert one.left.count("ann") == 1


def test_a_process_without_redis_removes_the_others_when_their_leases_have_expired(
    start: Start, server: Redis, proxy: Proxy
) -> None:
    one, two = start(server.url_of(proxy.port), periods=SHORT), start(periods=SHORT)
    one.enter(Client("ann"))
    two.enter(Client("ben"))
    agree(one, two, names=["ann", "ben"])
    proxy.open.clear()
    wait_until(lambda: one.names() == ["ann"], "the others to be removed")
    wait_until(lambda: two.names() == ["ben"], "the process to be removed")
    two.enter(Client("cat"))
    proxy.open.set()
    proxy.cut()
    agree(one, two, names=["ann", "ben", "cat"])
