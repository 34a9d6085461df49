"""What the documents show, done: their programs are run and served, their shell lines sent, their messages compared."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICKSTART = ROOT / "examples" / "quickstart"
DEADLINE = 20.0

#: Every page with programs, by its path.
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*/*.md"))]
}

# A first line that names a block's file: `# app.py`, `// static/board.js`, `<!-- templates/page.html -->`.
FILE_NAME = re.compile(r"(?:#|//|<!--|\{#) ([\w./-]+\.\w+)(?: -->| #\})?\n")


def blocks(language: str, text: str = README) -> list[str]:
    """Return the code blocks of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def block_with(needle: str, language: str = "python", text: str = README) -> str:
    (found,) = [block for block in blocks(language, text) if needle in block]
    return found


def write_files(text: str, folder: Path) -> None:
    """Write the blocks that name a file; those of one file follow each other in it."""
    files: dict[str, str] = {}
    for code in re.findall(r"^```\S+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if named := FILE_NAME.match(code):
            files[named[1]] = files.get(named[1], "") + code
    for name, code in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code, encoding="utf-8")


def curl_lines(text: str) -> list[list[str]]:
    lines = "".join(blocks("sh", text)).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("curl ")]


def curl(arguments: list[str], host: str) -> bytes:
    """Do what curl does with these arguments, at another host."""
    url, method, body, headers = "", None, None, {}
    rest = iter(arguments)
    for argument in rest:
        if argument == "-X":
            method = next(rest)
        elif argument == "-H":
            name, value = next(rest).split(": ")
            headers[name] = value
        elif argument == "-d":
            body = next(rest).encode()
        else:
            url = re.sub(r"//[^/]+", f"//{host}", argument)
    request = urllib.request.Request(url, body, headers, method=method)
    with urllib.request.urlopen(request, timeout=DEADLINE) as response:
        answer: bytes = response.read()
    return answer


@contextmanager
def served(arguments: list[str], folder: Path) -> Iterator[str]:
    """Run gunicorn with these arguments in that folder and yield its host and port; it must stop on SIGTERM."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "gunicorn", "-b", host, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / "server.log").open("w+b") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            until = time.monotonic() + DEADLINE
            while True:
                try:
                    socket.create_connection(("127.0.0.1", int(host.split(":")[1])), timeout=1).close()
                    break
                except OSError:
                    assert server.poll() is None and time.monotonic() < until, (folder / "server.log").read_text()
                    time.sleep(0.05)
            yield host
            server.send_signal(signal.SIGTERM)
            assert server.wait(DEADLINE) == 0, (folder / "server.log").read_text()
        finally:
            if server.poll() is None:
                server.kill()
                server.wait()


def receive(ws: ClientConnection) -> dict[str, Any]:
    message = json.loads(ws.recv(timeout=DEADLINE))
    assert isinstance(message, dict)
    return message


@pytest.fixture
def app_folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(FIRST, encoding="utf-8")
    return tmp_path


FIRST = blocks("python")[0]
# The first program has the extension without a name.
NAMED = FIRST.replace("CartoWS(app, hub)  #", "ws = CartoWS(app, hub)  #")


class Program(NamedTuple):
    """What a page leaves to its reader, before and after its blocks, which are run as one program."""

    before: str = NAMED
    after: str = ""


DATABASE = """
from flask_sqlalchemy import SQLAlchemy
app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
db = SQLAlchemy(app)

class Task(db.Model):
    id = db.Column(db.Integer, primary_key=True)
    board_id = db.Column(db.String)
    title = db.Column(db.String)

