"""Each attack for a moment, on a real server, beside clients that behave: they must notice nothing.

``python -m tests.hostile`` does the same for longer.
"""

from __future__ import annotations

import time

import pytest

from tests.hostile.attacks import ATTACKS, GONE, Assault, Attack
from tests.hostile.bystanders import Bystanders, PresenceReport
from tests.hostile.stand import APP, CONFIG, Memory, publisher, target_of
from tests.integration.conftest import Serve
from tests.support.harness import GTHREAD, GTHREAD_ATTACHED, Kind, Server
from tests.support.process import wait_for

# How long an attack lasts at the least in this short form, in seconds, and what is published meanwhile; each makes a round.
SECONDS = 0.5
EVENTS = 5

# A token is only asked for in test_tokens.
OPEN = [attack for attack in ATTACKS if attack.name != "forged tokens"]


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve(APP, config=CONFIG)


def attacked(server: Server, *attacks: Attack, seed: int = 1) -> tuple[Assault, PresenceReport]:
    """Attack for a while; return what the attackers and what the others saw."""
    target = target_of(server)
    assault = Assault(target, attacks, seed)
    enough = [attack.name for attack in attacks if not attack.lasts]

    def rounds() -> bool:
        return all(assault.ends[name] for name in enough)

    with Bystanders(target, publisher(server)) as bystanders:
        assault.start()
        try:
            began = time.monotonic()
            wait_for(
                lambda: rounds() and time.monotonic() - began > SECONDS and len(bystanders.accepted) >= EVENTS,
                "the attackers' rounds, and events beside them",
            )
        finally:
            assault.stop()
    return assault, bystanders.report


@pytest.mark.parametrize("attack", OPEN, ids=lambda attack: attack.name.replace(" ", "-"))
def test_the_well_behaved_notice_nothing_of(server: Server, attack: Attack) -> None:
    memory = Memory(server)
    assault, report = attacked(server, attack)
    assert not assault.findings
    assert not report.problems()
    server.check()
    assert not memory.problems()


@pytest.mark.parametrize("kind", [GTHREAD, GTHREAD_ATTACHED], ids=str)
def test_the_well_behaved_notice_nothing_of_all_at_once(serve: Serve, kind: Kind) -> None:
    # Where each client holds a request thread, clients that go slowly are many enough to fill any pool: that is its limit.
    attacks = [attack for attack in OPEN if not attack.starves and not (kind.attached and attack.lasts)]
    server = serve(APP, config=CONFIG, kind=kind, threads=60 if kind.attached else None)
    assault, report = attacked(server, *attacks)
    assert not assault.findings
    assert not report.problems()


def test_who_attacks_is_found_out_by_this_very_suite(server: Server) -> None:
    """An attack whose rounds end otherwise than expected is a finding; so is an event that does not come."""
    wrong = Attack("wrong", "ends otherwise", lambda target, chance, over: GONE, "close 1009", threads=1)
    assault, _ = attacked(server, wrong)
    assert assault.findings
    with Bystanders(target_of(server), lambda number: 200, count=1, patience=0.1) as bystanders:
        wait_for(lambda: bystanders.accepted, "a publication that is none")
    assert bystanders.report.lost == bystanders.report.published > 0
