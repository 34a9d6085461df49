"""The timer: calls come in time and in order, a failure affects no other call, and what was cancelled is not kept alive."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest

from cartows.hub.timer import NEVER, Timer, TimerEntry

SOON, DEADLINE = 0.01, 10.0

Make = Callable[..., Timer]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Timer] = []

    def timer(slack: float = 0.0, *, starts: bool = True) -> Timer:
        made.append(Timer("cartows-test", logging.getLogger("cartows.test"), slack))
        if starts:
            made[-1].start()
        return made[-1]

    yield timer
    for each in made:
        each.stop(DEADLINE)
    assert threads() == []


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "cartows-test"]


def counting(calls: list[int]) -> TimerEntry:
    """Return an entry that notes its calls."""

    def call() -> float:
        calls.append(1)
        return NEVER

    return TimerEntry(call)


def await_idle(timer: Timer) -> None:
    """Wait until the timer has made every call that is due."""
    done = threading.Event()
    timer.call_at(time.monotonic(), done.set)
    assert done.wait(DEADLINE)


def test_calls_are_made_in_the_order_of_their_times_and_of_their_scheduling(make: Make) -> None:
    timer = make(starts=False)
    now, order = time.monotonic(), list[str]()
    for when, name in ((now, "third"), (now, "fourth"), (now - 1, "second"), (now + SOON, "last")):
        timer.call_at(when, lambda name=name: order.append(name))  # type: ignore[misc]
    timer.call_soon(lambda: order.append("first"))
    done = threading.Event()
    timer.call_at(now + SOON, done.set)
    timer.start()
    assert done.wait(DEADLINE)
    assert order == ["first", "second", "third", "fourth", "last"]


def test_without_slack_no_call_comes_before_its_time_when_others_are_due(make: Make) -> None:
    timer = make()
    timer.call_every(0.001, lambda: True)
    early: list[float] = []
    done = threading.Semaphore(0)
    for n in range(20):
        when = time.monotonic() + 0.01 * n

        def call(when: float = when) -> None:
            early.append(when - time.monotonic())
            done.release()

        timer.call_at(when, call)
    for _ in range(20):
        assert done.acquire(timeout=DEADLINE)
    assert max(early) <= 0


def test_with_slack_what_is_due_soon_is_called_together_and_never_in_a_busy_loop(make: Make) -> None:
    timer = make(1.0)
    calls: list[float] = []
    done = threading.Event()
    due = time.monotonic() + 0.5

    def call() -> float:
        calls.append(time.monotonic())
        if calls[-1] < due:
            return due
        done.set()
        return NEVER

    timer.schedule(TimerEntry(call), due)
    timer.call_at(time.monotonic(), lambda: None)
    assert done.wait(DEADLINE)
    assert len(calls) == 2, "once with the other call, too early, and once in time"
    assert calls[0] < due <= calls[1]


def test_a_repeated_call_ends_when_it_returns_false(make: Make) -> None:
    timer = make()
    answers, done = [True, True, False], threading.Event()
    began = time.monotonic()

    def call() -> bool:
        answer = answers.pop(0)
        if not answers:
            done.set()
        return answer

    timer.call_every(0.02, call)
    assert done.wait(DEADLINE)
    assert time.monotonic() - began >= 0.06
    await_idle(timer)
    assert answers == []


def test_an_entry_that_is_due_several_times_is_called_once_per_wakeup(make: Make) -> None:
    timer = make(starts=False)
    calls: list[int] = []
    entry = counting(calls)
    for _ in range(5):
        timer.schedule(entry, time.monotonic())
    timer.schedule(entry, NEVER)
    timer.start()
    await_idle(timer)
    assert calls == [1]
    timer.schedule(entry, time.monotonic())
    await_idle(timer)
    assert calls == [1, 1]


def test_a_cancelled_entry_is_not_called_even_if_it_is_scheduled_again(make: Make) -> None:
    timer = make(starts=False)
    calls: list[int] = []
    entry = counting(calls)
    timer.schedule(entry, time.monotonic())
    entry.cancel()
    timer.schedule(entry, time.monotonic())
    timer.start()
    await_idle(timer)
    assert calls == []


def test_an_entry_that_cancels_itself_is_not_called_again(make: Make) -> None:
    timer = make()
    calls: list[int] = []

    def call() -> float:
        calls.append(1)
        entry.cancel()
        return time.monotonic()

    entry = TimerEntry(call)
    timer.schedule(entry, time.monotonic())
    await_idle(timer)
    await_idle(timer)
    assert calls == [1]


def test_a_call_that_raises_is_logged_and_the_others_are_made(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    timer = make(starts=False)
    calls: list[str] = []
    answers: list[Callable[[], float]] = [lambda: 1 / 0, lambda: NEVER]
    entry = TimerEntry(lambda: answers.pop(0)())
    timer.schedule(entry, time.monotonic())
    timer.call_at(time.monotonic(), lambda: calls.append("after it"))
    timer.start()
    await_idle(timer)
    assert calls == ["after it"]
    assert "ZeroDivisionError" in caplog.text
    timer.schedule(entry, time.monotonic())
    await_idle(timer)
    assert answers == [], "it may be scheduled again"


def test_what_has_been_called_or_cancelled_is_not_kept_alive(make: Make) -> None:
    class Called:
        def call(self) -> None:
            pass

        def serve(self) -> float:
            return NEVER

    timer = make()
    called, cancelled = Called(), Called()
    kept = [weakref.ref(called), weakref.ref(cancelled)]
    timer.call_at(time.monotonic(), called.call)
    entry = TimerEntry(cancelled.serve)
    timer.schedule(entry, time.monotonic() + 100)
    entry.cancel()
    await_idle(timer)
    del called, cancelled
    gc.collect()
    assert [each() for each in kept] == [None, None]


def test_stopping_waits_for_the_thread_and_makes_no_further_call(make: Make) -> None:
    timer = make(starts=False)
    inside, go_on = threading.Event(), threading.Event()
    calls: list[int] = []

    def hang() -> None:
        inside.set()
        go_on.wait(DEADLINE)

    timer.call_at(time.monotonic(), hang)
    timer.call_at(time.monotonic(), lambda: calls.append(1))
    timer.start()
    assert inside.wait(DEADLINE)
    began = time.monotonic()
    timer.stop(0.05)
    assert time.monotonic() - began < DEADLINE / 2
    assert threads() == ["cartows-test"]
    go_on.set()
    timer.stop(DEADLINE)
    assert threads() == []
    assert calls == []


def test_stopping_on_its_own_thread_waits_for_nothing(make: Make) -> None:
    timer = make()
    timer.call_soon(lambda: timer.stop(DEADLINE))
    timer.stop(DEADLINE)
    assert threads() == []


def test_a_thread_that_cannot_be_started_is_tried_again_by_the_next_call(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    timer = make(starts=False)

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start"):
            timer.start()
    timer.start()
    timer.start()
    assert threads() == ["cartows-test"]
    await_idle(timer)
