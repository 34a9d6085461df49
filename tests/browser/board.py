"""The board example: its server, which can be restarted on one port, and its page in a browser."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator

from tests.browser.restarts import reserved_port
from tests.browser.tab import Tab
from tests.support.harness import HOST
from tests.support.waiting import DEADLINE, wait_until

ROOT = Path(__file__).resolve().parents[2]

# The selectors of a card and of a column in the page.
CARDS, COLUMNS = "#board [data-task-id]", "#board [data-column-id]"

# Everything visible of a board, from top left to bottom right.
VISIBLE = """() => {
    const all = (parent, selector, see) => [...parent.querySelectorAll(selector)].map(see);
    const seeCard = (card) => [card.dataset.taskId, card.querySelector('.title').textContent, card.dataset.label];
    return [document.getElementById('board-name').textContent, ...all(document, '#board [data-column-id]', (column) => [
        column.querySelector('h2').textContent, ...all(column, '[data-task-id]', seeCard),
    ])];
}"""


class BoardServer:
    """The example under gunicorn, as ``make run`` starts it, with a database that survives restarts."""

    def __init__(self, directory: Path) -> None:
        self.port = reserved_port()
        self._directory = directory
        self.start()

    def start(self) -> None:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("FLASK_", "GUNICORN_", "WEB_"))},
            "PYTHONPATH": str(ROOT),
            "FLASK_SECRET_KEY": "for these tests alone",
            "FLASK_SQLALCHEMY_DATABASE_URI": f"sqlite:///{self._directory / 'board.sqlite'}",
        }
        settings = ROOT / "tests" / "apps" / "gunicorn_settings.py"
        command = [sys.executable, "-m", "gunicorn", "-c", str(settings), "--chdir", str(ROOT / "examples" / "board")]
        with (self._directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "-k", "gthread", "--threads", "8", "-b", f"{HOST}:{self.port}", "app:app"],
                env=environment,
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(self._answers, self.log)
        except BaseException:
            self.kill()
            raise

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log()
        try:
            self.read("/api/projects")
        except OSError:
            return False
        return True

    def log(self) -> str:
        return (self._directory / "server.log").read_text(encoding="utf-8")

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(DEADLINE)
        finally:
            self.kill()  # does nothing if it has ended
        assert code == 0, self.log()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(DEADLINE)

    def close(self) -> None:
        if self._process.poll() is None:
            self.stop()
        assert "Traceback" not in self.log(), self.log()

    def read(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{HOST}:{self.port}{path}", timeout=DEADLINE) as response:
            return json.load(response)

    def boards(self) -> list[str]:
        """Return the ids of all boards, in order."""
        return [board["id"] for project in self.read("/api/projects") for board in project["boards"]]


class BoardPage:
    """One page that shows a board, and what its user does there."""

    def __init__(self, tab: Tab, port: int, board: str) -> None:
        self.tab = tab
        self.page = tab.page
        tab.goto(f"http://{HOST}:{port}/boards/{board}")
        self.await_light("open")
        self.page.locator(CARDS).first.wait_for()

    def await_light(self, *states: str) -> None:
        self.tab.await_true("(states) => states.includes(document.getElementById('light').dataset.state)", list(states))

    def take_name(self, name: str) -> None:
        self.page.get_by_test_id("me").click()
        self.page.get_by_test_id("ask-value").fill(name)
        self.page.get_by_test_id("ask-go").click()

    def visible(self) -> Any:
        return self.tab.evaluate(VISIBLE)

    def column(self, name: str) -> Locator:
        return self.page.locator(COLUMNS, has=self.page.get_by_role("heading", name=name, exact=True))

    def card(self, title: str) -> Locator:
        return self.page.locator(CARDS, has_text=title)

    def titles(self, column: str) -> list[str]:
        return self.column(column).locator("[data-task-id] .title").all_text_contents()

    def add(self, column: str, title: str) -> None:
        found = self.column(column)
        found.get_by_test_id("add-card").click()
        found.get_by_test_id("new-title").fill(title)
        found.get_by_test_id("add").click()
        # wait until the server has it
        found.locator("[data-task-id]:not(.waiting)", has_text=title).wait_for()

    def drag(self, title: str, column: str, above: str | None = None) -> None:
        """Drag a card with the mouse, in steps, above another one or to the end of a column."""
        source = self.card(title).bounding_box()
        assert source is not None
        self.page.mouse.move(source["x"] + source["width"] / 2, source["y"] + source["height"] / 2)
        self.page.mouse.down()
        target = self.card(above) if above else self.column(column).locator("ol")
        box = target.bounding_box()
        assert box is not None
        y = box["y"] + 3 if above else box["y"] + box["height"] - 2
        self.page.mouse.move(box["x"] + box["width"] / 2, y, steps=random.randint(5, 12))
        self.page.mouse.up()

    def edit(self, title: str) -> Locator:
        """Open a card's dialog."""
        self.card(title).click()
        dialog = self.page.get_by_test_id("editor")
        dialog.wait_for()
        return dialog

    def await_same(self, *others: BoardPage, deadline: float = DEADLINE) -> Any:
        """Wait until these pages show the same board as this one; return it."""
        wait_until(
            lambda: all(other.visible() == self.visible() for other in others),
            lambda: f"the same board: {[each.visible() for each in (self, *others)]}",
            deadline,
        )
        return self.visible()
