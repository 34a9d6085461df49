"""The entries of other processes: how they are shown beside those of this one, and what is announced to them."""

from __future__ import annotations

from typing import Any

from cartows.presence.presence import Presence, PresenceEntry, PresenceReport, PresenceUpdate
from cartows.rooms import Room
from tests.presence.members import BOARD, LEAVE_WAIT, OTHER, Client, Clock, deliver, enter, flat, remains


def elsewhere(*identities: str, room: Room = BOARD, process: str = "p", **meta: Any) -> PresenceReport:
    """Return a report of entries of another process, each with a ref of its own."""
    entries = [PresenceEntry(f"{process}.{identity}", room, identity, meta) for identity in identities]
    return PresenceReport(process, {entry.ref: entry for entry in entries})


def gone(process: str = "p") -> PresenceReport:
    return PresenceReport(process, {}, True)


def test_entries_of_other_processes_are_shown_beside_those_of_this_one(presence: Presence[Client]) -> None:
    enter(presence, ann := Client("ann"))
    presence.apply([elsewhere("ann", "ben", at=1)])
    head = {"key": "board_id", "value": "b1", "count": 2}
    theirs = {"ann": [{"ref": "p.ann", "meta": {"at": 1}}], "ben": [{"ref": "p.ben", "meta": {"at": 1}}]}
    assert presence.take_updates() == [PresenceUpdate([ann], "presence.diff", {**head, "joins": theirs, "leaves": {}})]
    presence.enter(cat := Client("cat"), BOARD, {})
    state, _ = presence.take_updates()
    assert (state.members, state.data["present"]) == ([cat], presence.present(*BOARD))
    assert {identity: len(tabs) for identity, tabs in presence.present(*BOARD).items()} == {"ann": 2, "ben": 1, "cat": 1}
    presence.apply([elsewhere("ben", at=2)])
    (diff,) = presence.take_updates()
    assert (diff.data["joins"], diff.data["leaves"]) == ({"ben": [{"ref": "p.ben", "meta": {"at": 2}}]}, {})
    presence.apply([PresenceReport("p", {"p.ann": None, "p.unknown": None})])
    (diff,) = presence.take_updates()
    assert (diff.data["joins"], diff.data["leaves"], diff.data["count"]) == ({}, {"ann": theirs["ann"]}, 3)


def test_entries_of_other_processes_count_for_the_limit(clock: Clock) -> None:
    small: Presence[Client] = Presence(LEAVE_WAIT, 4, clock)
    enter(small, ann := Client("ann"))
    small.apply([elsewhere("b", "c", "d", "e")])
    head = {"key": "board_id", "value": "b1", "count": 5}
    assert small.take_updates() == [PresenceUpdate([ann], "presence.diff", head)]
    small.apply([gone()])
    ((_, type, data),) = small.take_updates()
    assert (type, data["count"], list(data["present"])) == ("presence.state", 1, ["ann"])


def test_with_a_process_its_entries_go_and_no_others(presence: Presence[Client]) -> None:
    enter(presence, Client("ann"))
    presence.apply([elsewhere("ben"), elsewhere("cat", process="q"), elsewhere("dan", room=OTHER)])
    presence.apply([gone()])
    assert list(presence.present(*BOARD)) == ["ann", "cat"]
    assert presence.present(*OTHER) == {}
    presence.apply([gone("q"), gone("unknown")])
    deliver(presence.take_updates())
    assert remains(presence).keys() <= {"_rosters", "_rooms"}


def test_a_process_that_announces_all_its_entries_again_is_a_diff(presence: Presence[Client]) -> None:
    enter(presence, Client("ann"))
    presence.apply([elsewhere("ben", "cat")])
    deliver(presence.take_updates())
    presence.apply([elsewhere("cat", "dan")._replace(whole=True)])
    (diff,) = presence.take_updates()
    assert (list(diff.data["joins"]), list(diff.data["leaves"])) == (["dan"], ["ben"])
    presence.apply([gone(), elsewhere("cat", "dan")._replace(whole=True)])
    assert presence.take_updates() == []


