"""Frames as Chromium reads them: its inflater on events compressed once for all clients, and sizes at their limits."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.cable import Cable
from tests.browser.conftest import OpenTab
from tests.browser.tab import Tab
from tests.support.harness import HOST, Server

LARGE = 16_384


@pytest.fixture
def headers() -> list[dict[str, str]]:
    """The headers of each answer to a handshake, with lower-case names."""
    return []


@pytest.fixture
def tab(open_tab: OpenTab, cable: Cable, board: str, headers: list[dict[str, str]]) -> Tab:
    tab = open_tab()
    session = tab.page.context.new_cdp_session(tab.page)

    def record(event: dict[str, Any]) -> None:
        headers.append({name.lower(): value for name, value in event["response"]["headers"].items()})

    session.on("Network.webSocketHandshakeResponseReceived", record)
    session.send("Network.enable")
    tab.goto(f"http://{HOST}:{cable.port}/pages/raw.html", board=board)
    tab.await_true("received.length === 1")
    return tab


def change(server: Server, board: str, count: int, size: int) -> None:
    assert server.post(f"/change/{board}?count={count}&size={size}", None).status == 200


def padding(tab: Tab) -> list[int]:
    """Return the size of each task received; its padding must be complete."""
    found: list[int] = tab.evaluate(
        "received.slice(1).map(({data}) => /^x*$/.test(data.task.padding) ? data.task.padding.length : NaN)"
    )
    return found


def test_large_events_are_compressed_and_small_ones_between_them_are_not(
    tab: Tab, server: Server, cable: Cable, board: str, headers: list[dict[str, str]]
) -> None:
    (answer,) = headers
    assert answer["sec-websocket-extensions"].startswith("permessage-deflate"), answer
    before = cable.carried
    sizes = []
    for _ in range(20):
        for size in (LARGE, 0):
            change(server, board, 1, size)
            sizes.append(size)
    tab.await_true("(count) => received.length > count", len(sizes))
    assert padding(tab) == sizes
    # 330 KB of events
    assert cable.carried - before < 20_000


def test_sizes_around_the_limits_of_frames_and_of_compression_arrive_whole(tab: Tab, server: Server, board: str) -> None:
    """A length takes one byte up to 125, two more up to 65,535, then eight; from 1,024 on it is compressed."""
    server.post(f"/change/{board}", None)
    tab.await_true("received.length === 2")
    # the size of an event without padding
    empty = tab.evaluate("JSON.stringify(received[1]).length")
    sizes = [border - empty + offset for border in (1024, 65_536) for offset in range(-3, 4)] + [300_000]
    for size in sizes:
        change(server, board, 1, size)
    tab.await_true("(count) => received.length > count", len(sizes) + 1)
    assert padding(tab) == [0, *sizes]


def test_a_burst_of_compressed_events_arrives_whole_and_in_order(tab: Tab, server: Server, board: str) -> None:
    change(server, board, 100, LARGE)
    tab.await_true("received.length === 101")
    assert padding(tab) == [LARGE] * 100
    assert tab.evaluate("received.slice(1).map(({id}) => id)") == server.get(f"/ids/{board}").json["ids"]
