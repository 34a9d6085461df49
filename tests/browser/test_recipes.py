"""The how-to pages for React, Vue and htmx: their programs are built and served as the pages say, and opened in the browser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Request, WebSocket, expect

from tests.browser.cable import Cable
from tests.browser.conftest import OpenTab
from tests.browser.recipes import Recipe, RecipeServer, ViteServer, running
from tests.browser.tab import BROKEN_SOCKET
from tests.support.harness import HOST
from tests.support.waiting import wait_until

# Packages are installed and pages are built.
pytestmark = pytest.mark.timeout(300)

PAGES = ["react", "vue", "htmx"]

# The block of each page that installs its packages.
INSTALL = {"react": "npm init", "vue": "cp node_modules", "htmx": "cp node_modules"}

# Where the tasks of the first board are, in each app.
TASKS = {"react": "/api/boards/garden/tasks", "vue": "/api/boards/garden/tasks", "htmx": "/boards/garden/tasks"}

GARDEN, HOUSE = ["board_id=garden"], ["board_id=house"]
FIRST, ADDED = "Water the plants", "Mow the lawn"

# Appended to an app: one of its boards is refused.
ONLY_THE_GARDEN = """

@ws.authorize
def authorize(identity, key, value):
    return key is None or value == "garden"
"""

# Another: no user is known.
NO_USER = """

@ws.authenticate
def authenticate(request):
    return None
