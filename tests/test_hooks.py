"""The app's own functions: what each result means, and in which context each is called."""

from __future__ import annotations

import logging
import uuid
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from http import HTTPStatus
from importlib.util import find_spec
from typing import Any

import flask_login  # type: ignore[import-untyped,unused-ignore]
import pytest
from flask import Flask, Response, current_app, g, has_app_context, redirect, request
from werkzeug.exceptions import Unauthorized
from werkzeug.local import LocalProxy

from cartows import Hub, PublishResult
from cartows.auth import Authenticator, Credentials
from cartows.errors import AuthError, CartowsError, HubClosed
from cartows.hooks import AppHooks, Hooks, RefusedByApp
from cartows.rooms import Subscriptions


class FakeClient:
    """A client, as far as the calls of the app's functions use one."""

    id = "c1"

    def __init__(self) -> None:
        self.errors = 0

    def send_internal_error(self) -> None:
        self.errors += 1


class Tokens(Authenticator):
    """An authenticator that admits two tokens."""

    recheck_interval = 5.0

    def authenticate(self, request: Any) -> Credentials:
        return self.refresh(request.args["token"])

    def refresh(self, token: str) -> Credentials:
        if token == "endless":
            return Credentials("ann", float("nan"))
        if token != "good":
            raise AuthError("The token is refused.")
        return Credentials("ann", 2e9)

    def is_valid(self, credentials: Credentials) -> bool:
        return has_app_context() and credentials.identity == "ann"


class Returning(Authenticator):
    """An authenticator that returns whatever it is given."""

    def __init__(self, found: Any) -> None:
        self.found = found

    def authenticate(self, request: Any) -> Any:
        return self.found

    def refresh(self, token: str) -> Any:
        return self.found

    def is_valid(self, credentials: Credentials) -> Any:
        return self.found


@pytest.fixture
def app() -> Flask:
    return Flask("the app")


@pytest.fixture
def hooks() -> Hooks:
    return Hooks()


@pytest.fixture
def bound(hooks: Hooks, app: Flask) -> AppHooks:
    return AppHooks(hooks, app, logging.getLogger("cartows"))


# Messages ---------------------------------------------------------------------------------------------------------


def test_a_message_type_has_one_handler(hooks: Hooks) -> None:
    def first(client: Any, message: Any) -> None: ...

    hooks.add_message("chat.say", first)
    assert hooks.messages == {"chat.say": first}
    with pytest.raises(ValueError, match="first handles messages of this type already"):
        hooks.add_message("chat.say", lambda client, message: None)


@pytest.mark.parametrize("kind", ["ping", "pong", "subscribe", "unsubscribe", "auth.refresh"])
def test_a_type_that_the_library_answers_has_no_handler(hooks: Hooks, kind: str) -> None:
    with pytest.raises(ValueError, match="answered by cartows itself"):
        hooks.add_message(kind, lambda client, message: None)


def test_functions_are_called_in_an_app_context(bound: AppHooks) -> None:
    assert bound.call(lambda value: f"{value} in {current_app.name}", "called") == "called in the app"
    assert not has_app_context()


# Credentials ------------------------------------------------------------------------------------------------------


def test_without_authenticate_every_client_is_anonymous_and_stays(bound: AppHooks) -> None:
    assert bound.authenticate(None) == Credentials(None)
    assert (bound.authenticator, bound.recheck_interval) == (None, None)
    assert bound.is_valid(Credentials(None))
    with pytest.raises(AuthError, match="not refreshed here"):
        bound.refresh("token")


class Visitor(flask_login.AnonymousUserMixin):  # type: ignore[misc,unused-ignore]
    """A visitor without a user, as an older app says it: with a method."""

    def is_authenticated(self) -> bool:
        return False


