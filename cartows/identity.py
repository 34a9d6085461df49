"""Who a user is: the string by which an identity is known and compared.

**Threads**: any; where an identity is a proxy of the app's, the one on which that proxy stands for something.
"""

from __future__ import annotations

import inspect
from typing import Any

from .rooms import room_value

__all__ = ["current_object", "identity_string"]


def current_object(value: Any) -> Any:
    """Return what a proxy such as ``flask_login.current_user`` stands for: on another thread it would stand for nothing.

    Raises RuntimeError where it stands for nothing here.
    """
    # Asked of the class: the proxy itself forwards every other name to its object.
    while hasattr(type(value), "_get_current_object"):
        value = value._get_current_object()
    return value


def identity_string(identity: Any) -> str:
    """Return the string by which an identity is known and compared.

    A user object is known by its ``get_id()``, as Flask-Login and Flask-Security keep it in the session; anything else by its
    string. Raises TypeError for what names no user, or none whose clients could be found again.
    """
    identity = current_object(identity)
    # A class has get_id as well, but without a user.
    get_id = None if isinstance(identity, type) else getattr(identity, "get_id", None)
    known_by = get_id() if callable(get_id) else identity
    wrong = _why_no_identity(known_by)
    if wrong is not None:
        raise TypeError(
            f"A {type(identity).__name__} cannot be an identity: {wrong}. Give the user's id, as a string or a number, or a "
            "user object with get_id()"
        )
    return room_value(known_by)


def _why_no_identity(value: Any) -> str | None:
    if value is None or isinstance(value, bool):
        return f"{value} names no user"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "bytes do not compare equal to the string that they stand for"
    if isinstance(value, str) and not _is_text(value):
        return "it has a lone surrogate, which no message can carry"
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return "a tuple is what a view returns"
    if isinstance(value, (BaseException, type)) or inspect.isroutine(value) or inspect.isgenerator(value):
        return "it stands for no user"
    if inspect.isawaitable(value):
        return "it has not been awaited"
    kind: Any = type(value)
    if kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__:
        return "its string is its address in memory, by which its clients could not be found again"
    return None


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