app.app_context().push()
db.create_all()
task = Task(board_id="b1", title="Water the plants")
db.session.add(task)
db.session.flush()
"""

# The names of Celery's that the page uses: it is not among what the tests install.
CELERY = """
import sys, types
celery, signals = types.ModuleType("celery"), types.ModuleType("celery.signals")
celery.Celery = lambda name, broker: types.SimpleNamespace(task=lambda function: function)
signals.worker_process_shutdown = types.SimpleNamespace(connect=lambda function: function)
sys.modules.update({"celery": celery, "celery.signals": signals})
"""

#: The pages whose programs stand for themselves.
PROGRAMS: dict[str, Program] = {
    "docs/how-to/app-factory.md": Program(FIRST, "assert create_app().extensions['cartows'] is ws\n"),
    "docs/how-to/disconnect-users.md": Program(
        NAMED + "banned = set()\n",
        "assert app.test_client().post('/users/ann/ban').json == {'closed': 0} and banned == {'ann'}\n",
    ),
    "docs/how-to/limit-clients.md": Program(
        NAMED,
        "answers = [app.test_client().get('/ws').status_code for _ in range(31)]\n"
        "assert answers == [400] * 30 + [429], answers\n",
    ),
    "docs/how-to/many-workers.md": Program(
        "from flask import Flask\nfrom cartows import CartoWS\napp = Flask('app')\n",
        "assert CartoWS(app).hub.options.redis_url == 'redis://localhost:6379/0'\n",
    ),
    "docs/how-to/monitor.md": Program(
        NAMED,
        "assert {'clients', 'published', 'waiting', 'slots'} <= app.test_client().get('/internal/cartows').json.keys()\n",
    ),
    "docs/how-to/publish-after-commit.md": Program(NAMED + DATABASE, "assert hub.stats()['published'] == 1\n"),
    "docs/how-to/publish-from-celery.md": Program(
        CELERY, "assert water('t1', 'b1') is None\nassert publisher.stats()['spooled'] == 1\nclose_publisher()\n"
    ),
    "docs/reference/options.md": Program(
        "from flask import Flask\nfrom cartows import CartoWS\napp = Flask('app')\n",
        "options = CartoWS(app).handler.options\n"
        "assert (options.path, options.ping_period) == ('/live', 25)\n"
        "assert options.allowed_origins == ('https://app.example.com',)\n",
    ),
    "docs/reference/publishing.md": Program(NAMED + "task = {'id': 't1', 'board_id': 'b1'}\n"),
}

#: Pages whose programs are done by a test of their own, and that test.
TESTED = {
    "README.md": "tests/test_readme.py",
    "docs/how-to/authenticate.md": "tests/test_authenticate_page.py",
    "docs/how-to/authorize-rooms.md": "tests/test_readme.py",
    "docs/how-to/handle-messages.md": "tests/test_readme.py",
    "docs/how-to/own-route.md": "tests/test_readme.py",
    "docs/how-to/raw-protocol.md": "tests/test_readme.py",
    "docs/how-to/test-your-app.md": "tests/test_readme.py",
    "docs/tutorial/first-events.md": "tests/test_readme.py",
    "docs/tutorial/live-board.md": "tests/test_readme.py",
    "docs/how-to/htmx.md": "tests/browser/test_recipes.py",
    "docs/how-to/react.md": "tests/browser/test_recipes.py",
    "docs/how-to/vue.md": "tests/browser/test_recipes.py",
}


def run_python(arguments: list[str], folder: Path, **environment: str) -> None:
    """Run Python in a folder; it must succeed."""
    run = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_page_with_programs_has_them_run() -> None:
    assert {page for page, text in PAGES.items() if blocks("python", text)} == PROGRAMS.keys() | TESTED.keys()
    assert not PROGRAMS.keys() & TESTED.keys()


@pytest.mark.parametrize("page", PROGRAMS)
def test_the_programs_of_a_page_run(page: str, tmp_path: Path) -> None:
    program, text = PROGRAMS[page], PAGES[page]
    # Nothing listens there, whatever runs on this machine.
    lines = "\n".join(blocks("python", text)).replace('Publisher("redis://localhost:6379', 'Publisher("redis://127.0.0.1:9')
    (tmp_path / "app.py").write_text(program.before + lines + program.after, encoding="utf-8")
    settings = dict(re.findall(r"\b(FLASK_CARTOWS_\w+)='?([^ '`]+)", text)) if page.endswith("options.md") else {}
    run_python(["app.py"], tmp_path, **settings)


def test_the_first_program_is_served_and_announces_what_curl_posts(app_folder: Path) -> None:
    (command,) = re.findall(r"^gunicorn (-k gthread --threads .*)$", README, re.MULTILINE)
    (line,) = curl_lines(README)
    with served(shlex.split(command), app_folder) as host, connect(f"ws://{host}/ws") as ws:
        connected = receive(ws)
        assert connected["type"] == "connected"
        curl(line, host)
        created = receive(ws)
    # What the README shows of the wire has the same shape.
    shown = wire_of(README)
    assert [list(message) for message in shown] == [list(connected), list(created)]
    assert [list(message["data"]) for message in shown] == [list(connected["data"]), list(created["data"])]
    assert shown[1]["data"] == created["data"]


def wire_of(text: str) -> list[dict[str, Any]]:
    """Return the messages that a page shows as wscat prints them."""
    return [json.loads(line[2:]) for line in text.splitlines() if line.startswith("< {")]


def sent_in(text: str) -> list[str]:
    """Return the messages that a page's JavaScript sends, as JSON."""
    found = re.findall(r"^ws\.send\(JSON\.stringify\((\{.*\})\)\);$", text, re.MULTILINE)
    return [re.sub(r"(\w+):", r'"\1":', each).replace("'", '"') for each in found]


