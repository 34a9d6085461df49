"""What the documents say, done: their programs are served and tested, their shell lines sent, their tables compared."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import cartows

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICKSTART = ROOT / "examples" / "quickstart"
DEADLINE = 20.0


def blocks(language: str, text: str = README) -> list[str]:
    """Return the code blocks of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def block_with(needle: str, language: str = "python") -> str:
    (found,) = [block for block in blocks(language) if needle in block]
    return found


def curl_lines(text: str) -> list[list[str]]:
    lines = "".join(blocks("sh", text)).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("curl ")]


def curl(arguments: list[str], host: str) -> bytes:
    """Do what curl would do with these arguments, at another host."""
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
    """Run gunicorn with these arguments in that folder and give its host and port; it must stop when told to."""
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


def hear(ws: ClientConnection) -> dict[str, Any]:
    message = json.loads(ws.recv(timeout=DEADLINE))
    assert isinstance(message, dict)
    return message


@pytest.fixture
def app_folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(blocks("python")[0], encoding="utf-8")
    return tmp_path


def test_the_first_program_is_served_as_told_and_announces_what_curl_posts(app_folder: Path) -> None:
    (command,) = re.findall(r"^gunicorn (-k gthread --threads .*)$", README, re.MULTILINE)
    (line,) = curl_lines(README)
    with served(shlex.split(command), app_folder) as host, connect(f"ws://{host}/ws") as ws:
        connected = hear(ws)
        assert connected["type"] == "connected"
        curl(line, host)
        created = hear(ws)
    # What the README shows of the wire has the same shape.
    shown = [json.loads(line[2:]) for line in README.splitlines() if line.startswith("< {")]
    assert [list(message) for message in shown[:2]] == [list(connected), list(created)]
    assert [list(message["data"]) for message in shown[:2]] == [list(connected["data"]), list(created["data"])]
    assert shown[1]["data"] == created["data"]


WHO = """
from flask import session
app.secret_key = "for this test alone"

@app.before_request
def log_in():
    if "user" in request.args:
        session["user"] = request.args["user"]

banned = {"mallory"}

def boards_of(user):
    return {"ann": ["b1", "b2"], "bob": ["b1"], "mallory": ["b1"]}.get(user, [])
"""


def test_the_handlers_and_who_may_hear_what_and_presence_are_as_shown(app_folder: Path) -> None:
    rest = [block_with(needle) for needle in ("@ws.on_connect", "@ws.authorize")]
    # The first program has the extension without a name; the block with the handlers gives it one.
    first = blocks("python")[0].replace("CartoWS(app, hub)  ", "#")
    (app_folder / "app.py").write_text("\n".join([first, WHO, *rest]), encoding="utf-8")
    joins = re.search(r"JSON.stringify\((\{type: 'subscribe', data: \{board_id: 'b1', presence.*\})\)\);", README)
    assert joins is not None
    subscribe = re.sub(r"(\w+):", r'"\1":', joins[1]).replace("'", '"')
    shown = [json.loads(line[2:]) for line in README.splitlines() if line.startswith("< {")][2:]
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
            assert hear(ann)["type"] == hear(bob)["type"] == "connected"
            bob.send('{"type": "subscribe", "data": {"board_id": "b2"}}')
            refusal = hear(bob)["data"]
            assert refusal["code"] == "FORBIDDEN" and refusal["details"] == "board_id=b2"
            ann.send(subscribe)
            heard = [hear(ann), hear(ann)]
            bob.send('{"type": "subscribe", "data": {"board_id": "b1", "presence": {"name": "Bob"}}}')
            heard.append(hear(ann))
            ann.send('{"type": "cursor.moved", "data": {"board_id": "b1", "x": 5}}')
            moved = next(message for message in iter(lambda: hear(bob), None) if message["type"] == "cursor.moved")
            assert moved["data"] == {"who": "ann", "board_id": "b1", "x": 5}
    assert heard[0].pop("data") == {"board_id": ["b2", "b1"]}
    assert [list(message) for message in heard[1:]] == [list(message) for message in shown[1:]]
    for message, example in zip(heard[1:], shown[1:], strict=True):
        text = re.sub(r'"ref": "[^"]*"', '"ref": "x"', json.dumps(message["data"]))
        assert text == re.sub(r'"ref": "[^"]*"', '"ref": "x"', json.dumps(example["data"]))


