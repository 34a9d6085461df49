"""A clock for the sources of keys that a test moves."""

from __future__ import annotations

import pytest

from cartows.auth import key_source
from tests.support.tokens import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(key_source, "monotonic", made)
    return made
