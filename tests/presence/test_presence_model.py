"""Presence against a model of plain lists: what each member of a room receives, and what other processes are sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, rule

from cartows.presence import presence as module_under_test
from cartows.presence.presence import Presence, PresenceEntry, PresenceReport
from cartows.rooms import Room
from tests.presence.members import BOARD, LEAVE_WAIT, OTHER, Client, Clock, Received, deliver, ids, remains

LIMIT, MAX_HELD_BACK = 3, 3
ROOMS = st.sampled_from([BOARD, BOARD, BOARD, OTHER])
METAS = st.sampled_from([{}, {"at": 1}, {"at": 2}])
IDENTITIES = st.sampled_from(["ann", "ann", "ben", 5, "5", "__proto__", None])

# The entries that other processes may have.
ELSEWHERE = {
    "p": {"p.1": (BOARD, "ann"), "p.2": (BOARD, "zoe"), "p.3": (OTHER, "ben")},
    "q": {"q.1": (BOARD, "ann"), "q.2": (OTHER, "ann")},
}
REPORTS = st.one_of(
    [
        st.builds(
            lambda entries, whole, process=process: (process, entries, whole),
            st.dictionaries(st.sampled_from(sorted(refs)), st.one_of(METAS, METAS, st.none())),
            st.booleans(),
        )
        for process, refs in ELSEWHERE.items()
    ]
)


@dataclass
class Entry:
    """An entry of the model; without a member it belongs to another process or is held back until ``due``."""

    identity: str
    meta: dict[str, Any]
    member: Client | None
    due: float = 0.0
    #: Orders the entries whose members went at one time.
    went: int = 0
    ref: str | None = None
    process: str | None = None


@dataclass
class Roster:
    """A room of the model."""

    entries: list[Entry] = field(default_factory=list)
    crowded: bool = False
    #: When its members were last sent a count only.
    counted_at: float = float("-inf")

    @property
    def held_back(self) -> list[Entry]:
        mine = (entry for entry in self.entries if entry.member is None and entry.process is None)
        return sorted(mine, key=lambda entry: entry.went)

    @property
    def count(self) -> int:
        return len({entry.identity for entry in self.entries})


class PresenceModel(RuleBasedStateMachine):
    """The same calls on a Presence and on plain lists; what each member has received must agree with the lists."""

    clients = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self.min_held_back = module_under_test._MIN_HELD_BACK
        module_under_test._MIN_HELD_BACK = MAX_HELD_BACK
        self.clock = Clock()
        self.presence: Presence[Client] = Presence(LEAVE_WAIT, LIMIT, self.clock, shared=True)
        #: What has been announced to the other processes, by ref.
        self.announced: dict[str, PresenceEntry] = {}
        self.rosters: dict[Room, Roster] = {}
        self.newcomers: set[tuple[Client, Room]] = set()
        self.connected: list[Client] = []

    def entry(self, client: Client, room: Room) -> Entry | None:
        entries = self.rosters[room].entries if room in self.rosters else []
        return next((entry for entry in entries if entry.member is client), None)

    def remove(self, entry: Entry, room: Room) -> None:
        self.rosters[room].entries.remove(entry)
        if not self.rosters[room].entries:
            del self.rosters[room]

    @rule(target=clients, identity=IDENTITIES)
    def connect(self, identity: Any) -> Client:
        client = Client(identity)
        self.connected.append(client)
        self.enter_one(client, BOARD, {})
        return client

    @rule(client=clients, room=ROOMS, meta=METAS)
    def enter(self, client: Client, room: Room, meta: dict[str, Any]) -> None:
        self.enter_one(client, room, meta)

    def enter_one(self, client: Client, room: Room, meta: dict[str, Any]) -> None:
        given = dict(meta)
        self.presence.enter(client, room, given)
        given["changed"] = "afterwards"
        entry = self.entry(client, room)
        if entry is None:
            identity = client.id if client.identity is None else str(client.identity)
            roster = self.rosters.setdefault(room, Roster())
            entry = next((each for each in roster.held_back if each.identity == identity), None)
            if entry is None:
                entry = Entry(identity, meta, client)
                roster.entries.append(entry)
            entry.member = client
            self.newcomers.add((client, room))
        entry.meta = meta

    @rule(client=clients, room=ROOMS)
    def leave_room(self, client: Client, room: Room) -> None:
        self.leave(client, room)

    def leave(self, client: Client, room: Room) -> None:
        self.presence.leave(client, room)
        entry = self.entry(client, room)
        if entry is not None:
            self.newcomers.discard((client, room))
            client.rooms.pop(room, None)
            self.remove(entry, room)

    @rule(client=consumes(clients), at_once=st.booleans())
    def go(self, client: Client, at_once: bool) -> None:
        self.presence.gone(client, at_once=at_once)
        self.connected.remove(client)
        for room in list(self.rosters):
            entry = self.entry(client, room)
            if entry is None:
                continue
            self.newcomers.discard((client, room))
            if at_once:
                self.remove(entry, room)
                continue
            entry.member, entry.due, entry.went = None, self.clock.now + LEAVE_WAIT, next(ids)
            held_back = self.rosters[room].held_back
            if len(held_back) > MAX_HELD_BACK:
                self.remove(held_back[0], room)

    @rule(reports=st.lists(REPORTS, min_size=1, max_size=3))
    def apply(self, reports: list[tuple[str, dict[str, Any], bool]]) -> None:
        self.presence.apply(
            PresenceReport(
                process,
                {
                    ref: None if meta is None else PresenceEntry(ref, *ELSEWHERE[process][ref], dict(meta))
                    for ref, meta in entries.items()
                },
                whole,
            )
            for process, entries, whole in reports
        )
        for process, entries, whole in reports:
            for room, roster in list(self.rosters.items()):
                for entry in [each for each in roster.entries if each.process == process]:
                    if entries.get(entry.ref or "", None if whole else entry.meta) is None:
                        self.remove(entry, room)
            for ref, meta in entries.items():
                if meta is not None:
                    self.apply_one(process, ref, meta)

    def apply_one(self, process: str, ref: str, meta: dict[str, Any]) -> None:
        room, identity = ELSEWHERE[process][ref]
        roster = self.rosters.setdefault(room, Roster())
        entry = next((each for each in roster.entries if each.ref == ref), None)
        if entry is not None:
            entry.meta = meta
            return
        roster.entries.append(Entry(identity, meta, None, ref=ref, process=process))
        # A client may come back on another process.
        back = next((each for each in roster.held_back if each.identity == identity), None)
        if back is not None:
            self.remove(back, room)

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, LEAVE_WAIT]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(clients=st.lists(clients, min_size=1, max_size=4))
    def leave_after_updates(self, clients: list[Client]) -> None:
        self.update()
        for client in clients:
            self.leave(client, BOARD)
        self.update()

    @rule()
    def update(self) -> None:
        received = deliver(self.presence.take_updates())
        for room, roster in list(self.rosters.items()):
            for entry in [each for each in roster.held_back if each.due <= self.clock.now]:
                self.remove(entry, room)
        for client, room in received:
            assert self.entry(client, room), "a message about a room that it is not in"
        for newcomer in self.newcomers:
            assert received[newcomer][0] == "presence.state", "a newcomer gets its own join"
        for room, roster in self.rosters.items():
            roster.crowded = len(roster.entries) * 4 > LIMIT * 3 if roster.crowded else len(roster.entries) > LIMIT
            self.check_present(room, roster)
            self.check_members(room, roster, received)
        self.check_next_due()
        self.newcomers.clear()
        for ref, change in self.presence.take_changes().items():
            self.announced.pop(ref, None)
            if change is not None:
                self.announced[ref] = change
        mine = [(room, each) for room, roster in self.rosters.items() for each in roster.entries if each.process is None]
        assert self.announced == {each.ref: PresenceEntry(each.ref, room, each.identity, each.meta) for room, each in mine}
        assert {entry.ref: entry for entry in self.presence.presence_entries()} == self.announced

    def check_present(self, room: Room, roster: Roster) -> None:
        present = self.presence.present(*room)
        for identity in {entry.identity for entry in roster.entries}:
            entries = [entry for entry in roster.entries if entry.identity == identity]
            tabs = present.pop(identity)
            assert [tab["meta"] for tab in tabs] == [entry.meta for entry in entries]
            for tab, entry in zip(tabs, entries, strict=True):
                # A ref stays the same when another client takes it over.
                assert entry.ref in (None, tab["ref"])
                entry.ref = tab["ref"]
        assert not present

    def check_members(self, room: Room, roster: Roster, received: dict[tuple[Client, Room], tuple[str, Any]]) -> None:
        entries = {entry.ref: (entry.identity, entry.meta) for entry in roster.entries}
        members = [entry.member for entry in roster.entries if entry.member]
        if not roster.crowded:
            for member in members:
                assert member.rooms[room] == Received(roster.count, entries)  # type: ignore[arg-type]
            return
        counts = [data for (_, where), (type, data) in received.items() if where == room and type == "presence.diff"]
        if counts:
            assert self.clock.now >= roster.counted_at + 1, "counts more than once per second"
            roster.counted_at = self.clock.now
        outdated = [member for member in members if member.rooms[room].count != roster.count]
        if outdated:
            due = self.presence.next_due()
            assert due is not None
            assert self.clock.now < due <= self.clock.now + 1

    def check_next_due(self) -> None:
        due = self.presence.next_due()
        leaves = [entry.due for roster in self.rosters.values() for entry in roster.held_back]
        crowded = any(roster.crowded for roster in self.rosters.values())
        if leaves:
            assert due is not None
            assert due <= min(leaves)
        if not crowded:
            assert due == min(leaves, default=None)

    def teardown(self) -> None:
        try:
            for client in self.connected:
                self.presence.gone(client, at_once=False)
            self.clock.now += LEAVE_WAIT
            self.presence.apply(PresenceReport(process, {}, True) for process in ELSEWHERE)
            assert self.presence.take_updates() == []
            assert self.presence.next_due() is None
            self.presence.take_changes()
            assert remains(self.presence) == {}
        finally:
            module_under_test._MIN_HELD_BACK = self.min_held_back


PresenceModel.TestCase.settings = settings(
    deadline=None,
    report_multiple_bugs=False,
    max_examples=150,
    stateful_step_count=50,
    suppress_health_check=[HealthCheck.too_slow],
)
TestPresenceAgainstAModel = PresenceModel.TestCase
