"""The test harness itself: errors in a page are not missed."""

from __future__ import annotations

import pytest

from tests.browser.conftest import OpenTab
from tests.support.harness import Server


@pytest.mark.parametrize(
    ("what", "errors"),
    [
        ("console.error('it broke')", ["it broke"]),
        ("new Promise((done) => setTimeout(() => { done(0); throw new Error('it broke'); }))", ["it broke"]),
        ("Promise.reject(new Error('it broke')); 0", ["it broke"]),
        ("fetch('/nowhere').then(() => 0)", ["404"]),
        # a port without a server
        ("fetch('http://127.0.0.1:1/').catch(() => 0)", ["Failed to load resource", "failed: GET"]),
        ("console.log('fine'); console.warn('beware')", []),
    ],
)
def test_errors_in_a_page_are_found(server: Server, open_tab: OpenTab, board: str, what: str, errors: list[str]) -> None:
    tab = open_tab()
    tab.goto(f"http://127.0.0.1:{server.port}/pages/raw.html", board=board)
    assert tab.unexpected_errors() == []
    tab.evaluate(what)
    tab.await_true("received.length === 1")
    found = tab.unexpected_errors()
    for text in errors:
        assert any(text in error for error in found), found
    assert bool(found) == bool(errors), found
    tab.expect_errors("something else")
    assert tab.unexpected_errors() == found
    tab.expect_errors("it broke", "404", "Failed to load resource", "failed: GET")
    assert tab.unexpected_errors() == []
