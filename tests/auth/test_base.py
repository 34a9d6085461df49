"""What an authenticator does that overrides nothing but ``authenticate``, and how credentials compare."""

from __future__ import annotations

from typing import Any, cast

import pytest

from cartows.auth import Authenticator, Credentials
from cartows.errors import AuthError


def test_an_authenticator_must_authenticate() -> None:
    with pytest.raises(NotImplementedError):
        Authenticator().authenticate(None)


def test_nothing_is_refreshed_rechecked_or_hidden_by_default() -> None:
    plain = Authenticator()
    with pytest.raises(AuthError, match="connect again"):
        plain.refresh("token")
    assert plain.is_valid(Credentials("ann"))
    assert (plain.recheck_interval, plain.secret_parameters) == (None, ())
    plain.init_hub(cast(Any, None))


def test_credentials_leave_everything_but_the_identity_open() -> None:
    assert Credentials("ann") == ("ann", None, None, None)
