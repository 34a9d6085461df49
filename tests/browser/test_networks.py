"""Networks that go and come back: nothing is missed, nothing comes twice, and there is one socket at a time."""

from __future__ import annotations

import pytest

from tests.browser.cable import Cable
from tests.browser.conftest import OpenModel
from tests.browser.steps import await_step
from tests.browser.tab import NO_NETWORK, Tab
from tests.support.harness import Server
from tests.support.waiting import wait_until

# Milliseconds between two tries; long enough for two of them never to be one.
QUICK = [50, 200]
WATCHFUL = {"backoff": QUICK, "pingInterval": 300, "pongWait": 1500}


def change(server: Server, board: str, count: int = 10) -> None:
    assert server.post(f"/change/{board}?count={count}", None).status == 200


def await_state(tab: Tab, state: str) -> None:
    tab.await_true("(state) => models.every(({connection}) => connection.state === state)", state)


def assert_alone(tab: Tab, server: Server) -> None:
    """Each connection of the page has one socket, and never had two."""
    await_state(tab, "open")
    count = tab.evaluate("models.length")
    assert tab.evaluate("[alive(), most]") == [count, count]
    server.await_clients(count)


@pytest.fixture
def page(open_model: OpenModel, cable: Cable) -> Tab:
    tab = open_model(cable.port, connections=2, **WATCHFUL)
    tab.announce(*NO_NETWORK)
    return tab


def test_what_happens_while_the_cable_is_cut_is_heard_afterwards(page: Tab, cable: Cable, server: Server, board: str) -> None:
    for _ in range(3):
        change(server, board)
        cable.cut()
        change(server, board)
        tries = page.evaluate("sockets.length")
        page.await_true("(tries) => sockets.length > tries + 2", tries)
        change(server, board)
        cable.mend()
        await_state(page, "open")
        change(server, board)
        await_step(page, server, board)
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
            cable.mend()
            cuts += 1
    await_step(page, server, board)
    assert page.evaluate("models.map(({loads}) => loads)") == [["first"]] * 2
    assert_alone(page, server)


def test_what_happens_while_the_browser_is_offline_is_heard_afterwards(page: Tab, server: Server, board: str) -> None:
    for _ in range(2):
        change(server, board)
        await_step(page, server, board)
        page.page.context.set_offline(True)
        change(server, board)
        # Chromium then keeps the socket open, and everything that comes there to itself.
        page.await_true("models.every(({statuses}) => statuses.at(-1).state !== 'open')")
        page.page.context.set_offline(False)
        await_state(page, "open")
        change(server, board)
        await_step(page, server, board)
    assert page.evaluate("models.map(({loads}) => loads)") == [["first"]] * 2
    assert_alone(page, server)


def test_a_page_that_is_offline_comes_back_at_once_when_it_is_online(
    open_model: OpenModel, cable: Cable, server: Server, board: str
) -> None:
    # without the event it would come back in a minute at the earliest
    page = open_model(cable.port, backoff=[60_000, 60_000], pongWait=300)
    page.announce(*NO_NETWORK)
    change(server, board)
    page.page.context.set_offline(True)
    cable.cut()
    await_state(page, "waiting")
    change(server, board)
    cable.mend()
    page.page.context.set_offline(False)
    await_state(page, "open")
    await_step(page, server, board)
    assert_alone(page, server)


def test_a_page_that_goes_offline_asks_at_once_whether_the_server_is_still_there(
    open_model: OpenModel, cable: Cable, server: Server, board: str
) -> None:
    """Its own interval for that is a minute; a network that changes beneath a connection says nothing else."""
    page = open_model(cable.port, backoff=QUICK, pingInterval=60_000, pongWait=300)
    page.announce(*NO_NETWORK)
    cable.freeze()
    page.page.context.set_offline(True)
    page.await_true("model.statuses.some(({state}) => state === 'waiting')")
    change(server, board)
    cable.mend()
    page.page.context.set_offline(False)
    await_state(page, "open")
    await_step(page, server, board)
    assert_alone(page, server)


def test_a_network_that_stands_still_is_noticed(page: Tab, cable: Cable, server: Server, board: str) -> None:
    change(server, board)
    await_step(page, server, board)
    cable.freeze()
    change(server, board)
    page.await_true("models.every(({statuses}) => statuses.some(({reason}) => /silent/.test(reason)))")
    cable.mend()
    await_state(page, "open")
    change(server, board)
    await_step(page, server, board)
    assert page.evaluate("models.map(({loads}) => loads)") == [["first"]] * 2
    # also what stood still in the old connection has not come
    assert_alone(page, server)


def test_a_handshake_that_nobody_answers_is_given_up(open_model: OpenModel, cable: Cable, server: Server, board: str) -> None:
    page = open_model(cable.port, connectWait=300, **WATCHFUL)
    page.announce(*NO_NETWORK)
    # Its first try, too, may have taken too long.
    await_state(page, "open")
    cable.freeze()
    tries = page.evaluate("sockets.length")
    page.await_true("(tries) => sockets.length > tries + 2", tries)
    change(server, board)
    cable.mend()
    await_state(page, "open")
    await_step(page, server, board)
    assert_alone(page, server)


def test_a_quiet_connection_is_kept(page: Tab, server: Server) -> None:
    """Answers to its questions are signs of life enough."""
    pings = "performance.now()"
    begin = page.evaluate(pings)
    page.await_true("(begin) => performance.now() - begin > 2000", begin)
    assert page.evaluate("sockets.length") == 2
    assert_alone(page, server)


def test_a_page_away_for_too_long_loads_again(open_model: OpenModel, cable: Cable, server: Server, board: str) -> None:
    page = open_model(cable.port, backoff=QUICK)
    page.announce(*NO_NETWORK)
    cable.cut()
    # more than the history keeps
    change(server, board, 1100)
    cable.mend()
    page.await_true("model.loads.length === 2")
    change(server, board)
    await_step(page, server, board, whole=False)
    assert page.evaluate("model.loads") == ["first", "history"]
    assert page.evaluate("model.ids.length") == 10
    assert_alone(page, server)


def test_a_state_that_cannot_be_fetched_is_fetched_later(
    open_model: OpenModel, cable: Cable, server: Server, board: str
) -> None:
    page = open_model(cable.port, backoff=QUICK)
    page.announce(*NO_NETWORK, "/state answered 503", "503")
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
    cable.mend()
    page.await_true("model.loads.length === 2")
    assert len(tries) == 3
    change(server, board)
    await_step(page, server, board, whole=False)
    wait_until(lambda: server.client_count() == 1, "one client")
