"""Presence across processes: several of them in one, or real ones that are killed and stopped, at a real Redis."""

from __future__ import annotations

import json
import logging
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from cartows.backplane.redis import presence_leases as leases_module
from cartows.backplane.redis.connect import Broker
from cartows.backplane.redis.presence_announcer import _LINGER, MAX_COMMANDS
from cartows.backplane.redis.presence_leases import RETRIES, Periods, PresenceLeases
from cartows.backplane.redis.presence_sync import PresenceSync
from cartows.presence.presence import Presence, PresenceEntry, PresenceReport
from cartows.rooms import Room
from tests.presence.test_presence import Client, deliver, flat
from tests.support.process import wait_for
from tests.support.redis.server import Proxy, Redis

ROOT = Path(__file__).parents[3]

BOARD = ("board_id", "b1")

# In seconds. Short for those who are to be given up, and long for those who are not, however slow the machine.
SHORT = Periods(lease=1.5, renew=0.4, sweep=0.3, grace=0.6, block=0.2, timeout=1.0)
LONG = SHORT._replace(lease=60.0)

# How long a test waits for what must not happen, in seconds.
A_MOMENT = 0.3


class Process:
    """Be one process: its presence, behind a lock in place of a hub thread, and a watcher who objects to what it is told."""

    def __init__(self, url: str, *, periods: Periods = LONG, logger: str = "cartows.test", limit: int = 100_000) -> None:
        self.lock = threading.RLock()
        self.limit = limit
        self.presence: Presence[Client] = Presence(0.0, limit, shared=True)
        self.commands: list[tuple[Any, ...]] = []
        self.applied = 0
        #: Who the watcher was told has left, by identity.
        self.left: list[str] = []
        self.watcher = Client(f"watcher of {id(self)}")
        self.backplane = PresenceSync(Broker(url).link, self, logging.getLogger(logger), periods=periods)
        self.enter(self.watcher)

    # What a hub does.

    def publish_changes(self) -> None:
        news = self.presence.take_updates()
        for each in news:
            self.left += each.data.get("leaves", {})
        deliver(news)
        self.backplane.announce(self.presence.take_changes())

    def presence_entries(self) -> list[PresenceEntry]:
        return self.presence.presence_entries()

    def apply(self, reports: list[PresenceReport]) -> None:
        with self.lock:
            self.applied += 1
            self.presence.apply(reports)
            self.publish_changes()

    def disconnect_identity(self, identity: str, code: int, reason: str) -> None:
        self.commands.append((identity, code, reason))
        if reason == "fail":
            raise LookupError("meant to")

    def reauthorize_identity(self, identity: str) -> None:
        self.commands.append((identity,))

    # What its clients do.

    def enter(self, client: Client, meta: dict[str, Any] | None = None, room: Room = BOARD) -> Client:
        with self.lock:
            self.presence.enter(client, room, meta or {})
            self.publish_changes()
        return client

    def leave(self, client: Client, room: Room = BOARD) -> None:
        with self.lock:
            self.presence.leave(client, room)
            client.rooms.pop(room, None)
            self.publish_changes()

    def shown(self, room: Room = BOARD) -> dict[str, tuple[str, Any]]:
        """Return who is in a room, by ref; what the watcher was told must come to the same."""
        with self.lock:
            shown = flat(self.presence.present(*room))
            if room == BOARD:
                assert self.watcher.rooms[room].names in (shown, None if len(shown) > self.limit else shown)
            return shown

    def names(self) -> list[str]:
        return sorted(name for name, _ in self.shown().values() if not name.startswith("watcher"))

    # What becomes of it.

    def die(self) -> None:
        """End without a word: nothing that it does from here on arrives anywhere."""
        for part in (self.backplane._announcer, self.backplane._listener):
            part.leases._run = part.leases.read = _fail  # type: ignore[assignment, method-assign]
        self.backplane.stop(10)


def _fail(*_: Any, **__: Any) -> Any:
    raise OSError("this process is dead")


Start = Callable[..., Process]


