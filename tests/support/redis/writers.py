"""Publishing with an event writer, and waiting for its outages to begin and end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cartows.backplane.base import BackplaneResult
from cartows.backplane.redis.event_writer import EventWriter
from tests.support.redis.events import event
from tests.support.waiting import wait_until

MakeWriter = Callable[..., EventWriter]

# How long the writers of these tests wait for an answer, in seconds: far longer than one takes, and short where none comes.
TIMEOUT = 0.5

# How much later than its deadline a publisher may return on a busy machine, in seconds.
GRACE = 3.0

# A publisher that must not wait has returned long before this, in seconds.
AT_ONCE = 3.0


def publish(writer: EventWriter, number: int, timeout: float = 10.0, **more: Any) -> BackplaneResult:
    """Publish one event."""
    return writer.publish(event(number, **more), timeout)


def send(writer: EventWriter, numbers: range, timeout: float = 10.0) -> list[str | None]:
    """Publish several events and return the status of each."""
    return [publish(writer, number, timeout).status for number in numbers]


def await_recovery(writer: EventWriter, within: float = 30.0) -> None:
    """Wait until everything is stored."""
    wait_until(
        lambda: not writer.stats()["away"] and not writer.stats()["spooled"], lambda: f"the writer: {writer.stats()}", within
    )


def start_outage(writer: EventWriter, number: int) -> None:
    """Publish an event at a broker that does not answer."""
    assert publish(writer, number, TIMEOUT).status == "spooled"
    wait_until(lambda: writer.stats()["away"], "the breaker to open")
