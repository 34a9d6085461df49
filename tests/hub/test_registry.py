"""The registry: slots against a plain model, and who is found by what."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cartows.client.client import Client
from cartows.hub.capacity import Slot, SlotLimits
from cartows.hub.registry import Registry

ADDRESSES = st.sampled_from([None, "192.0.2.1", "192.0.2.2", "ann"])
IDENTITIES = st.sampled_from([None, "ann", "bob", "192.0.2.1"])
PLACES = st.builds(Slot, ADDRESSES, IDENTITIES)
NONE_OR_FEW = st.none() | st.integers(1, 3)
BOUNDS = st.builds(SlotLimits, st.integers(1, 8), NONE_OR_FEW, NONE_OR_FEW)


class Ended:
    """What the registry asks of a connection."""

    close_code: int | None = 1000


class Stub:
    """What the registry knows of a client."""

    def __init__(self, id: str = "", identity_key: str | None = None, slot: Slot | None = None) -> None:
        self.id, self.identity_key, self.slot = id, identity_key, slot
        self.gone = False
        self.connection = Ended()


def client(id: str = "c1", identity_key: str | None = None, slot: Slot | None = None) -> Client:
    return cast(Client, Stub(id, identity_key, slot))


def enter(registry: Registry, one: Client) -> None:
    """Take a client in as a handler does: who it is, then the rest."""
    registry.identify(one, one.identity_key)
    registry.arrive(one)
    registry.enter(one)


class PlacesModel(RuleBasedStateMachine):
    """Take and give back slots, and count them by looking through a list."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry()
        self.taken: list[Slot] = []

    @rule(slot=PLACES, bounds=BOUNDS)
    def take(self, slot: Slot, bounds: SlotLimits) -> None:
        full = []
        if len(self.taken) >= bounds.clients:
            full.append("clients")
        same_address = [each for each in self.taken if slot.address is not None and each.address == slot.address]
        if bounds.per_address is not None and len(same_address) >= bounds.per_address:
            full.append("address")
        same_identity = [each for each in self.taken if slot.identity is not None and each.identity == slot.identity]
        if bounds.per_identity is not None and len(same_identity) >= bounds.per_identity:
            full.append("identity")
        assert self.registry.take_slot(slot, bounds) == (full[0] if full else None)
        if not full:
            self.taken.append(slot)

    @rule(data=st.data(), as_client=st.booleans())
    def give_back(self, data: st.DataObject, as_client: bool) -> None:
        if not self.taken:
            return
        slot = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
        if as_client:
            self.registry.gone(client(slot=slot))
        else:
            self.registry.release_slot(slot)

    @invariant()
    def counts_what_is_taken(self) -> None:
        assert self.registry.stats()["slots"] == len(self.taken)

    def teardown(self) -> None:
        for slot in self.taken:
            self.registry.release_slot(slot)
        counts = {name: value for name, value in vars(self.registry).items() if isinstance(value, Counter)}
        del counts["_counters"]
        assert not any(counts.values()), f"whoever came once would be kept for as long as the server runs: {counts}"


PlacesModel.TestCase.settings = settings(
    deadline=None,
    max_examples=80,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow],
)
TestPlacesAgainstANaiveModel = PlacesModel.TestCase


def test_a_place_that_is_refused_is_not_counted_for_anything() -> None:
    registry = Registry()
    full, other = Slot("192.0.2.1", "ann"), Slot("192.0.2.2", "ann")
    assert registry.take_slot(full, SlotLimits(9, 1, None)) is None
    for _ in range(5):
        assert registry.take_slot(full, SlotLimits(9, 1, None)) == "address"
    assert registry.take_slot(other, SlotLimits(2, 1, 2)) is None
    registry.release_slot(full)
    assert registry.take_slot(full, SlotLimits(2, 1, 2)) is None


