"""What a client may ask for, and what becomes of its filters, against the plainest of models."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartows.client.subscriptions import MAX_META, BadMessage, Subscription, parse
from cartows.rooms import with_rooms, without_rooms

KEYS = ("project_id", "board_id")
ROOM = st.tuples(st.sampled_from(KEYS), st.sampled_from("abc"))
FILTERS = st.dictionaries(st.sampled_from(KEYS), st.lists(st.sampled_from("abc"), min_size=1, unique=True).map(tuple))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYS, "since", "presence", "x"]), inner),
    max_leaves=8,
)


def bad(data: Any, *, joins: bool = True) -> BadMessage:
    with pytest.raises(BadMessage) as raised:
        parse(data, KEYS, joins=joins)
    assert str(raised.value).endswith(".")
    return raised.value


def test_a_room_is_named_by_a_text_or_a_whole_number_or_a_list_of_them() -> None:
    for value, rooms in (
        ("b1", ["b1"]),
        (7, ["7"]),
        (["b1", 7, "b2"], ["b1", "7", "b2"]),
        (["b1", "b1", 7, "7"], ["b1", "7"]),
        ("", [""]),
        (-1, ["-1"]),
    ):
        for joins in (True, False):
            assert parse({"board_id": value}, KEYS, joins=joins) == Subscription(tuple(("board_id", room) for room in rooms))


def test_rooms_keep_the_order_in_which_they_are_named() -> None:
    found = parse({"board_id": ["z", "a"], "project_id": "m"}, KEYS, joins=True)
    assert found.rooms == (("board_id", "z"), ("board_id", "a"), ("project_id", "m"))


def test_since_and_presence_go_with_a_subscription() -> None:
    found = parse({"board_id": "b", "since": "e.1", "presence": {"name": "Ann"}}, KEYS, joins=True)
    assert found == Subscription((("board_id", "b"),), "e.1", {"name": "Ann"})
    assert parse({"board_id": "b", "presence": {}}, KEYS, joins=True).meta == {}, "shows itself, without more"


@pytest.mark.parametrize("since", [None, 5, 1.5, True, [], ["e.1"], {}])
def test_a_since_of_another_kind_is_an_id_that_means_nothing(since: Any) -> None:
    # Not None, which would mean that nothing was asked and leave the client waiting for an answer about it.
    assert parse({"board_id": "b", "since": since}, KEYS, joins=True).since == ""


@pytest.mark.parametrize("data", [None, "board_id", 5, True, [], ["board_id"], [{"board_id": "b"}]])
def test_what_is_no_object_is_refused(data: Any) -> None:
    assert "board_id, project_id" in str(bad(data))
    bad(data, joins=False)


@pytest.mark.parametrize("data", [{}, {"since": "e.1"}, {"presence": {}}, {"board_id": []}, {"board_id": [], "project_id": []}])
def test_no_room_is_refused(data: Any) -> None:
    assert "names no room" in str(bad(data))


@pytest.mark.parametrize("value", [None, True, 1.5, {}, {"id": "b"}, [None], [["b"]], ["b", 1.5], ["b", False], [{}]])
def test_a_room_named_by_anything_else_is_refused_with_its_key(value: Any) -> None:
    for joins in (True, False):
        assert bad({"project_id": "p", "board_id": value}, joins=joins).details == "board_id"


@pytest.mark.parametrize("key", ["id", "user_id", "Board_id", "", "x" * 200])
def test_an_unknown_key_is_refused_and_named_in_so_many_letters_as_are_of_use(key: str) -> None:
    assert bad({"board_id": "b", key: "x"}).details == key[:100]


@pytest.mark.parametrize("key", ["since", "presence"])
def test_who_leaves_has_no_past_and_no_presence_to_ask_for(key: str) -> None:
    assert bad({"board_id": "b", key: {}}, joins=False).details == key


@pytest.mark.parametrize("meta", [None, True, 5, "Ann", [], [{}]])
def test_what_is_shown_must_be_an_object(meta: Any) -> None:
    assert bad({"board_id": "b", "presence": meta}).details == "presence"


def test_what_is_shown_is_bounded_by_its_bytes_as_json() -> None:
    around = len('{"name":""}')
    fits = {"name": "é" * ((MAX_META - around) // 2)}
    assert parse({"board_id": "b", "presence": fits}, KEYS, joins=True).meta == fits
    refused = bad({"board_id": "b", "presence": {"name": fits["name"] + "éé"}})
    assert refused.details == "presence"
    assert str(MAX_META) in str(refused)


@given(JSON, st.booleans())
def test_whatever_a_client_sends_is_either_understood_or_refused(data: Any, joins: bool) -> None:
    try:
        found = parse(data, KEYS, joins=joins)
    except BadMessage:
        return
    named = {key: data[key] if isinstance(data[key], list) else [data[key]] for key in KEYS if key in data}
    assert set(found.rooms) == {(key, str(value)) for key, values in named.items() for value in values}
    assert found.rooms
    assert all(type(value) in (str, int) for values in named.values() for value in values)
    assert set(data) <= {*KEYS, *(("since", "presence") if joins else ())}
    assert (found.since is None) == ("since" not in data)


@given(FILTERS, st.lists(ROOM).map(tuple))
def test_more_rooms_stand_behind_those_held_and_none_twice(filters: Any, rooms: Any) -> None:
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
