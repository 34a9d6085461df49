"""Identities: the string by which a user is known, and what can be no user."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import flask_login  # type: ignore[import-untyped,unused-ignore]
import pytest
from werkzeug.exceptions import Unauthorized
from werkzeug.local import LocalProxy

from cartows.identity import current_object, identity_string


class User(flask_login.UserMixin):  # type: ignore[misc,unused-ignore]
    def __init__(self, id: Any) -> None:
        self.id = id


class AlternativeId(User):
    """As Flask-Security has it: the session keeps something that can be changed to log the user out everywhere."""

    def get_id(self) -> str:
        return f"alternative {self.id}"


class Row(NamedTuple):
    """What a database returns for a user."""

    tenant: str
    id: int


class Named:
    def __str__(self) -> str:
        return "named"


class Shade(enum.Enum):
    DARK = "dark"


ID = uuid.uuid4()


@pytest.mark.parametrize(
    ("identity", "string"),
    [
        ("ann", "ann"),
        (7, "7"),
        (0, "0"),
        (ID, str(ID)),
        (Shade.DARK, "dark"),
        (Named(), "named"),
        (Row("acme", 7), "Row(tenant='acme', id=7)"),
        (User(7), "7"),
        (AlternativeId(7), "alternative 7"),
        (LocalProxy(lambda: User(7)), "7"),
        (LocalProxy(lambda: LocalProxy(lambda: "ann")), "ann"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_user_is_known_by_the_id_that_the_session_keeps_and_anything_else_by_its_string(identity: Any, string: str) -> None:
    assert identity_string(identity) == string


async def forgotten() -> str:
    return "ann"


def generated() -> Iterator[str]:
    yield "ann"


@pytest.mark.parametrize(
    ("identity", "why"),
    [
        (None, "names no user"),
        (True, "names no user"),
        (False, "names no user"),
        (LocalProxy(lambda: True), "names no user"),
        (flask_login.AnonymousUserMixin(), "names no user"),
        (b"ann", "bytes"),
        (bytearray(b"ann"), "bytes"),
        ("\ud800", "lone surrogate"),
        (("acme", "ann"), "a view returns"),
        (Unauthorized(), "no user"),
        (User(7).get_id, "no user"),
        (User, "no user"),
        (generated(), "no user"),
        (object(), "its address"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_names_no_user_is_no_identity(identity: Any, why: str) -> None:
    with pytest.raises(TypeError, match=f"cannot be an identity: .*{why}.* Give the user's id"):
        identity_string(identity)


def test_a_coroutine_that_was_not_awaited_is_no_identity() -> None:
    coroutine = forgotten()
    with pytest.raises(TypeError, match="not been awaited"):
        identity_string(coroutine)
    coroutine.close()


def test_a_proxy_stands_for_its_object_or_fails_where_it_stands_for_nothing() -> None:
    user = User(7)
    bound: ContextVar[User] = ContextVar("bound")
    proxy = LocalProxy(bound)
    with pytest.raises(RuntimeError, match="not bound"):
        current_object(proxy)
    bound.set(user)
    assert current_object(proxy) is user
    assert current_object(user) is user
    assert current_object(None) is None
