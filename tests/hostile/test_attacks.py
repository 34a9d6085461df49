"""Each attack for a short time, on a real server, beside well-behaved clients, which must not notice it.

``python -m tests.hostile`` does the same for longer.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from tests.hostile.attacks import ATTACKS, GONE, Assault, Attack
from tests.hostile.bystanders import Bystanders, Report
from tests.hostile.own_server import APP, CONFIG, publisher, target_of
from tests.hostile.table import Result, catalogue, summary
from tests.hostile.watch import Watch
from tests.integration.conftest import Serve
from tests.support.harness import GTHREAD, GTHREAD_ATTACHED, Kind, Server
from tests.support.waiting import wait_until

# The minimum duration of an attack here, in seconds, and of events beside it; each attack also completes a round.
SECONDS = 0.5
EVENTS = 5

# Tokens are required in test_tokens only.
OPEN = [attack for attack in ATTACKS if attack.name != "forged tokens"]


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve(APP, config=CONFIG)


def attacked(server: Server, *attacks: Attack, seed: int = 1) -> tuple[Assault, Report]:
    """Attack for a while; return the attackers' and the bystanders' results."""
    target = target_of(server)
    assault = Assault(target, attacks, seed)
    enough = [attack.name for attack in attacks if not attack.lasts]

    def rounds() -> bool:
        return all(assault.ends[name] for name in enough)

    with Bystanders(target, publisher(server)) as bystanders:
        assault.start()
        try:
            began = time.monotonic()
            wait_until(
                lambda: rounds() and time.monotonic() - began > SECONDS and len(bystanders.accepted) >= EVENTS,
                "the attackers' rounds, and events beside them",
            )
        finally:
            assault.stop()
    return assault, bystanders.report


@pytest.mark.parametrize("attack", OPEN, ids=lambda attack: attack.name.replace(" ", "-"))
def test_well_behaved_clients_do_not_notice(server: Server, attack: Attack) -> None:
    with Watch(server) as watch:
        assault, report = attacked(server, attack)
    assert not assault.findings
    assert not report.problems()
    server.check()
    assert not watch.problems(None if attack.lasts else sum(assault.ends[attack.name].values()))


@pytest.mark.parametrize("kind", [GTHREAD, GTHREAD_ATTACHED], ids=str)
def test_well_behaved_clients_do_not_notice_all_attacks_at_once(serve: Serve, kind: Kind) -> None:
    # Where each client holds a request thread, slow clients can fill any pool, which is a known limit of that mode.
    attacks = [attack for attack in OPEN if not attack.starves and not (kind.attached and attack.lasts)]
    server = serve(APP, config=CONFIG, kind=kind, threads=60 if kind.attached else None)
    assault, report = attacked(server, *attacks)
    assert not assault.findings
    assert not report.problems()


def test_an_unexpected_end_and_a_lost_event_are_reported(server: Server) -> None:
    """An attack whose rounds end otherwise than expected is a finding; so is an event that does not arrive."""
    wrong = Attack("wrong", "ends unexpectedly", lambda target, rng, stop: GONE, "close 1009", "nothing", threads=1)
    assault, _ = attacked(server, wrong)
    assert assault.findings
    with Bystanders(target_of(server), lambda number: 200, count=1, wait_limit=0.1) as bystanders:
        wait_until(lambda: bystanders.accepted, "an accepted event that was never published")
    assert bystanders.report.lost == bystanders.report.published > 0


def test_the_documentation_has_every_attack_and_what_holds_it() -> None:
    page = Path(__file__).parents[2] / "docs" / "explanation" / "security-model.md"
    assert catalogue() in page.read_text(), "the table under 'Attack it' is that of python -m tests.hostile --list"


def test_the_summary_says_what_held_and_what_did_not() -> None:
    report = Report(
        clients=1, published=1, lost=0, disconnected=0, unanswered=0, http=1, http_failed=0, http_slowest=0.0, p99=0.0
    )
    good, bad = ATTACKS[:2]
    results = [
        Result((attack,), {attack.name: Counter({"gone": 3})}, report, problems)
        for attack, problems in ((good, []), (bad, ["an event was lost"]))
    ]
    text = summary(results)
    assert f"{good.name:20} yes" in text and f"{bad.name:20} no" in text
    assert "! an event was lost" in text and "3 x gone" in text and "There are problems" in text
    assert "lost nothing" in summary(results[:1])