def test_the_way_to_test_an_app_works(app_folder: Path) -> None:
    (app_folder / "test_app.py").write_text(block_with("def test_"), encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_app.py"],
        cwd=app_folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("needle", ["def create_app", "handle_websocket"])
def test_the_other_programs_run_behind_the_first(app_folder: Path, needle: str) -> None:
    program = blocks("python")[0] + block_with(needle)
    if "def create_app" in needle:
        program += "\ncreate_app()\n"
    (app_folder / "app.py").write_text(program, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "app.py"],
        cwd=app_folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert run.returncode == 0, run.stderr


def test_the_options_table_names_every_option_and_its_default() -> None:
    section = README.split("\n## Options\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \| ([^|]*) \|", section, re.MULTILINE)
    shown = {}
    for names, defaults in rows:
        options = re.findall(r"`(\w+)`", names)
        values = [part.strip(" `") for part in (defaults.split(", ") if len(options) > 1 else [defaults])]
        shown |= dict(zip(options, values, strict=True))
    fields = {field.name: field.default for field in dataclasses.fields(cartows.Options)}
    assert set(shown) == set(fields)
    sizes = {"1 MiB": 1024 * 1024, "8 MiB": 8 * 1024 * 1024, "16 MiB": 16 * 1024 * 1024, "512 KiB": 512 * 1024}
    for name, text in shown.items():
        if fields[name] is None:
            assert not text[0].isdigit(), name
        elif isinstance(fields[name], str):
            assert text == fields[name], name
        else:
            assert (sizes.get(text) or ast.literal_eval(text)) == fields[name], name


def test_every_public_name_that_the_readme_imports_or_tables_is_there() -> None:
    for names in re.findall(r"from cartows import (.*)", README):
        for name in names.split(","):
            assert hasattr(cartows, name.strip())
    section = README.split("\n## Python API\n")[1].split("\n### ")[0]
    for name in re.findall(r"`(?:hub|handler|client|ws)?\.?(?:(\w+)\()", section):
        owners = (cartows, cartows.Hub, cartows.Client, cartows.Handler, cartows.CartoWS)
        assert any(hasattr(owner, name) for owner in owners), name


def test_the_quickstart_does_what_its_lines_say(tmp_path: Path) -> None:
    lines = curl_lines((QUICKSTART / "README.md").read_text(encoding="utf-8"))
    (tmp_path / "app.py").write_text((QUICKSTART / "app.py").read_text(encoding="utf-8"), encoding="utf-8")
    with served(["-k", "gthread", "--threads", "4", "app:app"], tmp_path) as host:
        with (
            connect(f"ws://{host}/ws", origin=f"http://{host}") as ws,
            connect(f"ws://{host}/ws?board_id=later") as other,
        ):
            assert hear(ws)["type"] == hear(other)["type"] == "connected"
            answers = [curl(line, host) for line in lines]
            assert json.loads(answers[-1]) == []
            assert [hear(ws)["type"] for _ in range(3)] == ["task.created", "task.updated", "task.deleted"]
            curl([*lines[0][:-1], '{"title": "Paint the shed", "board_id": "later"}'], host)
            heard = hear(other)
            assert heard["type"] == "task.created" and heard["data"]["task"]["title"] == "Paint the shed"
        with urllib.request.urlopen(f"http://{host}/", timeout=DEADLINE) as response:
            assert b"Tasks, live" in response.read()
