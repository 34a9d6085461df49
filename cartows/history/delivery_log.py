"""The delivery log: which events one client has been sent, through all changes of its subscriptions.

**Threads**: the hub thread alone; the predicate that ``delivered`` returns may be called on any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..rooms import Subscriptions
from .history import Event

__all__ = ["DeliveryLog"]

# Spans that are kept for a client; events before the oldest of them are not replayed to it.
_MAX_SPANS = 64


class _Span(NamedTuple):
    """The events after one number and up to another, of which a client was sent those that match its subscriptions."""

    after: int
    #: None for the current span, which has no end yet.
    until: int | None
    subscriptions: Subscriptions

    def delivered(self, event: Event) -> bool:
        number = event.frame.number
        return self.after < number and (self.until is None or number <= self.until) and self.subscriptions.match(event.audience)


class DeliveryLog:
    """The log of the events that one client has been sent. Hub thread."""

    __slots__ = ("_spans", "floor")

    def __init__(self, after: int, subscriptions: Subscriptions) -> None:
        self._spans = [_Span(after, None, subscriptions)]
        #: The log is complete after this number only.
        self.floor = 0

    def change(self, at: int, subscriptions: Subscriptions, first: int) -> None:
        """Log a change of subscriptions after number ``at``; ``first`` is the first number that can still be replayed."""
        last = self._spans.pop()
        if last.after < at:
            self._spans.append(last._replace(until=at))
        self._spans = [span for span in self._spans if span.until is not None and span.until >= first]
        self._drop_oldest()
        self._spans.append(_Span(at, None, subscriptions))

    def new_epoch(self, number: int) -> None:
        """Start again after a number of a new epoch, with the same subscriptions."""
        self._spans = [_Span(number, None, self._spans[-1].subscriptions)]
        self.floor = number

    def replayed(self, after: int, until: int, subscriptions: Subscriptions) -> None:
        """Log a replay of the events after one number and up to another."""
        self._spans.insert(-1, _Span(after, until, subscriptions))
        self._drop_oldest()

    def delivered(self) -> Callable[[Event], bool]:
        """Return a predicate that tells which events have been sent so far; later changes do not affect it."""
        spans = tuple(self._spans)
        return lambda event: any([span.delivered(event) for span in spans])

    def _drop_oldest(self) -> None:
        while len(self._spans) > _MAX_SPANS:
            self.floor = max(self.floor, self._spans.pop(0).until or 0)
