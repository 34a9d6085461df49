"""What a process reads of the others: gaps in the stream, commands, and what cartows did not write."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from cartows.backplane.redis import presence_leases
from cartows.backplane.redis.connect import Broker
from cartows.backplane.redis.presence_leases import PresenceLeases
from tests.presence.test_presence import Client
from tests.support.redis.presence import A_MOMENT, LONG, Start, agree, logged
from tests.support.redis.server import Proxy, Redis
from tests.support.waiting import wait_until


def test_a_connection_that_breaks_once_removes_no_entry(start: Start, server: Redis, proxy: Proxy) -> None:
    periods = LONG._replace(lease=3.0)
    one, two = start(server.url_of(proxy.port), periods=periods), start()
    two.enter(Client("ann"))
    agree(one, two, names=["ann"])
    proxy.cut()
    agree(one, two, names=["ann"])
    threading.Event().wait(periods.lease - periods.timeout + A_MOMENT)
    agree(one, two, names=["ann"])
    assert one.left == []


def test_a_listener_that_has_fallen_behind_takes_a_snapshot(
    start: Start, server: Redis, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(presence_leases, "KEPT", 1)
    one, two = start(server.url_of(proxy.port), periods=LONG._replace(timeout=0.6)), start()
    agree(one, two)
    proxy.open.clear()
    # The server trims by whole nodes of about a hundred entries.
    leases = PresenceLeases(Broker(server.url).link(10), two.sync.process, 60)
    for n in range(500):
        leases.command("nothing", str(n))
    leases.close()
    two.enter(Client("ann"))
    wait_until(lambda: server.do("HLEN", f"cartows:{{0}}:people:{two.sync.process}") == 2, "ann to be announced")
    two.sync.disconnect("ben", 3503, "")
    proxy.open.set()
    proxy.cut()
    agree(one, two, names=["ann"])
    wait_until(lambda: one.commands, "the commands that are still there")
    assert [line for line in logged(caplog) if "may not have reached it" in line]


def test_a_stream_that_begins_again_under_a_clock_set_back_is_read(start: Start, server: Redis) -> None:
    one, two = start(), start()
    agree(one, two)
    with server.client() as client, client.pipeline(transaction=True) as pipeline:
        pipeline.delete("cartows:{0}:presence")
        pipeline.execute_command("XADD", "cartows:{0}:presence", "5-1", "p", "unknown", "op", "nothing")
        pipeline.execute()
    one.enter(Client("ann"))
    agree(one, two, names=["ann"])
    two.enter(Client("ben"))
    agree(one, two, names=["ann", "ben"])


def test_commands_reach_the_other_processes_and_not_their_own(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    one, two, three = start(), start(), start()
    agree(one, two, three)
    one.sync.disconnect("ann", 3503, "fail")
    one.sync.reauthorize("ben\ud800")
    one.sync.disconnect("5", 4000, "é")
    expected = [("ann", 3503, "fail"), ("ben\ud800",), ("5", 4000, "é")]
    for other in (two, three):
        wait_until(lambda other=other: len(other.commands) == 3, "the commands")
        assert other.commands == expected
    assert one.commands == []
    agree(one, two, three, start(), names=[])
    assert len([line for line in logged(caplog) if "a command of another process failed" in line]) == 2


def test_commands_of_an_outage_arrive_after_it(start: Start, server: Redis, caplog: pytest.LogCaptureFixture) -> None:
    one, two = start(), start()
    agree(one, two)
    server.kill()
    wait_until(lambda: len(logged(caplog)) == 2, "each to notice")
    one.sync.disconnect("ann", 3503, "")
    server.start()
    wait_until(lambda: two.commands, "the command")
    agree(one, two)
    late = start()
    agree(one, two, late)
    assert two.commands == [("ann", 3503, "")]
    assert late.commands == []


def test_a_listener_that_was_disconnected_reads_the_commands_of_that_time(start: Start, server: Redis, proxy: Proxy) -> None:
    one, two = start(server.url_of(proxy.port)), start()
    agree(one, two)
    proxy.open.clear()
    two.sync.disconnect("ann", 3503, "")
    two.enter(Client("ann"))
    wait_until(lambda: server.do("HLEN", f"cartows:{{0}}:people:{two.sync.process}") == 2, "ann to be announced")
    assert one.commands == []
    proxy.open.set()
    proxy.cut()
    wait_until(lambda: one.commands == [("ann", 3503, "")], "the command")
    agree(one, two, names=["ann"])


@pytest.mark.parametrize(
    "fields",
    [
        {"p": "x", "op": "change", "x.1": "no JSON"},
        {"p": "x", "op": "change", "x.1": "[1, 2]"},
        {"p": "x", "op": "change", "x.1": "[" * 100_000},
        # Deeper than a message may be that carries it, and not too deep for a decoder.
        {"p": "x", "op": "change", "x.1": f'["board_id","b1","eve",{{"a":{"[" * 300 + "]" * 300}}}]'},
        {"p": "x", "op": "change", b"\xff": b"\xff"},
        {"p": "x", "op": "disconnect", "d": "{}"},
        {"p": "x", "op": "disconnect", "d": '["ann", "4000", ""]'},
        {"p": "x", "op": "reauthorize"},
        {"p": b"\xff", "op": b"\xff"},
        {"nothing": "known"},
    ],
    ids=lambda fields: json.dumps({str(key): str(value)[:20] for key, value in fields.items()}),
)
def test_what_cartows_did_not_write_is_ignored(
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
    assert len([line for line in logged(caplog) if "another application" in line]) <= 2
    assert not [line for line in logged(caplog) if "not shared" in line]
