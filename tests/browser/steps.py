"""Whether a page is where its server is."""

from __future__ import annotations

from typing import Any

from tests.browser.tab import Tab
from tests.support.harness import Server
from tests.support.waiting import DEADLINE, wait_until


def await_step(tab: Tab, server: Server, board: str, *, whole: bool = True, deadline: float = DEADLINE) -> None:
    """Wait until each model of a page has had the board's last event, and demand that it shows what the server has.

    It must have heard each of the server's events once and in order: all of them, or, when it came later or had to load again
    and so is not ``whole``, the last ones without a gap. Nobody may be changing the board meanwhile.
    """
    ids: list[str] = server.get(f"/ids/{board}").json["ids"]
    state: dict[str, Any] = server.get(f"/state/{board}").json["tasks"]

    def look() -> bool:
        return bool(tab.evaluate("(id) => models.every(({ids}) => ids.at(-1) === id)", ids[-1]))

    def what() -> str:
        return f"the event {ids[-1]}: {tab.evaluate('models.map(({ids, statuses}) => [ids.slice(-5), statuses])')}"

    wait_until(look, what, deadline)
    epoch = ids[-1].rpartition(".")[0]
    for heard, shown in tab.evaluate("models.map(({ids, state}) => [ids, state])"):
        if not whole:
            # an earlier server's are of another epoch
            heard = [id for id in heard if id.rpartition(".")[0] == epoch]
        assert heard == (ids if whole else ids[-len(heard) :])
        assert shown == state
