"""A server that is restarted under load: every page reconnects soon, and shows the server's state."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.browser.conftest import OpenModel, OpenTab
from tests.browser.restarts import Load, RestartableServer
from tests.browser.sync import await_synced
from tests.browser.tab import NO_NETWORK
from tests.support.waiting import wait_until

PAGES = 20
# Changes a second, from a client that continues during the restart.
RATE = 50
# Seconds from the new server's first answer until the last page has its state.
SOON = 5.0
# Seconds of an outage after which every page still tries often enough for that.
SHORT = 3.0

# True once connections are stable, so that cartows.js has reset its backoff.
STABLE = "models.every(({statuses}) => Date.now() - statuses.at(-1).at > 5000)"


@pytest.mark.parametrize("end", [RestartableServer.stop, RestartableServer.kill], ids=["SIGTERM", "SIGKILL"])
def test_all_pages_reconnect_within_five_seconds(
    restartable: RestartableServer,
    board: str,
    open_tab: OpenTab,
    open_model: OpenModel,
    end: Callable[[RestartableServer], None],
) -> None:
    with Load(restartable.port, board, RATE) as load:
        pages = []
        for _ in range(PAGES):
            pages.append(open_model(restartable.port, tab=open_tab()))
            pages[-1].expect_errors(*NO_NETWORK)
        for page in pages:
            page.await_true(STABLE)
        ended = time.time()
        end(restartable)
        restarted = restartable.start()
        made = load.made
        wait_until(lambda: load.made > made, "a change at the new server")
        for page in pages:
            # loaded once more, and an event of the new server's since then
            page.await_true("model.loads.length > 1 && model.last > model.loaded", deadline=2 * SOON)
        load.stop()

    took = [page.evaluate("model.loaded") / 1000 - restarted for page in pages]
    # During a long restart the pages have come to wait longer between two tries.
    outage = restarted - ended
    assert max(took) < (SOON if outage < SHORT else SOON + outage), (outage, sorted(took))
    # one change, whose event is the last one of every page
    assert restartable.server.post(f"/change/{board}", None).status == 200
    for page in pages:
        await_synced(page, restartable.server, board, whole=False)
        assert page.evaluate("model.loads") == ["first", "history"]
        assert page.evaluate("[alive(), maxAlive]") == [1, 1]
    restartable.server.await_clients(PAGES)


def test_pages_with_a_short_backoff_reconnect_within_five_seconds_of_a_long_outage(
    restartable: RestartableServer, board: str, open_tab: OpenTab, open_model: OpenModel
) -> None:
    """With the default options a page waits up to 20 seconds between tries after a long outage."""
    with Load(restartable.port, board, RATE) as load:
        pages = []
        for _ in range(4):
            pages.append(open_model(restartable.port, tab=open_tab(), connections=5, backoff=[500, 4000]))
            pages[-1].expect_errors(*NO_NETWORK)
        restartable.kill()
        for page in pages:
            # Each has failed so often that it waits for the maximum time.
            page.await_true("models.every(({statuses}) => statuses.filter(({state}) => state === 'waiting').length > 3)")
        restarted = restartable.start()
        for page in pages:
            page.await_true("models.every(({loads, last, loaded}) => loads.length > 1 && last > loaded)")
        load.stop()

    took = [loaded / 1000 - restarted for page in pages for loaded in page.evaluate("models.map(({loaded}) => loaded)")]
    assert max(took) < SOON, sorted(took)
    assert restartable.server.post(f"/change/{board}", None).status == 200
    for page in pages:
        await_synced(page, restartable.server, board, whole=False)
        assert page.evaluate("[alive(), maxAlive]") == [5, 5]
