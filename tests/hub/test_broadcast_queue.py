"""The broadcast queue: numbers, room, deadlines and its end, under many threads."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from queue import Queue
from typing import Any

import pytest

from cartows.hub import broadcast_queue as module_under_test
from cartows.hub.broadcast_queue import BroadcastQueue, BroadcastQueueClosed

# How long a test waits for what must not happen, and for what must, in seconds.
A_MOMENT, AT_MOST = 0.2, 10.0

# A publisher with so much time is woken, or it has not ended by the end of the test.
ENDLESS = 600.0


class Noticing(threading.Condition):
    """A condition that reports a thread that is about to wait; the thread holds the lock until it waits."""

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
    """Return a queue without room."""
    found: BroadcastQueue[int] = BroadcastQueue(size)
    for _ in range(size):
        found.put_event(int, AT_MOST)
    return found


# Numbers and positions -----------------------------------------------------------------------------------------------


def test_events_come_out_in_the_order_of_their_numbers() -> None:
    queue: BroadcastQueue[str] = BroadcastQueue(10)
    assert [queue.put_event(lambda number: f"event {number}", 0) for _ in range(3)] == ["event 1", "event 2", "event 3"]
    assert queue.number == 3
    assert queue.take(10, 10) == ([], ["event 1", "event 2", "event 3"])


def test_a_number_and_a_position_are_taken_together(run: Run) -> None:
    queue: BroadcastQueue[int] = BroadcastQueue(10)
    building, go_on, other_builds = threading.Event(), threading.Event(), threading.Event()

    def slow(number: int) -> int:
        building.set()
        assert go_on.wait(AT_MOST)
        return number

    def quick(number: int) -> int:
        other_builds.set()
        return number

    run(lambda: queue.put_event(slow, AT_MOST))
    assert building.wait(AT_MOST)
    second = run(lambda: queue.put_event(quick, AT_MOST))
    # While the first has its number but no position yet, no other gets the next.
    assert not other_builds.wait(A_MOMENT)
    go_on.set()
    second.join(AT_MOST)
    assert queue.take(10, 10) == ([], [1, 2])


def test_many_publishers_leave_no_hole_and_no_step_back(run: Run) -> None:
    queue: BroadcastQueue[int] = BroadcastQueue(7)
    publishers, each = 8, 150

    def publish() -> None:
        for _ in range(each):
            queue.put_event(int, AT_MOST)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(publishers):
            run(publish)
        found: list[int] = []
        while len(found) < publishers * each:
            _, events = queue.take(5, 5)
            assert 0 < len(events) <= 5
            found += events
    finally:
        sys.setswitchinterval(before)
    assert found == list(range(1, publishers * each + 1))
    assert queue.number == publishers * each


def test_each_publisher_gets_its_own_event(run: Run) -> None:
    queue: BroadcastQueue[tuple[int, int]] = BroadcastQueue(1000)
    results: dict[int, list[tuple[int, int]]] = {}

    def publish(name: int) -> None:
        for _ in range(50):
            event = queue.put_event(lambda number: (name, number), AT_MOST)
            assert event is not None
            results.setdefault(name, []).append(event)

    threads = [run(lambda name=name: publish(name)) for name in range(5)]  # type: ignore[misc]
    for thread in threads:
        thread.join(AT_MOST)
    _, events = queue.take(1000, 0)
    assert {name: [event for event in events if event[0] == name] for name in range(5)} == results


def test_what_finds_no_room_takes_no_number() -> None:
    queue = full(2)
    built: list[int] = []

    def build(number: int) -> int:
        built.append(number)
        return number

    assert queue.put_event(build, 0.01) is None
    assert (built, queue.number) == ([], 2)
    queue.take(1, 0)
    assert queue.put_event(int, 0.01) == 3
    assert queue.take(10, 0) == ([], [2, 3])


def test_what_cannot_be_built_takes_neither_number_nor_position() -> None:
    queue: BroadcastQueue[int] = BroadcastQueue(1)

    def fail(number: int) -> int:
        raise LookupError(number)

    with pytest.raises(LookupError):
        queue.put_event(fail, 0)
    assert queue.put_event(int, 0) == 1


# The deadline -----------------------------------------------------------------------------------------------------


def test_no_publisher_waits_longer_than_its_deadline_however_many_there_are(run: Run) -> None:
    queue = full()
    waits: list[float] = []

    def publish() -> None:
        started = time.monotonic()
        assert queue.put_event(int, 0.2) is None
        waits.append(time.monotonic() - started)

    threads = [run(publish) for _ in range(30)]
    for thread in threads:
        thread.join(AT_MOST)
    assert len(waits) == 30
    # One after the other they would have waited six seconds.
    assert min(waits) >= 0.19 and max(waits) < 3


def test_the_deadline_counts_while_another_thread_holds_the_lock(run: Run) -> None:
    queue: BroadcastQueue[int] = BroadcastQueue(10)
    results: list[int | None] = []
    with queue.mutex:
        run(lambda: results.append(queue.put_event(int, 0.05))).join(AT_MOST)
        assert results == [None]
    assert queue.put_event(int, 0) == 1


def test_the_time_spent_on_the_lock_is_not_given_again_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = full()
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
    monkeypatch.setattr(queue, "mutex", Mutex())
    monkeypatch.setattr(queue, "not_full", NotFull())
    assert queue.put_event(int, 1.0) is None
    assert waits == [("lock", 1.0), ("room", 0.25), ("room", 0.125), ("room", 0.0625)]


def test_room_that_is_made_in_time_is_used(run: Run) -> None:
    queue = full(1)
    queue.not_full = noticing = Noticing(queue.mutex)
    results: list[int | None] = []
    publisher = run(lambda: results.append(queue.put_event(int, ENDLESS)))
    assert noticing.entered.acquire(timeout=AT_MOST)
    assert queue.take(1, 0) == ([], [1])
    publisher.join(AT_MOST)
    assert results == [2]


def test_taking_several_wakes_all_that_wait_for_room(run: Run) -> None:
    queue = full(3)
    queue.not_full = noticing = Noticing(queue.mutex)
    results: list[int | None] = []
    publishers = [run(lambda: results.append(queue.put_event(int, ENDLESS))) for _ in range(3)]
    for _ in publishers:
        assert noticing.entered.acquire(timeout=AT_MOST)
    queue.take(3, 0)
    for publisher in publishers:
        publisher.join(AT_MOST / 2)
    assert sorted(filter(None, results)) == [4, 5, 6]


# Controls ---------------------------------------------------------------------------------------------------------


def test_a_control_never_waits_for_room(run: Run) -> None:
    queue = full()
    called: list[str] = []
    run(lambda: queue.put_control(lambda: called.append("control"))).join(AT_MOST)
    controls, events = queue.take(1, 10)
    assert (len(controls), events) == (1, [1])
    controls[0]()
    assert called == ["control"]


def test_a_control_wakes_the_taker(run: Run) -> None:
    queue: BroadcastQueue[int] = BroadcastQueue(1)
    queue.not_empty = noticing = Noticing(queue.mutex)
    taken: list[Any] = []
    taker = run(lambda: taken.append(queue.take(1, 1)))
    assert noticing.entered.acquire(timeout=AT_MOST)
    assert queue.put_control(print)
    taker.join(AT_MOST)
    assert taken == [([print], [])]


def test_an_event_wakes_the_taker(run: Run) -> None:
    queue: BroadcastQueue[int] = BroadcastQueue(1)
    queue.not_empty = noticing = Noticing(queue.mutex)
    taken: list[Any] = []
    taker = run(lambda: taken.append(queue.take(1, 1)))
    assert noticing.entered.acquire(timeout=AT_MOST)
    queue.put_event(int, 0)
    taker.join(AT_MOST)
    assert taken == [([], [1])]


def test_one_call_takes_no_more_than_was_asked_for_and_keeps_the_order() -> None:
    queue: BroadcastQueue[int] = BroadcastQueue(10)
    registrations: list[Callable[[], None]] = [lambda: None for _ in range(5)]
    for registration in registrations:
        queue.put_registration(registration)
        queue.put_event(int, 0)
    assert queue.take(3, 2) == (registrations[:2], [1, 2, 3])
    assert queue.take(3, 2) == (registrations[2:4], [4, 5])
    assert queue.take(3, 2) == (registrations[4:], [])


def test_no_event_overtakes_a_control_however_many_there_are() -> None:
    queue: BroadcastQueue[int] = BroadcastQueue(10)
    controls: list[Callable[[], None]] = [lambda: None for _ in range(500)]
    for control in controls:
        queue.put_control(control)
    queue.put_event(int, 0)
    assert queue.take(1, 1) == (controls, [1])


# Its end ----------------------------------------------------------------------------------------------------------


def test_closing_wakes_every_publisher(run: Run) -> None:
    queue = full(1)
    queue.not_full = noticing = Noticing(queue.mutex)
    refused: list[int] = []

    def publish() -> None:
        try:
            queue.put_event(int, ENDLESS)
        except BroadcastQueueClosed:
            refused.append(1)

    publishers = [run(publish) for _ in range(5)]
    for _ in publishers:
        assert noticing.entered.acquire(timeout=AT_MOST)
    queue.close()
    for publisher in publishers:
        publisher.join(AT_MOST / 2)
    assert len(refused) == 5


def test_closing_wakes_the_taker_of_an_empty_queue(run: Run) -> None:
    queue: BroadcastQueue[int] = BroadcastQueue(1)
    queue.not_empty = noticing = Noticing(queue.mutex)
    taken: list[Any] = []
    taker = run(lambda: taken.append(queue.take(1, 1)))
    assert noticing.entered.acquire(timeout=AT_MOST)
    queue.close()
    taker.join(AT_MOST)
    assert taken == [([], [])]


def test_what_is_queued_when_it_closes_is_still_returned() -> None:
    queue = full(3)
    controls: list[Callable[[], None]] = [lambda: None for _ in range(3)]
    for control in controls:
        queue.put_registration(control)
    queue.close()
    assert queue.take(2, 1) == (controls[:1], [1, 2])
    assert queue.take(2, 1) == (controls[1:2], [3])
    assert queue.take(2, 1) == (controls[2:], [])
    assert queue.take(2, 1) == ([], [])


def test_nothing_is_taken_once_it_is_closed() -> None:
    queue = full(1)
    queue.close()
    queue.close()
    with pytest.raises(BroadcastQueueClosed):
        queue.put_event(int, 0)
    assert queue.put_control(print) is False
    assert queue.put_registration(print) is False
    assert queue.take(10, 10) == ([], [1])
    with pytest.raises(BroadcastQueueClosed):
        queue.put_event(int, 0)
    assert queue.number == 1


def test_it_is_a_bounded_queue_of_the_standard_library() -> None:
    queue = full(2)
    assert isinstance(queue, Queue)
    assert (queue.qsize(), queue.full(), queue.maxsize) == (2, True, 2)