"""

# What a browser reports while the server is away.
AWAY = (BROKEN_SOCKET, "net::ERR_", "Failed to fetch")


class Screen:
    """One page of a recipe in the browser, and its server."""

    def __init__(self, open_tab: OpenTab, recipe: Recipe, server: RecipeServer, port: int, path: str = "/") -> None:
        self.recipe = recipe
        self.server = server
        self.tab = open_tab()
        self.tab.expect_errors("/favicon.ico")  # there is none
        self.page = self.tab.page
        #: The types of the messages that the page has sent, for each of its connections to cartows.
        self.sockets: list[list[str]] = []
        #: How many requests the page has made for the tasks of a board.
        self.loads = 0
        self.page.on("websocket", self._watch)
        self.page.on("request", self._count)
        self.tab.goto(f"http://{HOST}:{port}{path}")

    def _watch(self, socket: WebSocket) -> None:
        if "/ws?" not in socket.url:
            return  # Vite's own
        sent: list[str] = []
        self.sockets.append(sent)
        socket.on("framesent", lambda frame: sent.append(json.loads(frame)["type"]))

    def _count(self, request: Request) -> None:
        self.loads += request.url.endswith("/tasks")

    def choose(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def add(self, board: str = "garden") -> None:
        """Add a task from elsewhere, with the line for curl that the page shows."""
        self.server.add(self.recipe, board)

    def expect_tasks(self, *titles: str) -> None:
        expect(self.page.get_by_role("listitem")).to_have_text(list(titles))

    def expect_sent(self, *types: str) -> None:
        """Expect that the page has made one connection and sent messages of these types, and no others."""
        # Playwright reports frames while it is asked for something.
        wait_until(lambda: self.tab.evaluate("0") or self.sockets == [list(types)], lambda: f"{types}, not {self.sockets}")

    def expect_state(self, state: str) -> None:
        expect(self.page.get_by_role("status")).to_have_text(state)


Open = Callable[..., Screen]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Recipe]]:
    """Return a recipe whose packages are installed and whose page is built: once for all tests."""
    recipes: dict[str, Recipe] = {}

    def install(name: str) -> Recipe:
        if name not in recipes:
            recipe = Recipe(name, tmp_path_factory.mktemp(name))
            recipe.install(recipe.block_with(INSTALL[name]))
            if name == "react":
                recipe.build(recipe.block_with("&& npx vite build").partition("\n")[0])
            recipes[name] = recipe
        return recipes[name]

    yield install
    # Pytest would keep them, some 50 MB.
    for recipe in recipes.values():
        shutil.rmtree(recipe.folder)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.fixture
def open_recipe(
    installed: Callable[[str], Recipe],
    open_tab: OpenTab,
    make_cable: Callable[[int], Cable],
    stack: ExitStack,
    tmp_path: Path,
) -> Open:
    """Serve a recipe, and open its page at the first board."""

    def start(
        name: str, *, rules: str = "", vite: bool = False, cables: list[Cable] | None = None, refused: bool = False
    ) -> Screen:
        recipe = installed(name).copy(tmp_path / name)
        server = stack.enter_context(running(RecipeServer(recipe, rules)))
        port = server.port
        if vite:
            port = stack.enter_context(ViteServer(recipe.folder / "web", server.port)).port
        if cables is not None:
            cables.append(make_cable(server.port))
            port = cables[-1].port
        screen = Screen(open_tab, recipe, server, port)
        # Before the server stops: a page that is still open would try to come back.
        stack.callback(screen.page.close)
        if not refused:
            screen.expect_state("open")
            screen.expect_tasks(FIRST)
            server.await_rooms(GARDEN)
        return screen

    return start


# Each page ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_an_event_changes_the_page(open_recipe: Open, name: str) -> None:
    screen = open_recipe(name)
    screen.add()
    screen.expect_tasks(FIRST, ADDED)
    screen.server.delete(TASKS[name] + "/t1")
    screen.expect_tasks(ADDED)
    screen.expect_sent("subscribe")


@pytest.mark.parametrize("name", PAGES)
def test_another_board_takes_the_place_of_the_first(open_recipe: Open, name: str) -> None:
    screen = open_recipe(name)
    screen.choose("house")
    screen.server.await_rooms(HOUSE)
    screen.expect_tasks()
    screen.add("house")
    screen.expect_tasks(ADDED)
    screen.add()
    screen.choose("garden")
    screen.server.await_rooms(GARDEN)
    screen.expect_tasks(FIRST, ADDED)
    screen.add()
    screen.expect_tasks(FIRST, ADDED, ADDED)
    assert len(screen.sockets) == 1


@pytest.mark.parametrize("name", PAGES)
def test_a_page_whose_connection_broke_gets_what_it_missed(open_recipe: Open, name: str) -> None:
    cables: list[Cable] = []
    screen = open_recipe(name, cables=cables)
    loads = screen.loads
    screen.tab.expect_errors(*AWAY)
    cables[0].cut()
    screen.expect_state("waiting")
    screen.add()
    cables[0].restore()
    screen.expect_tasks(FIRST, ADDED)
    screen.expect_state("open")
    screen.server.await_rooms(GARDEN)
    # htmx asks for the list after each event; the others apply the events.
    assert screen.loads == loads + (name == "htmx")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_loads_again_when_the_history_is_lost(open_recipe: Open, name: str) -> None:
    screen = open_recipe(name)
    screen.add()
    screen.expect_tasks(FIRST, ADDED)
    screen.tab.expect_errors(*AWAY)
    screen.server.stop()
    screen.expect_state("waiting")
    screen.server.start()
    # The app keeps its tasks in memory: what was added is gone, and no event reports that.
    screen.expect_tasks(FIRST)
    screen.expect_state("open")
    screen.server.await_rooms(GARDEN)
    screen.add()
    screen.expect_tasks(FIRST, ADDED)


# React and Vue --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["react", "vue"])
def test_a_room_is_left_with_the_last_component_that_shows_it(open_recipe: Open, name: str) -> None:
    screen = open_recipe(name)
    expect(screen.page.get_by_role("heading")).to_have_text("garden: 1")
    screen.choose("nothing")
    screen.server.await_rooms([])
    screen.add()
    screen.choose("garden")
    screen.server.await_rooms(GARDEN)
    screen.expect_tasks(FIRST, ADDED)
    expect(screen.page.get_by_role("heading")).to_have_text("garden: 2")
    # Two components show the board, and share one subscription.
    screen.expect_sent("subscribe", "unsubscribe", "subscribe")


@pytest.mark.parametrize("name", ["react", "vue"])
def test_a_refused_board_is_shown_as_an_error(open_recipe: Open, name: str) -> None:
    screen = open_recipe(name, rules=ONLY_THE_GARDEN)
    screen.choose("house")
    expect(screen.page.get_by_role("alert")).to_contain_text("board_id=house")
    screen.choose("garden")
    screen.expect_tasks(FIRST)
    screen.server.await_rooms(GARDEN)


@pytest.mark.parametrize("name", ["react", "vue"])
def test_a_refused_connection_is_shown_as_an_error(open_recipe: Open, name: str) -> None:
    screen = open_recipe(name, rules=NO_USER, refused=True)
    screen.tab.expect_errors(BROKEN_SOCKET, "status of 401")
    screen.expect_state("closed")
    expect(screen.page.get_by_role("alert")).to_contain_text("The connection is closed")


# React ----------------------------------------------------------------------------------------------------------------


def test_strict_mode_makes_one_connection_and_subscribes_once(open_recipe: Open) -> None:
    # A page that is built mounts its components once; Vite's development server is where StrictMode mounts them twice.
    screen = open_recipe("react", vite=True)
    screen.add()
    screen.expect_tasks(FIRST, ADDED)
    screen.server.await_rooms(GARDEN)
    screen.expect_sent("subscribe")
    screen.choose("nothing")
    screen.server.await_rooms([])
    screen.expect_sent("subscribe", "unsubscribe")


def test_an_edit_during_development_leaves_one_connection(open_recipe: Open) -> None:
    screen = open_recipe("react", vite=True)
    live = screen.recipe.folder / "web" / "src" / "live.js"
    with screen.page.expect_event("load"):
        live.write_text(live.read_text(encoding="utf-8") + "\n// Edited.\n", encoding="utf-8")
    screen.add()
    screen.expect_tasks(FIRST, ADDED)
    screen.server.await_rooms(GARDEN)


# Vue ------------------------------------------------------------------------------------------------------------------

# What a project of `npm create vue` has, as far as it matters.
PROJECT = {
    "package.json": '{"type": "module"}',
    "vite.config.js": """
        import vue from '@vitejs/plugin-vue';
        import { defineConfig } from 'vite';
        export default defineConfig({ plugins: [vue()], build: { outDir: 'static' } });
    """,
    "index.html": """
        <!doctype html>
        <div id="app"></div>
        <script type="module" src="/src/main.js"></script>
    """,
    "src/main.js": """
        import { createApp } from 'vue';
        import Board from './Board.vue';
        createApp(Board, { id: 'garden' }).mount('#app');
    """,
}


def test_the_composable_works_in_a_single_file_component(open_tab: OpenTab, stack: ExitStack, tmp_path: Path) -> None:
    recipe = Recipe("vue", tmp_path)
    live = (tmp_path / "static" / "live.js").read_text(encoding="utf-8")
    for file, text in {**PROJECT, "src/live.js": live}.items():
        recipe.write(file, text)
    stack.callback(shutil.rmtree, tmp_path / "node_modules", ignore_errors=True)
    recipe.install("npm install vue vite @vitejs/plugin-vue\n" + recipe.block_with("import cartows, pathlib"))
    recipe.build("npx vite build --base /static/")
    server = stack.enter_context(running(RecipeServer(recipe)))
    screen = Screen(open_tab, recipe, server, server.port, "/static/index.html")
    stack.callback(screen.page.close)
    screen.expect_tasks(FIRST)
    screen.add()
    screen.expect_tasks(FIRST, ADDED)
    screen.expect_sent("subscribe")


# htmx -----------------------------------------------------------------------------------------------------------------


def test_the_form_of_one_page_changes_all_pages(open_recipe: Open, open_tab: OpenTab, stack: ExitStack) -> None:
    screen = open_recipe("htmx")
    other = Screen(open_tab, screen.recipe, screen.server, screen.server.port)
    stack.callback(other.page.close)
    screen.server.await_rooms(GARDEN, GARDEN)
    title = screen.page.get_by_label("Title")
    title.fill(ADDED)
    screen.choose("Add")
    screen.expect_tasks(FIRST, ADDED)
    other.expect_tasks(FIRST, ADDED)
    expect(title).to_have_value("")


def test_a_list_that_is_removed_leaves_its_room(open_recipe: Open) -> None:
    screen = open_recipe("htmx")
    screen.tab.evaluate("document.querySelector('main').replaceChildren()")
    screen.server.await_rooms([])


def test_a_burst_of_events_ends_with_the_last_state(open_recipe: Open) -> None:
    screen = open_recipe("htmx")
    for _ in range(30):
        screen.add()
    screen.expect_tasks(FIRST, *[ADDED] * 30)
