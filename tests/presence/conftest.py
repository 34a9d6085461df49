"""Presences of different kinds, all on one clock that the test moves."""

from __future__ import annotations

import pytest

from cartows.presence.presence import Presence
from tests.presence.members import LEAVE_WAIT, Client, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def presence(clock: Clock) -> Presence[Client]:
    return Presence(LEAVE_WAIT, 200, clock)


@pytest.fixture
def small(clock: Clock) -> Presence[Client]:
    """A presence whose rooms are crowded with more than four entries."""
    return Presence(LEAVE_WAIT, 4, clock)


@pytest.fixture
def shared(clock: Clock) -> Presence[Client]:
    """A presence beside other processes."""
    return Presence(LEAVE_WAIT, 200, clock, shared=True)
