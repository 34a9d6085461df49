"""A server that is restarted under load: every page is back soon, and shows what the server has."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.browser.conftest import OpenModel, OpenTab
from tests.browser.station import Load, Station
from tests.browser.steps import await_step
from tests.browser.tab import NO_NETWORK
from tests.support.waiting import wait_until

PAGES = 20
# Changes a second, from a client that does not stop for the restart.
RATE = 50
# Seconds from the new server's first answer until the last page has its state.
SOON = 5.0
# Seconds of an outage after which every page still tries often enough for that.
SHORT = 3.0

# What a connection that has lasted has forgotten: earlier failures (cartows.js).
STEADY = "models.every(({statuses}) => Date.now() - statuses.at(-1).at > 5000)"


@pytest.mark.parametrize("end", [Station.stop, Station.kill], ids=["SIGTERM", "SIGKILL"])
def test_all_pages_are_back_within_five_seconds(
    station: Station, board: str, open_tab: OpenTab, open_model: OpenModel, end: Callable[[Station], None]
) -> None:
    with Load(station.port, board, RATE) as load:
        pages = []
        for _ in range(PAGES):
            pages.append(open_model(station.port, tab=open_tab()))
            pages[-1].announce(*NO_NETWORK)
        for page in pages:
            page.await_true(STEADY)
        went = time.time()
        end(station)
        came_back = station.start()
        made = load.made
        wait_until(lambda: load.made > made, "a change at the new server")
        for page in pages:
            # loaded once more, and an event of the new server's since then
            page.await_true("model.loads.length > 1 && model.last > model.loaded", deadline=2 * SOON)
        load.stop()

    took = [page.evaluate("model.loaded") / 1000 - came_back for page in pages]
    # Where the restart itself takes long, the pages have come to wait longer between two tries.
    outage = came_back - went
    assert max(took) < (SOON if outage < SHORT else SOON + outage), (outage, sorted(took))
    # one change whose event is everybody's last
    assert station.server.post(f"/change/{board}", None).status == 200
    for page in pages:
        await_step(page, station.server, board, whole=False)
        assert page.evaluate("model.loads") == ["first", "history"]
        assert page.evaluate("[alive(), most]") == [1, 1]
    station.server.await_clients(PAGES)


def test_pages_that_may_not_wait_longer_are_back_within_five_seconds_of_a_long_outage(
    station: Station, board: str, open_tab: OpenTab, open_model: OpenModel
) -> None:
    """With the usual options a page waits for up to 20 seconds, once it has tried in vain for as long."""
    with Load(station.port, board, RATE) as load:
        pages = []
        for _ in range(4):
            pages.append(open_model(station.port, tab=open_tab(), connections=5, backoff=[500, 4000]))
            pages[-1].announce(*NO_NETWORK)
        station.kill()
        for page in pages:
            # Each has failed so often that it waits for as long as it ever does.
            page.await_true("models.every(({statuses}) => statuses.filter(({state}) => state === 'waiting').length > 3)")
        came_back = station.start()
        for page in pages:
            page.await_true("models.every(({loads, last, loaded}) => loads.length > 1 && last > loaded)")
        load.stop()

    took = [loaded / 1000 - came_back for page in pages for loaded in page.evaluate("models.map(({loaded}) => loaded)")]
    assert max(took) < SOON, sorted(took)
    assert station.server.post(f"/change/{board}", None).status == 200
    for page in pages:
        await_step(page, station.server, board, whole=False)
        assert page.evaluate("[alive(), most]") == [5, 5]