@pytest.fixture
def start(server: Redis) -> Iterator[Start]:
    processes: list[Process] = []

    def start(url: str = server.url, **options: Any) -> Process:
        process = Process(url, **options)
        processes.append(process)
        process.backplane.start()
        return process

    yield start
    for process in processes:
        process.backplane.stop(10)


def agree(*processes: Process, names: list[str] | None = None) -> None:
    """Wait until all processes show the same people, each other's watchers among them."""

    def same() -> bool:
        shown = [process.shown() for process in processes]
        here = {
            ref
            for process in processes
            for ref in (person.ref for person in process.presence_entries() if person.room == BOARD)
        }
        return all(each == shown[0] for each in shown) and shown[0].keys() == here and names in (None, processes[0].names())

    wait_for(same, lambda: "; ".join(str(process.names()) for process in processes))


def members(server: Redis) -> list[str]:
    """Return the processes that Redis knows of."""
    return sorted(process.decode() for process in server.do("SMEMBERS", "cartows:{0}:procs"))


def complaints(caplog: pytest.LogCaptureFixture, logger: str = "cartows.test") -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == logger]


# Coming and going ----------------------------------------------------------------------------------------------------


def test_processes_show_each_others_people(start: Start) -> None:
    one, two, three = start(), start(), start()
    ann = one.enter(Client("ann"), {"at": 1})
    agree(one, two, three, names=["ann"])
    assert ("ann", {"at": 1}) in two.shown().values()
    one.enter(ann, {"at": 2, "é": ["\U0001f600", None, 1.5]})
    two.enter(Client("ann"))
    two.enter(Client("ben"), room=("project_id", "p/1"))
    agree(one, two, three, names=["ann", "ann"])
    assert ("ann", {"at": 2, "é": ["\U0001f600", None, 1.5]}) in three.shown().values()
    wait_for(lambda: list(three.presence.present("project_id", "p/1")) == ["ben"], "the other room")
    one.leave(ann)
    agree(one, two, three, names=["ann"])


def test_who_starts_late_sees_who_is_there(start: Start) -> None:
    one = start()
    one.enter(Client("ann"))
    agree(one, start(), names=["ann"])


def test_an_orderly_end_is_told_at_once(start: Start, server: Redis) -> None:
    one, two = start(), start()
    one.enter(Client("ann"))
    agree(one, two, names=["ann"])
    began = monotonic()
    one.backplane.stop(10)
    agree(two, names=[])
    assert monotonic() - began < 5
    assert server.do("EXISTS", f"cartows:{{0}}:lease:{one.backplane.process}") == 0
    assert members(server) == [two.backplane.process]


def test_a_start_leaves_no_gap_between_the_state_and_what_follows(start: Start) -> None:
    """Whatever is between a snapshot and the stream shows as somebody who is missing for good, or stays for good."""
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
            wait_for(lambda seen=seen: processes[-1].applied > seen + 3, "news to arrive")
    finally:
        over.set()
        for visitor in visitors:
            visitor.join(10)
    agree(*processes)


def test_a_storm_of_joins_is_told_in_few_entries(start: Start, server: Redis) -> None:
    one, two = start(limit=10), start(limit=10)
    agree(one, two)
    before, began = server.do("XLEN", "cartows:{0}:presence"), monotonic()
    crowd: list[Client] = []
    for n in range(300):
        crowd.append(one.enter(Client(f"person {n}"), {"text": "x" * 100}))
        # A turn of a hub each.
        threading.Event().wait(0.001)
    agree(one, two)
    # One for each of the shortest periods that have passed, and what is too much for one.
    most = (monotonic() - began) / _LINGER + len(crowd) / leases_module._MAX_CHANGES + 5
    assert server.do("XLEN", "cartows:{0}:presence") - before <= most
    for member in crowd:
        one.leave(member)
    agree(one, two, names=[])
    assert server.do("HLEN", f"cartows:{{0}}:people:{one.backplane.process}") == 1


def test_many_people_are_announced_at_once(start: Start) -> None:
    one = start(limit=10)
    with one.lock:
        for n in range(5000):
            one.presence.enter(Client(f"person {n}"), BOARD, {"text": "x" * 200})
        one.publish_changes()
    two = start(limit=10)
    agree(one, two)
    assert len(two.names()) == 5000


