"""Checks that a page shows the state of its server."""

from __future__ import annotations

from typing import Any

from tests.browser.tab import Tab
from tests.support.harness import Server
from tests.support.waiting import DEADLINE, wait_until


def await_synced(tab: Tab, server: Server, board: str, *, whole: bool = True, deadline: float = DEADLINE) -> None:
    """Wait until each model of a page has received the board's last event, and check that it shows the server's state.

    It must have received each of the server's events once and in order: all of them, or, if it came later or had to reload
    and so is not ``whole``, the last ones without a gap. The board must not change meanwhile.
    """
    ids: list[str] = server.get(f"/ids/{board}").json["ids"]
    state: dict[str, Any] = server.get(f"/state/{board}").json["tasks"]

    def has_last() -> bool:
        return bool(tab.evaluate("(id) => models.every(({ids}) => ids.at(-1) === id)", ids[-1]))

    def what() -> str:
        return f"the event {ids[-1]}: {tab.evaluate('models.map(({ids, statuses}) => [ids.slice(-5), statuses])')}"

    wait_until(has_last, what, deadline)
    epoch = ids[-1].rpartition(".")[0]
    for received, shown in tab.evaluate("models.map(({ids, state}) => [ids, state])"):
        if not whole:
            # The ids of an earlier server have another epoch.
            received = [id for id in received if id.rpartition(".")[0] == epoch]
        assert received == (ids if whole else ids[-len(received) :])
        assert shown == state