@pytest.mark.parametrize(
    "found",
    [
        None,
        False,
        "",
        " ",
        {},
        [],
        (),
        b"",
        LocalProxy(lambda: None),
        LocalProxy(lambda: LocalProxy(lambda: "")),
        flask_login.AnonymousUserMixin(),
        LocalProxy(flask_login.AnonymousUserMixin),
        Visitor(),
        Credentials(""),
        Credentials(LocalProxy(lambda: None)),
        Credentials(LocalProxy(flask_login.AnonymousUserMixin)),
        Credentials(flask_login.AnonymousUserMixin(), 2e9),
    ],
    ids=lambda found: type(found).__name__,
)
def test_no_identity_is_a_refusal(hooks: Hooks, bound: AppHooks, found: Any) -> None:
    for each in (lambda request: found, Returning(found)):
        hooks.authenticate = each
        with pytest.raises(AuthError, match="log in"):
            bound.authenticate(None)


@pytest.mark.parametrize("found", ["ann", 0, 7, Credentials("ann", 2e9), Credentials(None)])
def test_an_identity_or_credentials_are_taken_as_they_are(hooks: Hooks, bound: AppHooks, found: Any) -> None:
    hooks.authenticate = lambda request: found
    assert bound.authenticate(None) == (found if isinstance(found, Credentials) else Credentials(found))


def test_of_a_proxy_what_it_stands_for_is_kept(hooks: Hooks, bound: AppHooks) -> None:
    ann = flask_login.UserMixin()
    ann.id = "ann"
    for found in (LocalProxy(lambda: ann), Credentials(LocalProxy(lambda: ann), 2e9)):
        hooks.authenticate = lambda request, found=found: found  # type: ignore[misc]
        assert type(bound.authenticate(None).identity) is flask_login.UserMixin
    unbound: ContextVar[Any] = ContextVar("unbound")
    hooks.authenticate = lambda request: LocalProxy(unbound)
    with pytest.raises(RuntimeError):
        bound.authenticate(None)


ANSWERS: list[Any] = [
    ("Unauthorized", 401),
    ("Unauthorized", HTTPStatus.UNAUTHORIZED),
    ("Unauthorized", "401 Unauthorized"),
    ("Unauthorized", 401, {"WWW-Authenticate": "Basic"}),
    ("Unauthorized", {"X-Why": "no"}),
    ({"error": "log in"}, 401),
    Response("no", 403),
    redirect("/login"),
]


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: type(answer).__name__)
def test_what_a_view_returns_to_refuse_is_a_refusal(hooks: Hooks, bound: AppHooks, app: Flask, answer: Any) -> None:
    for found in (answer, LocalProxy(lambda: answer), Credentials(answer)):
        for function in (lambda request, found=found: found, Returning(found)):  # type: ignore[misc]
            hooks.authenticate = function
            with pytest.raises(RefusedByApp) as caught:
                bound.authenticate(None)
            assert caught.value.answer == answer
    hooks.authenticate = Returning(answer)
    with pytest.raises(AuthError, match="refuses"):
        bound.refresh("token")
    # The other checks, too, although each of these is true.
    hooks.authorize = lambda identity, key, value: answer
    assert not bound.is_allowed(Credentials("ann"), "ann", "board_id", "b1")
    assert not bound.is_valid(Credentials("ann"))
    hooks.connect.append(lambda client: answer)
    assert bound.connected(FakeClient()) == 3507


def test_a_status_alone_is_the_answer(hooks: Hooks, bound: AppHooks) -> None:
    hooks.authenticate = lambda request: HTTPStatus.FORBIDDEN
    with pytest.raises(RefusedByApp) as caught:
        bound.authenticate(None)
    assert caught.value.answer == ("Forbidden", 403)


def test_an_exception_that_is_returned_is_raised(hooks: Hooks, bound: AppHooks) -> None:
    for error in (AuthError("no"), Unauthorized(), ValueError("no")):
        hooks.authenticate = lambda request, error=error: error  # type: ignore[misc]
        with pytest.raises(type(error)):
            bound.authenticate(None)
        hooks.authorize = lambda identity, key, value, error=error: error  # type: ignore[misc]
        assert not bound.is_allowed(Credentials("ann"), "ann", "board_id", "b1")


