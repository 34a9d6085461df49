"""The board example in browsers: a change in one shows in the others, whatever happens to network and server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from playwright.sync_api import BrowserContext, expect

from tests.browser.board import CARDS, BoardPage, BoardServer
from tests.browser.cable import Cable
from tests.browser.conftest import OpenTab
from tests.browser.tab import BROKEN_SOCKET
from tests.support.waiting import wait_until

# A browser's messages without a network: about the socket, the client's request for the reason, and what the page loads.
OFFLINE = (BROKEN_SOCKET, "/ws?", "Failed to fetch", "net::ERR_", "The server cannot be reached.")

RECORD_STATUS_TEXTS = """() => {
    const light = document.getElementById('light-text');
    globalThis.statusTexts = [];
    new MutationObserver(() => statusTexts.push(light.textContent)).observe(light, { childList: true });
}"""


class Join(Protocol):
    """Return another user's page with the first board of the sample."""

    def __call__(self, port: int | None = ..., **context: object) -> BoardPage: ...


@pytest.fixture
def board_server(tmp_path: Path) -> Iterator[BoardServer]:
    found = BoardServer(tmp_path)
    yield found
    found.close()


@pytest.fixture
def join(board_server: BoardServer, make_context: Callable[..., BrowserContext], open_tab: OpenTab) -> Join:
    board = board_server.boards()[0]

    def start(port: int | None = None, **context: object) -> BoardPage:
        return BoardPage(open_tab(make_context(**context)), port or board_server.port, board)

    return start


def test_a_change_in_one_browser_shows_in_the_other(join: Join) -> None:
    ann, bob = join(), join()
    ann.add("To do", "Water the plants")
    expect(bob.card("Water the plants")).to_be_visible()

    dialog = bob.edit("Water the plants")
    dialog.get_by_test_id("edit-title").fill("Water all plants")
    dialog.get_by_test_id("edit-notes").fill("Also those in the hall.")
    dialog.get_by_test_id("save").click()
    expect(ann.card("Water all plants")).to_be_visible()

    ann.drag("Water all plants", "Done")
    expect(bob.column("Done").locator("[data-task-id]", has_text="Water all plants")).to_be_visible()
    ann.await_same(bob)

    ann.card("Water all plants").click()
    ann.page.get_by_test_id("delete").click()
    ann.page.get_by_test_id("ask-go").click()
    expect(bob.card("Water all plants")).to_have_count(0)
    ann.await_same(bob)


def test_cards_are_dragged_within_a_column_and_between_columns(join: Join) -> None:
    ann, bob = join(), join()
    first, second, *_ = ann.titles("To do")
    ann.drag(second, "To do", above=first)
    wait_until(lambda: bob.titles("To do")[:2] == [second, first], lambda: f"the other order: {bob.titles('To do')}")
    target = ann.titles("Done")[0]
    ann.drag(first, "Done", above=target)
    wait_until(lambda: bob.titles("Done")[:2] == [first, target], lambda: f"the card between: {bob.titles('Done')}")
    ann.await_same(bob)


def test_a_cancelled_drag_changes_nothing(join: Join) -> None:
    ann, bob = join(), join()
    before = ann.await_same(bob)
    first = ann.titles("To do")[0]
    box = ann.card(first).bounding_box()
    assert box is not None
    ann.page.mouse.move(box["x"] + 20, box["y"] + 10)
    ann.page.mouse.down()
    ann.page.mouse.move(box["x"] + 400, box["y"] + 60, steps=8)
    ann.page.keyboard.press("Escape")
    ann.page.mouse.up()
    assert ann.visible() == before
    ann.add("Done", "A mark")
    expect(bob.card("A mark")).to_be_visible()
    assert [column[:1] + [card for card in column[1:] if card[1] != "A mark"] for column in bob.visible()[1:]] == before[1:]


def test_cards_are_moved_and_edited_with_the_keyboard(join: Join) -> None:
    ann, bob = join(), join()
    first, second, *_ = ann.titles("To do")
    ann.card(first).focus()
    ann.page.keyboard.press("Space")
    ann.page.keyboard.press("ArrowDown")
    ann.page.keyboard.press("Space")
    wait_until(lambda: bob.titles("To do")[:2] == [second, first], lambda: f"the other order: {bob.titles('To do')}")
    expect(ann.card(first)).to_be_focused()
    ann.page.keyboard.press("Control+ArrowRight")
    wait_until(lambda: first in bob.titles("In progress"), "the card in the next column")
    expect(ann.card(first)).to_be_focused()
    ann.page.keyboard.press("Enter")
    expect(ann.page.get_by_test_id("edit-title")).to_have_value(first)
    ann.page.keyboard.press("Escape")
    expect(ann.page.get_by_test_id("editor")).not_to_be_visible()
    ann.await_same(bob)


