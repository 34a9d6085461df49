"""Fixtures of the browser tests: one Chromium for all of them, a context, pages, servers and cables for each.

The servers are those of ``tests/integration``. Pages are closed before ``serve`` checks that its servers are idle again: no
page may leave a socket open, whatever the test has done to its network.
"""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from playwright.sync_api import Browser, BrowserContext, Playwright, expect, sync_playwright

from tests.browser import chromium
from tests.browser.cable import Cable
from tests.browser.restarts import RestartableServer
from tests.browser.tab import Tab
from tests.integration.conftest import Serve, fleet, serve, tls
from tests.support.harness import HOST, Plan, Server
from tests.support.waiting import DEADLINE, wait_until

__all__ = ["fleet", "serve", "tls"]

expect.set_options(timeout=DEADLINE * 1000)


class OpenTab(Protocol):
    """Return a new page."""

    def __call__(self, other: BrowserContext | None = ...) -> Tab:
        """Open it in the test's own context, or in the other one."""


class OpenModel(Protocol):
    """Return a page that shows a board's tasks with cartows.js: ``pages/model.html`` of the app ``tasks``."""

    def __call__(self, port: int, *, connections: int = ..., tab: Tab | None = ..., **options: Any) -> Tab:
        """Open it from that port, and wait until it shows the tasks; ``options`` are for ``connect``."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--screenshots", type=Path, metavar="DIR", help="write the screenshots there, and run only the tests that make some"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--screenshots") is not None:
        makers = [item for item in items if "screenshots" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=[item for item in items if item not in makers])
        items[:] = makers


@pytest.fixture
def screenshots(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The directory that screenshots go to: a temporary one, unless ``--screenshots`` names another."""
    directory: Path = request.config.getoption("--screenshots") or tmp_path / "screenshots"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


# The browser ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def executable() -> str:
    found = chromium.find()
    if found is None:
        pytest.fail(chromium.REMEDY)
    return found


# Automatic, so that its thread and its descriptors exist before `nothing_left_behind` counts.
@pytest.fixture(scope="session", autouse=True)
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as found:
        yield found


@pytest.fixture(scope="session")
def launch(playwright: Playwright, executable: str) -> Callable[..., Browser]:
    """Return a function that starts a Chromium with arguments of its own; the caller closes it."""

    def start(*arguments: str) -> Browser:
        return playwright.chromium.launch(executable_path=executable, args=list(arguments))

    return start


@pytest.fixture(scope="session")
def browser(launch: Callable[..., Browser]) -> Iterator[Browser]:
    found = launch()
    yield found
    found.close()


@pytest.fixture
def make_context(browser: Browser, serve: Serve) -> Iterator[Callable[..., BrowserContext]]:
    """Return a function that makes contexts, each with its own cookies, cache and network; the options are Playwright's."""
    contexts: list[BrowserContext] = []

    def make(**options: Any) -> BrowserContext:
        contexts.append(browser.new_context(**options))
        return contexts[-1]

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def context(make_context: Callable[..., BrowserContext]) -> BrowserContext:
    return make_context()


@pytest.fixture
def open_tab(context: BrowserContext) -> Iterator[OpenTab]:
    """Return a function that opens pages. The test fails on an error in one of them that it did not expect."""
    tabs: list[Tab] = []

    def start(other: BrowserContext | None = None) -> Tab:
        tabs.append(Tab((other or context).new_page()))
        return tabs[-1]

    yield start
    # Before their contexts are closed, in which requests may be under way.
    errors = [error for tab in tabs for error in tab.unexpected_errors()]
    if errors:
        pytest.fail("errors in a page:\n" + "\n".join(errors))


@pytest.fixture
def window(playwright: Playwright, executable: str, serve: Serve, tmp_path: Path) -> Iterator[BrowserContext]:
    """A browser whose tabs are really hidden while another one is in front.

    The tabs of Playwright are always visible and focused (``Emulation.setFocusEmulationEnabled``), with timers that are never
    slowed down (``--disable-background-timer-throttling`` and others). So this browser is started without Playwright, which
    then connects without its defaults.
    """
    profile = tmp_path / "profile"
    arguments = ["--headless", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-port=0"]
    process = subprocess.Popen(
        [executable, *arguments, f"--user-data-dir={profile}", "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        port_file = profile / "DevToolsActivePort"
        port = wait_until(lambda: port_file.exists() and port_file.read_text().partition("\n")[0], "Chromium to listen")
        browser = playwright.chromium.connect_over_cdp(f"http://{HOST}:{port}", no_defaults=True)
        yield browser.contexts[0]
        browser.close()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE)


# Networks, servers, pages ---------------------------------------------------------------------------------------------


@pytest.fixture
def make_cable() -> Iterator[Callable[[int], Cable]]:
    cables: list[Cable] = []

    def make(port: int) -> Cable:
        cables.append(Cable(port))
        return cables[-1]

    yield make
    for cable in cables:
        cable.close()


@pytest.fixture
def server(serve: Serve) -> Server:
    """The app ``tasks`` under gunicorn's gthread worker."""
    return serve("tasks")


@pytest.fixture
def cable(server: Server, make_cable: Callable[[int], Cable]) -> Cable:
    return make_cable(server.port)


@pytest.fixture
def restartable(tmp_path: Path) -> Iterator[RestartableServer]:
    """The app ``tasks``, which keeps them over restarts."""
    config = {"STORE": str(tmp_path / "store")}
    found = RestartableServer(Plan("tasks", config=json.dumps(config)), tmp_path)
    yield found
    if found.server.process.poll() is None:
        found.stop()


_boards = itertools.count(1)


@pytest.fixture
def board() -> str:
    """A board that no other test has changed."""
    return f"b{next(_boards)}"


@pytest.fixture
def open_model(open_tab: OpenTab, board: str) -> OpenModel:
    def start(port: int, *, connections: int = 1, tab: Tab | None = None, **options: Any) -> Tab:
        tab = tab or open_tab()
        query = {"board": board, "connections": str(connections), "options": json.dumps(options)}
        tab.goto(f"http://{HOST}:{port}/pages/model.html", **query)
        tab.await_true("window.models?.every((model) => model.loads.length === 1)")
        return tab

    return start
