"""Flask-Login: which sessions may connect and stay, and what a logout does."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import flask_login  # type: ignore[import-untyped,unused-ignore]
import pytest
from flask import Flask, request

from cartows.auth import FlaskLoginAuth
from cartows.auth.base import Credentials
from cartows.errors import AuthError, OptionsError
from tests.support.tokens import signed


class User(flask_login.UserMixin):  # type: ignore[misc,unused-ignore]
    #: An authenticated user may be inactive; Flask-Login's default takes the one for the other.
    is_authenticated = True

    def __init__(self, id: str) -> None:
        self.id = id
        self.active = True

    @property
    def is_active(self) -> bool:
        return self.active


class Staff(User):
    def get_code(self) -> str:
        return f"code of {self.id}"


class FakeHub:
    """A hub, as far as an authenticator uses one."""

    def __init__(self) -> None:
        self.disconnected: list[dict[str, Any]] = []
        self.trouble: Exception | None = None

    def disconnect(self, **arguments: Any) -> int:
        self.disconnected.append(arguments)
        if self.trouble is not None:
            raise self.trouble
        return 1


class Site(NamedTuple):
    app: Flask
    users: dict[str, Any]
    auth: FlaskLoginAuth
    manager: Any


@contextmanager
def site(user_loader: bool = True) -> Iterator[Site]:
    app = Flask(__name__)
    app.secret_key = "not a secret"
    manager = flask_login.LoginManager(app)
    users: dict[str, Any] = {name: Staff(name) for name in ("ann", "bob")}
    auth = FlaskLoginAuth()
    if user_loader:
        manager.user_loader(lambda id: users.get(id.removeprefix("code of ")))
    else:
        manager.request_loader(lambda request: users.get(request.headers.get("X-User", "")))

    @app.get("/login/<name>")
    def login(name: str) -> str:
        return str(flask_login.login_user(users[name]))

    @app.get("/logout")
    def logout() -> str:
        return str(flask_login.logout_user())

    @app.get("/ws")
    def connect() -> tuple[str, int]:
        try:
            found = auth.authenticate(request)
        except AuthError as error:
            return str(error), 401
        return repr(tuple(found)), 200

    yield Site(app, users, auth, manager)


def test_a_user_who_is_logged_in_may_connect_and_no_other() -> None:
    with site() as (app, _, _, _):
        browser = app.test_client()
        refused = browser.get("/ws")
        assert (refused.status_code, refused.text) == (401, "No user is logged in: log in, then connect.")
        browser.get("/login/ann")
        assert browser.get("/ws").text == repr(("ann", None, None, None))
        assert app.test_client().get("/ws").status_code == 401
        browser.get("/logout")
        assert browser.get("/ws").status_code == 401


def test_a_user_who_became_inactive_or_was_deleted_may_not_connect() -> None:
    with site() as (app, users, _, _):
        browser = app.test_client()
        browser.get("/login/ann")
        users["ann"].active = False
        assert browser.get("/ws").status_code == 401
        users["ann"].active = True
        assert browser.get("/ws").status_code == 200
        del users["ann"]
        assert browser.get("/ws").status_code == 401


def test_a_user_who_became_inactive_or_was_deleted_may_not_stay() -> None:
    with site() as (app, users, auth, _), app.app_context():
        ann, bob = Credentials("ann"), Credentials("bob")
        assert (auth.is_valid(ann), auth.is_valid(bob)) == (True, True)
        users["ann"].active = False
        assert (auth.is_valid(ann), auth.is_valid(bob)) == (False, True)
        users["ann"].active = True
        del users["bob"]
        assert (auth.is_valid(ann), auth.is_valid(bob)) == (True, False)


def test_without_a_user_loader_every_client_may_stay() -> None:
    with site(user_loader=False) as (app, users, auth, _):
        assert app.test_client().get("/ws", headers={"X-User": "ann"}).status_code == 200
        assert app.test_client().get("/ws").status_code == 401
        users.clear()
        with app.app_context():
            assert auth.is_valid(Credentials("ann"))


def test_a_logout_disconnects_that_users_clients_of_every_hub_once() -> None:
    with site() as (app, _, auth, _):
        hubs = [FakeHub(), FakeHub()]
        for hub in (*hubs, *hubs):
            auth.init_hub(cast(Any, hub))
        browser = app.test_client()
        browser.get("/login/ann")
        assert [hub.disconnected for hub in hubs] == [[], []]
        browser.get("/logout")
        gone = {"identity": "ann", "code": 3005, "reason": "logged out"}
        assert [hub.disconnected for hub in hubs] == [[gone], [gone]]


def test_the_logout_of_an_anonymous_user_disconnects_no_client() -> None:
    with site() as (app, _, auth, _):
        hub = FakeHub()
        auth.init_hub(cast(Any, hub))
        assert app.test_client().get("/logout").status_code == 200
        assert hub.disconnected == []


def test_a_logout_succeeds_when_the_hub_fails(caplog: pytest.LogCaptureFixture) -> None:
    with site() as (app, _, auth, _):
        hub = FakeHub()
        hub.trouble = RuntimeError("the hub was shut down")
        auth.init_hub(cast(Any, hub))
        browser = app.test_client()
        browser.get("/login/ann")
        assert browser.get("/logout").status_code == 200
        assert len(hub.disconnected) == 1
        assert "could not disconnect" in caplog.text
        assert browser.get("/ws").status_code == 401


def test_a_hub_is_not_kept_alive_for_logouts() -> None:
    with site() as (_, _, auth, _):
        before = len(flask_login.user_logged_out.receivers)
        hub = FakeHub()
        auth.init_hub(cast(Any, hub))
        assert len(flask_login.user_logged_out.receivers) == before + 1
        del hub
        gc.collect()
        assert len(flask_login.user_logged_out.receivers) == before


def test_the_identity_is_what_the_session_holds() -> None:
    with site() as (app, _, auth, manager):
        manager.id_attribute = "get_code"
        hub = FakeHub()
        auth.init_hub(cast(Any, hub))
        browser = app.test_client()
        browser.get("/login/ann")
        assert browser.get("/ws").text == repr(("code of ann", None, None, None))
        with app.app_context():
            assert auth.is_valid(Credentials("code of ann"))
        browser.get("/logout")
        assert [each["identity"] for each in hub.disconnected] == ["code of ann"]


def test_an_app_without_a_login_manager_is_an_error() -> None:
    with Flask(__name__).test_request_context("/ws"), pytest.raises(OptionsError, match="LoginManager"):
        FlaskLoginAuth().authenticate(request)


def test_the_recheck_interval_is_a_number_of_seconds_or_none() -> None:
    assert (FlaskLoginAuth().recheck_interval, FlaskLoginAuth(5).recheck_interval, FlaskLoginAuth(None).recheck_interval) == (
        60.0,
        5.0,
        None,
    )
    for every in (0, -1, "60", True, float("nan"), float("inf")):
        with pytest.raises(OptionsError, match="recheck_interval="):
            FlaskLoginAuth(cast(Any, every))


def test_a_session_cannot_be_refreshed_by_a_token() -> None:
    with pytest.raises(AuthError, match="connect again"):
        FlaskLoginAuth().refresh(signed())


def test_without_flask_login_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flask_login", None)
    with pytest.raises(OptionsError, match=r"pip install 'cartows\[login\]'"):
        FlaskLoginAuth()