def test_an_edit_changes_what_was_edited_and_nothing_else(join: Join) -> None:
    ann = join()
    plain, labelled = (
        ann.page.locator(f"{CARDS}[data-label='{label}'] .title").first.text_content() or "" for label in ("", "violet")
    )
    dialog = ann.edit(labelled)
    expect(dialog.locator("input[name=label]:checked")).to_have_value("violet")
    ann.page.keyboard.press("Escape")
    expect(dialog).not_to_be_visible()
    dialog = ann.edit(plain)
    expect(dialog.locator("input[name=label]:checked")).to_have_value("")
    dialog.get_by_test_id("edit-title").fill("Another title")
    dialog.get_by_test_id("save").click()
    expect(ann.card("Another title")).to_have_attribute("data-label", "")
    dialog = ann.edit("Another title")
    dialog.locator("label[title=Green]").click()
    dialog.get_by_test_id("save").click()
    expect(ann.card("Another title")).to_have_attribute("data-label", "green")


def test_a_board_chosen_without_a_connection_is_shown_and_subscribed_later(
    join: Join, board_server: BoardServer, make_cable: Callable[[int], Cable]
) -> None:
    cable = make_cable(board_server.port)
    ann, bob = join(cable.port), join()
    ann.tab.expect_errors(*OFFLINE)
    bob.page.get_by_test_id("projects").get_by_role("link", name="Launch").click()
    expect(bob.column("Before")).to_be_visible()
    cable.cut()
    ann.await_light("waiting", "connecting")
    ann.page.get_by_test_id("projects").get_by_role("link", name="Launch").click()
    expect(ann.page.get_by_test_id("board-name")).to_have_text("Launch")
    cable.restore()
    ann.await_light("open")
    bob.add("Before", "A card on the other board")
    expect(ann.card("A card on the other board")).to_be_visible()
    ann.await_same(bob)


def test_focus_on_the_own_avatar_stays_there_when_others_join(join: Join) -> None:
    ann = join()
    ann.page.get_by_test_id("me").focus()
    join()
    expect(ann.page.get_by_test_id("presence").locator("li")).to_have_count(2)
    expect(ann.page.get_by_test_id("me")).to_be_focused()


def test_text_is_never_markup(join: Join) -> None:
    ann, bob = join(), join()
    title = "<img src=x onerror=alert(1)> & <b>bold</b>"
    ann.add("To do", title)
    expect(bob.card(title)).to_be_visible()
    assert bob.page.locator("#board img, #board b").count() == 0


def test_a_user_who_shows_a_board_appears_in_its_presence(join: Join) -> None:
    ann, bob = join(), join()
    members = ann.page.get_by_test_id("presence").locator("li")
    expect(members).to_have_count(2)
    bob.take_name("Bo Berg")
    expect(ann.page.get_by_test_id("presence").get_by_text("BB")).to_be_visible()
    # The other board has only that user.
    bob.page.get_by_test_id("projects").get_by_role("link", name="Launch").click()
    expect(members).to_have_count(1)
    expect(bob.page.get_by_test_id("board-name")).to_have_text("Launch")


def test_projects_and_boards_appear_and_can_be_switched(join: Join, board_server: BoardServer) -> None:
    ann, bob = join(), join()
    ann.page.get_by_test_id("new-project").click()
    ann.page.get_by_test_id("ask-value").fill("Garden")
    ann.page.get_by_test_id("ask-go").click()
    expect(bob.page.get_by_test_id("projects")).to_contain_text("Garden")
    ann.page.get_by_test_id("projects").get_by_role("link", name="Launch").click()
    expect(ann.page.get_by_test_id("board-name")).to_have_text("Launch")
    ann.page.locator(CARDS).first.wait_for()
    frames: list[str] = []
    bob.page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.append(str(frame))))
    bob.page.reload()
    bob.await_light("open")
    bob.page.locator(CARDS).first.wait_for()
    # Events of a board that is not shown are not received: this one would have been, before the next.
    ann.add("Before", "Only on this board")
    bob.add("To do", "On the first one")
    wait_until(lambda: bob.tab.evaluate("0") or any("On the first one" in frame for frame in frames), "the second card")
    assert not any("Only on this board" in frame for frame in frames)
    ann.page.go_back()
    ann.page.go_back()
    expect(ann.page.get_by_test_id("board-name")).to_have_text("Content")
    expect(ann.card("On the first one")).to_be_visible()
    ann.await_same(bob)


