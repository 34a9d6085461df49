"""The rate limit: never more messages than agreed, and a client that keeps to that is never limited."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartows import Options
from cartows.client.rate_limit import ADMIT, DROP, END, NOTIFY, RateLimit, limit_of

# Sixteenths of a second: sums of them are exact.
TICK = 1 / 16
PAUSES = st.lists(st.integers(0, 64).map(lambda ticks: ticks * TICK), max_size=120)
RATES = st.sampled_from([0.25, 1.0, 2.0, 16.0])
BURSTS = st.integers(1, 12)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def limited(rate: float, burst: int) -> tuple[RateLimit, Clock]:
    clock = Clock()
    return RateLimit(rate, burst, clock), clock


def send(limit: RateLimit, count: int) -> list[int]:
    return [limit.admit() for _ in range(count)]


def test_a_burst_is_admitted_then_comes_one_notification_then_drops_then_the_end() -> None:
    limit, _ = limited(1, 3)
    assert send(limit, 7) == [ADMIT, ADMIT, ADMIT, NOTIFY, DROP, DROP, END]
    assert limit.admit() == END, "a notification does not reset the drops"


def test_a_client_that_waits_as_long_as_it_is_asked_to_is_admitted() -> None:
    limit, clock = limited(4, 2)
    assert send(limit, 3) == [ADMIT, ADMIT, NOTIFY]
    assert limit.wait() == pytest.approx(0.25)
    clock.now += limit.wait() / 2
    assert limit.admit() == DROP
    clock.now += limit.wait()
    assert limit.admit() == ADMIT


def test_there_is_no_wait_for_a_client_that_may_send() -> None:
    limit, clock = limited(4, 2)
    assert limit.wait() == 0
    send(limit, 5)
    clock.now += 100
    limit.admit()
    assert limit.wait() == 0


def test_a_client_that_has_been_silent_has_a_burst_again_and_no_more() -> None:
    limit, clock = limited(10, 5)
    send(limit, 5)
    clock.now += 3600
    assert send(limit, 6) == [ADMIT] * 5 + [NOTIFY]


def test_the_client_is_notified_again_after_a_second() -> None:
    limit, clock = limited(0.25, 8)
    assert send(limit, 10) == [ADMIT] * 8 + [NOTIFY, DROP]
    clock.now += 0.9
    assert limit.admit() == DROP
    clock.now += 0.1
    assert limit.admit() == NOTIFY


def test_drops_are_forgotten_after_a_quiet_second_and_not_before() -> None:
    for quiet, verdict in ((1.0, NOTIFY), (15 * TICK, END)):
        limit, clock = limited(0.001, 4)
        assert send(limit, 8) == [ADMIT] * 4 + [NOTIFY, DROP, DROP, DROP]
        clock.now += quiet
        assert limit.admit() == verdict


def test_dropped_messages_cost_nothing_of_what_may_be_sent_later() -> None:
    limit, clock = limited(1, 2)
    assert send(limit, 4) == [ADMIT, ADMIT, NOTIFY, DROP]
    clock.now += 1
    assert limit.admit() == ADMIT


def test_what_a_message_costs_beyond_one_is_a_debt_that_others_wait_for() -> None:
    limit, clock = limited(4, 3)
    assert limit.admit() == ADMIT
    limit.charge(4)
    assert limit.wait() == pytest.approx(0.75)
    assert send(limit, 2) == [NOTIFY, DROP]
    clock.now += 0.75
    assert send(limit, 2) == [ADMIT, DROP]


def test_a_debt_is_gone_once_it_is_paid() -> None:
    limit, clock = limited(10, 5)
    send(limit, 1)
    limit.charge(100)
    clock.now += 3600
    assert send(limit, 6) == [ADMIT] * 5 + [NOTIFY]


def test_a_message_that_costs_nothing_more_changes_nothing() -> None:
    limit, _ = limited(1, 3)
    assert limit.admit() == ADMIT
    limit.charge(0)
    assert send(limit, 3) == [ADMIT, ADMIT, NOTIFY]


@given(RATES, BURSTS, st.lists(st.tuples(st.integers(0, 64), st.integers(0, 8)), max_size=120))
def test_no_stretch_of_time_costs_more_than_the_burst_the_rate_and_its_last_message(
    rate: float, burst: int, messages: list[tuple[int, int]]
) -> None:
    limit, clock = limited(rate, burst)
    admitted: list[tuple[float, int]] = []
    for ticks, cost in messages:
        clock.now += ticks * TICK
        if limit.admit() == ADMIT:
            limit.charge(cost)
            admitted.append((clock.now, 1 + cost))
    for first, (start, _) in enumerate(admitted):
        spent = 0
        for at, cost in admitted[first:]:
            assert spent + 1 <= burst + (at - start) * rate + 1e-9
            spent += cost


@given(RATES, BURSTS, st.integers(1, 200))
def test_a_client_that_keeps_the_rate_is_never_limited(rate: float, burst: int, count: int) -> None:
    limit, clock = limited(rate, burst)
    for _ in range(count):
        assert limit.admit() == ADMIT
        clock.now += 1 / rate


@given(RATES, BURSTS, PAUSES)
def test_no_stretch_of_time_has_more_than_the_burst_and_the_rate(rate: float, burst: int, pauses: list[float]) -> None:
    limit, clock = limited(rate, burst)
    admitted = []
    for pause in pauses:
        clock.now += pause
        if limit.admit() == ADMIT:
            admitted.append(clock.now)
    for first, start in enumerate(admitted):
        for last, end in enumerate(admitted[first:], first):
            assert last - first + 1 <= burst + (end - start) * rate + 1e-9


@given(RATES, BURSTS, PAUSES)
def test_against_a_plain_model(rate: float, burst: int, pauses: list[float]) -> None:
    """The bucket, the drops and the times of the notifications, each as a list."""
    limit, clock = limited(rate, burst)
    left, before = float(burst), clock.now
    dropped: list[float] = []
    notified_at: list[float] = []
    for pause in pauses:
        clock.now += pause
        now = clock.now
        left, before = min(float(burst), left + (now - before) * rate), now
        verdict = limit.admit()
        if left >= 1:
            left -= 1
            assert verdict == ADMIT
            continue
        dropped = [*dropped, now] if dropped and now - dropped[-1] < 1 else [now]
        if len(dropped) > burst:
            assert verdict == END
        elif any(now - at < 1 for at in notified_at):
            assert verdict == DROP
        else:
            assert verdict == NOTIFY
            notified_at.append(now)
        assert 0 < limit.wait() <= 1 / rate


def busy(seconds: int) -> int:
    """Return how many messages are admitted at once after so long at half the rate, all of it in handlers."""
    limit, clock = limited(16, 32)
    for _ in range(seconds * 8):
        assert limit.admit() == ADMIT
        clock.now += 2 * TICK
        limit.credit(2 * TICK)
    return next(count for count in range(seconds * 16) if limit.admit() != ADMIT)


def test_the_time_that_handlers_took_does_not_add_up_to_a_flood() -> None:
    assert busy(7200) == busy(300) < 32 + 60 * 16


# Bytes ----------------------------------------------------------------------------------------------------------------


def of_bytes(rate: float, burst: int, messages: float | None = None) -> tuple[RateLimit, Clock]:
    clock = Clock()
    return RateLimit(messages, 3, clock, byte_rate=rate, byte_burst=burst), clock


def test_bytes_are_limited_as_messages_are() -> None:
    limit, clock = of_bytes(100, 1000)
    assert [limit.admit(400) for _ in range(6)] == [ADMIT, ADMIT, NOTIFY, DROP, DROP, END]
    assert limit.wait() == pytest.approx(2.0)
    clock.now += 2
    assert [limit.admit(400), limit.admit(400)] == [ADMIT, NOTIFY]
    # A smaller message may fit.
    clock.now += 1
    assert limit.admit(100) == ADMIT


def test_either_limit_counts_and_a_drop_costs_nothing_of_the_other() -> None:
    limit, clock = of_bytes(100, 1000, messages=1)
    assert [limit.admit(1) for _ in range(4)] == [ADMIT, ADMIT, ADMIT, NOTIFY]
    clock.now += 1
    assert limit.admit(1000) == ADMIT
    clock.now += 3
    assert [limit.admit(500), limit.wait()] == [NOTIFY, pytest.approx(2.0)]
    assert [limit.admit(100), limit.admit(100), limit.admit(100)] == [ADMIT, ADMIT, ADMIT]


def test_a_message_larger_than_the_burst_takes_all_of_it() -> None:
    limit, clock = of_bytes(100, 1000)
    assert [limit.admit(5000), limit.admit(1)] == [ADMIT, NOTIFY]
    clock.now += 10
    assert limit.admit(5000) == ADMIT


def test_what_has_no_bytes_waits_for_no_debt_of_bytes() -> None:
    limit, clock = of_bytes(100, 1000)
    limit.charge(size=5000)
    assert limit.admit() == ADMIT
    assert limit.admit(1) == NOTIFY
    assert limit.wait() == pytest.approx(40.01)
    clock.now += 41
    assert limit.admit(1) == ADMIT


def test_bytes_sent_while_a_handler_ran_are_credited() -> None:
    limit, clock = of_bytes(100, 1000)
    assert limit.admit(1000) == ADMIT
    clock.now += 20
    limit.credit(20)
    assert [limit.admit(500) for _ in range(5)] == [ADMIT] * 4 + [NOTIFY]


@given(st.lists(st.tuples(st.integers(0, 64), st.integers(1, 1500)), max_size=100))
def test_no_stretch_of_time_has_more_bytes_than_the_burst_and_the_rate(messages: list[tuple[int, int]]) -> None:
    limit, clock = of_bytes(160, 1000)
    admitted: list[tuple[float, int]] = []
    for ticks, size in messages:
        clock.now += ticks * TICK
        if limit.admit(size) == ADMIT:
            admitted.append((clock.now, min(size, 1000)))
    for first, (start, _) in enumerate(admitted):
        for last, (end, _) in enumerate(admitted[first:], first):
            assert sum(size for _, size in admitted[first : last + 1]) <= 1000 + (end - start) * 160 + 1e-6


def test_the_options_decide_what_is_limited() -> None:
    clock = Clock()
    assert limit_of(Options(rate_limit=None, rate_limit_bytes=None)) is None
    # Two seconds' worth at once, or one message of the largest size.
    for options, burst in (
        (Options(rate_limit=None), 2 * 1024 * 1024),
        (Options(rate_limit=None, rate_limit_bytes=1000), 512 * 1024),
        (Options(rate_limit=None, rate_limit_bytes=1000, max_message_size=100), 2000),
    ):
        limit = limit_of(options, clock)
        assert limit is not None
        assert [limit.admit(burst // 2), limit.admit(burst // 2), limit.admit(1)] == [ADMIT, ADMIT, NOTIFY]
    limit = limit_of(Options(rate_limit_bytes=None), clock)
    assert limit is not None
    assert [limit.admit(1 << 40) for _ in range(41)] == [ADMIT] * 40 + [NOTIFY]