def test_a_deep_meta_is_no_trouble(start: Start) -> None:
    one, two = start(), start()
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    one.enter(Client("ann"), {"a": deep})
    agree(one, two, names=["ann"])


# Processes that end, or seem to -----------------------------------------------------------------------------------------


PROGRAM = """
import sys, threading
from tests.backplane.redis.test_presence_sync import SHORT, Client, Process
process = Process(sys.argv[1], periods=SHORT)
process.enter(Client("ann"), {"at": 1})
process.backplane.start()
for line in sys.stdin:
    process.enter(Client(line.strip()))
process.backplane.stop(10)
"""


@pytest.fixture
def program(server: Redis) -> Iterator[subprocess.Popen[str]]:
    """A process of its own, in which ann is."""
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
    # An answer's time to notice an outage, and at worst another one and a wait until it is looked at again.
    assert periods.lease + periods.timeout + RETRIES[1] <= 55
    assert periods.renew * 3 < periods.lease
    assert periods.block < periods.timeout < periods.lease - 2 * periods.renew


def test_the_people_of_a_process_that_was_killed_leave(start: Start, program: subprocess.Popen[str]) -> None:
    one, two = start(periods=SHORT._replace(lease=30.0)), start(periods=SHORT._replace(lease=30.0))
    wait_for(lambda: one.names() == two.names() == ["ann"], "somebody of another process")
    program.kill()
    agree(one, two, names=[])
    assert "ann" in one.left
    assert "ann" in two.left


def test_a_process_that_was_stopped_comes_back_with_its_people(start: Start, program: subprocess.Popen[str]) -> None:
    one = start(periods=SHORT._replace(lease=30.0))
    wait_for(lambda: one.names() == ["ann"], "somebody of another process")
    program.send_signal(signal.SIGSTOP)
    wait_for(lambda: one.names() == [], "everybody to be taken out")
    one.enter(Client("ben"))
    program.send_signal(signal.SIGCONT)
    wait_for(lambda: one.names() == ["ann", "ben"], "everybody to be back")
    assert program.stdin is not None
    program.stdin.write("cat\n")
    program.stdin.flush()
    wait_for(lambda: one.names() == ["ann", "ben", "cat"], "somebody new")
    program.stdin.close()
    wait_for(lambda: one.names() == ["ben"], "an orderly end")
    assert program.wait(10) == 0


@pytest.mark.parametrize("by", ["keeping its lease", "a change"])
def test_who_was_taken_out_announces_itself_afresh(start: Start, server: Redis, by: str) -> None:
    hasty, slow = SHORT._replace(lease=30.0), SHORT._replace(renew=1.0 if by == "keeping its lease" else 3600, grace=3600)
    one, two = start(periods=hasty), start(periods=slow)
    two.enter(Client("ann"))
    agree(one, two, names=["ann"])
    server.do("DEL", f"cartows:{{0}}:lease:{two.backplane.process}")
    wait_for(lambda: one.names() == [], "everybody to be taken out")
    assert two.names() == ["ann"]
    if by == "a change":
        two.enter(Client("ben"))
    agree(one, two, names=["ann", "ben"] if by == "a change" else ["ann"])


def test_who_has_lost_its_own_lease_does_not_take_out_others_in_a_hurry(start: Start, server: Redis) -> None:
    """When a Redis was stopped, all leases run out at once, and nobody has died."""
    one, two = start(periods=LONG._replace(grace=2.0)), start(periods=LONG._replace(grace=2.0))
    one.enter(Client("ann"))
    agree(one, two, names=["ann"])
    applied = two.applied
    server.do("DEL", *(f"cartows:{{0}}:lease:{each.backplane.process}" for each in (one, two)))
    wait_for(lambda: two.applied > applied, "the other to announce itself afresh")
    agree(one, two, names=["ann"])
    assert (one.left, two.left) == ([], [])