def test_typed_text_is_not_lost_when_another_user_changes_the_card(join: Join) -> None:
    ann, bob = join(), join()
    title = ann.titles("To do")[0]
    mine = ann.edit(title)
    mine.get_by_test_id("edit-notes").fill("A long text that is tedious to type twice")
    theirs = bob.edit(title)
    theirs.get_by_test_id("edit-notes").fill("Shorter")
    theirs.get_by_test_id("save").click()
    expect(bob.page.get_by_test_id("editor")).not_to_be_visible()
    expect(mine.locator("[data-hint=notes]")).to_be_visible()
    expect(mine.get_by_test_id("edit-notes")).to_have_value("A long text that is tedious to type twice")


def test_two_browsers_are_the_same_again_after_a_dropped_network(
    join: Join, board_server: BoardServer, make_cable: Callable[[int], Cable]
) -> None:
    cable = make_cable(board_server.port)
    ann, bob = join(cable.port), join()
    ann.tab.expect_errors(*OFFLINE)
    cable.cut()
    ann.await_light("waiting", "connecting")
    bob.add("To do", "While she was away")
    bob.drag("While she was away", "Done")
    first = bob.titles("To do")[0]
    bob.drag(first, "In progress")
    wait_until(lambda: first in bob.titles("In progress"), "the card in its column")
    assert ann.card("While she was away").count() == 0
    cable.restore()
    ann.tab.evaluate("document.getElementById('retry').click()")  # if it has not reconnected by itself by now
    expect(ann.column("Done").locator("[data-task-id]", has_text="While she was away")).to_be_visible()
    ann.await_same(bob)
    ann.add("Done", "Back again")
    expect(bob.card("Back again")).to_be_visible()


def test_a_change_without_a_network_is_undone_with_a_message(
    join: Join, board_server: BoardServer, make_cable: Callable[[int], Cable]
) -> None:
    cable = make_cable(board_server.port)
    ann = join(cable.port)
    ann.tab.expect_errors(*OFFLINE)
    before = ann.visible()
    cable.cut()
    ann.drag(ann.titles("To do")[0], "Done")
    expect(ann.page.get_by_test_id("toast")).to_be_visible()
    wait_until(lambda: ann.visible() == before, lambda: f"the board as it was: {ann.visible()}")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_two_browsers_are_the_same_after_a_restarted_server(join: Join, board_server: BoardServer, end: str) -> None:
    ann, bob = join(), join()
    for each in (ann, bob):
        each.tab.expect_errors(*OFFLINE)
    ann.add("To do", "Before the restart")
    expect(bob.card("Before the restart")).to_be_visible()
    ann.tab.evaluate(RECORD_STATUS_TEXTS)
    getattr(board_server, end)()
    for each in (ann, bob):
        each.await_light("waiting", "connecting")
    # One text for all tries, since a screen reader reads each change of it.
    ann.page.wait_for_timeout(2_000)
    board_server.start()
    for each in (ann, bob):
        each.await_light("open")
    assert ann.tab.evaluate("statusTexts") == ["reconnecting", "live"]
    bob.add("Done", "After the restart")
    expect(ann.card("After the restart")).to_be_visible()
    ann.await_same(bob)


def test_a_board_fits_a_phone(join: Join) -> None:
    ann = join(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    overflow = ann.tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow == 0
    small = ann.tab.evaluate(
        """[...document.querySelectorAll('button, a, [role=button]')].filter((each) => each.checkVisibility())
           .map((each) => [each.getBoundingClientRect(), each.outerHTML.slice(0, 80)])
           .filter(([box]) => box.width && (box.width < 44 || box.height < 44)).map(([, html]) => html)"""
    )
    assert small == []
    ann.add("To do", "Typed with a thumb")


LARGE = {"viewport": {"width": 1280, "height": 800}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.mark.parametrize(
    ("name", "scheme", "screen"), [("light", "light", LARGE), ("dark", "dark", LARGE), ("phone", "dark", PHONE)]
)
def test_screenshots(join: Join, screenshots: Path, name: str, scheme: str, screen: dict[str, object]) -> None:
    others = [join() for _ in range(2)]
    for name_shown, other in zip(("Ann", "Bo Berg"), others, strict=True):
        other.take_name(name_shown)
    ann = join(**screen, color_scheme=scheme, reduced_motion="reduce")
    members = ann.page.get_by_test_id("presence")
    expect(members.locator("li")).to_have_count(1 + len(others))
    expect(members).to_contain_text("BB")
    expect(members).to_contain_text("AN")
    ann.page.mouse.move(5, 5)
    # Written here: Playwright would do it on a thread that it keeps.
    picture = ann.page.screenshot()
    assert len(picture) > 10_000
    (screenshots / f"board-{name}.png").write_bytes(picture)
