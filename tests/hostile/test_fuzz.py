"""Handshakes, frames and messages that hypothesis makes, against a real server; then against the parsers alone."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile import fuzz_frames, mutations
from tests.hostile.attacks import ANSWERS, CLOSES, DEFLATE, Attack, open_wire
from tests.hostile.stand import APP, CONFIG, target_of
from tests.hostile.wire import TEXT, Wire, frame
from tests.integration.conftest import Serve
from tests.support.clients import Peer
from tests.support.harness import Server, event_ids

#: hypothesis's own chance: it finds the shortest course that fails.
CHANCES = st.randoms(use_true_random=False)

ON_A_SERVER = settings(
    deadline=None,
    max_examples=60,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
IN_PROCESS = settings(ON_A_SERVER, max_examples=300)


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve(APP, config=CONFIG)


@pytest.fixture
def witness(server: Server) -> Iterator[Peer]:
    """Somebody else, who is there all the time and hears everything."""
    peer = server.connect(max_queue=None)
    yield peer
    server.await_clients(1)
    server.publish("broadcast", "after")
    (messages,) = server.heard(peer)
    assert messages[-1]["type"] == "after"
    numbers = event_ids([{"id": peer.hello["data"]["id"]}, *messages])
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def check(end: str, ends: str, data: bytes) -> None:
    attack = Attack("", "", lambda target, chance, over: "", ends)
    assert attack.expects(end), f"{end!r} answered {data[:2000]!r}"


@ON_A_SERVER
@given(CHANCES)
def test_any_handshake_is_answered(server: Server, witness: Peer, chance: Random) -> None:
    target = target_of(server)
    data = mutations.handshake(chance, target)
    with Wire(target) as wire:
        wire.send(data)
        wire.finish()
        check(wire.status(), ANSWERS.replace("|silent", ""), data)
        wire.vanish()


@ON_A_SERVER
@given(CHANCES)
def test_any_frames_are_answered(server: Server, witness: Peer, chance: Random) -> None:
    data = mutations.frames(chance)
    with open_wire(target_of(server)) as wire:
        wire.send(data)
        wire.finish()
        check(wire.ending(), CLOSES, data)


@ON_A_SERVER
@given(CHANCES)
def test_any_deflate_is_answered(server: Server, witness: Peer, chance: Random) -> None:
    data = mutations.compressed(chance)
    with open_wire(target_of(server), DEFLATE) as wire:
        wire.send(data)
        wire.finish()
        check(wire.ending(), CLOSES, data)


@ON_A_SERVER
@given(st.lists(CHANCES, min_size=1, max_size=9))
def test_any_messages_are_answered_and_no_handler_fails(server: Server, witness: Peer, chances: list[Random]) -> None:
    data = [mutations.message(chance) for chance in chances]
    with open_wire(target_of(server)) as wire:
        for each in data:
            wire.send(frame(TEXT, each))
        wire.finish()
        check(wire.ending(), CLOSES, b"\n".join(data))
        assert "INTERNAL" not in wire.heard, data


@IN_PROCESS
@given(st.binary(max_size=300))
def test_the_parsers_keep_their_word_whatever_the_bytes(data: bytes) -> None:
    fuzz_frames.one_input(data)


@IN_PROCESS
@given(CHANCES, st.integers(0, len(fuzz_frames.TARGETS) - 1))
def test_the_parsers_keep_their_word_whatever_is_nearly_right(chance: Random, target: int) -> None:
    if fuzz_frames.TARGETS[target] is fuzz_frames.inbound:
        made, how = chance.choice((mutations.frames, mutations.compressed)), bytes([chance.randrange(256)])
    else:
        made, how = mutations.message, b""
    fuzz_frames.one_input(bytes([target]) + how + made(chance))
