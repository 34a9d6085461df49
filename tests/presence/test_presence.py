"""Presence: which updates the members of a room get and when, and how an entry outlives a reconnect."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from cartows.presence.presence import Presence, PresenceEntry, PresenceReport, PresenceUpdate
from tests.presence.members import BOARD, LEAVE_WAIT, OTHER, Client, Clock, crowd, deliver, enter, flat, remains

# How long a test waits for what must not happen, and for what must, in seconds.
A_MOMENT, AT_MOST = 0.2, 10.0


def test_a_newcomer_gets_the_state_and_the_others_a_diff(presence: Presence[Client]) -> None:
    ann, ben = Client("ann"), Client("ben")
    presence.enter(ann, BOARD, {"at": 1})
    ((ref, _),) = flat(presence.present(*BOARD)).items()
    head = {"key": "board_id", "value": "b1"}
    anns = {"ann": [{"ref": ref, "meta": {"at": 1}}]}
    assert presence.take_updates() == [PresenceUpdate([ann], "presence.state", {**head, "count": 1, "present": anns})]
    presence.enter(ben, BOARD, {})
    bens = {"ben": presence.present(*BOARD)["ben"]}
    assert presence.take_updates() == [
        PresenceUpdate([ben], "presence.state", {**head, "count": 2, "present": anns | bens}),
        PresenceUpdate([ann], "presence.diff", {**head, "count": 2, "joins": bens, "leaves": {}}),
    ]
    presence.leave(ben, BOARD)
    assert presence.take_updates() == [
        PresenceUpdate([ann], "presence.diff", {**head, "count": 1, "joins": {}, "leaves": bens})
    ]
    assert presence.take_updates() == []


def test_all_changes_of_one_iteration_are_one_diff(presence: Presence[Client]) -> None:
    ann, ben = Client("ann"), Client("ben")
    enter(presence, ann, ben)
    cat, dan = Client("cat"), Client("dan")
    presence.enter(cat, BOARD, {})
    presence.leave(ben, BOARD)
    presence.enter(dan, BOARD, {})
    presence.enter(ann, BOARD, {"at": 2})
    state, diff = presence.take_updates()
    assert (state.members, set(state.data["present"])) == ([cat, dan], {"ann", "cat", "dan"})
    assert (diff.members, set(diff.data["joins"]), set(diff.data["leaves"])) == ([ann], {"ann", "cat", "dan"}, {"ben"})


@pytest.mark.parametrize("at_once", [True, False])
def test_a_member_that_comes_and_goes_in_one_iteration_is_in_no_update(clock: Clock, at_once: bool) -> None:
    presence: Presence[Client] = Presence(0.0, 200, clock)
    enter(presence, Client("ann"))
    visitor = Client("ben")
    presence.enter(visitor, BOARD, {})
    presence.gone(visitor, at_once=at_once)
    assert presence.take_updates() == []


def test_a_new_meta_is_a_join_with_the_same_ref_and_an_equal_one_is_nothing(presence: Presence[Client]) -> None:
    ann, ben = Client("ann"), Client("ben")
    enter(presence, ann, ben)
    (ref,) = (tab["ref"] for tab in presence.present(*BOARD)["ann"])
    presence.enter(ann, BOARD, {"at": 1})
    (diff,) = presence.take_updates()
    assert (diff.members, diff.data["joins"]) == ([ann, ben], {"ann": [{"ref": ref, "meta": {"at": 1}}]})
    presence.enter(ann, BOARD, {"at": 1})
    assert presence.take_updates() == []
    # There and back within one iteration.
    presence.enter(ann, BOARD, {"at": 2})
    presence.enter(ann, BOARD, {"at": 1})
    assert presence.take_updates() == []


def test_a_leave_has_the_meta_that_the_others_received(presence: Presence[Client]) -> None:
    ann, ben = Client("ann"), Client("ben")
    enter(presence, ann, ben)
    presence.enter(ben, BOARD, {"at": 1})
    presence.leave(ben, BOARD)
    ((_, _, data),) = presence.take_updates()
    assert (data["joins"], data["leaves"]["ben"][0]["meta"]) == ({}, {})


def test_a_deeply_nested_meta_is_compared(presence: Presence[Client]) -> None:
    # As deep as 1024 bytes allow.
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    enter(presence, Client("ann"), member := Client("ben"))
    presence.enter(member, BOARD, {"a": deep})
    assert len(presence.take_updates()) == 1
    presence.enter(member, BOARD, {"a": [*deep]})
    assert presence.take_updates() == []


def test_each_tab_is_an_entry_below_one_identity(presence: Presence[Client]) -> None:
    first, second = Client("ann"), Client("ann")
    enter(presence, first)
    presence.enter(second, BOARD, {"tab": 2})
    updates = presence.take_updates()
    assert [each.data["count"] for each in updates] == [1, 1]
    assert [tab["meta"] for tab in presence.present(*BOARD)["ann"]] == [{}, {"tab": 2}]
    assert len({tab["ref"] for tab in presence.present(*BOARD)["ann"]}) == 2
    presence.leave(first, BOARD)
    assert [tab["meta"] for tab in presence.present(*BOARD)["ann"]] == [{"tab": 2}]


def test_an_identity_is_a_string_and_without_one_the_client_id(presence: Presence[Client]) -> None:
    anonymous = Client()
    enter(presence, Client(5), Client(0), Client("__proto__"), anonymous)
    assert list(presence.present(*BOARD)) == ["5", "0", "__proto__", anonymous.id]


def test_another_identity_shows_when_it_enters_again(presence: Presence[Client]) -> None:
    ann = Client("ann")
    enter(presence, ann)
    ann.identity = "ben"
    assert list(presence.present(*BOARD)) == ["ann"]
    presence.enter(ann, BOARD, {"at": 1})
    assert list(presence.present(*BOARD)) == ["ben"]
    presence.leave(ann, BOARD)
    assert remains(presence).keys() <= {"_changed"}


def test_an_identity_with_a_lone_surrogate_is_shown_with_a_replacement(presence: Presence[Client]) -> None:
    enter(presence, Client("bob\ud800"))
    assert list(presence.present(*BOARD)) == ["bob?"]


def test_keep_leaves_all_other_rooms_at_once(presence: Presence[Client]) -> None:
    ann = Client("ann")
    for value in ("b1", "b2", "b3"):
        presence.enter(ann, ("board_id", value), {})
    presence.keep(ann, [("board_id", "b2"), ("board_id", "b9")])
    assert [list(presence.present("board_id", value)) for value in ("b1", "b2", "b3")] == [[], ["ann"], []]


def test_refs_of_two_processes_differ(clock: Clock) -> None:
    refs = set()
    for _ in range(2):
        presence: Presence[Client] = Presence(LEAVE_WAIT, 200, clock)
        crowd(presence, 10)
        refs.update(flat(presence.present(*BOARD)))
    assert len(refs) == 20
    assert max(map(len, refs)) <= 16


def test_a_member_leaves_only_the_room_named(presence: Presence[Client]) -> None:
    ann = Client("ann")
    enter(presence, ann)
    enter(presence, ann, room=OTHER)
    presence.leave(ann, BOARD)
    presence.leave(ann, BOARD)
    presence.leave(Client("ben"), OTHER)
    assert presence.present(*BOARD) == {}
    assert list(presence.present(*OTHER)) == ["ann"]


def test_a_disconnect_is_a_leave_when_the_wait_is_over(presence: Presence[Client], clock: Clock) -> None:
    ann, ben = Client("ann"), Client("ben")
    enter(presence, ann, ben)
    enter(presence, ann, ben, room=OTHER)
    start = clock.now
    presence.gone(ben, at_once=False)
    assert presence.next_due() == start + LEAVE_WAIT
    clock.now = start + LEAVE_WAIT - 0.01
    assert presence.take_updates() == []
    assert list(presence.present(*BOARD)) == ["ann", "ben"]
    clock.now = start + LEAVE_WAIT
    updates = presence.take_updates()
    assert [(each.members, set(each.data["leaves"]), each.data["count"]) for each in updates] == [([ann], {"ben"}, 1)] * 2
    assert presence.next_due() is None


def test_a_final_disconnect_is_a_leave_at_once(presence: Presence[Client]) -> None:
    ann, ben = Client("ann"), Client("ben")
    enter(presence, ann, ben)
    presence.gone(ben, at_once=True)
    ((members, _, data),) = presence.take_updates()
    assert (members, set(data["leaves"])) == ([ann], {"ben"})
    assert presence.next_due() is None


def test_a_member_that_returns_in_time_takes_over_its_entry_without_an_update(presence: Presence[Client], clock: Clock) -> None:
    ann, ben = Client("ann"), Client("ben")
    enter(presence, ann, ben)
    before = presence.present(*BOARD)
    presence.gone(ben, at_once=False)
    clock.now += LEAVE_WAIT - 0.01
    back = Client("ben")
    presence.enter(back, BOARD, {})
    (state,) = presence.take_updates()
    assert (state.members, state.type, state.data["present"]) == ([back], "presence.state", before)
    assert presence.next_due() is None
    clock.now += LEAVE_WAIT
    assert presence.take_updates() == []
    assert presence.present(*BOARD) == before


def test_a_member_that_returns_with_another_meta_is_an_update(presence: Presence[Client]) -> None:
    ann, ben = Client("ann"), Client("ben")
    enter(presence, ann, ben)
    (tab,) = presence.present(*BOARD)["ben"]
    presence.gone(ben, at_once=False)
    presence.enter(Client("ben"), BOARD, {"at": 2})
    _, diff = presence.take_updates()
    assert (diff.data["joins"], diff.data["leaves"]) == ({"ben": [{"ref": tab["ref"], "meta": {"at": 2}}]}, {})


def test_a_returning_tab_takes_over_the_oldest_entry_of_its_identity(presence: Presence[Client], clock: Clock) -> None:
    tabs = [Client("ann"), Client("ann"), Client("ben")]
    enter(presence, *tabs)
    first, second = (tab["ref"] for tab in presence.present(*BOARD)["ann"])
    for tab in (tabs[2], tabs[1], tabs[0]):
        presence.gone(tab, at_once=False)
        clock.now += 1
    enter(presence, Client("ann"))
    clock.now += LEAVE_WAIT
    presence.take_updates()
    assert [tab["ref"] for tab in presence.present(*BOARD)["ann"]] == [second]
    assert first != second


def test_a_member_that_returns_after_the_wait_is_new(presence: Presence[Client], clock: Clock) -> None:
    ann, ben = Client("ann"), Client("ben")
    enter(presence, ann, ben)
    (old,) = presence.present(*BOARD)["ben"]
    presence.gone(ben, at_once=False)
    clock.now += LEAVE_WAIT
    deliver(presence.take_updates())
    enter(presence, Client("ben"))
    (new,) = presence.present(*BOARD)["ben"]
    assert new["ref"] != old["ref"]


def test_an_entry_in_a_room_without_members_still_leaves(presence: Presence[Client], clock: Clock) -> None:
    ann = Client("ann")
    enter(presence, ann)
    presence.gone(ann, at_once=False)
    clock.now += LEAVE_WAIT
    assert presence.take_updates() == []
    assert remains(presence) == {}


def test_when_too_many_are_held_back_the_oldest_goes(clock: Clock) -> None:
    presence: Presence[Client] = Presence(LEAVE_WAIT, 20, clock)
    watcher = Client("watcher")
    members = [Client("ann") for _ in range(22)]
    enter(presence, watcher, *members)
    refs = [tab["ref"] for tab in presence.present(*BOARD)["ann"]]
    for member in members[:20]:
        presence.gone(member, at_once=False)
    assert [tab["ref"] for tab in presence.present(*BOARD)["ann"]] == refs
    for member in members[20:]:
        presence.gone(member, at_once=False)
    assert [tab["ref"] for tab in presence.present(*BOARD)["ann"]] == refs[2:]
    # With a small limit a room still holds back enough for many reloads at once.
    small: Presence[Client] = Presence(LEAVE_WAIT, 1, clock)
    members = crowd(small, 17)
    for member in members:
        small.gone(member, at_once=False)
    assert list(small.present(*BOARD)) == [member.identity for member in members[1:]]


# Other threads -----------------------------------------------------------------------------------------------------


def test_the_caller_may_change_what_present_returns(presence: Presence[Client]) -> None:
    presence.enter(Client("ann"), BOARD, meta := {"at": 1})
    meta["at"] = 2
    found = presence.present(*BOARD)
    found["ann"][0]["meta"]["at"] = 3
    found["ann"][0]["ref"] = "mine"
    del found["ann"][:]
    (again,) = presence.present(*BOARD)["ann"]
    assert again["meta"] == {"at": 1}
    assert again["ref"] != "mine"


def test_present_takes_a_value_as_rooms_do(presence: Presence[Client]) -> None:
    presence.enter(Client("ann"), ("board_id", "5"), {})
    assert list(presence.present("board_id", 5)) == ["ann"]
    assert presence.present("board_id", "empty") == {}


@pytest.mark.parametrize("action", ["present", "presence_entries", "enter", "leave", "apply"])
def test_the_roster_is_read_and_changed_under_the_lock(shared: Presence[Client], action: str) -> None:
    presence = shared
    enter(presence, ann := Client("ann"))
    actions = {
        "present": lambda: presence.present(*BOARD),
        "presence_entries": presence.presence_entries,
        "apply": lambda: presence.apply([PresenceReport("p", {"p.ben": PresenceEntry("p.ben", BOARD, "ben", {})})]),
        "enter": lambda: presence.enter(Client("ben"), BOARD, {}),
        "leave": lambda: presence.leave(ann, BOARD),
    }
    done = threading.Event()
    thread = threading.Thread(target=lambda: (actions[action](), done.set()))
    with presence._lock:
        thread.start()
        assert not done.wait(A_MOMENT)
    assert done.wait(AT_MOST)
    thread.join(AT_MOST)
