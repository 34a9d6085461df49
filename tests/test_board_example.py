"""The board example: its REST handlers on a temporary database, and the events they broadcast after a commit."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from sqlalchemy.exc import OperationalError
from websockets.sync.client import connect
from werkzeug.serving import make_server

from cartows.handler.handoff import dead_end

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "board"
MODULES = [path.stem for path in FOLDER.glob("*.py")]
DEADLINE = 20.0

# A process keeps it from its first WebSocket on: a test must not be blamed for that descriptor.
dead_end()

Json = dict[str, Any]


class Example(SimpleNamespace):
    """The imported example, with a client for its API and the published events."""

    app: Any
    live: Any
    models: Any
    ordering: Any
    client: Any
    events: list[Json]

    def call(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        response = self.client.open(f"/api{path}", method=method, json=body)
        assert response.status_code == status, (method, path, response.status_code, response.text)
        return response.json

    def board(self) -> Json:
        """Return the first board of the sample and its tasks."""
        board_id = self.call("GET", "/projects")[0]["boards"][0]["id"]
        found: Json = self.call("GET", f"/boards/{board_id}")
        return found

    def titles(self, column: Json) -> list[str]:
        return [task["title"] for task in self.board()["tasks"] if task["column_id"] == column["id"]]

    def received(self) -> list[Json]:
        """Return the events since the last call."""
        events, self.events[:] = list(self.events), []
        return events


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Example]]:
    """Return a function that imports the example as a new process would, also several times on one database."""
    monkeypatch.setenv("FLASK_SQLALCHEMY_DATABASE_URI", f"sqlite:///{tmp_path}/board.sqlite")
    monkeypatch.setenv("FLASK_SECRET_KEY", "for tests")
    monkeypatch.syspath_prepend(str(FOLDER))
    started: list[Example] = []

    def begin() -> Example:
        for name in MODULES:
            sys.modules.pop(name, None)
        import api
        import app
        import live
        import models
        import ordering

        example = Example(app=app.app, api=api, live=live, models=models, ordering=ordering, client=app.app.test_client())
        example.events = []
        publish = live.hub.publish

        def record(message: Any, audience: Any) -> Any:
            to = "everyone" if audience.everyone else sorted(key for key, _ in audience.rooms)
            example.events.append({"to": to, **json.loads(msgspec.json.encode(message))})
            return publish(message, audience)

        monkeypatch.setattr(live.hub, "publish", record)
        started.append(example)
        return example

    yield begin
    for example in started:
        with example.app.app_context():
            example.models.db.session.remove()
            example.models.db.engine.dispose()
        example.live.hub.shutdown()
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def example(start: Callable[[], Example]) -> Example:
    return start()


# --- Tasks ------------------------------------------------------------------------------------------------------------


def test_creating_changing_moving_and_deleting_a_task_each_broadcast_a_new_version(example: Example) -> None:
    board = example.board()["board"]
    first, second = board["columns"][:2]
    task = example.call("POST", f"/columns/{first['id']}/tasks", {"title": "  Water  the plants "}, 201)
    path = f"/tasks/{task['id']}"
    assert (task["title"], task["version"], task["board_id"]) == ("Water the plants", 1, board["id"])
    changed = example.call("PATCH", path, {"notes": "All of them", "due": "2026-03-31", "title": "Water the plants"})
    moved = example.call("POST", path + "/move", {"column_id": second["id"], "before_id": None})
    example.call("DELETE", path, status=204)
    assert (changed["version"], moved["version"], moved["column_id"]) == (2, 3, second["id"])
    example.call("GET", path, status=404)

    created, updated, other, deleted = example.received()
    assert (created["type"], created["data"]["task"]) == ("task.created", task)
    assert (updated["type"], updated["data"]["action"], updated["data"]["task"]) == ("task.updated", "updated", changed)
    assert updated["data"]["changes"] == {"notes": "All of them", "due": "2026-03-31"}
    assert (other["type"], other["data"]["action"], other["data"]["task"]) == ("task.updated", "moved", moved)
    assert (deleted["type"], deleted["data"]["task_id"]) == ("task.deleted", task["id"])
    for event in (created, updated, other, deleted):
        assert event["to"] == ["board_id", "project_id"]
        assert event["data"]["project_id"] == board["project_id"]


def test_a_change_without_effect_is_not_broadcast(example: Example) -> None:
    state = example.board()
    task = state["tasks"][0]
    column = [other for other in state["tasks"] if other["column_id"] == task["column_id"]]
    index = column.index(task)
    before = column[index + 1]["id"] if index + 1 < len(column) else None
    where = {"column_id": task["column_id"], "before_id": before}
    assert example.call("PATCH", f"/tasks/{task['id']}", {"title": task["title"]}) == task
    assert example.call("POST", f"/tasks/{task['id']}/move", where) == task
    assert example.call("PATCH", f"/boards/{state['board']['id']}", {"name": state["board"]["name"]}) == state["board"]
    assert example.received() == []


def test_a_new_order_within_a_column_is_an_event_of_the_board(example: Example) -> None:
    board = example.board()["board"]
    column = board["columns"][0]
    one, two, three, *rest = example.titles(column)
    ids = {task["title"]: task["id"] for task in example.board()["tasks"]}
    moved = example.call("POST", f"/tasks/{ids[three]}/move", {"column_id": column["id"], "before_id": ids[two]})
    assert example.titles(column) == [one, three, two, *rest]
    (event,) = example.received()
    assert (event["type"], event["data"]["action"]) == ("board.updated", "reordered")
    position = {"column_id": column["id"], "position": moved["position"], "version": 2}
    assert event["data"]["changes"] == {ids[three]: position}
    assert event["data"]["board"]["version"] == board["version"] + 1


def test_a_task_goes_to_the_end_when_the_task_it_was_to_precede_is_gone(example: Example) -> None:
    column = example.board()["board"]["columns"][0]
    first = example.titles(column)[0]
    id = next(task["id"] for task in example.board()["tasks"] if task["title"] == first)
    example.call("POST", f"/tasks/{id}/move", {"column_id": column["id"], "before_id": "0123456789abcdef"})
    assert example.titles(column)[-1] == first


def test_a_column_without_room_between_two_tasks_is_renumbered_in_the_same_event(example: Example) -> None:
    column = example.board()["board"]["columns"][0]
    tasks = [task for task in example.board()["tasks"] if task["column_id"] == column["id"]]
    first, *others = [task["id"] for task in tasks]
    example.received()
    order = [first, *others]
    versions = {task["id"]: task["version"] for task in tasks}
    numbered = 0
    for step in range(80):
        mover = others[1 - step % 2]
        order.remove(mover)
        order.insert(1, mover)
        before = order[2]
        example.call("POST", f"/tasks/{mover}/move", {"column_id": column["id"], "before_id": before})
        (event,) = example.received()
        positions = event["data"]["changes"]
        numbered += len(positions) > 1
        for id, position in positions.items():
            assert position["version"] == versions[id] + 1
            versions[id] = position["version"]
        found = [task for task in example.board()["tasks"] if task["column_id"] == column["id"]]
        assert [task["id"] for task in found] == order
        assert {task["id"]: task["version"] for task in found} == versions
    assert numbered >= 1


def test_a_task_stays_on_its_board(example: Example) -> None:
    task = example.board()["tasks"][0]
    other = example.call("GET", "/projects")[1]["boards"][0]["id"]
    column = example.call("GET", f"/boards/{other}")["board"]["columns"][0]
    answer = example.call("POST", f"/tasks/{task['id']}/move", {"column_id": column["id"]}, 409)
    assert answer == {"message": "A task stays on its board."}


# --- Boards, columns and projects -------------------------------------------------------------------------------------


def test_columns_are_added_removed_and_reordered(example: Example) -> None:
    board = example.board()["board"]
    path = f"/boards/{board['id']}"
    made = example.call("POST", path + "/columns", {"name": "Waiting"}, 201)
    id = made.pop("column_id")
    assert [column["name"] for column in made["columns"]][-1] == "Waiting"
    order = [column["id"] for column in made["columns"]]
    shifted = example.call("PUT", path + "/columns", {"order": order[-1:] + order[:-1]})
    renamed = example.call("PATCH", f"/columns/{id}", {"name": "Blocked"})
    assert renamed["columns"][0] == {"id": id, "name": "Blocked"}
    gone = example.call("DELETE", f"/columns/{id}")
    assert gone["columns"] == board["columns"]
    events = example.received()
    assert [event["data"]["board"] for event in events] == [made, shifted, renamed, gone]
    assert [event["data"]["action"] for event in events] == ["updated", "reordered", "updated", "updated"]
    assert [event["data"]["board"]["version"] for event in events] == [board["version"] + n for n in (1, 2, 3, 4)]
    example.call("PUT", path + "/columns", {"order": order}, 409)
    example.call("DELETE", f"/columns/{board['columns'][0]['id']}", status=409)
    assert example.received() == []


def test_changes_of_the_lists_are_broadcast_to_everyone(example: Example) -> None:
    project = example.call("POST", "/projects", {"name": "Garden"}, 201)
    example.call("PATCH", f"/projects/{project['id']}", {"name": "Garden and yard"})
    board = example.call("POST", f"/projects/{project['id']}/boards", {"name": "Spring"}, 201)
    example.call("PATCH", f"/boards/{board['id']}", {"name": "Spring work"})
    events = example.received()
    assert [(event["type"], event["to"]) for event in events] == [
        ("project.created", "everyone"),
        ("project.updated", "everyone"),
        ("board.updated", "everyone"),
        ("board.updated", "everyone"),
    ]
    (summary,) = example.call("GET", f"/projects/{project['id']}/boards")
    assert (summary["name"], summary["version"]) == ("Spring work", 2)
    assert example.call("GET", "/projects")[-1]["boards"] == [summary]


# --- Refused requests -------------------------------------------------------------------------------------------------

TEXTS = ["", "   ", None, 7, True, [], {}, "x" * 5000, "half a \ud83d", "\x00"]


def routes(example: Example) -> Iterator[tuple[str, str, str]]:
    """Yield each call with a body, and one of its fields."""
    board = example.board()
    project, board_id = board["board"]["project_id"], board["board"]["id"]
    column, task = board["board"]["columns"][0]["id"], board["tasks"][0]["id"]
    yield "POST", "/projects", "name"
    yield "PATCH", f"/projects/{project}", "name"
    yield "POST", f"/projects/{project}/boards", "name"
    yield "PATCH", f"/boards/{board_id}", "name"
    yield "POST", f"/boards/{board_id}/columns", "name"
    yield "PUT", f"/boards/{board_id}/columns", "order"
    yield "PATCH", f"/columns/{column}", "name"
    yield "POST", f"/columns/{column}/tasks", "title"
    yield "PATCH", f"/tasks/{task}", "title"
    yield "POST", f"/tasks/{task}/move", "column_id"


def test_a_malformed_body_is_refused_with_a_reason_and_changes_nothing(example: Example) -> None:
    before = example.board()
    for method, path, field in routes(example):
        for body in [[], "text", 7, {"unknown": 1}, *({field: value} for value in TEXTS)]:
            if field == "order" and body == {"order": []}:
                continue
            answer = example.client.open(f"/api{path}", method=method, json=body)
            assert answer.status_code == 400, (method, path, body, answer.text)
            assert answer.json["message"], answer.text
    task = before["tasks"][0]["id"]
    for body in [
        {"notes": "x" * 5000},
        {"notes": 7},
        {"label": "mauve"},
        {"label": []},
        {"due": "2026-02-30"},
        {"due": "soon"},
        {"due": 7},
        {"version": 9},
        {"board_id": "0123456789abcdef"},
    ]:
        example.call("PATCH", f"/tasks/{task}", body, 400)
    example.call("PUT", "/me", {"name": 7}, 400)
    assert example.board() == before
    assert example.received() == []


def test_only_json_of_limited_size_is_accepted(example: Example) -> None:
    for data, kind, status in [
        ('{"name": "x"}', "text/plain", 415),
        ("name=x", "application/x-www-form-urlencoded", 415),
        ("{", "application/json", 400),
        ("[" * 60_000, "application/json", 400),
        ('{"name": "' + "x" * 70_000 + '"}', "application/json", 413),
    ]:
        answer = example.client.post("/api/projects", data=data, content_type=kind)
        assert (answer.status_code, bool(answer.json["message"])) == (status, True), answer.text


def test_a_missing_object_is_answered_404(example: Example) -> None:
    for id in ("0123456789abcdef", "x", "%00", "%ff", "9" * 5000):
        for method, path, body in [
            ("GET", f"/boards/{id}", None),
            ("GET", f"/tasks/{id}", None),
            ("GET", f"/projects/{id}/boards", None),
            ("PATCH", f"/projects/{id}", {"name": "x"}),
            ("POST", f"/projects/{id}/boards", {"name": "x"}),
            ("PATCH", f"/boards/{id}", {"name": "x"}),
            ("POST", f"/boards/{id}/columns", {"name": "x"}),
            ("PUT", f"/boards/{id}/columns", {"order": []}),
            ("PATCH", f"/columns/{id}", {"name": "x"}),
            ("DELETE", f"/columns/{id}", None),
            ("POST", f"/columns/{id}/tasks", {"title": "x"}),
            ("PATCH", f"/tasks/{id}", {"title": "x"}),
            ("POST", f"/tasks/{id}/move", {"column_id": "0123456789abcdef"}),
            ("DELETE", f"/tasks/{id}", None),
        ]:
            assert example.call(method, path, body, 404)["message"]
    assert example.client.get("/boards/0123456789abcdef").status_code == 404
    assert example.call("GET", "/nothing", status=404)["message"]
    assert example.call("DELETE", "/projects", status=405)["message"]


def test_the_number_of_objects_is_limited(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    board = example.board()["board"]
    monkeypatch.setattr(example.api, "MAX_COUNTS", {"projects": 3, "boards": 3, "columns": 5, "tasks": 10})
    for path, body in [
        ("/projects", {"name": "x"}),
        (f"/projects/{board['project_id']}/boards", {"name": "x"}),
        (f"/boards/{board['id']}/columns", {"name": "x"}),
        (f"/columns/{board['columns'][0]['id']}/tasks", {"title": "x"}),
    ]:
        example.call("POST", path, body, 201)
        example.call("POST", path, body, 409)


def test_an_id_is_used_once(example: Example) -> None:
    path = f"/columns/{example.board()['board']['columns'][0]['id']}/tasks"
    example.call("POST", path, {"title": "x", "id": "00112233445566"}, 201)
    example.call("POST", path, {"title": "y", "id": "00112233445566"}, 409)
    for id in ("", "x" * 16, 7, None, "0" * 33):
        example.call("POST", path, {"title": "x", "id": id}, 400)


# --- Commit, start and page -------------------------------------------------------------------------------------------


def test_a_rolled_back_change_is_not_broadcast(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    before = example.board()
    path = f"/columns/{before['board']['columns'][0]['id']}/tasks"

    def fail() -> None:
        example.models.db.session.flush()
        raise OperationalError("COMMIT", {}, sqlite3.OperationalError("database is locked"))

    with monkeypatch.context() as patched:
        patched.setattr(example.models.db.session, "commit", fail)
        assert "busy" in example.call("POST", path, {"title": "x"}, 503)["message"]
    assert example.board() == before
    assert example.received() == []
    example.call("POST", path, {"title": "x"}, 201)
    assert len(example.received()) == 1


def test_concurrent_requests_do_not_fail_and_lose_no_change(example: Example) -> None:
    task = example.board()["tasks"][0]
    wrong: list[Any] = []

    def rename(name: str) -> None:
        client = example.app.test_client()
        for number in range(10):
            answer = client.patch(f"/api/tasks/{task['id']}", json={"title": f"{name} {number}"})
            if answer.status_code != 200:
                wrong.append(answer.text)

    threads = [threading.Thread(target=rename, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert not wrong
    assert example.call("GET", f"/tasks/{task['id']}")["version"] == task["version"] + 40
    versions = [event["data"]["task"]["version"] for event in example.received()]
    assert sorted(versions) == list(range(task["version"] + 1, task["version"] + 41))


def test_a_second_start_finds_the_data_of_the_first(start: Callable[[], Example]) -> None:
    first = start()
    first.call("POST", "/projects", {"name": "Garden"}, 201)
    projects = first.call("GET", "/projects")
    assert [project["name"] for project in projects] == ["Website relaunch", "Office move", "Garden"]
    assert start().call("GET", "/projects") == projects


def test_processes_that_start_at_once_create_the_sample_once(tmp_path: Path) -> None:
    environment = {
        "FLASK_SQLALCHEMY_DATABASE_URI": f"sqlite:///{tmp_path}/board.sqlite",
        "FLASK_SECRET_KEY": "for tests",
        "PYTHONPATH": f"{FOLDER}:{FOLDER.parents[1]}",
    }
    command = [sys.executable, "-W", "error", "-c", "import app"]
    processes = [subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    errors = [process.communicate(timeout=DEADLINE * 2)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors
    connection = sqlite3.connect(tmp_path / "board.sqlite")
    assert connection.execute("select count(*) from project").fetchone() == (2,)
    connection.close()


def test_a_key_for_the_cookies_is_made_once_and_only_its_owner_can_read_it(example: Example, tmp_path: Path) -> None:
    stored_secret = sys.modules["app"].stored_secret
    path = tmp_path / "instance" / "secret_key"
    made = stored_secret(path)
    assert len(made) == 64 and stored_secret(path) == made
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["secret_key"]


def test_the_page_shows_its_visitor_and_escapes_the_name(example: Example) -> None:
    board = example.board()["board"]
    assert example.client.get("/").headers["Location"] == f"/boards/{board['id']}"
    assert example.call("PUT", "/me", {"name": '  "><script>  x '}) == {"name": '"><script> x'}
    answer = example.client.get(f"/boards/{board['id']}")
    assert answer.status_code == 200
    assert "&#34;&gt;&lt;script&gt; x" in answer.text and '"><script> x' not in answer.text
    assert "SameSite=Lax" in answer.headers["Set-Cookie"] and "HttpOnly" in answer.headers["Set-Cookie"]
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    again = example.client.get(f"/boards/{board['id']}")
    assert again.text == answer.text


def test_a_page_that_shows_a_board_receives_its_tasks_and_no_others(example: Example) -> None:
    first, other = (board["id"] for board in example.call("GET", "/projects")[0]["boards"])
    columns = [example.call("GET", f"/boards/{id}")["board"]["columns"][0]["id"] for id in (first, other)]
    server = make_server("127.0.0.1", 0, example.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with connect(f"ws://127.0.0.1:{server.port}/ws?board_id={first}", proxy=None) as ws:
            assert json.loads(ws.recv(timeout=DEADLINE))["type"] == "connected"
            example.call("POST", f"/columns/{columns[1]}/tasks", {"title": "elsewhere"}, 201)
            example.call("POST", f"/columns/{columns[0]}/tasks", {"title": "here"}, 201)
            example.call("POST", "/projects", {"name": "Garden"}, 201)
            created, project = (json.loads(ws.recv(timeout=DEADLINE)) for _ in range(2))
            assert created["data"]["task"]["title"] == "here"
            assert project["type"] == "project.created"
    finally:
        server.shutdown()
        thread.join(DEADLINE)
        server.server_close()
