"""Commands: what a client may ask for in ``subscribe`` and ``unsubscribe``, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartows.client.commands import MAX_META, MAX_META_VALUES, InvalidMessage, parse_subscription
from cartows.client.subscriptions import SubscriptionRequest

KEYS = ("project_id", "board_id")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYS, "since", "presence", "x"]), inner),
    max_leaves=8,
)


def bad(data: Any, *, joins: bool = True) -> InvalidMessage:
    with pytest.raises(InvalidMessage) as raised:
        parse_subscription(data, KEYS, joins=joins)
    assert str(raised.value).endswith(".")
    return raised.value


def test_a_room_is_named_by_a_string_or_an_integer_or_a_list_of_them() -> None:
    for value, rooms in (
        ("b1", ["b1"]),
        (7, ["7"]),
        (["b1", 7, "b2"], ["b1", "7", "b2"]),
        (["b1", "b1", 7, "7"], ["b1", "7"]),
        ("", [""]),
        (-1, ["-1"]),
    ):
        for joins in (True, False):
            assert parse_subscription({"board_id": value}, KEYS, joins=joins) == SubscriptionRequest(
                tuple(("board_id", room) for room in rooms)
            )


def test_rooms_keep_the_order_in_which_they_are_named() -> None:
    found = parse_subscription({"board_id": ["z", "a"], "project_id": "m"}, KEYS, joins=True)
    assert found.rooms == (("board_id", "z"), ("board_id", "a"), ("project_id", "m"))


def test_since_and_presence_go_with_a_subscription() -> None:
    found = parse_subscription({"board_id": "b", "since": "e.1", "presence": {"name": "Ann"}}, KEYS, joins=True)
    assert found == SubscriptionRequest((("board_id", "b"),), "e.1", {"name": "Ann"})
    assert parse_subscription({"board_id": "b", "presence": {}}, KEYS, joins=True).meta == {}, "an entry, though an empty one"


@pytest.mark.parametrize("since", [None, 5, 1.5, True, [], ["e.1"], {}])
def test_a_since_of_another_type_is_an_id_that_no_event_has(since: Any) -> None:
    # Not None, which would mean that no replay was asked for: the client would wait for an answer about it.
    assert parse_subscription({"board_id": "b", "since": since}, KEYS, joins=True).since == ""


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
def test_an_unknown_key_is_refused_and_named_by_100_characters_at_most(key: str) -> None:
    assert bad({"board_id": "b", key: "x"}).details == key[:100]


@pytest.mark.parametrize("key", ["since", "presence"])
def test_unsubscribe_takes_no_since_and_no_presence(key: str) -> None:
    assert bad({"board_id": "b", key: {}}, joins=False).details == key


@pytest.mark.parametrize("meta", [None, True, 5, "Ann", [], [{}]])
def test_a_presence_entry_must_be_an_object(meta: Any) -> None:
    assert bad({"board_id": "b", "presence": meta}).details == "presence"


def test_a_presence_entry_is_bounded_by_its_bytes_as_json() -> None:
    around = len('{"name":""}')
    fits = {"name": "é" * ((MAX_META - around) // 2)}
    assert parse_subscription({"board_id": "b", "presence": fits}, KEYS, joins=True).meta == fits
    refused = bad({"board_id": "b", "presence": {"name": fits["name"] + "éé"}})
    assert refused.details == "presence"
    assert str(MAX_META) in str(refused)


@pytest.mark.parametrize(
    "values",
    [
        lambda n: {f"k{i}": i for i in range(n)},
        lambda n: {"all": [[] for _ in range(n - 1)]},
        lambda n: {"a": {"b": [0] * (n - 2)}},
    ],
    ids=["keys", "lists", "deeper"],
)
def test_a_presence_entry_is_bounded_by_its_values(values: Any) -> None:
    """A kilobyte of empty lists takes twenty in memory, in each room that a client shows itself in."""
    fits = values(MAX_META_VALUES)
    assert parse_subscription({"board_id": "b", "presence": fits}, KEYS, joins=True).meta == fits
    refused = bad({"board_id": "b", "presence": values(MAX_META_VALUES + 1)})
    assert refused.details == "presence" and str(MAX_META_VALUES) in str(refused)


@given(JSON, st.booleans())
def test_any_message_is_either_accepted_or_refused(data: Any, joins: bool) -> None:
    try:
        found = parse_subscription(data, KEYS, joins=joins)
    except InvalidMessage:
        return
    named = {key: data[key] if isinstance(data[key], list) else [data[key]] for key in KEYS if key in data}
    assert set(found.rooms) == {(key, str(value)) for key, values in named.items() for value in values}
    assert found.rooms
    assert all(type(value) in (str, int) for values in named.values() for value in values)
    assert set(data) <= {*KEYS, *(("since", "presence") if joins else ())}
    assert (found.since is None) == ("since" not in data)
