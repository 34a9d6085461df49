"""What a client is subscribed to: its filters against a plain model, and the changes that the hub receives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartows.client.subscriptions import ClientFilters, SubscriptionChange, SubscriptionRequest, TooManyRooms
from cartows.rooms import Subscriptions, with_rooms, without_rooms

KEYS = ("project_id", "board_id")
ROOM = st.tuples(st.sampled_from(KEYS), st.sampled_from("abc"))
FILTERS = st.dictionaries(st.sampled_from(KEYS), st.lists(st.sampled_from("abc"), min_size=1, unique=True).map(tuple))
A, B, C = ("board_id", "a"), ("board_id", "b"), ("board_id", "c")


def client_filters() -> tuple[ClientFilters, list[SubscriptionChange]]:
    """Return filters of which none is held, and the changes that the hub will have received."""
    changes: list[SubscriptionChange] = []
    return ClientFilters(changes.append), changes


def test_a_client_without_filters_receives_everything_until_they_first_change() -> None:
    filters, changes = client_filters()
    assert filters.subscriptions == Subscriptions(frozenset(), True)
    filters.set("board_id", [])
    assert filters.held == {}
    assert filters.subscriptions == filters.snapshot() == Subscriptions(frozenset(), False)
    assert [(change.before.unfiltered, change.subscriptions.unfiltered) for change in changes] == [(True, False)]


def test_set_replaces_the_values_of_its_key_and_no_others() -> None:
    filters, changes = client_filters()
    filters.set("board_id", ["a", "b", "a"])
    filters.set("project_id", 7)
    filters.set("board_id", "c")
    assert filters.held == {"board_id": ("c",), "project_id": ("7",)}
    assert [change.filters for change in changes][:2] == [
        {"board_id": ("a", "b")},
        {"board_id": ("a", "b"), "project_id": ("7",)},
    ]
    assert {change.answer for change in changes} == {None}, "the client has not asked"


def test_joining_and_leaving_are_answered_with_the_request_they_came_from() -> None:
    filters, changes = client_filters()
    join, leave = SubscriptionRequest((A, B), ref="1"), SubscriptionRequest((A,), ref="2")
    assert filters.join(join, 2, lambda: False)
    filters.leave(leave)
    filters.leave(SubscriptionRequest((B,)), revoked=True)
    assert filters.held == {}
    assert [(change.answer, change.request, change.revoked) for change in changes] == [
        ("subscribed", join, False),
        ("unsubscribed", leave, False),
        ("unsubscribed", SubscriptionRequest((B,)), True),
    ]
    assert [change.before for change in changes[1:]] == [change.subscriptions for change in changes[:-1]]


def test_a_join_that_was_revoked_or_is_too_large_changes_nothing() -> None:
    filters, changes = client_filters()
    assert filters.join(SubscriptionRequest((A, B)), 2, lambda: False)
    assert not filters.join(SubscriptionRequest((C,)), 3, lambda: True)
    with pytest.raises(TooManyRooms):
        filters.join(SubscriptionRequest((C,)), 2, lambda: False)
    assert filters.join(SubscriptionRequest((A,)), 2, lambda: False), "it holds that room already"
    assert filters.held == {"board_id": ("a", "b")}
    assert len(changes) == 2


def test_a_change_without_some_rooms_has_them_in_no_part() -> None:
    filters, changes = client_filters()
    filters.join(SubscriptionRequest((A, B)), 9, lambda: False)
    filters.join(SubscriptionRequest((A, C)), 9, lambda: False)
    left = changes[1].without([A, B])
    assert (left.filters, left.before.rooms, left.subscriptions.rooms, left.request.rooms) == (
        {"board_id": ("c",)},
        frozenset(),
        {C},
        (C,),
    )


@given(FILTERS, st.lists(ROOM).map(tuple))
def test_more_rooms_stand_after_those_held_and_none_twice(filters: Any, rooms: Any) -> None:
    before = {key: tuple(values) for key, values in filters.items()}
    grown = with_rooms(filters, rooms)
    for key in KEYS:
        held = before.get(key, ())
        asked = [value for other, value in rooms if other == key]
        assert grown.get(key, ()) == held + tuple(dict.fromkeys(value for value in asked if value not in held))
    assert filters == before, "others read the mapping without a lock"
    assert all(grown.values())


@given(FILTERS, st.lists(ROOM).map(tuple))
def test_rooms_that_are_left_are_gone_and_the_others_stay_in_their_order(filters: Any, rooms: Any) -> None:
    before = {key: tuple(values) for key, values in filters.items()}
    left = without_rooms(filters, rooms)
    for key in KEYS:
        assert left.get(key, ()) == tuple(value for value in before.get(key, ()) if (key, value) not in rooms)
    assert filters == before
    assert all(left.values()), "a key without a value is no filter"
