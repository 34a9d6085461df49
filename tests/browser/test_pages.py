"""Pages with cartows.js and an intact network: a change in one shows in the others."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import BrowserContext

from tests.browser.conftest import OpenModel, OpenTab
from tests.browser.sync import await_synced
from tests.browser.tab import Tab
from tests.support.harness import Server


def test_two_pages_stay_in_sync(
    server: Server, board: str, make_context: Callable[..., BrowserContext], open_tab: OpenTab, open_model: OpenModel
) -> None:
    pages = [open_model(server.port, tab=open_tab(make_context())) for _ in range(2)]
    for page in [*pages, *pages]:
        # more than a task's whole life
        page.evaluate("(board) => fetch(`/change/${board}?count=150`, {method: 'POST'}).then(() => 0)", board)
        for each in pages:
            await_synced(each, server, board)
    assert [page.evaluate("model.ids.length") for page in pages] == [600, 600]
    assert [page.evaluate("model.loads") for page in pages] == [["first"], ["first"]]


def test_a_page_that_opens_under_load_misses_nothing_between_its_state_and_its_events(
    server: Server, board: str, open_tab: OpenTab, open_model: OpenModel
) -> None:
    pages: list[Tab] = []
    changes = 0
    while len(pages) < 2:
        server.post(f"/change/{board}?count=400&rate=200", None)
        changes += 400
        while server.get(f"/state/{board}").json["changes"] < changes:
            pages.append(open_model(server.port, tab=open_tab()))
    server.post(f"/change/{board}", None)  # for a page that opened after the last change
    for page in pages:
        await_synced(page, server, board, whole=False)


def test_a_page_receives_its_board_and_no_other(server: Server, board: str, open_model: OpenModel) -> None:
    page = open_model(server.port)
    server.post("/change/another?count=10", None)
    server.post(f"/change/{board}?count=10", None)
    await_synced(page, server, board)


def test_after_close_no_socket_is_left_and_none_is_opened(server: Server, board: str, open_model: OpenModel) -> None:
    page = open_model(server.port, connections=3)
    server.await_clients(3)
    page.evaluate("models.forEach(({connection}) => connection.close())")
    server.await_clients(0)
    assert page.evaluate("models.map(({connection}) => connection.state)") == ["closed"] * 3
    # events that make a waiting connection retry at once
    page.evaluate("for (const type of ['online', 'offline', 'pageshow']) dispatchEvent(new Event(type))")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.evaluate("models.forEach(({connection}) => connection.retry())")
    assert page.evaluate("[sockets.length, alive(), maxAlive]") == [3, 0, 3]


def test_a_page_that_is_left_closes_its_connection(server: Server, open_model: OpenModel) -> None:
    page = open_model(server.port)
    server.await_clients(1)
    page.page.goto("about:blank")
    server.await_clients(0)