def test_the_dead_of_another_day_are_not_shown_and_go(start: Start, server: Redis) -> None:
    one = start()
    one.enter(Client("ann"))
    wait_for(lambda: server.do("HLEN", f"cartows:{{0}}:people:{one.backplane.process}") == 2, "ann to be announced")
    one.die()
    server.do("DEL", f"cartows:{{0}}:lease:{one.backplane.process}")
    two = start()
    agree(two, names=[])
    wait_for(lambda: members(server) == [two.backplane.process], "what is left of it to be taken away")
    assert server.do("EXISTS", f"cartows:{{0}}:people:{one.backplane.process}") == 0
    assert two.left == []


# Redis away -------------------------------------------------------------------------------------------------------------


def test_a_paused_redis_costs_nobody_anything(start: Start, server: Redis, caplog: pytest.LogCaptureFixture) -> None:
    one, two = start(), start()
    one.enter(Client("ann"))
    ben = two.enter(Client("ben"))
    agree(one, two, names=["ann", "ben"])
    server.pause()
    # The announcers have something to announce at the latest when they keep their leases.
    wait_for(lambda: not (one.backplane._announcer._following or two.backplane._announcer._following), "each to notice")
    cat = one.enter(Client("cat"), {"at": 1})
    one.enter(cat, {"at": 2})
    two.leave(ben)
    assert one.names() == ["ann", "ben", "cat"]
    assert two.names() == ["ann"]
    server.resume()
    agree(one, two, names=["ann", "cat"])
    assert two.left == ["ben"]
    assert one.left == ["ben"]
    wait_for(lambda: len(complaints(caplog)) == 4, "each to say once that it is away and back")
    assert [("seen again" in said) for said in complaints(caplog)].count(True) == 2


@pytest.mark.parametrize("how", ["restart", "flush", "kill_clients"])
def test_a_redis_that_comes_back_empty_is_told_everything_and_nobody_leaves(start: Start, server: Redis, how: str) -> None:
    # Time enough for everybody to come back in.
    periods = LONG._replace(grace=15.0)
    one, two, three = (start(periods=periods) for _ in range(3))
    one.enter(Client("ann"))
    two.enter(Client("ben"))
    agree(one, two, three, names=["ann", "ben"])
    getattr(server, how)()
    one.enter(Client("cat"))
    agree(one, two, three, names=["ann", "ben", "cat"])
    two.enter(Client("dan"))
    agree(one, two, three, names=["ann", "ben", "cat", "dan"])
    assert [each.left for each in (one, two, three)] == [[]] * 3
    wait_for(lambda: server.do("SCARD", "cartows:{0}:procs") == 3, "every process to have its lease")


def test_who_dies_while_redis_is_away_leaves_when_it_is_back(start: Start, server: Redis) -> None:
    one, two = start(), start()
    two.enter(Client("ann"))
    agree(one, two, names=["ann"])
    server.kill()
    two.die()
    server.start()
    agree(one, names=[])


def test_who_was_forgotten_in_an_outage_and_is_dead_does_not_appear_again(start: Start, server: Redis) -> None:
    # The lease of the one that dies has run out by the time that the other forgets it.
    one, two = start(periods=SHORT._replace(lease=4.0, grace=A_MOMENT)), start(periods=SHORT)
    two.enter(Client("ann"))
    agree(one, two, names=["ann"])
    server.pause()
    wait_for(lambda: one.names() == [], "the others to be forgotten")
    two.die()
    server.resume()
    wait_for(lambda: server.do("SCARD", "cartows:{0}:procs") == 1, "what is left of it to be taken away")
    agree(one, names=[])
    assert one.left.count("ann") == 1


def test_who_has_lost_touch_forgets_the_others_when_their_leases_have_run_out(
    start: Start, server: Redis, proxy: Proxy
) -> None:
    one, two = start(proxy_url(server, proxy), periods=SHORT), start(periods=SHORT)
    one.enter(Client("ann"))
    two.enter(Client("ben"))
    agree(one, two, names=["ann", "ben"])
    proxy.open.clear()
    wait_for(lambda: one.names() == ["ann"], "the others to be forgotten")
    wait_for(lambda: two.names() == ["ben"], "the process to be taken out")
    two.enter(Client("cat"))
    proxy.open.set()
    proxy.cut()
    agree(one, two, names=["ann", "ben", "cat"])


def proxy_url(server: Redis, proxy: Proxy) -> str:
    return server.url_of(proxy.port)


