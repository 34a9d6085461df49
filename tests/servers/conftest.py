"""The tests here find stand-ins in place of gunicorn's classes."""

from __future__ import annotations

import pytest

from tests.support import gunicorn


@pytest.fixture(autouse=True)
def _gunicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    gunicorn.install(monkeypatch)