def test_of_many_who_come_at_once_as_many_get_in_as_there_are_places() -> None:
    registry, bounds = Registry(), SlotLimits(1000, 7, 5)
    start = threading.Barrier(8)
    outcomes: list[list[str | None]] = [[] for _ in range(8)]

    def come(number: int) -> None:
        start.wait(10)
        # The same address for all; the first four are one user, the others another.
        outcomes[number] = [registry.take_slot(Slot("192.0.2.1", str(number // 4)), bounds) for _ in range(50)]

    threads = [threading.Thread(target=come, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(outcome is None for each in outcomes for outcome in each) == 7
    for user in (outcomes[:4], outcomes[4:]):
        assert sum(outcome is None for each in user for outcome in each) <= 5
    assert registry.stats()["slots"] == 7


# Who is found ---------------------------------------------------------------------------------------------------------


def test_clients_are_found_by_id_and_by_identity_while_they_are_in() -> None:
    registry = Registry()
    tabs = [client(f"c{number}", "ann") for number in range(3)]
    bob, nobody = client("c3", "bob"), client("c4")
    for each in (*tabs, bob, nobody):
        assert each not in registry.clients()
        enter(registry, each)
    assert registry.find_identity("ann") == tabs
    assert registry.find_id("c3") == registry.find_identity("bob") == [bob]
    assert (
        registry.find_identity("None")
        == registry.find_identity("carl")
        == registry.find_id("ann")
        == registry.find_identity("c3")
        == []
    )
    registry.remove(tabs[1])
    registry.remove(tabs[1])
    assert registry.find_identity("ann") == [tabs[0], tabs[2]]
    assert registry.find_id("c1") == []
    assert (registry.count_clients(), registry.clients()) == (4, [tabs[0], tabs[2], bob, nobody])


@pytest.mark.parametrize("into", ["bob", None])
def test_a_client_that_becomes_somebody_else_is_found_as_that(into: str | None) -> None:
    registry = Registry()
    one, other = client("c1", "ann"), client("c2", "ann")
    for each in (one, other):
        enter(registry, each)
    registry.identify(one, into)
    assert one.identity_key == into
    assert registry.find_identity("ann") == [other]
    assert registry.find_identity("bob") == ([one] if into else [])
    registry.remove(one)
    assert registry.find_identity("bob") == []


def test_a_client_on_its_way_in_is_found_by_its_identity_until_it_has_gone() -> None:
    registry, one = Registry(), client()
    registry.identify(one, "ann")
    assert (one.identity_key, registry.find_identity("ann"), registry.clients()) == ("ann", [one], [])
    registry.gone(one)
    assert registry.find_identity("ann") == []
    registry.identify(one, "bob")
    assert registry.find_identity("bob") == []


def test_a_client_on_its_way_in_is_found_by_its_id_until_it_has_gone() -> None:
    registry, one = Registry(), client("c1")
    assert registry.find_id("c1") == []
    assert registry.arrive(one)
    assert (registry.find_id("c1"), registry.clients()) == ([one], [])
    registry.gone(one)
    assert registry.find_id("c1") == []


def test_who_comes_back_with_a_known_id_is_not_lost_when_the_first_is_removed() -> None:
    registry = Registry()
    first, second = client("same"), client("same")
    enter(registry, first)
    enter(registry, second)
    registry.remove(first)
    assert registry.find_id("same") == [second]


# Coming and going -----------------------------------------------------------------------------------------------------


def test_who_has_gone_does_not_arrive() -> None:
    registry, one = Registry(), client()
    registry.gone(one)
    assert not registry.arrive(one)
    assert registry.present() == []


def test_the_ends_are_counted_by_code_and_those_of_the_app_together() -> None:
    registry = Registry()
    codes: tuple[int | None, ...] = (1000, 1000, 3005, None, 4000, 4999)
    for code in codes:
        one: Any = client()
        one.connection.close_code = code
        registry.arrive(one)
        registry.gone(one)
    stats = registry.stats()
    found = {name: count for name, count in stats.items() if name.startswith("closed")}
    assert found == {"closed_1000": 2, "closed_3005": 1, "closed_1006": 1, "closed_by_app": 2}


def test_waiting_for_everybody_to_go_ends_with_the_last_or_at_its_time() -> None:
    registry, one = Registry(), client()
    registry.arrive(one)
    registry.await_empty(time.monotonic() + 0.01)
    assert registry.present() == [one]
    waited = threading.Event()

    def wait() -> None:
        registry.await_empty(time.monotonic() + 30)
        waited.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not waited.is_set()
    registry.gone(one)
    assert waited.wait(10)
    thread.join(10)
