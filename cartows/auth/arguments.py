"""The checks of what a JWTAuth is made with. An error names the argument, its value and what is allowed, and shows no key.

**Threads**: the one that makes the app.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

from ..errors import OptionsError
from .keys import ALGORITHMS

__all__ = ["check_algorithms", "check_name", "check_names", "check_seconds", "check_validate", "unusable"]


def unusable(name: str, value: object, allowed: str) -> OptionsError:
    """Return the error for an argument."""
    return OptionsError(f"JWTAuth({name}={value!r}) cannot be used: it must be {allowed}")


def check_seconds(name: str, value: Any, minimum: float) -> float:
    """Return a number of seconds. Raises OptionsError."""
    # NaN compares as False.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not minimum <= value < math.inf:
        raise unusable(name, value, f"a number of seconds from {minimum:g}")
    return float(value)


def check_name(name: str, value: Any) -> str:
    """Return a name. Raises OptionsError."""
    if not isinstance(value, str) or not value:
        raise unusable(name, value, "a string that is not empty")
    return value


def check_names(name: str, value: Any, *, required: bool = True) -> list[str]:
    """Return one or several names as a list. Raises OptionsError."""
    try:
        names = [value] if isinstance(value, str) else list(value)
    except TypeError:
        names = [None]
    if (required and not names) or not all(isinstance(each, str) and each for each in names):
        raise unusable(name, value, "a string, or a list of strings, none of them empty")
    return names


def check_algorithms(algorithms: Any) -> frozenset[str]:
    """Return the algorithms that a token may use, all of them for None. Raises OptionsError."""
    if algorithms is None:
        return ALGORITHMS
    names = check_names("algorithms", algorithms)
    # "none", in any spelling, would be no signature at all.
    if not ALGORITHMS.issuperset(names):
        raise unusable("algorithms", names, f"some of {', '.join(sorted(ALGORITHMS))}, and never none")
    return frozenset(names)


def check_validate(validate: Any) -> Callable[[dict[str, Any]], Any] | None:
    """Return the app's check of the claims. Raises OptionsError."""
    # What an async function returns is true, whatever it would decide.
    if validate is not None and (not callable(validate) or inspect.iscoroutinefunction(validate)):
        raise unusable("validate", validate, "a function of the claims that is not async and returns whether they are accepted")
    return validate  # type: ignore[no-any-return]
