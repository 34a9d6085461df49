"""One page in the browser: any error in it fails the test, unless the test expects it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from playwright.sync_api import ConsoleMessage, Error, Page, Request

from tests.support.waiting import DEADLINE

# The start of a browser's message about a socket that could not be opened, or broke.
BROKEN_SOCKET = "WebSocket connection to"
# Its messages without a network: the client also requests the reason in vain, and a state may have been loading.
NO_NETWORK = (BROKEN_SOCKET, "/ws?board_id=", "/state/", "Failed to fetch")


class Tab:
    """A page of Playwright's, and the errors in it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        page.set_default_timeout(DEADLINE * 1000)
        #: Everything on its console, oldest first.
        self.console: list[ConsoleMessage] = []
        #: Errors on the console, uncaught exceptions, failed requests, a crash.
        self.errors: list[str] = []
        self._expected: list[str] = []
        page.on("console", self._record)
        page.on("pageerror", lambda error: self.errors.append(f"an exception: {error}"))
        page.on("requestfailed", self._fail)
        page.on("crash", lambda _: self.errors.append("the page crashed"))

    def _record(self, message: ConsoleMessage) -> None:
        self.console.append(message)
        if message.type in ("error", "assert"):
            self.errors.append(f"on the console: {message.text} ({message.location.get('url')})")

    def _fail(self, request: Request) -> None:
        self.errors.append(f"failed: {request.method} {request.url}: {request.failure}")

    def expect_errors(self, *texts: str) -> None:
        """Expect errors: those with one of these texts in them do not count."""
        self._expected += texts

    def unexpected_errors(self) -> list[str]:
        """Return the errors that were not expected."""
        if not self.page.is_closed():
            self.page.evaluate("0")  # after this answer all earlier events of the page have been received
        return [error for error in self.errors if not any(text in error for text in self._expected)]

    def evaluate(self, expression: str, argument: Any = None) -> Any:
        """Return the value of an expression, or of a function called with the argument, in the page; promises are awaited."""
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