def test_rooms_change_while_connected_as_shown(app_folder: Path) -> None:
    subscribe, unsubscribe = sent_in(PAGES["docs/reference/rooms.md"])
    with (
        served(["-k", "gthread", "--threads", "4", "app:app"], app_folder) as host,
        connect(f"ws://{host}/ws?board_id=b1") as ws,
    ):
        assert receive(ws)["type"] == "connected"
        ws.send(subscribe)
        assert receive(ws)["data"] == {"board_id": ["b1", "b7", "b8"]}
        ws.send(unsubscribe)
        assert receive(ws)["data"] == {"board_id": ["b7", "b8"]}


WHO = """
import types
app.secret_key = "for this test alone"

@app.before_request
def log_in():
    if "user" in request.args:
        session["user"] = request.args["user"]

banned = {"mallory"}
Board = "Board"
db = types.SimpleNamespace(session=types.SimpleNamespace(get=lambda *_: types.SimpleNamespace(project_id="p1")))

def boards_of(user):
    return {"ann": ["b1", "b2"], "bob": ["b1"], "mallory": ["b1"]}.get(user, [])
"""


def test_messages_and_authorization_and_presence_are_as_shown(app_folder: Path) -> None:
    pages = [PAGES["docs/how-to/handle-messages.md"], PAGES["docs/how-to/authorize-rooms.md"]]
    programs = [each for page in pages for each in blocks("python", page)]
    # The page's first line is the extension, which the first program has without a name.
    first = FIRST.replace("CartoWS(app, hub)  ", "#")
    (app_folder / "app.py").write_text("\n".join([first, WHO, *programs]), encoding="utf-8")
    (subscribe,) = sent_in(PAGES["docs/how-to/presence.md"])
    shown = wire_of(PAGES["docs/how-to/presence.md"])
    with served(["-k", "gthread", "--threads", "4", "app:app"], app_folder) as host:
        with pytest.raises(InvalidStatus, match="401"):
            connect(f"ws://{host}/ws?board_id=b1")
        with pytest.raises(InvalidStatus, match="403"):
            connect(f"ws://{host}/ws?user=ann")
        with connect(f"ws://{host}/ws?user=mallory&board_id=b1") as mallory, pytest.raises(ConnectionClosed) as closed:
            mallory.recv(timeout=DEADLINE)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 3507
        with pytest.raises(InvalidStatus, match="403"):
            connect(f"ws://{host}/ws?user=bob&board_id=b2")
        with connect(f"ws://{host}/ws?user=ann&board_id=b2") as ann, connect(f"ws://{host}/ws?user=bob&board_id=b1") as bob:
            assert receive(ann)["type"] == receive(bob)["type"] == "connected"
            bob.send('{"type": "subscribe", "data": {"board_id": "b2"}}')
            refusal = receive(bob)["data"]
            assert refusal["code"] == "FORBIDDEN" and refusal["details"] == "board_id=b2"
            ann.send(subscribe)
            received = [receive(ann), receive(ann)]
            bob.send('{"type": "subscribe", "data": {"board_id": "b1", "presence": {"name": "Bob"}}}')
            received.append(receive(ann))
            ann.send('{"type": "cursor.moved", "data": {"board_id": "b1", "x": 5}}')
            moved = next(message for message in iter(lambda: receive(bob), None) if message["type"] == "cursor.moved")
            assert moved["data"] == {"who": "ann", "board_id": "b1", "x": 5}
            curl(curl_lines(README)[0], host)
            created = next(message for message in iter(lambda: receive(bob), None) if message["type"] == "task.created")
            assert created["data"]["project_id"] == "p1"
    assert received[0].pop("data") == {"board_id": ["b2", "b1"]}
    assert [list(message) for message in received[1:]] == [list(message) for message in shown[1:]]
    for message, example in zip(received[1:], shown[1:], strict=True):
        text = re.sub(r'"ref": "[^"]*"', '"ref": "x"', json.dumps(message["data"]))
        assert text == re.sub(r'"ref": "[^"]*"', '"ref": "x"', json.dumps(example["data"]))


