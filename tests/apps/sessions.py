"""Flask-Login authenticates at ``/live``; ``/ws`` is open, so that the test server can warm up."""

from __future__ import annotations

import control
import remote
from flask import Flask, request
from flask.typing import ResponseReturnValue
from flask_login import LoginManager, UserMixin, login_user, logout_user

from cartows import CartoWS, Hub
from cartows.auth import FlaskLoginAuth


class User(UserMixin):  # type: ignore[misc]
    """A user with an account."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.active = True

    @property
    def is_active(self) -> bool:
        """Return whether the account may be used."""
        return self.active


#: Every account there is.
users: dict[str, User] = {}

app = Flask(__name__)
app.secret_key = "not a secret"
hub = Hub()
remote.install(app, hub)
manager = LoginManager(app)
CartoWS(app, hub)
ws = CartoWS(app, hub, path="/live")
ws.authenticate(FlaskLoginAuth(recheck_interval=app.config["EVERY"]))
control.install(app, ws)


@manager.user_loader
def load(id: str) -> User | None:
    if app.config.get("database is down"):
        raise RuntimeError("the database is down")
    return users.get(id)


@app.post("/login/<name>")
def login(name: str) -> ResponseReturnValue:
    login_user(users.setdefault(name, User(name)))
    return "", 204


@app.post("/logout")
def logout() -> ResponseReturnValue:
    logout_user()
    return "", 204


@app.put("/users/<name>")
def change(name: str) -> ResponseReturnValue:
    users[name].active = request.get_json()["active"]
    return "", 204


@app.delete("/users/<name>")
def delete(name: str) -> ResponseReturnValue:
    del users[name]
    return "", 204


@app.post("/database")
def change_database() -> ResponseReturnValue:
    app.config["database is down"] = request.get_json()["down"]
    return "", 204
