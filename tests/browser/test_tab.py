"""The harness: what goes wrong in a page does not go by unnoticed."""

from __future__ import annotations

import pytest

from tests.browser.conftest import OpenTab
from tests.support.harness import Server


@pytest.mark.parametrize(
    ("what", "complaints"),
    [
        ("console.error('it broke')", ["it broke"]),
        ("new Promise((done) => setTimeout(() => { done(0); throw new Error('it broke'); }))", ["it broke"]),
        ("Promise.reject(new Error('it broke')); 0", ["it broke"]),
        ("fetch('/nowhere').then(() => 0)", ["404"]),
        # a port that no server is given
        ("fetch('http://127.0.0.1:1/').catch(() => 0)", ["Failed to load resource", "failed: GET"]),
        ("console.log('fine'); console.warn('beware')", []),
    ],
)
def test_a_page_complains(server: Server, open_tab: OpenTab, board: str, what: str, complaints: list[str]) -> None:
    tab = open_tab()
    tab.goto(f"http://127.0.0.1:{server.port}/pages/raw.html", board=board)
    assert tab.unannounced() == []
    tab.evaluate(what)
    tab.await_true("heard.length === 1")
    found = tab.unannounced()
    for words in complaints:
        assert any(words in complaint for complaint in found), found
    assert bool(found) == bool(complaints), found
    tab.announce("something else")
    assert tab.unannounced() == found
    tab.announce("it broke", "404", "Failed to load resource", "failed: GET")
    assert tab.unannounced() == []
