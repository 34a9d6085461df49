"""One page in the browser: whatever goes wrong in it fails the test, unless the test has said that it will."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from playwright.sync_api import ConsoleMessage, Error, Page, Request

from tests.support.waiting import DEADLINE

# What a browser says of a socket that could not be made, or broke.
BROKEN_SOCKET = "WebSocket connection to"
# What it says without a network: the client has also asked in vain why that is so, and a state may have been under way.
NO_NETWORK = (BROKEN_SOCKET, "/ws?board_id=", "/state/", "Failed to fetch")


class Tab:
    """A page of Playwright's, and what it has complained of."""

    def __init__(self, page: Page) -> None:
        self.page = page
        page.set_default_timeout(DEADLINE * 1000)
        #: Everything on its console, oldest first.
        self.console: list[ConsoleMessage] = []
        #: Errors on the console, exceptions that nobody caught, requests that failed, a crash.
        self.complaints: list[str] = []
        self._announced: list[str] = []
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(f"an exception: {error}"))
        page.on("requestfailed", self._fail)
        page.on("crash", lambda _: self.complaints.append("the page crashed"))

    def _hear(self, message: ConsoleMessage) -> None:
        self.console.append(message)
        if message.type in ("error", "assert"):
            self.complaints.append(f"on the console: {message.text} ({message.location.get('url')})")

    def _fail(self, request: Request) -> None:
        self.complaints.append(f"failed: {request.method} {request.url}: {request.failure}")

    def announce(self, *words: str) -> None:
        """Say what is going to go wrong: complaints with one of these in them are none."""
        self._announced += words

    def unannounced(self) -> list[str]:
        """Return what has gone wrong and should not have."""
        if not self.page.is_closed():
            self.page.evaluate("0")  # what happened before this has been heard behind it
        return [complaint for complaint in self.complaints if not any(words in complaint for words in self._announced)]

    def evaluate(self, expression: str, argument: Any = None) -> Any:
        """Return what an expression, or a function called with the argument, is in the page; a promise is waited for."""
        return self.page.evaluate(expression, argument)

    def await_true(self, expression: str, argument: Any = None, deadline: float = DEADLINE) -> None:
        """Wait until an expression is true in the page."""
        try:
            self.page.wait_for_function(expression, arg=argument, timeout=deadline * 1000, polling=10)
        except Error as error:
            raise AssertionError(f"waited for {expression} with {argument!r}: {error}") from None

    def goto(self, url: str, **query: str) -> None:
        text = "&".join(f"{key}={quote(value)}" for key, value in query.items())
        self.page.goto(f"{url}?{text}" if query else url)
