"""Hidden tabs, with the slow timers that a browser gives them (see the fixture ``window``)."""

from __future__ import annotations

import pytest
from playwright.sync_api import BrowserContext

from tests.browser.cable import Cable
from tests.browser.conftest import OpenModel, OpenTab
from tests.browser.sync import await_synced
from tests.browser.tab import NO_NETWORK, Tab
from tests.support.harness import Server

QUICK = [100, 300]


def change(server: Server, board: str, count: int = 10) -> None:
    assert server.post(f"/change/{board}?count={count}", None).status == 200


@pytest.fixture
def front(window: BrowserContext, open_tab: OpenTab, open_model: OpenModel, cable: Cable) -> Tab:
    """A tab that is in front of the other one."""
    return open_model(cable.port, tab=open_tab(window), backoff=QUICK)


@pytest.fixture
def hidden(window: BrowserContext, open_tab: OpenTab, open_model: OpenModel, cable: Cable, front: Tab) -> Tab:
    tab = open_model(cable.port, tab=open_tab(window), backoff=QUICK)
    for each in (front, tab):
        each.expect_errors(*NO_NETWORK)
    front.page.bring_to_front()
    tab.await_true("document.visibilityState === 'hidden'")
    front.await_true("document.visibilityState === 'visible'")
    return tab


def test_a_hidden_tab_receives_everything(hidden: Tab, server: Server, board: str) -> None:
    change(server, board, 200)
    await_synced(hidden, server, board)
    assert hidden.evaluate("document.visibilityState") == "hidden"


def test_a_hidden_tab_without_a_connection_waits_until_it_is_shown_and_then_misses_nothing(
    hidden: Tab, front: Tab, cable: Cable, server: Server, board: str
) -> None:
    change(server, board)
    cable.cut()
    for tab in (hidden, front):
        tab.await_true("model.statuses.some(({state}) => state === 'waiting')")
    change(server, board)
    # While the tab in front retries again and again, the hidden one never does.
    front.await_true("sockets.length > 10")
    assert hidden.evaluate("[model.connection.status.state, model.connection.status.retryAt]") == ["waiting", None]
    assert hidden.evaluate("sockets.length") == 1

    cable.restore()
    front.await_true("model.connection.state === 'open'")
    change(server, board)
    await_synced(front, server, board)
    assert hidden.evaluate("sockets.length") == 1

    hidden.evaluate(
        "document.addEventListener('visibilitychange', () => { window.shown = Date.now(); }, {capture: true, once: true})"
    )
    hidden.page.bring_to_front()
    hidden.await_true("model.connection.state === 'open'")
    await_synced(hidden, server, board)
    # At once: the try began in the same task in which the tab came to the front.
    tried = "model.statuses.findLast(({state}) => state === 'connecting').at"
    assert hidden.evaluate(f"{tried} - shown") < 50
    assert hidden.evaluate("[sockets.length, alive(), maxAlive]") == [2, 1, 1]
    assert hidden.evaluate("model.loads") == ["first"]


def test_a_tab_that_comes_to_the_front_detects_a_dead_connection_at_once(
    window: BrowserContext, open_tab: OpenTab, open_model: OpenModel, front: Tab, cable: Cable, server: Server, board: str
) -> None:
    """Its next ping is an hour away: a laptop that slept has connections that only seem open."""
    tab = open_model(cable.port, tab=open_tab(window), backoff=QUICK, pingInterval=3_600_000, pongWait=300)
    for each in (front, tab):
        each.expect_errors(*NO_NETWORK)
    front.page.bring_to_front()
    tab.await_true("document.visibilityState === 'hidden'")
    cable.freeze()
    change(server, board)
    tab.page.bring_to_front()
    tab.await_true("model.statuses.some(({reason}) => /silent/.test(reason))")
    cable.restore()
    tab.await_true("model.connection.state === 'open'")
    await_synced(tab, server, board)
    assert tab.evaluate("[alive(), maxAlive]") == [1, 1]


def test_a_tab_that_is_frozen_for_a_while_misses_nothing(
    hidden: Tab, window: BrowserContext, cable: Cable, server: Server, board: str
) -> None:
    """The browser suspends a tab in the background; its socket may be dead when it resumes."""
    session = window.new_cdp_session(hidden.page)
    change(server, board)
    await_synced(hidden, server, board)
    session.send("Page.setWebLifecycleState", {"state": "frozen"})
    change(server, board)
    cable.cut()
    change(server, board)
    cable.restore()
    session.send("Page.setWebLifecycleState", {"state": "active"})
    hidden.page.bring_to_front()
    await_synced(hidden, server, board)
    hidden.await_true("model.connection.state === 'open'")
    assert hidden.evaluate("[alive(), maxAlive]") == [1, 1]
    assert hidden.evaluate("model.loads") == ["first"]
