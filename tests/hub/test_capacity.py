"""The slots of a process against a plain model, and under many threads."""

from __future__ import annotations

import threading
from collections import Counter

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cartows.hub.capacity import Capacity, Slot, SlotLimits

ADDRESSES = st.sampled_from([None, "192.0.2.1", "192.0.2.2", "ann"])
IDENTITIES = st.sampled_from([None, "ann", "bob", "192.0.2.1"])
SLOTS = st.builds(Slot, ADDRESSES, IDENTITIES)
NONE_OR_FEW = st.none() | st.integers(1, 3)
LIMITS = st.builds(SlotLimits, st.integers(1, 8), NONE_OR_FEW, NONE_OR_FEW)


class SlotsModel(RuleBasedStateMachine):
    """Take and release slots, and count them in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.capacity = Capacity()
        self.taken: list[Slot] = []

    @rule(slot=SLOTS, limits=LIMITS)
    def take(self, slot: Slot, limits: SlotLimits) -> None:
        full = []
        if len(self.taken) >= limits.clients:
            full.append("clients")
        same_address = [each for each in self.taken if slot.address is not None and each.address == slot.address]
        if limits.per_address is not None and len(same_address) >= limits.per_address:
            full.append("address")
        same_identity = [each for each in self.taken if slot.identity is not None and each.identity == slot.identity]
        if limits.per_identity is not None and len(same_identity) >= limits.per_identity:
            full.append("identity")
        expected = full[0] if full else None
        assert self.capacity.check(slot, limits) == expected
        assert self.capacity.take(slot, limits) == expected
        if not full:
            self.taken.append(slot)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.taken:
            self.capacity.release(self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1))))

    @invariant()
    def counts_what_is_taken(self) -> None:
        assert self.capacity.taken == len(self.taken)

    def teardown(self) -> None:
        for slot in self.taken:
            self.capacity.release(slot)
        counts = {name: value for name, value in vars(self.capacity).items() if isinstance(value, Counter)}
        assert counts
        assert not any(counts.values()), f"each address and identity would be kept for as long as the server runs: {counts}"


SlotsModel.TestCase.settings = settings(
    deadline=None,
    max_examples=80,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow],
)
TestSlotsAgainstANaiveModel = SlotsModel.TestCase


def test_a_slot_that_is_refused_is_not_counted_for_anything() -> None:
    capacity = Capacity()
    full, other = Slot("192.0.2.1", "ann"), Slot("192.0.2.2", "ann")
    assert capacity.take(full, SlotLimits(9, 1, None)) is None
    for _ in range(5):
        assert capacity.take(full, SlotLimits(9, 1, None)) == "address"
    assert capacity.take(other, SlotLimits(2, 1, 2)) is None
    capacity.release(full)
    assert capacity.take(full, SlotLimits(2, 1, 2)) is None


def test_many_threads_at_once_take_as_many_slots_as_there_are() -> None:
    capacity, limits = Capacity(), SlotLimits(1000, 7, 5)
    start = threading.Barrier(8)
    outcomes: list[list[str | None]] = [[] for _ in range(8)]

    def take(number: int) -> None:
        start.wait(10)
        # The same address for all; the first four are one user, the others another.
        outcomes[number] = [capacity.take(Slot("192.0.2.1", str(number // 4)), limits) for _ in range(50)]

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(outcome is None for each in outcomes for outcome in each) == 7
    for user in (outcomes[:4], outcomes[4:]):
        assert sum(outcome is None for each in user for outcome in each) <= 5
    assert capacity.taken == 7


def test_writers_have_the_threads_that_the_clients_leave() -> None:
    capacity, limits = Capacity(), SlotLimits(4, threads=5)
    for _ in range(3):
        assert capacity.take(Slot(), limits) is None
    assert [capacity.take_writer() for _ in range(3)] == [True, True, False]
    capacity.release_writer()
    assert capacity.take(Slot(), limits) is None
    assert not capacity.take_writer(), "the fourth client has it"
    capacity.release(Slot())
    assert capacity.take_writer()


def test_where_no_limit_of_threads_is_known_every_client_may_have_a_writer() -> None:
    capacity = Capacity()
    assert capacity.take(Slot(), SlotLimits(4)) is None
    assert all(capacity.take_writer() for _ in range(10))
