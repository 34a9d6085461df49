"""The README's page, in the README's app."""

from __future__ import annotations

from pathlib import Path

from tests.browser.conftest import OpenTab
from tests.support.waiting import wait_until
from tests.test_readme import README, block_with, curl, curl_lines, served

# The README leaves open how an app serves its pages.
PAGE = """
@app.get("/")
def page():
    return {html!r}
"""


def test_the_first_page_of_the_readme_receives_a_task(open_tab: OpenTab, tmp_path: Path) -> None:
    html = block_with("/ws/cartows.js", "html")
    (tmp_path / "app.py").write_text(block_with("# app.py") + PAGE.format(html=html), encoding="utf-8")
    tab, frames = open_tab(), []
    tab.expect_errors("/favicon.ico")  # the app has none
    tab.page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.append(frame)))
    with served(["-k", "gthread", "--threads", "8", "app:app"], tmp_path) as host:
        tab.goto(f"http://{host}/")
        # Playwright delivers frames only while a call is waiting.
        wait_until(lambda: tab.evaluate("0") or frames, "the greeting")
        with tab.page.expect_console_message(lambda message: message.text.startswith("New task:")) as logged:
            curl(curl_lines(README)[0], host)
        assert logged.value.args[1].json_value()["title"] == "Water the plants"
        tab.page.close()