def test_an_entry_that_goes_and_comes_back_in_one_iteration_is_an_update(presence: Presence[Client]) -> None:
    enter(presence, Client("ann"))
    presence.apply([elsewhere("ben", "cat")])
    deliver(presence.take_updates())
    presence.apply([gone(), elsewhere("ben", at=2), elsewhere("cat")])
    (diff,) = presence.take_updates()
    assert (diff.data["joins"], diff.data["leaves"]) == ({"ben": [{"ref": "p.ben", "meta": {"at": 2}}]}, {})


def test_one_ref_is_never_two_entries(presence: Presence[Client]) -> None:
    enter(presence, Client("ann"))
    ((ref, _),) = flat(presence.present(*BOARD)).items()
    presence.apply([elsewhere("ben"), PresenceReport("q", {"p.ben": PresenceEntry("p.ben", BOARD, "cat", {})})])
    presence.apply([PresenceReport("q", {ref: PresenceEntry(ref, BOARD, "dan", {})}), gone("q")])
    assert list(presence.present(*BOARD)) == ["ann", "ben"]


def test_a_page_that_comes_back_on_another_process_is_not_shown_twice(shared: Presence[Client]) -> None:
    enter(shared, Client("ann"), ben := Client("ben"))
    before = shared.present(*BOARD)["ben"]
    shared.gone(ben, at_once=False)
    shared.apply([elsewhere("ben")])
    (diff,) = shared.take_updates()
    assert (list(diff.data["joins"]), diff.data["leaves"], diff.data["count"]) == (["ben"], {"ben": before}, 2)
    assert shared.next_due() is None


def test_a_room_without_members_of_this_process_has_no_updates_and_leaves_nothing(clock: Clock) -> None:
    small: Presence[Client] = Presence(LEAVE_WAIT, 1, clock)
    small.apply([elsewhere("ann", "ben")])
    assert small.take_updates() == []
    assert small.next_due() is None
    assert list(small.present(*BOARD)) == ["ann", "ben"]
    small.apply([gone()])
    assert small.take_updates() == []
    assert remains(small) == {}


def test_the_result_of_an_iteration_is_announced_to_other_processes(shared: Presence[Client], clock: Clock) -> None:
    ann, ben, cat = Client("ann"), Client("ben"), Client("cat")
    enter(shared, ann, ben)
    refs = {identity: tabs[0]["ref"] for identity, tabs in shared.present(*BOARD).items()}
    assert shared.take_changes() == {refs[name]: PresenceEntry(refs[name], BOARD, name, {}) for name in ("ann", "ben")}
    assert shared.take_changes() == {}
    shared.enter(ann, BOARD, {})
    shared.gone(ben, at_once=False)
    shared.take_updates()
    assert shared.take_changes() == {}
    shared.enter(back := Client("ben"), BOARD, {})
    assert shared.take_changes() == {}
    shared.enter(back, BOARD, {"at": 1})
    shared.enter(back, BOARD, {"at": 2})
    assert shared.take_changes() == {refs["ben"]: PresenceEntry(refs["ben"], BOARD, "ben", {"at": 2})}
    shared.gone(back, at_once=False)
    clock.now += LEAVE_WAIT
    shared.leave(ann, BOARD)
    shared.take_updates()
    assert shared.take_changes() == {refs["ann"]: None, refs["ben"]: None}
    shared.enter(cat, BOARD, {})
    shared.leave(cat, BOARD)
    shared.apply([elsewhere("dan"), gone()])
    assert list(shared.take_changes().values()) == [None]
    shared.take_updates()
    assert shared.presence_entries() == []
    assert remains(shared) == {}


def test_without_other_processes_nothing_is_kept_for_them(presence: Presence[Client]) -> None:
    enter(presence, ann := Client("ann"))
    presence.leave(ann, BOARD)
    enter(presence, ann)
    assert (presence.take_changes(), presence.presence_entries()) == ({}, [])
    assert remains(presence).keys() == {"_rosters", "_rooms"}