def test_a_connection_that_breaks_once_makes_nobody_leave(start: Start, server: Redis, proxy: Proxy) -> None:
    periods = LONG._replace(lease=3.0)
    one, two = start(proxy_url(server, proxy), periods=periods), start()
    two.enter(Client("ann"))
    agree(one, two, names=["ann"])
    proxy.cut()
    agree(one, two, names=["ann"])
    threading.Event().wait(periods.lease - periods.timeout + A_MOMENT)
    agree(one, two, names=["ann"])
    assert one.left == []


def test_nothing_piles_up_while_redis_is_away(start: Start, server: Redis, caplog: pytest.LogCaptureFixture) -> None:
    one = start(limit=10)
    agree(one)
    server.kill()
    wait_for(lambda: complaints(caplog), "an outage to be noticed")
    announcer = one.backplane._announcer
    wait_for(lambda: not announcer._following, "the announcer to notice")
    for n in range(MAX_COMMANDS + 10):
        one.enter(Client(f"person {n}"))
        one.backplane.reauthorize(f"person {n}")
    # While it tries, what comes waits for it; each try that fails lets go of it.
    wait_for(lambda: announcer._pending == {}, "what waits to be let go of")
    assert len(announcer._commands) == MAX_COMMANDS
    assert [said for said in complaints(caplog) if "given up" in said] == [
        "cartows: more than 1000 commands for other processes wait for Redis; the oldest are given up"
    ]
    assert len([said for said in complaints(caplog) if "not seen for now" in said]) == 1