@pytest.mark.parametrize(
    "found",
    [True, ("acme", "ann"), b"ann", object(), len, "<!doctype html>\n<title>Log in</title>", "x" * 1025],
    ids=lambda found: type(found).__name__,
)
def test_what_can_be_no_identity_is_an_error_of_the_app(hooks: Hooks, bound: AppHooks, found: Any) -> None:
    for function in (lambda request: found, Returning(found), lambda request: Credentials(found)):
        hooks.authenticate = function
        with pytest.raises((TypeError, CartowsError), match="user's id"):
            bound.authenticate(None)


@pytest.mark.parametrize("expires_at", [float("nan"), float("inf")])
def test_an_expiry_that_is_no_time_is_an_error(hooks: Hooks, bound: AppHooks, expires_at: float) -> None:
    hooks.authenticate = lambda request: Credentials("ann", expires_at)
    with pytest.raises(CartowsError, match="expires_at"):
        bound.authenticate(None)


def test_an_authenticator_decides_in_an_app_context(hooks: Hooks, bound: AppHooks, app: Flask) -> None:
    hooks.authenticate = tokens = Tokens()
    assert (bound.authenticator, bound.recheck_interval) == (tokens, 5.0)
    with app.test_request_context("/ws?token=good"):
        assert bound.authenticate(request) == Credentials("ann", 2e9)
    assert bound.refresh("good") == Credentials("ann", 2e9)
    for bad, error in (("bad", AuthError), ("endless", CartowsError)):
        with pytest.raises(error):
            bound.refresh(bad)
    assert [bound.is_valid(Credentials(who)) for who in ("ann", "bob")] == [True, False]


# Rooms ------------------------------------------------------------------------------------------------------------


async def _not_awaited() -> bool:
    return False


class AsyncCallable:
    """A callable whose call is a coroutine: it is not known as an async function."""

    async def __call__(self, *_: Any) -> bool:
        return False


@pytest.mark.parametrize("check", [lambda *_: _not_awaited(), AsyncCallable()], ids=["lambda", "object"])
def test_a_check_that_was_not_awaited_admits_no_client(hooks: Hooks, bound: AppHooks, check: Any) -> None:
    hooks.authorize = check
    with pytest.raises(TypeError, match="not been awaited"):
        bound.is_allowed(Credentials("ann"), "ann", "board_id", "b1")
    hooks.connect.append(check)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert bound.connected(FakeClient()) == 3507


@pytest.mark.parametrize(
    "refusal",
    [HTTPStatus.FORBIDDEN, Unauthorized, Unauthorized(), ("no", 403), (False, "no"), LocalProxy(lambda: Unauthorized)],
)
def test_what_is_true_and_yet_a_refusal_allows_no_room(hooks: Hooks, bound: AppHooks, refusal: Any) -> None:
    hooks.authorize = lambda *_: refusal
    assert not bound.is_allowed(Credentials("ann"), "ann", "board_id", "b1")


@pytest.mark.parametrize("row", [(1,), (3, 403), (3, 150, 200), (uuid.UUID(int=7), 500)], ids=str)
def test_a_row_of_the_database_allows_a_room_whatever_its_numbers_are(hooks: Hooks, bound: AppHooks, row: Any) -> None:
    hooks.authorize = lambda *_: row
    assert bound.is_allowed(Credentials("ann"), "ann", "board_id", "b1")


@pytest.mark.parametrize("answer", [Unauthorized(), Unauthorized, AuthError("no")], ids=repr)
def test_an_exception_that_on_connect_returns_refuses_the_client(hooks: Hooks, bound: AppHooks, answer: Any) -> None:
    hooks.connect.append(lambda client: answer)
    assert bound.connected(FakeClient()) == 3507


def test_credentials_within_credentials_are_an_error_of_the_app(hooks: Hooks, bound: AppHooks) -> None:
    hooks.authenticate = lambda request: Credentials(Credentials(None))
    with pytest.raises(TypeError, match="Credentials within"):
        bound.authenticate(None)


def test_without_authorize_every_room_is_allowed(bound: AppHooks) -> None:
    assert bound.is_allowed(Credentials(None), None, "board_id", "b1")
    assert bound.is_allowed(Credentials(None), None, None, None)
    assert bound.first_refused(Credentials(None), {}) is None


