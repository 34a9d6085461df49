"""The registry: which clients are found by what, and what is done to them by id and by identity."""

from __future__ import annotations

import threading
import time
from typing import Any, cast

import pytest

from cartows.client.client import Client
from cartows.hub.capacity import Slot
from cartows.hub.registry import Registry


class Stub:
    """What the registry needs of a client; ``sent`` and ``closed`` are what was done to it."""

    def __init__(self, id: str = "", identity_key: str | None = None, slot: Slot | None = None) -> None:
        self.id, self.identity_key, self.slot = id, identity_key, slot
        self.gone = False
        self.sent: list[object] = []
        self.closed: list[tuple[int, str]] = []
        #: What ``reauthorize`` returns, or raises.
        self.loses: bool | Exception = False
        self.close_code: int | None = 1000
        # One object stands for all parts of a client.
        self.connection = self.authorization = self

    def send(self, message: object) -> bool:
        self.sent.append(message)
        return not self.closed

    def disconnect(self, code: int, reason: str) -> bool:
        self.closed.append((code, reason))
        return len(self.closed) == 1

    def reauthorize(self) -> bool:
        if isinstance(self.loses, Exception):
            raise self.loses
        return self.loses


def client(id: str = "c1", identity_key: str | None = None, slot: Slot | None = None) -> Client:
    return cast(Client, Stub(id, identity_key, slot))


def enter(registry: Registry, one: Client) -> None:
    """Enter a client as a handler does: its identity first."""
    registry.identify(one, one.identity_key)
    registry.arrive(one)
    registry.enter(one)


# Which clients are found ----------------------------------------------------------------------------------------------


def test_clients_are_found_by_id_and_by_identity_while_they_are_in() -> None:
    registry = Registry()
    tabs = [client(f"c{number}", "ann") for number in range(3)]
    bob, guest = client("c3", "bob"), client("c4")
    for each in (*tabs, bob, guest):
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
    assert (registry.count_clients(), registry.clients()) == (4, [tabs[0], tabs[2], bob, guest])


@pytest.mark.parametrize("into", ["bob", None])
def test_a_client_whose_identity_changes_is_found_by_the_new_one(into: str | None) -> None:
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


def test_a_client_that_is_connecting_is_found_by_its_identity_until_it_has_gone() -> None:
    registry, one = Registry(), client()
    registry.identify(one, "ann")
    assert (one.identity_key, registry.find_identity("ann"), registry.clients()) == ("ann", [one], [])
    registry.gone(one)
    assert registry.find_identity("ann") == []
    registry.identify(one, "bob")
    assert registry.find_identity("bob") == []


def test_a_client_that_is_connecting_is_found_by_its_id_until_it_has_gone() -> None:
    registry, one = Registry(), client("c1")
    assert registry.find_id("c1") == []
    assert registry.arrive(one)
    assert (registry.find_id("c1"), registry.clients()) == ([one], [])
    registry.gone(one)
    assert registry.find_id("c1") == []


def test_a_second_client_with_the_same_id_is_found_after_the_first_is_removed() -> None:
    registry = Registry()
    first, second = client("same"), client("same")
    enter(registry, first)
    enter(registry, second)
    registry.remove(first)
    assert registry.find_id("same") == [second]


# By id and by identity ------------------------------------------------------------------------------------------------


def entered(registry: Registry, *clients: tuple[str, str | None]) -> list[Any]:
    """Enter clients with these ids and identities."""
    found = [client(*each) for each in clients]
    for each in found:
        enter(registry, each)
    return found


def test_a_message_goes_to_each_client_of_an_identity_or_to_one_client() -> None:
    registry = Registry()
    ann, tab, bob = entered(registry, ("c1", "7"), ("c2", "7"), ("c3", "8"))
    assert registry.send_to("all of 7", identity=7) == 2
    assert registry.send_to("one", client_id="c3") == 1
    assert registry.send_to("none", client_id="7") == registry.send_to("none", identity="c1") == 0
    assert (ann.sent, tab.sent, bob.sent) == (["all of 7"], ["all of 7"], ["one"])
    for wrong in ({}, {"identity": 7, "client_id": "c1"}):
        with pytest.raises(TypeError, match="either"):
            registry.send_to("x", **wrong)  # type: ignore[arg-type]


def test_a_disconnect_counts_what_it_closed_and_is_remembered_for_clients_that_are_connecting() -> None:
    registry = Registry()
    ann, tab, bob = entered(registry, ("c1", "7"), ("c2", "7"), ("c3", "8"))
    mark = registry.revocations.mark()
    assert registry.disconnect(3503, "out", client_id="c1") == 1
    assert registry.revocations.since(mark, "7") == (False, False)
    assert registry.disconnect(4000, "out", identity=7) == 1, "the other one was closing already"
    assert registry.revocations.since(mark, "7") == (True, False)
    assert (ann.closed, tab.closed, bob.closed) == ([(3503, "out"), (4000, "out")], [(4000, "out")], [])
    mark = registry.revocations.mark()
    with pytest.raises(ValueError, match="1005"):
        registry.disconnect(1005, "out", identity=7)
    with pytest.raises(TypeError, match="either"):
        registry.disconnect(4000, "out")
    assert registry.revocations.mark() == mark


def test_all_clients_of_an_identity_are_authorized_again_and_the_first_failure_is_raised_last() -> None:
    registry = Registry()
    first, second, third, bob = entered(registry, ("c1", "7"), ("c2", "7"), ("c3", "7"), ("c4", "8"))
    first.loses = third.loses = bob.loses = True
    mark = registry.revocations.mark()
    assert registry.reauthorize(7) == 2
    assert registry.revocations.since(mark, "7") == (False, True)
    asked: list[bool] = []
    first.loses, second.loses = LookupError("first"), KeyError("second")

    def note() -> bool:
        asked.append(True)
        return True

    third.reauthorize = note
    with pytest.raises(LookupError, match="first"):
        registry.reauthorize(7)
    assert asked == [True]


# Registration and end -------------------------------------------------------------------------------------------------


def test_a_client_that_has_gone_does_not_arrive() -> None:
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


def test_waiting_for_all_clients_to_go_ends_with_the_last_or_at_its_time() -> None:
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
