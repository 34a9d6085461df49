"""Presence: what each member of a room is told, replayed against a plain model; when it is told; and what it costs."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, rule

from cartows.presence import presence as module_under_test
from cartows.presence.presence import Presence, PresenceEntry, PresenceReport, PresenceUpdate
from cartows.rooms import Room
from tests.support.costs import Lines

LEAVE_WAIT = 5.0

BOARD, OTHER = ("board_id", "b1"), ("project_id", "p1")

# How long a test waits for what must not happen, and for what must, in seconds.
A_MOMENT, AT_MOST = 0.2, 10.0

_ids = itertools.count(1)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Knowledge:
    """What a member has been told of one room: its names by ref, None while it is told counts only."""

    count: int
    names: dict[str, tuple[str, Any]] | None


@dataclass(eq=False)
class Client:
    """Be a client, and the page behind it: apply what it is sent, and object to what makes no sense."""

    identity: Any = None
    id: str = field(default_factory=lambda: f"client-{next(_ids)}")
    rooms: dict[Room, Knowledge] = field(default_factory=dict)

    @property
    def identity_key(self) -> str | None:
        return None if self.identity is None else str(self.identity)

    def receive(self, type: str, data: dict[str, Any]) -> None:
        room = data["key"], data["value"]
        if type == "presence.state":
            names = None
            if "present" in data:
                names = flat(data["present"])
                assert len(data["present"]) == data["count"]
            assert set(data) - {"present"} == {"key", "value", "count"}
            self.rooms[room] = Knowledge(data["count"], names)
            return
        assert type == "presence.diff"
        known = self.rooms[room]
        known.count = data["count"]
        if set(data) == {"key", "value", "count"}:
            known.names = None
            return
        assert set(data) == {"key", "value", "count", "joins", "leaves"}
        assert known.names is not None, "a diff of names it does not have"
        joins, leaves = flat(data["joins"]), flat(data["leaves"])
        assert joins or leaves, "a diff of nothing"
        for ref, shown in joins.items():
            assert known.names.get(ref) != shown, "a join of what it knows"
            known.names[ref] = shown
        for ref, shown in leaves.items():
            assert known.names.pop(ref) == shown
        assert len({identity for identity, _ in known.names.values()}) == known.count


def flat(shown: dict[str, list[dict[str, Any]]]) -> dict[str, tuple[str, Any]]:
    """Return what is shown by identity by its ref."""
    found = {each["ref"]: (identity, each["meta"]) for identity, tabs in shown.items() for each in tabs}
    assert len(found) == sum(map(len, shown.values())), "a ref stands for two"
    assert all(shown.values()), "an identity without a tab"
    return found


def deliver(news: list[PresenceUpdate]) -> dict[tuple[Client, Room], tuple[str, dict[str, Any]]]:
    """Give the news to those it is for; return what each was told of each room, which is one thing at most."""
    told: dict[tuple[Client, Room], tuple[str, dict[str, Any]]] = {}
    for members, type, data in news:
        assert members, "news for nobody"
        for member in members:
            place = member, (data["key"], data["value"])
            assert place not in told, "told twice of one room"
            told[place] = type, data
            member.receive(type, data)
    return told


def remains(presence: Presence[Client]) -> dict[str, Any]:
    """Return what a presence still holds of those who were there."""
    return {name: held for name, held in vars(presence).items() if isinstance(held, dict | list) and held}


# Against a model ---------------------------------------------------------------------------------------------------

LIMIT, MAX_HELD_BACK = 3, 3
ROOMS = st.sampled_from([BOARD, BOARD, BOARD, OTHER])
METAS = st.sampled_from([{}, {"at": 1}, {"at": 2}])
IDENTITIES = st.sampled_from(["ann", "ann", "ben", 5, "5", "__proto__", None])

# Who may be in other processes, and where.
ELSEWHERE = {
    "p": {"p.1": (BOARD, "ann"), "p.2": (BOARD, "zoe"), "p.3": (OTHER, "ben")},
    "q": {"q.1": (BOARD, "ann"), "q.2": (OTHER, "ann")},
}
REPORTS = st.one_of(
    [
        st.builds(
            lambda people, whole, process=process: (process, people, whole),
            st.dictionaries(st.sampled_from(sorted(refs)), st.one_of(METAS, METAS, st.none())),
            st.booleans(),
        )
        for process, refs in ELSEWHERE.items()
    ]
)


@dataclass
class Somebody:
    """Be an entry of the model; without a member, of another process or held back until ``due``."""

    identity: str
    meta: dict[str, Any]
    member: Client | None
    due: float = 0.0
    #: Orders those who went at one time.
    went: int = 0
    ref: str | None = None
    process: str | None = None


@dataclass
class Place:
    """Be a room of the model."""

    people: list[Somebody] = field(default_factory=list)
    crowded: bool = False
    #: When its members were last told a count only.
    counted_at: float = float("-inf")

    @property
    def held_back(self) -> list[Somebody]:
        mine = (person for person in self.people if person.member is None and person.process is None)
        return sorted(mine, key=lambda person: person.went)

    @property
    def count(self) -> int:
        return len({person.identity for person in self.people})


class PresenceModel(RuleBasedStateMachine):
    """Do the same to Presence and to plain lists, and compare what each member has been told with what is so."""

    clients = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self.least_held_back = module_under_test._LEAST_HELD_BACK
        module_under_test._LEAST_HELD_BACK = MAX_HELD_BACK
        self.clock = Clock()
        self.presence: Presence[Client] = Presence(LEAVE_WAIT, LIMIT, self.clock, shared=True)
        #: What the other processes have been told, by ref.
        self.told: dict[str, PresenceEntry] = {}
        self.places: dict[Room, Place] = {}
        self.newcomers: set[tuple[Client, Room]] = set()
        self.everybody: list[Client] = []

    def person(self, client: Client, room: Room) -> Somebody | None:
        people = self.places[room].people if room in self.places else []
        return next((person for person in people if person.member is client), None)

    def remove(self, person: Somebody, room: Room) -> None:
        self.places[room].people.remove(person)
        if not self.places[room].people:
            del self.places[room]

    @rule(target=clients, identity=IDENTITIES)
    def connect(self, identity: Any) -> Client:
        client = Client(identity)
        self.everybody.append(client)
        self.enter_one(client, BOARD, {})
        return client

    @rule(client=clients, room=ROOMS, meta=METAS)
    def enter(self, client: Client, room: Room, meta: dict[str, Any]) -> None:
        self.enter_one(client, room, meta)

    def enter_one(self, client: Client, room: Room, meta: dict[str, Any]) -> None:
        given = dict(meta)
        self.presence.enter(client, room, given)
        given["changed"] = "afterwards"
        person = self.person(client, room)
        if person is None:
            identity = client.id if client.identity is None else str(client.identity)
            place = self.places.setdefault(room, Place())
            person = next((each for each in place.held_back if each.identity == identity), None)
            if person is None:
                person = Somebody(identity, meta, client)
                place.people.append(person)
            person.member = client
            self.newcomers.add((client, room))
        person.meta = meta

    @rule(client=clients, room=ROOMS)
    def leave_room(self, client: Client, room: Room) -> None:
        self.leave(client, room)

    def leave(self, client: Client, room: Room) -> None:
        self.presence.leave(client, room)
        person = self.person(client, room)
        if person is not None:
            self.newcomers.discard((client, room))
            client.rooms.pop(room, None)
            self.remove(person, room)

    @rule(client=consumes(clients), at_once=st.booleans())
    def go(self, client: Client, at_once: bool) -> None:
        self.presence.gone(client, at_once=at_once)
        self.everybody.remove(client)
        for room in list(self.places):
            person = self.person(client, room)
            if person is None:
                continue
            self.newcomers.discard((client, room))
            if at_once:
                self.remove(person, room)
                continue
            person.member, person.due, person.went = None, self.clock.now + LEAVE_WAIT, next(_ids)
            held_back = self.places[room].held_back
            if len(held_back) > MAX_HELD_BACK:
                self.remove(held_back[0], room)

    @rule(reports=st.lists(REPORTS, min_size=1, max_size=3))
    def hear(self, reports: list[tuple[str, dict[str, Any], bool]]) -> None:
        self.presence.apply(
            PresenceReport(
                process,
                {
                    ref: None if meta is None else PresenceEntry(ref, *ELSEWHERE[process][ref], dict(meta))
                    for ref, meta in people.items()
                },
                whole,
            )
            for process, people, whole in reports
        )
        for process, people, whole in reports:
            for room, place in list(self.places.items()):
                for person in [each for each in place.people if each.process == process]:
                    if people.get(person.ref or "", None if whole else person.meta) is None:
                        self.remove(person, room)
            for ref, meta in people.items():
                if meta is not None:
                    self.hear_one(process, ref, meta)

    def hear_one(self, process: str, ref: str, meta: dict[str, Any]) -> None:
        room, identity = ELSEWHERE[process][ref]
        place = self.places.setdefault(room, Place())
        person = next((each for each in place.people if each.ref == ref), None)
        if person is not None:
            person.meta = meta
            return
        place.people.append(Somebody(identity, meta, None, ref=ref, process=process))
        # Whoever comes back may do so by another process.
        back = next((each for each in place.held_back if each.identity == identity), None)
        if back is not None:
            self.remove(back, room)

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, LEAVE_WAIT]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(clients=st.lists(clients, min_size=1, max_size=4))
    def leave_and_turn(self, clients: list[Client]) -> None:
        self.turn()
        for client in clients:
            self.leave(client, BOARD)
        self.turn()

    @rule()
    def turn(self) -> None:
        told = deliver(self.presence.take_updates())
        for room, place in list(self.places.items()):
            for person in [each for each in place.held_back if each.due <= self.clock.now]:
                self.remove(person, room)
        for client, room in told:
            assert self.person(client, room), "told of a room it is not in"
        for newcomer in self.newcomers:
            assert told[newcomer][0] == "presence.state", "a newcomer is told of its own join"
        for room, place in self.places.items():
            place.crowded = len(place.people) * 4 > LIMIT * 3 if place.crowded else len(place.people) > LIMIT
            self.check_rosters(room, place)
            self.check_what_is_known(room, place, told)
        self.check_next_due()
        self.newcomers.clear()
        for ref, change in self.presence.take_changes().items():
            self.told.pop(ref, None)
            if change is not None:
                self.told[ref] = change
        mine = [(room, each) for room, place in self.places.items() for each in place.people if each.process is None]
        assert self.told == {each.ref: PresenceEntry(each.ref, room, each.identity, each.meta) for room, each in mine}
        assert {person.ref: person for person in self.presence.presence_entries()} == self.told

    def check_rosters(self, room: Room, place: Place) -> None:
        present = self.presence.present(*room)
        for identity in {person.identity for person in place.people}:
            people = [person for person in place.people if person.identity == identity]
            tabs = present.pop(identity)
            assert [tab["meta"] for tab in tabs] == [person.meta for person in people]
            for tab, person in zip(tabs, people, strict=True):
                # A ref stays what it was, whoever takes it over.
                assert person.ref in (None, tab["ref"])
                person.ref = tab["ref"]
        assert not present

    def check_what_is_known(self, room: Room, place: Place, told: dict[tuple[Client, Room], tuple[str, Any]]) -> None:
        entries = {person.ref: (person.identity, person.meta) for person in place.people}
        members = [person.member for person in place.people if person.member]
        if not place.crowded:
            for member in members:
                assert member.rooms[room] == Knowledge(place.count, entries)  # type: ignore[arg-type]
            return
        counts = [data for (_, where), (type, data) in told.items() if where == room and type == "presence.diff"]
        if counts:
            assert self.clock.now >= place.counted_at + 1, "counts more than once a second"
            place.counted_at = self.clock.now
        wrong = [member for member in members if member.rooms[room].count != place.count]
        if wrong:
            due = self.presence.next_due()
            assert due is not None
            assert self.clock.now < due <= self.clock.now + 1

    def check_next_due(self) -> None:
        due = self.presence.next_due()
        leaves = [person.due for place in self.places.values() for person in place.held_back]
        crowded = any(place.crowded for place in self.places.values())
        if leaves:
            assert due is not None
            assert due <= min(leaves)
        if not crowded:
            assert due == min(leaves, default=None)

    def teardown(self) -> None:
        try:
            for client in self.everybody:
                self.presence.gone(client, at_once=False)
            self.clock.now += LEAVE_WAIT
            self.presence.apply(PresenceReport(process, {}, True) for process in ELSEWHERE)
            assert self.presence.take_updates() == []
            assert self.presence.next_due() is None
            self.presence.take_changes()
            assert remains(self.presence) == {}
        finally:
            module_under_test._LEAST_HELD_BACK = self.least_held_back


PresenceModel.TestCase.settings = settings(
    deadline=None,
    report_multiple_bugs=False,
    max_examples=150,
    stateful_step_count=50,
    suppress_health_check=[HealthCheck.too_slow],
)
TestPresenceAgainstAModel = PresenceModel.TestCase


# What is told, and when --------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def presence(clock: Clock) -> Presence[Client]:
    return Presence(LEAVE_WAIT, 200, clock)


def enter(presence: Presence[Client], *members: Client, room: Room = BOARD) -> None:
    """Let members enter, and be told."""
    for member in members:
        presence.enter(member, room, {})
    deliver(presence.take_updates())


def crowd(presence: Presence[Client], number: int) -> list[Client]:
    members = [Client(f"person {index}") for index in range(number)]
    enter(presence, *members)
    return members


def test_who_enters_gets_the_state_and_the_others_a_diff(presence: Presence[Client]) -> None:
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


def test_all_that_happens_in_one_turn_is_one_diff(presence: Presence[Client]) -> None:
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
def test_nobody_is_told_of_who_came_and_went_in_one_turn(clock: Clock, at_once: bool) -> None:
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
    # There and back within one turn.
    presence.enter(ann, BOARD, {"at": 2})
    presence.enter(ann, BOARD, {"at": 1})
    assert presence.take_updates() == []


def test_who_leaves_is_shown_as_the_others_knew_it(presence: Presence[Client]) -> None:
    ann, ben = Client("ann"), Client("ben")
    enter(presence, ann, ben)
    presence.enter(ben, BOARD, {"at": 1})
    presence.leave(ben, BOARD)
    ((_, _, data),) = presence.take_updates()
    assert (data["joins"], data["leaves"]["ben"][0]["meta"]) == ({}, {})


def test_a_deep_meta_is_no_trouble(presence: Presence[Client]) -> None:
    # What fits into 1024 bytes.
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
    news = presence.take_updates()
    assert [each.data["count"] for each in news] == [1, 1]
    assert [tab["meta"] for tab in presence.present(*BOARD)["ann"]] == [{}, {"tab": 2}]
    assert len({tab["ref"] for tab in presence.present(*BOARD)["ann"]}) == 2
    presence.leave(first, BOARD)
    assert [tab["meta"] for tab in presence.present(*BOARD)["ann"]] == [{"tab": 2}]


def test_an_identity_is_its_text_and_without_one_the_clients_id(presence: Presence[Client]) -> None:
    nobody = Client()
    enter(presence, Client(5), Client(0), Client("__proto__"), nobody)
    assert list(presence.present(*BOARD)) == ["5", "0", "__proto__", nobody.id]


def test_another_identity_shows_when_it_enters_again(presence: Presence[Client]) -> None:
    ann = Client("ann")
    enter(presence, ann)
    ann.identity = "ben"
    assert list(presence.present(*BOARD)) == ["ann"]
    presence.enter(ann, BOARD, {"at": 1})
    assert list(presence.present(*BOARD)) == ["ben"]
    presence.leave(ann, BOARD)
    assert remains(presence).keys() <= {"_changed"}


def test_an_identity_that_no_message_can_hold_is_shown_as_far_as_it_can_be(presence: Presence[Client]) -> None:
    enter(presence, Client("bob\ud800"))
    assert list(presence.present(*BOARD)) == ["bob?"]


def test_a_member_keeps_the_rooms_it_is_said_to_and_leaves_the_others_at_once(presence: Presence[Client]) -> None:
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


def test_who_leaves_a_room_leaves_only_that(presence: Presence[Client]) -> None:
    ann = Client("ann")
    enter(presence, ann)
    enter(presence, ann, room=OTHER)
    presence.leave(ann, BOARD)
    presence.leave(ann, BOARD)
    presence.leave(Client("ben"), OTHER)
    assert presence.present(*BOARD) == {}
    assert list(presence.present(*OTHER)) == ["ann"]


def test_a_disconnect_is_told_of_when_the_wait_is_over(presence: Presence[Client], clock: Clock) -> None:
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
    news = presence.take_updates()
    assert [(each.members, set(each.data["leaves"]), each.data["count"]) for each in news] == [([ann], {"ben"}, 1)] * 2
    assert presence.next_due() is None


def test_a_final_disconnect_is_told_of_at_once(presence: Presence[Client]) -> None:
    ann, ben = Client("ann"), Client("ben")
    enter(presence, ann, ben)
    presence.gone(ben, at_once=True)
    ((members, _, data),) = presence.take_updates()
    assert (members, set(data["leaves"])) == ([ann], {"ben"})
    assert presence.next_due() is None


def test_who_comes_back_in_time_takes_over_its_entry_and_nothing_is_told(presence: Presence[Client], clock: Clock) -> None:
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


def test_who_comes_back_with_another_meta_is_an_update(presence: Presence[Client]) -> None:
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


def test_after_the_wait_who_comes_back_is_new(presence: Presence[Client], clock: Clock) -> None:
    ann, ben = Client("ann"), Client("ben")
    enter(presence, ann, ben)
    (old,) = presence.present(*BOARD)["ben"]
    presence.gone(ben, at_once=False)
    clock.now += LEAVE_WAIT
    deliver(presence.take_updates())
    enter(presence, Client("ben"))
    (new,) = presence.present(*BOARD)["ben"]
    assert new["ref"] != old["ref"]


def test_an_entry_that_nobody_is_left_to_see_still_goes(presence: Presence[Client], clock: Clock) -> None:
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
    # A room that is small on purpose still lets its people reload at once.
    small: Presence[Client] = Presence(LEAVE_WAIT, 1, clock)
    members = crowd(small, 17)
    for member in members:
        small.gone(member, at_once=False)
    assert list(small.present(*BOARD)) == [member.identity for member in members[1:]]


# A room too large for names ----------------------------------------------------------------------------------------


@pytest.fixture
def small(clock: Clock) -> Presence[Client]:
    return Presence(LEAVE_WAIT, 4, clock)


def test_a_room_over_the_limit_is_told_counts_only(small: Presence[Client]) -> None:
    members = crowd(small, 4)
    last = Client("last")
    small.enter(last, BOARD, {})
    head = {"key": "board_id", "value": "b1", "count": 5}
    assert small.take_updates() == [
        PresenceUpdate([last], "presence.state", head),
        PresenceUpdate(members, "presence.diff", head),
    ]
    assert len(small.present(*BOARD)) == 5


def test_tabs_fill_a_room_whosoever_they_are(small: Presence[Client]) -> None:
    tabs = [Client("guest") for _ in range(5)]
    enter(small, *tabs[:4])
    small.enter(tabs[4], BOARD, {})
    # Those who were told names hear that there will be no more of them, though there are no more people.
    head = {"key": "board_id", "value": "b1", "count": 1}
    assert small.take_updates() == [
        PresenceUpdate(tabs[4:], "presence.state", head),
        PresenceUpdate(tabs[:4], "presence.diff", head),
    ]


def test_counts_are_told_once_a_second_at_most_and_the_last_is_always_told(small: Presence[Client], clock: Clock) -> None:
    members = crowd(small, 4)
    enter(small, Client("5"))
    start = clock.now
    for name in range(6, 10):
        clock.now += 0.2
        small.enter(late := Client(str(name)), BOARD, {})
        (state,) = small.take_updates()
        assert (state.members, state.data["count"]) == ([late], name)
        assert small.next_due() == start + 1
    clock.now = start + 1
    ((told, type, data),) = small.take_updates()
    assert (told[:4], type, data["count"]) == (members, "presence.diff", 9)
    # With nothing to tell nothing waits, and what comes after a quiet second is told at once.
    assert small.next_due() is None
    clock.now += 1
    assert small.take_updates() == []
    small.leave(members[0], BOARD)
    assert [each.data["count"] for each in small.take_updates()] == [8]


def test_a_newcomer_whose_count_is_no_longer_right_is_told(small: Presence[Client], clock: Clock) -> None:
    members = crowd(small, 6)
    enter(small, newcomer := Client("newcomer"))
    clock.now += 0.1
    small.enter(late := Client("late"), BOARD, {})
    deliver(small.take_updates())
    small.leave(members[0], BOARD)
    deliver(small.take_updates())
    assert late.rooms[BOARD].count == 8
    clock.now += 1
    deliver(small.take_updates())
    assert {member.rooms[BOARD].count for member in [*members[1:], newcomer, late]} == {7}


def test_a_new_meta_or_another_tab_does_not_change_the_count(small: Presence[Client], clock: Clock) -> None:
    members = crowd(small, 6)
    clock.now += 1
    deliver(small.take_updates())
    clock.now += 1
    small.enter(members[0], BOARD, {"at": 1})
    assert small.take_updates() == []
    small.enter(Client(members[0].identity), BOARD, {})
    (state,) = small.take_updates()
    assert state.type == "presence.state"
    assert small.next_due() is None


def test_a_room_that_has_shrunk_to_three_quarters_is_told_names_again(small: Presence[Client], clock: Clock) -> None:
    members = crowd(small, 6)
    clock.now += 1
    deliver(small.take_updates())
    small.enter(members[5], BOARD, {"at": 1})
    for member in members[:2]:
        small.leave(member, BOARD)
    # Four of four: a room about the limit does not change its mind with every visitor.
    ((_, type, data),) = small.take_updates()
    assert (type, set(data)) == ("presence.diff", {"key", "value", "count"})
    small.leave(members[2], BOARD)
    news = small.take_updates()
    deliver(news)
    ((told, type, data),) = news
    assert (told, type, data["present"]) == (members[3:], "presence.state", small.present(*BOARD))
    assert data["present"]["person 5"][0]["meta"] == {"at": 1}
    assert small.next_due() is None
    enter(small, newcomer := Client("newcomer"))
    assert members[5].rooms[BOARD].names == newcomer.rooms[BOARD].names == flat(small.present(*BOARD))


def test_a_room_that_fills_up_again_is_told(small: Presence[Client], clock: Clock) -> None:
    members = crowd(small, 5)
    for member in members[:2]:
        small.leave(member, BOARD)
    deliver(small.take_updates())
    clock.now += 1
    enter(small, Client("a"), Client("b"))
    # The fifth identity, as there were five before: no name is told from here, and everybody must know.
    assert small.take_updates() == []
    assert {member.rooms[BOARD].names is None for member in members[2:]} == {True}


# Other processes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def shared(clock: Clock) -> Presence[Client]:
    return Presence(LEAVE_WAIT, 200, clock, shared=True)


def elsewhere(*identities: str, room: Room = BOARD, process: str = "p", **meta: Any) -> PresenceReport:
    """Tell of people of another process, each with a ref of its own."""
    people = [PresenceEntry(f"{process}.{identity}", room, identity, meta) for identity in identities]
    return PresenceReport(process, {person.ref: person for person in people})


def gone(process: str = "p") -> PresenceReport:
    return PresenceReport(process, {}, True)


def test_people_of_other_processes_are_shown_beside_those_of_this_one(presence: Presence[Client]) -> None:
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
    presence.apply([PresenceReport("p", {"p.ann": None, "p.nobody": None})])
    (diff,) = presence.take_updates()
    assert (diff.data["joins"], diff.data["leaves"], diff.data["count"]) == ({}, {"ann": theirs["ann"]}, 3)


def test_people_of_other_processes_fill_a_room(clock: Clock) -> None:
    small: Presence[Client] = Presence(LEAVE_WAIT, 4, clock)
    enter(small, ann := Client("ann"))
    small.apply([elsewhere("b", "c", "d", "e")])
    head = {"key": "board_id", "value": "b1", "count": 5}
    assert small.take_updates() == [PresenceUpdate([ann], "presence.diff", head)]
    small.apply([gone()])
    ((_, type, data),) = small.take_updates()
    assert (type, data["count"], list(data["present"])) == ("presence.state", 1, ["ann"])


def test_a_process_that_goes_takes_its_people_and_no_others(presence: Presence[Client]) -> None:
    enter(presence, Client("ann"))
    presence.apply([elsewhere("ben"), elsewhere("cat", process="q"), elsewhere("dan", room=OTHER)])
    presence.apply([gone()])
    assert list(presence.present(*BOARD)) == ["ann", "cat"]
    assert presence.present(*OTHER) == {}
    presence.apply([gone("q"), gone("nobody's")])
    deliver(presence.take_updates())
    assert remains(presence).keys() <= {"_rosters", "_rooms"}


def test_a_process_that_tells_all_its_people_again_is_a_diff(presence: Presence[Client]) -> None:
    enter(presence, Client("ann"))
    presence.apply([elsewhere("ben", "cat")])
    deliver(presence.take_updates())
    presence.apply([elsewhere("cat", "dan")._replace(whole=True)])
    (diff,) = presence.take_updates()
    assert (list(diff.data["joins"]), list(diff.data["leaves"])) == (["dan"], ["ben"])
    presence.apply([gone(), elsewhere("cat", "dan")._replace(whole=True)])
    assert presence.take_updates() == []


def test_who_goes_and_comes_back_in_one_turn_is_told_as_it_is_then(presence: Presence[Client]) -> None:
    enter(presence, Client("ann"))
    presence.apply([elsewhere("ben", "cat")])
    deliver(presence.take_updates())
    presence.apply([gone(), elsewhere("ben", at=2), elsewhere("cat")])
    (diff,) = presence.take_updates()
    assert (diff.data["joins"], diff.data["leaves"]) == ({"ben": [{"ref": "p.ben", "meta": {"at": 2}}]}, {})


def test_one_ref_is_never_two_people(presence: Presence[Client]) -> None:
    enter(presence, Client("ann"))
    ((ref, _),) = flat(presence.present(*BOARD)).items()
    presence.apply([elsewhere("ben"), PresenceReport("q", {"p.ben": PresenceEntry("p.ben", BOARD, "cat", {})})])
    presence.apply([PresenceReport("q", {ref: PresenceEntry(ref, BOARD, "dan", {})}), gone("q")])
    assert list(presence.present(*BOARD)) == ["ann", "ben"]


def test_a_page_that_comes_back_by_another_process_is_not_shown_twice(shared: Presence[Client]) -> None:
    enter(shared, Client("ann"), ben := Client("ben"))
    before = shared.present(*BOARD)["ben"]
    shared.gone(ben, at_once=False)
    shared.apply([elsewhere("ben")])
    (diff,) = shared.take_updates()
    assert (list(diff.data["joins"]), diff.data["leaves"], diff.data["count"]) == (["ben"], {"ben": before}, 2)
    assert shared.next_due() is None


def test_a_room_of_others_alone_is_nobodys_news_and_leaves_nothing(clock: Clock) -> None:
    small: Presence[Client] = Presence(LEAVE_WAIT, 1, clock)
    small.apply([elsewhere("ann", "ben")])
    assert small.take_updates() == []
    assert small.next_due() is None
    assert list(small.present(*BOARD)) == ["ann", "ben"]
    small.apply([gone()])
    assert small.take_updates() == []
    assert remains(small) == {}


def test_other_processes_are_told_what_comes_of_a_turn(shared: Presence[Client], clock: Clock) -> None:
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


# Other threads -----------------------------------------------------------------------------------------------------


def test_what_present_returns_is_the_callers_own(presence: Presence[Client]) -> None:
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
    assert presence.present("board_id", "nobody's") == {}


@pytest.mark.parametrize("action", ["present", "people", "enter", "leave", "hear"])
def test_the_roster_is_read_and_changed_under_the_lock(shared: Presence[Client], action: str) -> None:
    presence = shared
    enter(presence, ann := Client("ann"))
    actions = {
        "present": lambda: presence.present(*BOARD),
        "people": presence.presence_entries,
        "hear": lambda: presence.apply([elsewhere("ben")]),
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


# What it costs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def costs() -> Iterator[list[int]]:
    """Take what the same work cost among few and among many, and see that it was the same."""
    found: list[int] = []
    yield found
    assert 0 < found[0] == found[1], found


def test_a_change_costs_its_room_and_not_the_others(clock: Clock, costs: list[int]) -> None:
    for others in (10, 2000):
        presence: Presence[Client] = Presence(LEAVE_WAIT, 200, clock)
        for index in range(others):
            presence.enter(other := Client(f"other {index}"), ("board_id", f"other {index}"), {})
            presence.enter(Client("somebody"), ("board_id", f"other {index}"), {})
            presence.take_updates()
            if index % 2:
                clock.now += 0.0001
                presence.gone(other, at_once=False)
        members = crowd(presence, 5)
        with Lines(module_under_test) as lines:
            presence.enter(Client("ann"), BOARD, {})
            presence.take_updates()
            presence.leave(members[0], BOARD)
            presence.gone(members[1], at_once=True)
            presence.take_updates()
            presence.next_due()
        costs.append(lines.count)


def test_a_join_over_the_limit_does_not_cost_the_room(small: Presence[Client], clock: Clock, costs: list[int]) -> None:
    for size in (10, 2000):
        room = ("board_id", str(size))
        enter(small, *(Client(f"person {index}") for index in range(size)), room=room)
        enter(small, Client("the first to be counted"), room=room)
        with Lines(module_under_test) as lines:
            small.enter(Client("ann"), room, {})
            small.take_updates()
        costs.append(lines.count)
        # That the count above can tell the difference.
        clock.now += 1
        with Lines(module_under_test) as lines:
            small.take_updates()
        assert lines.count > size


def test_news_of_another_process_does_not_cost_its_other_people(clock: Clock, costs: list[int]) -> None:
    for size in (10, 2000):
        presence: Presence[Client] = Presence(LEAVE_WAIT, 5000, clock)
        presence.apply([elsewhere(*map(str, range(size)))])
        enter(presence, Client("ann"))
        with Lines(module_under_test) as lines:
            presence.apply([elsewhere("ben"), elsewhere("1", at=2), PresenceReport("p", {"p.2": None})])
            presence.take_updates()
        costs.append(lines.count)


def test_who_comes_back_does_not_cost_those_who_are_held_back(clock: Clock, costs: list[int]) -> None:
    for size in (10, 2000):
        presence: Presence[Client] = Presence(LEAVE_WAIT, 5000, clock)
        members = crowd(presence, size)
        for member in members:
            presence.gone(member, at_once=False)
        with Lines(module_under_test) as lines:
            presence.enter(Client(members[-2].identity), BOARD, {})
            presence.enter(Client("new"), BOARD, {})
        costs.append(lines.count)


def test_a_room_that_lives_on_keeps_nothing_of_its_visitors(presence: Presence[Client], clock: Clock) -> None:
    enter(presence, Client("ann"))
    for index in range(300):
        presence.enter(visitor := Client(f"visitor {index}"), BOARD, {})
        presence.gone(visitor, at_once=False)
        for _ in range(3):
            presence.enter(passer := Client("passer"), BOARD, {})
            presence.take_updates()
            presence.leave(passer, BOARD)
        assert len(presence._schedule) <= 2
        clock.now += LEAVE_WAIT
        presence.take_updates()
    (roster,) = presence._rosters.values()
    assert sum(len(held) for held in vars(roster).values() if isinstance(held, dict)) == 3, vars(roster)


def test_what_is_left_of_rooms_that_have_gone_goes_with_time(presence: Presence[Client], clock: Clock) -> None:
    for index in range(1000):
        presence.enter(first := Client("ann"), ("board_id", str(index)), {})
        presence.gone(first, at_once=False)
        presence.enter(second := Client("ann"), ("board_id", str(index)), {})
        presence.leave(second, ("board_id", str(index)))
    presence.take_updates()
    assert presence.next_due() is None
    assert remains(presence) == {}
