"""Networks that fail and recover: nothing is missed or repeated, and there is one socket at a time."""

from __future__ import annotations

import pytest

from tests.browser.cable import Cable
from tests.browser.conftest import OpenModel
from tests.browser.sync import await_synced
from tests.browser.tab import NO_NETWORK, Tab
from tests.support.harness import Server
from tests.support.waiting import wait_until

# Milliseconds between two tries, long enough to count them separately.
QUICK = [50, 200]
FAST_PINGS = {"backoff": QUICK, "pingInterval": 300, "pongWait": 1500}


def change(server: Server, board: str, count: int = 10) -> None:
    assert server.post(f"/change/{board}?count={count}", None).status == 200


def await_state(tab: Tab, state: str) -> None:
    tab.await_true("(state) => models.every(({connection}) => connection.state === state)", state)


def assert_alone(tab: Tab, server: Server) -> None:
    """Each connection of the page has one socket, and never had two."""
    await_state(tab, "open")
    count = tab.evaluate("models.length")
    assert tab.evaluate("[alive(), maxAlive]") == [count, count]
    server.await_clients(count)


@pytest.fixture
def page(open_model: OpenModel, cable: Cable) -> Tab:
    tab = open_model(cable.port, connections=2, **FAST_PINGS)
    tab.expect_errors(*NO_NETWORK)
    return tab


def test_events_while_the_cable_is_cut_are_received_afterwards(page: Tab, cable: Cable, server: Server, board: str) -> None:
    for _ in range(3):
        change(server, board)
        cable.cut()
        change(server, board)
        tries = page.evaluate("sockets.length")
        page.await_true("(tries) => sockets.length > tries + 2", tries)
        change(server, board)
        cable.restore()
        await_state(page, "open")
        change(server, board)
        await_synced(page, server, board)
    assert page.evaluate("models.map(({loads}) => loads)") == [["first"]] * 2
    assert_alone(page, server)


def test_a_cut_in_the_middle_of_a_stream_loses_nothing_and_repeats_nothing(
    page: Tab, cable: Cable, server: Server, board: str
) -> None:
    cuts = changes = 0
    while cuts < 3:
        server.post(f"/change/{board}?count=600&rate=200&size=2000", None)
        changes += 600
        while server.get(f"/state/{board}").json["changes"] < changes:
            reached = (page.evaluate("model.ids.length") + 20, changes)
            page.await_true("([some, all]) => model.ids.length > some || model.ids.length === all", reached)
            cable.cut()
            cable.restore()
            cuts += 1
    await_synced(page, server, board)
    assert page.evaluate("models.map(({loads}) => loads)") == [["first"]] * 2
    assert_alone(page, server)


def test_events_while_the_browser_is_offline_are_received_afterwards(page: Tab, server: Server, board: str) -> None:
    for _ in range(2):
        change(server, board)
        await_synced(page, server, board)
        page.page.context.set_offline(True)
        change(server, board)
        # Chromium then keeps the socket open, but withholds what it receives.
        page.await_true("models.every(({statuses}) => statuses.at(-1).state !== 'open')")
        page.page.context.set_offline(False)
        await_state(page, "open")
        change(server, board)
        await_synced(page, server, board)
    assert page.evaluate("models.map(({loads}) => loads)") == [["first"]] * 2
    assert_alone(page, server)


def test_an_offline_page_reconnects_at_once_when_it_is_online(
    open_model: OpenModel, cable: Cable, server: Server, board: str
) -> None:
    # Without the `online` event it would retry in a minute at the earliest.
    page = open_model(cable.port, backoff=[60_000, 60_000], pongWait=300)
    page.expect_errors(*NO_NETWORK)
    change(server, board)
    page.page.context.set_offline(True)
    cable.cut()
    await_state(page, "waiting")
    change(server, board)
    cable.restore()
    page.page.context.set_offline(False)
    await_state(page, "open")
    await_synced(page, server, board)
    assert_alone(page, server)


def test_a_page_that_goes_offline_pings_at_once(open_model: OpenModel, cable: Cable, server: Server, board: str) -> None:
    """Its ping interval is a minute, and a network that changes beneath a connection gives no other sign."""
    page = open_model(cable.port, backoff=QUICK, pingInterval=60_000, pongWait=300)
    page.expect_errors(*NO_NETWORK)
    cable.freeze()
    page.page.context.set_offline(True)
    page.await_true("model.statuses.some(({state}) => state === 'waiting')")
    change(server, board)
    cable.restore()
    page.page.context.set_offline(False)
    await_state(page, "open")
    await_synced(page, server, board)
    assert_alone(page, server)


def test_a_frozen_network_is_detected(page: Tab, cable: Cable, server: Server, board: str) -> None:
    change(server, board)
    await_synced(page, server, board)
    cable.freeze()
    change(server, board)
    page.await_true("models.every(({statuses}) => statuses.some(({reason}) => /silent/.test(reason)))")
    cable.restore()
    await_state(page, "open")
    change(server, board)
    await_synced(page, server, board)
    assert page.evaluate("models.map(({loads}) => loads)") == [["first"]] * 2
    # Nor has anything arrived from the frozen connection.
    assert_alone(page, server)


def test_an_unanswered_handshake_is_given_up(open_model: OpenModel, cable: Cable, server: Server, board: str) -> None:
    page = open_model(cable.port, connectWait=300, **FAST_PINGS)
    page.expect_errors(*NO_NETWORK)
    # Its first try, too, may have taken too long.
    await_state(page, "open")
    cable.freeze()
    tries = page.evaluate("sockets.length")
    page.await_true("(tries) => sockets.length > tries + 2", tries)
    change(server, board)
    cable.restore()
    await_state(page, "open")
    await_synced(page, server, board)
    assert_alone(page, server)


def test_a_quiet_connection_is_kept(page: Tab, server: Server) -> None:
    """Answers to its pings are enough to keep it."""
    begin = page.evaluate("performance.now()")
    page.await_true("(begin) => performance.now() - begin > 2000", begin)
    assert page.evaluate("sockets.length") == 2
    assert_alone(page, server)


def test_a_page_away_for_too_long_loads_again(open_model: OpenModel, cable: Cable, server: Server, board: str) -> None:
    page = open_model(cable.port, backoff=QUICK)
    page.expect_errors(*NO_NETWORK)
    cable.cut()
    # more than the history holds
    change(server, board, 1100)
    cable.restore()
    page.await_true("model.loads.length === 2")
    change(server, board)
    await_synced(page, server, board, whole=False)
    assert page.evaluate("model.loads") == ["first", "history"]
    assert page.evaluate("model.ids.length") == 10
    assert_alone(page, server)


def test_a_state_that_cannot_be_fetched_is_fetched_later(
    open_model: OpenModel, cable: Cable, server: Server, board: str
) -> None:
    page = open_model(cable.port, backoff=QUICK)
    page.expect_errors(*NO_NETWORK, "/state answered 503", "503")
    tries: list[str] = []

    def refuse(route: object) -> None:
        tries.append("")
        if len(tries) < 3:
            route.fulfill(status=503)  # type: ignore[attr-defined]
        else:
            route.continue_()  # type: ignore[attr-defined]

    page.page.route("**/state/*", refuse)
    cable.cut()
    change(server, board, 1100)
    cable.restore()
    page.await_true("model.loads.length === 2")
    assert len(tries) == 3
    change(server, board)
    await_synced(page, server, board, whole=False)
    wait_until(lambda: server.client_count() == 1, "one client")