@pytest.mark.parametrize("trouble", ["nobody listens", "it is paused", "it is full"])
def test_a_redis_that_is_no_help_at_the_start_is_waited_for(
    start: Start, server: Redis, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, after = {
        "nobody listens": (server.kill, server.start),
        "it is paused": (server.pause, server.resume),
        "it is full": (lambda: server.config("maxmemory", 1), lambda: server.config("maxmemory", 0)),
    }[trouble]
    before()
    one, two = start(), start()
    one.enter(Client("ann"))
    wait_for(lambda: len(complaints(caplog)) == 2, "each to notice")
    assert one.names() == ["ann"]
    after()
    agree(one, two, names=["ann"])
    wait_for(lambda: len(complaints(caplog)) == 4, "each to say that it is back")


@pytest.mark.parametrize("trouble", ["none", "paused", "killed", "never started"])
def test_an_end_keeps_its_time_and_leaves_nothing(server: Redis, trouble: str, caplog: pytest.LogCaptureFixture) -> None:
    process = Process(server.url, periods=LONG._replace(block=20.0, timeout=30.0))
    if trouble != "never started":
        process.backplane.start()
        wait_for(lambda: server.do("SCARD", "cartows:{0}:procs"), "it to be announced")
        wait_for(lambda: server.do("INFO", "clients")["blocked_clients"], "it to listen")
    if trouble == "paused":
        server.pause()
        process.enter(Client("ann"))
    elif trouble == "killed":
        server.kill()
    began = monotonic()
    process.backplane.stop(2.0)
    assert monotonic() - began < 5
    assert not process.backplane._announcer.thread.is_alive()
    assert not process.backplane._listener.thread.is_alive()


def test_who_loses_its_place_in_the_stream_takes_a_snapshot(
    start: Start, server: Redis, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(leases_module, "KEPT", 1)
    one, two = start(proxy_url(server, proxy), periods=LONG._replace(timeout=0.6)), start()
    agree(one, two)
    proxy.open.clear()
    # The server trims by whole nodes of about a hundred entries.
    leases = PresenceLeases(Broker(server.url).link(10), two.backplane.process, 60)
    for n in range(500):
        leases.command("nothing", str(n))
    leases.close()
    two.enter(Client("ann"))
    wait_for(lambda: server.do("HLEN", f"cartows:{{0}}:people:{two.backplane.process}") == 2, "ann to be announced")
    two.backplane.disconnect("ben", 3503, "")
    proxy.open.set()
    proxy.cut()
    agree(one, two, names=["ann"])
    wait_for(lambda: one.commands, "what is still there to be heard")
    assert [said for said in complaints(caplog) if "may not have reached it" in said]


def test_a_stream_that_was_begun_anew_by_a_clock_set_back_is_read(start: Start, server: Redis) -> None:
    one, two = start(), start()
    agree(one, two)
    with server.client() as client, client.pipeline(transaction=True) as pipeline:
        pipeline.delete("cartows:{0}:presence")
        pipeline.execute_command("XADD", "cartows:{0}:presence", "5-1", "p", "nobody", "op", "nothing")
        pipeline.execute()
    one.enter(Client("ann"))
    agree(one, two, names=["ann"])
    two.enter(Client("ben"))
    agree(one, two, names=["ann", "ben"])


# Commands ---------------------------------------------------------------------------------------------------------------


def test_commands_reach_the_other_processes_and_not_their_own(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    one, two, three = start(), start(), start()
    agree(one, two, three)
    one.backplane.disconnect("ann", 3503, "fail")
    one.backplane.reauthorize("ben\ud800")
    one.backplane.disconnect("5", 4000, "é")
    expected = [("ann", 3503, "fail"), ("ben\ud800",), ("5", 4000, "é")]
    for other in (two, three):
        wait_for(lambda other=other: len(other.commands) == 3, "the commands")
        assert other.commands == expected
    assert one.commands == []
    agree(one, two, three, start(), names=[])
    assert len([said for said in complaints(caplog) if "could not be done" in said]) == 2


def test_commands_of_an_outage_arrive_after_it(start: Start, server: Redis, caplog: pytest.LogCaptureFixture) -> None:
    one, two = start(), start()
    agree(one, two)
    server.kill()
    wait_for(lambda: len(complaints(caplog)) == 2, "each to notice")
    one.backplane.disconnect("ann", 3503, "")
    server.start()
    wait_for(lambda: two.commands, "the command")
    agree(one, two)
    late = start()
    agree(one, two, late)
    assert two.commands == [("ann", 3503, "")]
    assert late.commands == []


def test_a_listener_that_was_cut_off_hears_the_commands_of_that_time(start: Start, server: Redis, proxy: Proxy) -> None:
    one, two = start(proxy_url(server, proxy)), start()
    agree(one, two)
    proxy.open.clear()
    two.backplane.disconnect("ann", 3503, "")
    two.enter(Client("ann"))
    wait_for(lambda: server.do("HLEN", f"cartows:{{0}}:people:{two.backplane.process}") == 2, "ann to be announced")
    assert one.commands == []
    proxy.open.set()
    proxy.cut()
    wait_for(lambda: one.commands == [("ann", 3503, "")], "the command")
    agree(one, two, names=["ann"])


# Others who write there -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"p": "x", "op": "change", "x.1": "no JSON"},
        {"p": "x", "op": "change", "x.1": "[1, 2]"},
        {"p": "x", "op": "change", "x.1": "[" * 100_000},
        {"p": "x", "op": "change", b"\xff": b"\xff"},
        {"p": "x", "op": "disconnect", "d": "{}"},
        {"p": "x", "op": "disconnect", "d": '["ann", "4000", ""]'},
        {"p": "x", "op": "reauthorize"},
        {"p": b"\xff", "op": b"\xff"},
        {"nothing": "known"},
    ],
    ids=lambda fields: json.dumps({str(key): str(value)[:20] for key, value in fields.items()}),
)
def test_what_nobody_understands_is_passed_over(
    start: Start, server: Redis, fields: dict[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = start(), start()
    agree(one, two)
    for _ in range(2):
        ((last, _),) = server.do("XREVRANGE", "cartows:{0}:presence", "+", "-", "COUNT", 1)
        era, _, number = last.partition(b"-")
        flat = [each for pair in fields.items() for each in pair]
        server.do("XADD", "cartows:{0}:presence", b"%s-%d" % (era, int(number) + 1), *flat)
    one.enter(Client("ann"))
    agree(one, two, names=["ann"])
    assert one.commands == []
    assert len([said for said in complaints(caplog) if "somebody else writes" in said]) <= 2
    assert not [said for said in complaints(caplog) if "not seen" in said]
