"""The programs of the page about authentication, each served with the extension that it names, and its users and visitors."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.test_readme import DEADLINE, NAMED, PAGES, block_with, curl, receive, served

PAGE = PAGES["docs/how-to/authenticate.md"]
SECRET = "for this test alone, and long enough for HS256"

#: What the programs need, and how a test disconnects a user, by the id.
BEFORE = f"""{NAMED}
app.secret_key = "for this test alone"
app.config["JWT_SECRET"] = app.config["JWT_SECRET_KEY"] = {SECRET!r}

@app.post("/disconnect/<user>")
def disconnect(user):
    return {{"closed": hub.disconnect(identity=user)}}
"""

SESSION = """
@app.before_request
def log_in():
    if "user" in request.args:
        session["user"] = request.args["user"]
"""

LOGIN = """
import flask_login

class User(flask_login.UserMixin):
    id = 7
    def get_id(self):
        return "alternative 7"

manager = flask_login.LoginManager(app)
manager.user_loader(lambda id: User())

@app.before_request
def log_in():
    if "user" in request.args:
        flask_login.login_user(User())
"""

JWT_EXTENDED = """
from flask_jwt_extended import JWTManager
jwt = JWTManager(app)
app.config["JWT_TOKEN_LOCATION"] = ["headers", "cookies"]
revoked = {"stolen"}

@jwt.token_in_blocklist_loader
def is_revoked(header, claims):
    return claims["jti"] in revoked
"""

PASSWORDS = """
def check_password(name, password):
    return name if (name, password) == ("ann", "secret") else None
"""


@contextmanager
def serve(folder: Path, before: str, needle: str) -> Iterator[str]:
    """Serve the block with that text, in a program of its own."""
    (folder / "app.py").write_text(BEFORE + before + block_with(needle, text=PAGE), encoding="utf-8")
    with served(["-k", "gthread", "--threads", "4", "app:app"], folder) as host:
        yield host


def disconnected(host: str, user: str, ws: ClientConnection) -> None:
    """Check that the user's client is found by the id, and closed."""
    assert receive(ws)["type"] == "connected"
    assert json.loads(curl(["-X", "POST", f"http://{host}/disconnect/{user.replace(' ', '%20')}"], host)) == {"closed": 1}
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            ws.recv(timeout=DEADLINE)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 3503


def refused(url: str, status: int = 401, **headers: str) -> None:
    with pytest.raises(InvalidStatus) as caught:
        connect(url, additional_headers=headers).close()
    assert caught.value.response.status_code == status


@pytest.mark.parametrize(
    ("before", "needle", "user"),
    [
        ("from flask import session" + SESSION, "session.get", "ann"),
        (LOGIN, "FlaskLoginAuth", "alternative 7"),
        (LOGIN, "import current_user", "alternative 7"),
    ],
    ids=["session", "FlaskLoginAuth", "current_user"],
)
def test_sessions_are_checked_as_shown(tmp_path: Path, before: str, needle: str, user: str) -> None:
    with serve(tmp_path, before, needle) as host:
        refused(f"ws://{host}/ws")
        with connect(f"ws://{host}/ws?user=ann") as ws:
            disconnected(host, user, ws)


def token(type: str = "access", **claims: Any) -> str:
    now = int(time.time())
    good = {"sub": "ann", "type": type, "jti": "j1", "iat": now, "nbf": now, "exp": now + 600, "fresh": False}
    return jwt.encode({**good, **claims}, SECRET, "HS256")


def test_flask_jwt_extended_decides_as_in_a_view(tmp_path: Path) -> None:
    with serve(tmp_path, JWT_EXTENDED, "jwt_required") as host:
        url = f"ws://{host}/ws"
        refused(url)
        refused(url, Authorization=f"Bearer {token(jti='stolen')}")
        refused(url, 422, Authorization=f"Bearer {token('refresh')}")
        refused(url, Authorization=f"Bearer {token(exp=1)}")
        with connect(url, additional_headers={"Cookie": f"access_token_cookie={token()}"}) as ws:
            disconnected(host, "ann", ws)
        with connect(url, additional_headers={"Authorization": f"Bearer {token(exp=int(time.time()) + 2)}"}) as ws:
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    ws.recv(timeout=DEADLINE)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 3005


def test_jwt_auth_refuses_what_flask_jwt_extended_refuses(tmp_path: Path) -> None:
    before = JWT_EXTENDED + "from cartows.auth import JWTAuth\n"
    with serve(tmp_path, before, "def is_accepted") as host:

        def offer(sent: str) -> dict[str, Any]:
            return {"subprotocols": ["cartows", f"bearer.{sent}"]}

        for bad in (token("refresh"), token(jti="stolen"), token(exp=1), token(type=None)):
            with pytest.raises(InvalidStatus, match="401"):
                connect(f"ws://{host}/ws", **offer(bad)).close()
        with connect(f"ws://{host}/ws", **offer(token())) as ws:
            assert receive(ws)["type"] == "connected"
            ws.send(json.dumps({"type": "auth.refresh", "data": {"token": token("refresh")}}))
            assert receive(ws)["type"] == "error"
            ws.send(json.dumps({"type": "auth.refresh", "data": {"token": token()}}))
            assert receive(ws)["type"] == "auth.refreshed"
    assert "Flask-JWT-Extended" not in (tmp_path / "server.log").read_text()


def test_jwt_auth_alone_is_warned_of_beside_flask_jwt_extended(tmp_path: Path) -> None:
    before = JWT_EXTENDED + 'app.config["JWT_SECRET"] = app.config["JWT_SECRET_KEY"]\n'
    with serve(tmp_path, before, 'rooms_claim="rooms"') as host:
        refused(f"ws://{host}/ws")
    log = (tmp_path / "server.log").read_text()
    assert log.count("'app' uses Flask-JWT-Extended") == 1, log


def test_flask_httpauth_decides_as_in_a_view(tmp_path: Path) -> None:
    with serve(tmp_path, PASSWORDS, "HTTPBasicAuth") as host:
        refused(f"ws://{host}/ws")
        refused(f"ws://ann:guessed@{host}/ws")
        with connect(f"ws://ann:secret@{host}/ws") as ws:
            disconnected(host, "ann", ws)
