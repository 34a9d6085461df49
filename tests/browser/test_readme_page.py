"""The pages that README and docs show, in the apps that they show."""

from __future__ import annotations

import shlex
import urllib.request
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.conftest import OpenTab
from tests.support.waiting import wait_until
from tests.test_readme import FIRST, PAGES, README, block_with, blocks, curl, curl_lines, served, write_files

# README and docs leave to their readers where their pages come from.
PAGE = """
@app.get("/")
def page():
    return {html!r}
"""

SERVE = shlex.split("-k gthread --threads 8 app:app")

# What the page about resuming leaves to its reader; and a server that lets go of its clients.
RESUME = """<script>
const applied = [];
const apply = (message) => applied.push(message);
const reload = () => applied.push('reload');
{code}</script>"""
DROP = """
@app.post("/drop")
def drop():
    for client in hub.get_clients():
        client.close(1012, "test")
    return {"clients": hub.client_count()}
"""


def test_the_first_page_of_the_readme_receives_a_task(open_tab: OpenTab, tmp_path: Path) -> None:
    html = block_with("/ws/cartows.js", "html")
    (tmp_path / "app.py").write_text(FIRST + PAGE.format(html=html), encoding="utf-8")
    tab, frames = open_tab(), []
    tab.expect_errors("/favicon.ico")  # there is none
    tab.page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.append(frame)))
    with served(SERVE, tmp_path) as host:
        tab.goto(f"http://{host}/")
        # Playwright reports frames while it is asked for something.
        wait_until(lambda: tab.evaluate("0") or frames, "the greeting")
        with tab.page.expect_console_message(lambda message: message.text.startswith("New task:")) as logged:
            curl(curl_lines(README)[0], host)
        assert logged.value.args[1].json_value()["title"] == "Water the plants"
        tab.page.close()


def test_the_page_of_the_first_tutorial_shows_what_another_adds(open_tab: OpenTab, tmp_path: Path) -> None:
    write_files(PAGES["docs/tutorial/first-events.md"], tmp_path)
    ann, bob = open_tab(), open_tab()
    with served(SERVE, tmp_path) as host:
        for tab in (ann, bob):
            tab.expect_errors("/favicon.ico")
            tab.goto(f"http://{host}/")
        ann.page.fill("input", "Water the plants")
        ann.page.click("button")
        for tab in (ann, bob):
            expect(tab.page.locator("li")).to_have_text(["Water the plants"])
            tab.page.close()


def test_the_live_board_shows_each_change_and_who_is_there(open_tab: OpenTab, tmp_path: Path) -> None:
    write_files(PAGES["docs/tutorial/live-board.md"], tmp_path)
    ann, bob, other = open_tab(), open_tab(), open_tab()
    with served(SERVE, tmp_path) as host:
        for tab, board in ((ann, "garden"), (bob, "garden"), (other, "house")):
            tab.expect_errors("/favicon.ico")
            tab.goto(f"http://{host}/?board={board}")
            expect(tab.page.locator("#light")).to_have_text("open")
        for tab, count in ((ann, 2), (bob, 2), (other, 1)):
            wait_until(lambda tab=tab, count=count: tab.page.inner_text("#present").count("Guest") == count, "presence")
        ann.page.fill("input[name=title]", "Water the plants")
        ann.page.click("text=Add")
        expect(bob.page.locator("li")).to_have_count(1)
        bob.page.click("li input")
        expect(ann.page.locator("li input")).to_be_checked()
        ann.page.click("text=Delete")
        expect(bob.page.locator("li")).to_have_count(0)
        expect(other.page.locator("li")).to_have_count(0)
        for tab in (ann, bob, other):
            tab.page.close()


def test_the_page_that_resumes_by_hand_misses_nothing_and_repeats_nothing(open_tab: OpenTab, tmp_path: Path) -> None:
    (code,) = blocks("javascript", PAGES["docs/explanation/resume.md"])
    with served(SERVE, tmp_path_with_app(tmp_path, code)) as host:
        tab = open_tab()
        tab.expect_errors("/favicon.ico")
        tab.goto(f"http://{host}/")
        tab.evaluate("connect()")
        wait_until(lambda: tab.evaluate("applied.length") == 1, "the greeting")
        line = curl_lines(README)[0]
        curl(line, host)
        wait_until(lambda: tab.evaluate("applied.length") == 2, "the first task")
        urllib.request.urlopen(urllib.request.Request(f"http://{host}/drop", method="POST"), timeout=10).close()
        curl(line, host)
        wait_until(lambda: tab.evaluate("applied.filter((m) => m.type === 'task.created').length") == 2, "the second task")
        assert "reload" not in tab.evaluate("applied")
        numbers = [message["id"] for message in tab.evaluate("applied") if message["type"] == "task.created"]
        assert len(set(numbers)) == 2
        tab.page.close()


def tmp_path_with_app(folder: Path, code: str) -> Path:
    """Write the README's app with a page that runs this code against its own server."""
    script = RESUME.replace("{code}", code.replace("'ws://127.0.0.1:8000/ws'", "`ws://${location.host}/ws`"))
    (folder / "app.py").write_text(FIRST + PAGE.format(html=script) + DROP, encoding="utf-8")
    return folder
