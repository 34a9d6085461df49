"""Authorization: when credentials expire, how they are renewed, and which rooms are removed when the app refuses them."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from cartows.auth.base import Credentials
from cartows.client.authorization import Authorization, AuthorizedClient
from cartows.client.connection import Connection
from cartows.client.subscriptions import ClientFilters, SubscriptionChange, SubscriptionRequest
from cartows.errors import AuthError
from cartows.hooks import AppHooks
from cartows.rooms import Subscriptions
from tests.support.fakes import scripted

A, B = ("board_id", "a"), ("board_id", "b")


class Hooks:
    """The app: each answer is what a test sets, or an exception that is raised."""

    def __init__(self) -> None:
        self.refused: dict[tuple[str | None, str | None], Exception | None] = {}
        self.fresh: Credentials | None = None
        self.valid = True

    def is_allowed(self, credentials: Credentials, identity: Any, key: str | None, value: str | None) -> bool:
        found = self.refused.get((key, value))
        if found is not None:
            raise found
        return (key, value) not in self.refused

    def is_valid(self, credentials: Credentials) -> bool:
        return self.valid

    def refresh(self, token: str) -> Credentials:
        if self.fresh is None:
            raise AuthError("The signature does not match.")
        return self.fresh


class Hub:
    """The revocations of a hub, and the clients whose expiry it is to schedule anew."""

    revoked: str | None = None

    def __init__(self) -> None:
        self.rechecked: list[object] = []

    def revocation_mark(self) -> int:
        return 7

    def revoked_since(self, mark: int, identity_key: str | None) -> bool:
        assert mark == 7
        return identity_key == self.revoked

    def recheck_expiry(self, client: object) -> None:
        self.rechecked.append(client)


class Case:
    """A client with its filters and its authorization, and what the hub will have received."""

    def __init__(self) -> None:
        self.connection: Connection
        self.connection, self.transport, _ = scripted()
        self.hooks: AppHooks | None
        self.app = Hooks()
        self.hooks = cast(AppHooks, self.app)
        self.identity, self.identity_key = 5, "5"
        self.changes: list[SubscriptionChange] = []
        self.filters = ClientFilters(self.changes.append)
        self.hub = Hub()
        self.authorization = Authorization(cast(AuthorizedClient, self), self.hub, self.filters)

    def join(self, *rooms: tuple[str, str]) -> None:
        assert self.filters.join(SubscriptionRequest(rooms), 10, lambda: False)
        self.changes.clear()


@pytest.fixture
def case() -> Case:
    return Case()


def test_credentials_without_an_end_never_expire(case: Case) -> None:
    assert case.authorization.expires_in() is None
    assert case.authorization.check_expiry() is None
    assert not case.connection.closing


@pytest.mark.parametrize(("left", "expires"), [(60, False), (0.5, False), (-1, True)])
def test_credentials_that_expire_close_the_connection(case: Case, left: float, expires: bool) -> None:
    case.authorization.credentials = Credentials(5, time.time() + left)
    assert case.authorization.check_expiry() == pytest.approx(left, abs=5)
    assert (case.connection.close_code == 3005) is expires
    assert (b'"reconnect":true' in case.transport.taken) is expires


def test_a_new_token_must_be_one_of_the_same_user(case: Case) -> None:
    case.app.fresh = Credentials("5", 1.0)
    assert case.authorization.check_token("t") == case.app.fresh
    for other in (Credentials("6"), Credentials(None)):
        case.app.fresh = other
        with pytest.raises(AuthError, match="this user"):
            case.authorization.check_token("t")
    case.app.fresh = None
    with pytest.raises(AuthError, match="signature"):
        case.authorization.check_token("t")
    case.hooks = None
    with pytest.raises(AuthError, match="connect again"):
        case.authorization.check_token("t")


def test_renewed_credentials_are_held_and_their_expiry_is_scheduled(case: Case) -> None:
    case.join(A)
    case.app.refused = {A: None}
    fresh = Credentials(5, time.time() + 60)
    assert case.authorization.renew(fresh) == pytest.approx(60, abs=5)
    assert (case.authorization.credentials, case.hub.rechecked) == (fresh, [case])
    assert case.changes == [], "the app is not asked again where the credentials allow the same rooms"


def test_renewed_credentials_that_allow_other_rooms_are_authorized_again(case: Case) -> None:
    case.join(A)
    case.app.refused = {A: None}
    assert case.authorization.renew(Credentials(5, None, Subscriptions(frozenset({B}), False))) is None
    assert case.filters.held == {}


def test_reauthorization_removes_the_rooms_that_are_refused_and_no_others(case: Case) -> None:
    case.join(A, B)
    assert not case.authorization.reauthorize()
    assert case.changes == []
    case.app.refused = {A: None}
    assert case.authorization.reauthorize()
    assert case.filters.held == {"board_id": ("b",)}
    assert [(change.answer, change.request.rooms, change.revoked) for change in case.changes] == [("unsubscribed", (A,), True)]
    assert not case.connection.closing


def test_a_client_that_may_no_longer_receive_everything_is_disconnected_for_good(case: Case) -> None:
    assert not case.authorization.reauthorize()
    case.app.refused = {(None, None): None}
    assert case.authorization.reauthorize()
    assert case.connection.close_code == 3507
    assert b'"reconnect":false' in case.transport.taken


def test_a_check_that_raises_is_a_refusal_and_raises_once_all_has_been_asked(case: Case) -> None:
    case.join(A, B)
    case.app.refused = {A: OSError("the database is away"), B: None}
    with pytest.raises(OSError, match="away"):
        case.authorization.reauthorize()
    assert case.filters.held == {}


def test_without_functions_of_the_app_everything_is_allowed(case: Case) -> None:
    case.hooks, case.app.valid, case.app.refused = None, False, {A: None}
    case.join(A)
    assert case.authorization.is_valid()
    assert case.authorization.is_allowed(*A)
    assert not case.authorization.reauthorize()
    case.hooks = cast(AppHooks, case.app)
    assert not case.authorization.is_valid()
    assert not case.authorization.is_allowed(*A)


def test_a_revocation_is_one_of_this_clients_identity(case: Case) -> None:
    mark = case.authorization.revocation_mark()
    assert not case.authorization.revoked_since(mark)
    case.hub.revoked = "5"
    assert case.authorization.revoked_since(mark)