def test_the_credentials_decide_before_the_app(hooks: Hooks, bound: AppHooks) -> None:
    hooks.authorize = lambda identity, key, value: pytest.fail("not to be asked")
    some = Credentials("ann", None, Subscriptions(frozenset({("board_id", "b1")}), False))
    every = Credentials("ann", None, Subscriptions(unfiltered=True))
    asked = [("board_id", "b1"), ("board_id", "b2"), (None, None)]
    assert [bound.is_allowed(some, "ann", *room) for room in asked] == [True, False, False]
    assert [bound.is_allowed(every, "ann", *room) for room in asked] == [True, True, True]


@pytest.mark.parametrize(
    ("identity", "filters", "asked", "refused"),
    [
        ("ann", {"board_id": ("b1", "b2"), "project_id": ("p1",)}, ["b1", "b2"], ("board_id", "b2")),
        ("ann", {"board_id": ("b1",)}, ["b1"], None),
        ("ann", {}, [None], (None, None)),
        # ``?rooms=none``: an identity that asks for no room, and a client without one.
        ("ann", {"board_id": ()}, [], None),
        (None, {"board_id": ()}, [None], (None, None)),
    ],
)
def test_the_rooms_of_the_query_are_asked_about_in_order_until_one_is_refused(
    hooks: Hooks, bound: AppHooks, app: Flask, identity: Any, filters: Any, asked: Any, refused: Any
) -> None:
    calls: list[Any] = []

    def authorize(who: Any, key: str | None, value: str | None) -> bool:
        # In the request's own context, where a before_request may have put something into g.
        assert (who, g.mark) == (identity, "set before")
        calls.append(value)
        return value == "b1"

    hooks.authorize = authorize
    with app.test_request_context("/ws"):
        g.mark = "set before"
        assert bound.first_refused(Credentials(identity), filters) == refused
    assert calls == asked


# Connecting and disconnecting -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("results", "code", "calls"),
    [
        ([None, True, "yes"], None, 3),
        ([None, False, None], 3507, 2),
        ([4001, False], 4001, 1),
        ([0], 3507, 1),
        ([70000], 3507, 1),
    ],
)
def test_on_connect_refuses_with_false_or_a_close_code(
    hooks: Hooks, bound: AppHooks, results: list[Any], code: int | None, calls: int
) -> None:
    called: list[Any] = []

    def connect(result: Any) -> Callable[[Any], Any]:
        def function(client: Any) -> Any:
            assert has_app_context()
            called.append(client.id)
            return result

        return function

    assert not bound.has_connect
    hooks.connect.extend(connect(result) for result in results)
    assert bound.has_connect
    client = FakeClient()
    assert bound.connected(client) == code
    assert (called, client.errors) == (["c1"] * calls, 0)


def test_a_function_that_fails_is_logged_and_the_others_are_called(
    hooks: Hooks, bound: AppHooks, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[str] = []

    def fail(client: Any) -> None:
        raise KeyError("the app's own")

    for functions in (hooks.connect, hooks.disconnect):
        functions.extend([fail, lambda client: called.append(client.id)])
    client = FakeClient()
    assert bound.connected(client) is None
    bound.disconnected(client)
    assert (called, client.errors) == (["c1", "c1"], 2)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


def test_a_broadcast_in_on_disconnect_says_that_the_hub_is_closed_and_raises_elsewhere(
    hooks: Hooks, bound: AppHooks, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub()
    hub.shutdown()
    results: list[PublishResult] = []

    def left(client: Any) -> None:
        results.append(hub.broadcast("left"))

    async def left_too(client: Any) -> None:
        results.append(hub.broadcast("left"))

    hooks.disconnect += [left, left_too] if find_spec("asgiref") else [left]
    for _ in range(3):
        bound.disconnected(FakeClient())
    assert len(results) == 3 * len(hooks.disconnect)
    for result in results:
        assert not result.accepted and result.status is None
        assert result.reason is not None and "shut down" in result.reason
    assert [record.levelname for record in caplog.records] == ["WARNING"], "logged once"
    with pytest.raises(HubClosed):
        hub.broadcast("late")
    hooks.connect.append(left)
    bound.connected(FakeClient())
    assert "HubClosed" in caplog.text
