"""The broadcast channel: numbers, room, deadlines and its end, under many threads."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cartows.hub import broadcast_queue as module_under_test
from cartows.hub.broadcast_queue import BroadcastQueue, BroadcastQueueClosed

# How long a test waits for what must not happen, and for what must, in seconds.
A_MOMENT, AT_MOST = 0.2, 10.0

# A publisher with so much time is woken, or it is not there when the test ends.
ENDLESS = 600.0


class Noticing(threading.Condition):
    """Tell who is about to wait; it holds the lock until it really does."""

    def __init__(self, lock: Any) -> None:
        super().__init__(lock)
        self.entered = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        self.entered.release()
        return super().wait(timeout)


@pytest.fixture
def run() -> Iterator[Callable[[Callable[[], Any]], threading.Thread]]:
    """Run functions in threads, which must have ended with the test."""
    threads: list[threading.Thread] = []

    def start(target: Callable[[], Any]) -> threading.Thread:
        thread = threading.Thread(target=target, daemon=True)
        threads.append(thread)
        thread.start()
        return thread

    yield start
    for thread in threads:
        thread.join(AT_MOST)
        assert not thread.is_alive()


Run = Callable[[Callable[[], Any]], threading.Thread]


def full(size: int = 2) -> BroadcastQueue[int]:
    """Return a channel without room."""
    found: BroadcastQueue[int] = BroadcastQueue(size)
    for _ in range(size):
        found.put_event(int, AT_MOST)
    return found


# Numbers and places -----------------------------------------------------------------------------------------------


def test_events_come_out_in_the_order_of_their_numbers() -> None:
    channel: BroadcastQueue[str] = BroadcastQueue(10)
    assert [channel.put_event(lambda number: f"event {number}", 0) for _ in range(3)] == ["event 1", "event 2", "event 3"]
    assert channel.number == 3
    assert channel.take(10, 10) == ([], ["event 1", "event 2", "event 3"])


def test_a_number_and_a_place_are_taken_together(run: Run) -> None:
    channel: BroadcastQueue[int] = BroadcastQueue(10)
    building, go_on, other_builds = threading.Event(), threading.Event(), threading.Event()

    def slow(number: int) -> int:
        building.set()
        assert go_on.wait(AT_MOST)
        return number

    def quick(number: int) -> int:
        other_builds.set()
        return number

    run(lambda: channel.put_event(slow, AT_MOST))
    assert building.wait(AT_MOST)
    second = run(lambda: channel.put_event(quick, AT_MOST))
    # While the first has its number but no place yet, nobody gets the next.
    assert not other_builds.wait(A_MOMENT)
    go_on.set()
    second.join(AT_MOST)
    assert channel.take(10, 10) == ([], [1, 2])


def test_many_publishers_leave_no_hole_and_no_step_back(run: Run) -> None:
    channel: BroadcastQueue[int] = BroadcastQueue(7)
    publishers, each = 8, 150

    def publish() -> None:
        for _ in range(each):
            channel.put_event(int, AT_MOST)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(publishers):
            run(publish)
        found: list[int] = []
        while len(found) < publishers * each:
            _, events = channel.take(5, 5)
            assert 0 < len(events) <= 5
            found += events
    finally:
        sys.setswitchinterval(before)
    assert found == list(range(1, publishers * each + 1))
    assert channel.number == publishers * each


def test_each_publisher_is_told_its_own_event(run: Run) -> None:
    channel: BroadcastQueue[tuple[int, int]] = BroadcastQueue(1000)
    told: dict[int, list[tuple[int, int]]] = {}

    def publish(name: int) -> None:
        for _ in range(50):
            event = channel.put_event(lambda number: (name, number), AT_MOST)
            assert event is not None
            told.setdefault(name, []).append(event)

    threads = [run(lambda name=name: publish(name)) for name in range(5)]  # type: ignore[misc]
    for thread in threads:
        thread.join(AT_MOST)
    _, events = channel.take(1000, 0)
    assert {name: [event for event in events if event[0] == name] for name in range(5)} == told


def test_what_finds_no_room_takes_no_number() -> None:
    channel = full(2)
    built: list[int] = []

    def build(number: int) -> int:
        built.append(number)
        return number

    assert channel.put_event(build, 0.01) is None
    assert (built, channel.number) == ([], 2)
    channel.take(1, 0)
    assert channel.put_event(int, 0.01) == 3
    assert channel.take(10, 0) == ([], [2, 3])


def test_what_cannot_be_built_takes_neither_number_nor_place() -> None:
    channel: BroadcastQueue[int] = BroadcastQueue(1)

    def fail(number: int) -> int:
        raise LookupError(number)

    with pytest.raises(LookupError):
        channel.put_event(fail, 0)
    assert channel.put_event(int, 0) == 1


# The deadline -----------------------------------------------------------------------------------------------------


def test_no_publisher_waits_longer_than_its_deadline_however_many_there_are(run: Run) -> None:
    channel = full()
    waits: list[float] = []

    def publish() -> None:
        started = time.monotonic()
        assert channel.put_event(int, 0.2) is None
        waits.append(time.monotonic() - started)

    threads = [run(publish) for _ in range(30)]
    for thread in threads:
        thread.join(AT_MOST)
    assert len(waits) == 30
    # One behind the other they would have waited six seconds.
    assert min(waits) >= 0.19 and max(waits) < 3


def test_the_deadline_counts_while_somebody_else_holds_the_lock(run: Run) -> None:
    channel: BroadcastQueue[int] = BroadcastQueue(10)
    results: list[int | None] = []
    with channel.mutex:
        run(lambda: results.append(channel.put_event(int, 0.05))).join(AT_MOST)
        assert results == [None]
    assert channel.put_event(int, 0) == 1


def test_the_time_spent_on_the_lock_is_not_given_again_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = full()
    clock = [100.0]
    waits: list[tuple[str, float]] = []

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return clock[0]

    class Mutex:
        def acquire(self, timeout: float = -1) -> bool:
            waits.append(("lock", timeout))
            clock[0] += 0.75
            return True

        def release(self) -> None:
            pass

    class NotFull:
        def wait(self, timeout: float) -> bool:
            waits.append(("room", timeout))
            # Woken too early and for nothing, as when another publisher was quicker.
            clock[0] += timeout / 2 if len(waits) < 4 else timeout
            return True

    monkeypatch.setattr(module_under_test, "time", Clock)
    monkeypatch.setattr(channel, "mutex", Mutex())
    monkeypatch.setattr(channel, "not_full", NotFull())
    assert channel.put_event(int, 1.0) is None
    assert waits == [("lock", 1.0), ("room", 0.25), ("room", 0.125), ("room", 0.0625)]


def test_room_that_is_made_in_time_is_used(run: Run) -> None:
    channel = full(1)
    channel.not_full = noticing = Noticing(channel.mutex)
    results: list[int | None] = []
    publisher = run(lambda: results.append(channel.put_event(int, ENDLESS)))
    assert noticing.entered.acquire(timeout=AT_MOST)
    assert channel.take(1, 0) == ([], [1])
    publisher.join(AT_MOST)
    assert results == [2]


def test_taking_several_wakes_all_who_wait_for_room(run: Run) -> None:
    channel = full(3)
    channel.not_full = noticing = Noticing(channel.mutex)
    results: list[int | None] = []
    publishers = [run(lambda: results.append(channel.put_event(int, ENDLESS))) for _ in range(3)]
    for _ in publishers:
        assert noticing.entered.acquire(timeout=AT_MOST)
    channel.take(3, 0)
    for publisher in publishers:
        publisher.join(AT_MOST / 2)
    assert sorted(filter(None, results)) == [4, 5, 6]


# Controls ---------------------------------------------------------------------------------------------------------


def test_a_control_never_waits_for_room(run: Run) -> None:
    channel = full()
    called: list[str] = []
    run(lambda: channel.put_control(lambda: called.append("control"))).join(AT_MOST)
    controls, events = channel.take(1, 10)
    assert (len(controls), events) == (1, [1])
    controls[0]()
    assert called == ["control"]


def test_a_control_wakes_the_taker(run: Run) -> None:
    channel: BroadcastQueue[int] = BroadcastQueue(1)
    channel.not_empty = noticing = Noticing(channel.mutex)
    taken: list[Any] = []
    taker = run(lambda: taken.append(channel.take(1, 1)))
    assert noticing.entered.acquire(timeout=AT_MOST)
    assert channel.put_control(print)
    taker.join(AT_MOST)
    assert taken == [([print], [])]


def test_an_event_wakes_the_taker(run: Run) -> None:
    channel: BroadcastQueue[int] = BroadcastQueue(1)
    channel.not_empty = noticing = Noticing(channel.mutex)
    taken: list[Any] = []
    taker = run(lambda: taken.append(channel.take(1, 1)))
    assert noticing.entered.acquire(timeout=AT_MOST)
    channel.put_event(int, 0)
    taker.join(AT_MOST)
    assert taken == [([], [1])]


def test_a_turn_takes_no_more_than_was_asked_for_and_keeps_the_order() -> None:
    channel: BroadcastQueue[int] = BroadcastQueue(10)
    arrivals: list[Callable[[], None]] = [lambda: None for _ in range(5)]
    for arrival in arrivals:
        channel.put_registration(arrival)
        channel.put_event(int, 0)
    assert channel.take(3, 2) == (arrivals[:2], [1, 2, 3])
    assert channel.take(3, 2) == (arrivals[2:4], [4, 5])
    assert channel.take(3, 2) == (arrivals[4:], [])


def test_no_event_overtakes_a_control_however_many_there_are() -> None:
    channel: BroadcastQueue[int] = BroadcastQueue(10)
    controls: list[Callable[[], None]] = [lambda: None for _ in range(500)]
    for control in controls:
        channel.put_control(control)
    channel.put_event(int, 0)
    assert channel.take(1, 1) == (controls, [1])


# Its end ----------------------------------------------------------------------------------------------------------


def test_closing_wakes_everybody(run: Run) -> None:
    channel = full(1)
    channel.not_full = noticing = Noticing(channel.mutex)
    refused: list[int] = []

    def publish() -> None:
        try:
            channel.put_event(int, ENDLESS)
        except BroadcastQueueClosed:
            refused.append(1)

    publishers = [run(publish) for _ in range(5)]
    for _ in publishers:
        assert noticing.entered.acquire(timeout=AT_MOST)
    channel.close()
    for publisher in publishers:
        publisher.join(AT_MOST / 2)
    assert len(refused) == 5


def test_closing_wakes_the_taker_of_an_empty_channel(run: Run) -> None:
    channel: BroadcastQueue[int] = BroadcastQueue(1)
    channel.not_empty = noticing = Noticing(channel.mutex)
    taken: list[Any] = []
    taker = run(lambda: taken.append(channel.take(1, 1)))
    assert noticing.entered.acquire(timeout=AT_MOST)
    channel.close()
    taker.join(AT_MOST)
    assert taken == [([], [])]


def test_what_is_in_line_when_it_closes_is_still_given_out() -> None:
    channel = full(3)
    controls: list[Callable[[], None]] = [lambda: None for _ in range(3)]
    for control in controls:
        channel.put_registration(control)
    channel.close()
    assert channel.take(2, 1) == (controls[:1], [1, 2])
    assert channel.take(2, 1) == (controls[1:2], [3])
    assert channel.take(2, 1) == (controls[2:], [])
    assert channel.take(2, 1) == ([], [])


def test_nothing_is_taken_once_it_is_closed() -> None:
    channel = full(1)
    channel.close()
    channel.close()
    with pytest.raises(BroadcastQueueClosed):
        channel.put_event(int, 0)
    assert channel.put_control(print) is False
    assert channel.put_registration(print) is False
    assert channel.take(10, 10) == ([], [1])
    with pytest.raises(BroadcastQueueClosed):
        channel.put_event(int, 0)
    assert channel.number == 1


def test_it_is_a_bounded_queue_of_the_standard_library() -> None:
    channel = full(2)
    assert isinstance(channel, queue.Queue)
    assert (channel.qsize(), channel.full(), channel.maxsize) == (2, True, 2)
