"""Presence across processes: several of them in one, at a real Redis."""

from __future__ import annotations

import random
import threading
from time import monotonic
from typing import Any

import pytest

from tests.presence.test_presence import Client
from tests.support.redis.presence import LONG, Process, Start, agree, logged, members
from tests.support.redis.server import Redis
from tests.support.waiting import wait_until


def test_processes_show_each_others_entries(start: Start) -> None:
    one, two, three = start(), start(), start()
    ann = one.enter(Client("ann"), {"at": 1})
    agree(one, two, three, names=["ann"])
    assert ("ann", {"at": 1}) in two.shown().values()
    one.enter(ann, {"at": 2, "é": ["\U0001f600", None, 1.5]})
    two.enter(Client("ann"))
    two.enter(Client("ben"), room=("project_id", "p/1"))
    agree(one, two, three, names=["ann", "ann"])
    assert ("ann", {"at": 2, "é": ["\U0001f600", None, 1.5]}) in three.shown().values()
    wait_until(lambda: list(three.presence.present("project_id", "p/1")) == ["ben"], "the other room")
    one.leave(ann)
    agree(one, two, three, names=["ann"])


def test_a_process_that_starts_late_shows_the_entries_of_the_others(start: Start) -> None:
    one = start()
    one.enter(Client("ann"))
    agree(one, start(), names=["ann"])


def test_an_orderly_end_is_announced_at_once(start: Start, server: Redis) -> None:
    one, two = start(), start()
    one.enter(Client("ann"))
    agree(one, two, names=["ann"])
    began = monotonic()
    one.sync.stop(10)
    agree(two, names=[])
    assert monotonic() - began < 5
    assert server.do("EXISTS", f"cartows:{{0}}:lease:{one.sync.process}") == 0
    assert members(server) == [two.sync.process]


def test_a_start_leaves_no_gap_between_the_state_and_what_follows(start: Start) -> None:
    """What is lost between a snapshot and the stream shows as an entry that is missing, or stays, for ever."""
    processes = [start(), start()]
    over = threading.Event()

    def visit(process: Process, seed: int) -> None:
        chance, inside = random.Random(seed), []
        while not over.is_set():
            if len(inside) < 20 or chance.random() < 0.5:
                inside.append(process.enter(Client(f"visitor {chance.randrange(5)}"), {"n": chance.randrange(3)}))
            else:
                process.leave(inside.pop(chance.randrange(len(inside))))
            over.wait(0.001)

    visitors = [threading.Thread(target=visit, args=(process, seed)) for seed, process in enumerate(processes)]
    for visitor in visitors:
        visitor.start()
    try:
        for _ in range(4):
            processes.append(start())
            seen = processes[-1].applied
            wait_until(lambda seen=seen: processes[-1].applied > seen + 3, "changes to arrive")
    finally:
        over.set()
        for visitor in visitors:
            visitor.join(10)
    agree(*processes)


def test_a_deeply_nested_meta_is_carried(start: Start) -> None:
    one, two = start(), start()
    deep: Any = 1
    for _ in range(250):
        deep = [deep]
    one.enter(Client("ann"), {"a": deep})
    agree(one, two, names=["ann"])


@pytest.mark.parametrize("trouble", ["no server listens", "it is paused", "it is full"])
def test_a_redis_that_cannot_be_used_at_the_start_is_waited_for(
    start: Start, server: Redis, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, after = {
        "no server listens": (server.kill, server.start),
        "it is paused": (server.pause, server.resume),
        "it is full": (lambda: server.config("maxmemory", 1), lambda: server.config("maxmemory", 0)),
    }[trouble]
    before()
    one, two = start(), start()
    one.enter(Client("ann"))
    wait_until(lambda: len(logged(caplog)) == 2, "each to notice")
    assert one.names() == ["ann"]
    after()
    agree(one, two, names=["ann"])
    wait_until(lambda: len(logged(caplog)) == 4, "each to log that it is back")


@pytest.mark.parametrize("trouble", ["none", "paused", "killed", "never started"])
def test_a_stop_ends_in_time_and_leaves_no_thread(server: Redis, trouble: str, caplog: pytest.LogCaptureFixture) -> None:
    process = Process(server.url, periods=LONG._replace(block=20.0, timeout=30.0))
    if trouble != "never started":
        process.sync.start()
        wait_until(lambda: server.do("SCARD", "cartows:{0}:procs"), "it to be announced")
        wait_until(lambda: server.do("INFO", "clients")["blocked_clients"], "it to listen")
    if trouble == "paused":
        server.pause()
        process.enter(Client("ann"))
    elif trouble == "killed":
        server.kill()
    began = monotonic()
    process.sync.stop(2.0)
    assert monotonic() - began < 5
    assert not process.sync._announcer.thread.is_alive()
    assert not process.sync._listener.thread.is_alive()