def test_a_route_of_the_apps_own_is_served(app_folder: Path) -> None:
    (program,) = blocks("python", PAGES["docs/how-to/own-route.md"])
    (app_folder / "app.py").write_text(FIRST + program, encoding="utf-8")
    with (
        served(["-k", "gthread", "--threads", "4", "app:app"], app_folder) as host,
        connect(f"ws://{host}/boards/live") as ws,
    ):
        assert receive(ws)["type"] == "connected"


def test_a_protocol_of_the_apps_own_is_served(app_folder: Path) -> None:
    (program,) = blocks("python", PAGES["docs/how-to/raw-protocol.md"])
    (app_folder / "app.py").write_text(FIRST + program, encoding="utf-8")
    with served(["-k", "gthread", "--threads", "4", "app:app"], app_folder) as host, connect(f"ws://{host}/echo") as ws:
        for message in ("not JSON", b"\0bytes"):
            ws.send(message)
            assert ws.recv(timeout=DEADLINE) == message


def test_the_way_to_test_an_app_works(app_folder: Path) -> None:
    (program,) = blocks("python", PAGES["docs/how-to/test-your-app.md"])
    (app_folder / "test_app.py").write_text(program, encoding="utf-8")
    run_python(["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_app.py"], app_folder)


def test_the_first_events_arrive(tmp_path: Path) -> None:
    text = PAGES["docs/tutorial/first-events.md"]
    write_files(text, tmp_path)
    (line,) = curl_lines(text)
    with served(["-k", "gthread", "--threads", "8", "app:app"], tmp_path) as host, connect(f"ws://{host}/ws") as ws:
        assert receive(ws)["type"] == "connected"
        created = json.loads(curl(line, host))
        assert created["title"] == "Water the plants"
        assert receive(ws)["data"]["task"] == created
        assert json.loads(curl([f"http://{host}/tasks"], host)) == [created]
        with urllib.request.urlopen(f"http://{host}/", timeout=DEADLINE) as response:
            assert response.read().decode() == (tmp_path / "templates" / "page.html").read_text(encoding="utf-8").rstrip("\n")


def test_the_live_board_announces_each_change(tmp_path: Path) -> None:
    text = PAGES["docs/tutorial/live-board.md"]
    write_files(text, tmp_path)
    with (
        served(["-k", "gthread", "--threads", "8", "app:app"], tmp_path) as host,
        connect(f"ws://{host}/ws?board_id=garden") as garden,
        connect(f"ws://{host}/ws?board_id=house") as house,
    ):
        assert receive(garden)["type"] == receive(house)["type"] == "connected"
        for line in curl_lines(text):
            curl(line, host)
        messages = [receive(garden) for _ in range(3)]
        assert [message["type"] for message in messages] == ["task.created", "task.updated", "task.deleted"]
        assert [message["data"]["task"]["version"] for message in messages[:2]] == [1, 2]
        house.send('{"type": "ping"}')
        assert receive(house)["type"] == "pong"


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if blocks("javascript", text)])
def test_the_javascript_of_a_page_can_be_read(page: str, tmp_path: Path) -> None:
    for number, code in enumerate(blocks("javascript", PAGES[page])):
        file = tmp_path / f"{number}.mjs"
        file.write_text(code, encoding="utf-8")
        run = subprocess.run(["node", "--check", file], capture_output=True, text=True, timeout=DEADLINE)
        assert run.returncode == 0, run.stderr


def test_the_quickstart_does_what_its_lines_say(tmp_path: Path) -> None:
    lines = curl_lines((QUICKSTART / "README.md").read_text(encoding="utf-8"))
    (tmp_path / "app.py").write_text((QUICKSTART / "app.py").read_text(encoding="utf-8"), encoding="utf-8")
    with served(["-k", "gthread", "--threads", "4", "app:app"], tmp_path) as host:
        with (
            connect(f"ws://{host}/ws", origin=f"http://{host}") as ws,
            connect(f"ws://{host}/ws?board_id=later") as other,
        ):
            assert receive(ws)["type"] == receive(other)["type"] == "connected"
            answers = [curl(line, host) for line in lines]
            assert json.loads(answers[-1]) == []
            assert [receive(ws)["type"] for _ in range(3)] == ["task.created", "task.updated", "task.deleted"]
            curl([*lines[0][:-1], '{"title": "Paint the shed", "board_id": "later"}'], host)
            created = receive(other)
            assert created["type"] == "task.created" and created["data"]["task"]["title"] == "Paint the shed"
        with urllib.request.urlopen(f"http://{host}/", timeout=DEADLINE) as response:
            assert b"Tasks, live" in response.read()
