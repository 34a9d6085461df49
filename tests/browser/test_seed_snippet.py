"""The JavaScript of the Go package's README, unchanged, in ``pages/seed.js``: it connects to ``localhost:8080``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, WebSocket

from tests.browser.cable import Cable
from tests.browser.conftest import OpenTab
from tests.browser.tab import BROKEN_SOCKET, Tab
from tests.integration.conftest import Serve
from tests.support.harness import HOST, Server
from tests.support.waiting import wait_until

HOME = "localhost:8080"
PROJECT = "abc123"


@pytest.fixture
def seed(serve: Serve, cable: Cable, launch: Callable[..., Browser]) -> Iterator[Browser]:
    """A browser that resolves the address of the snippet to the test server."""
    browser = launch(f"--host-resolver-rules=MAP {HOME} {HOST}:{cable.port}")
    yield browser
    browser.close()


class Seed:
    """The page with the snippet, and its sockets."""

    def __init__(self, tab: Tab) -> None:
        self.tab = tab
        self.sockets: list[WebSocket] = []
        #: What the server has sent.
        self.received: list[dict[str, Any]] = []
        #: What the page has sent.
        self.sent: list[str] = []
        tab.page.on("websocket", self._watch)
        # Its ping comes every 30 seconds.
        tab.page.clock.install()
        tab.goto(f"http://{HOME}/pages/seed.html")
        self.await_line("Connected to Cartographer")

    def _watch(self, socket: WebSocket) -> None:
        self.sockets.append(socket)
        socket.on("framereceived", lambda payload: self.received.append(json.loads(payload)))
        socket.on("framesent", lambda payload: self.sent.append(str(payload)))

    def lines(self) -> list[str]:
        self.tab.evaluate("0")  # after this answer all earlier messages have been received
        return [message.text for message in self.tab.console]

    def await_line(self, text: str) -> None:
        wait_until(lambda: any(text in line for line in self.lines()), lambda: f"{text!r} on the console: {self.lines()}")

    def logged(self, title: str) -> Any:
        """Wait for a line with this title on the console, and return its value."""
        self.await_line(title)
        (found,) = [message for message in self.tab.console if message.text.startswith(title)]
        return found.args[1].json_value()

    def await_types(self, *types: str) -> None:
        def have_arrived() -> bool:
            self.lines()
            return set(types) <= {message["type"] for message in self.received}

        wait_until(have_arrived, lambda: f"{types}; {self.received}")


@pytest.fixture
def page(seed: Browser, open_tab: OpenTab) -> Seed:
    return Seed(open_tab(seed.new_context()))


def test_it_logs_the_events_of_its_project(page: Seed, server: Server) -> None:
    task = {"id": "t1", "project_id": PROJECT, "title": "Water the plants"}
    server.call(
        ("broadcast_task_created", ("t1", "b1", task), {}),
        ("broadcast_task_created", ("t2", "b1", {"id": "t2", "project_id": "another"}), {}),
        ("broadcast_task_updated", ("t1", "b1", {"done": True}, {**task, "done": True}), {}),
        ("broadcast_task_deleted", ("t1", "b1"), {"project_id": PROJECT}),
        ("broadcast_project_created", (PROJECT, {"name": "Garden"}), {}),
        ("broadcast_project_updated", (PROJECT, {"name": "Park"}), {}),
        ("broadcast_board_updated", ("b1", PROJECT, {"name": "Beds"}), {}),
    )
    assert page.logged("Board updated:")["changes"] == {"name": "Beds"}
    assert page.logged("New task:")["task"] == task
    assert page.logged("Task updated:")["changes"] == {"done": True}
    assert page.logged("Task deleted:")["task_id"] == "t1"
    assert page.logged("Project updated:")["changes"] == {"name": "Park"}
    titles = ["Connected to Cartographer", "New task", "Task updated", "Task deleted", "Project updated", "Board updated"]
    assert [line.partition(":")[0] for line in page.lines()] == titles
    page.await_types("connected", "project.created")
    assert len(page.sockets) == 1


def test_its_ping_is_answered(page: Seed) -> None:
    page.await_types("connected")
    page.tab.page.clock.fast_forward(30_000)
    page.await_types("pong")
    assert [json.loads(text)["type"] for text in page.sent] == ["ping"]


def test_it_logs_errors_of_the_server(page: Seed) -> None:
    page.tab.expect_errors("Error:")
    page.tab.evaluate("ws.send('no JSON')")
    shown = page.logged("Error:")
    assert isinstance(shown, str) and "JSON" in shown, shown


def test_it_logs_that_the_connection_broke(page: Seed, cable: Cable) -> None:
    page.tab.expect_errors(BROKEN_SOCKET, "WebSocket error:")
    cable.cut()
    page.await_line("Disconnected from Cartographer")
