"""The app's own functions: what each result means, and in which context each is called."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, current_app, g, has_app_context, request

from cartows.auth import Authenticator, Credentials
from cartows.errors import AuthError, CartowsError
from cartows.hooks import AppHooks, Hooks
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


@pytest.mark.parametrize("found", [None, False, ""])
def test_no_identity_is_a_refusal(hooks: Hooks, bound: AppHooks, found: Any) -> None:
    hooks.authenticate = lambda request: found
    with pytest.raises(AuthError, match="log in"):
        bound.authenticate(None)


@pytest.mark.parametrize("found", ["ann", 0, 7, Credentials("ann", 2e9), Credentials(None)])
def test_an_identity_or_credentials_are_taken_as_they_are(hooks: Hooks, bound: AppHooks, found: Any) -> None:
    hooks.authenticate = lambda request: found
    assert bound.authenticate(None) == (found if isinstance(found, Credentials) else Credentials(found))


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
