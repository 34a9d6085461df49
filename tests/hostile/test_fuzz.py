"""Handshakes, frames and messages of hypothesis, against a real server and then against the parsers alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile import fuzz, fuzz_costs, mutations
from tests.hostile.attacks import ANSWERS, CLOSES, Attack
from tests.hostile.own_server import APP, CONFIG, target_of
from tests.hostile.target import DEFLATE, AttackClient, frame, open_client
from tests.integration.conftest import Serve
from tests.support.clients import Peer
from tests.support.event_helpers import complete_watcher
from tests.support.harness import Server
from tests.support.raw_client import TEXT

#: The random source of hypothesis, which finds the shortest input that fails.
RANDOM = st.randoms(use_true_random=False)

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
    """Another client, which is connected all the time and must receive everything."""
    with complete_watcher(server) as peer:
        yield peer


def check(end: str, ends: str, data: bytes) -> None:
    attack = Attack("", "", lambda target, rng, stop: "", ends, "")
    assert attack.expects(end), f"{end!r} answered {data[:2000]!r}"


@ON_A_SERVER
@given(RANDOM)
def test_any_handshake_is_answered(server: Server, witness: Peer, rng: Random) -> None:
    target = target_of(server)
    data = mutations.handshake(rng, target)
    with AttackClient(target) as client:
        client.try_send(data)
        client.finish()
        check(client.status(), ANSWERS.replace("|silent", ""), data)
        client.reset()


@ON_A_SERVER
@given(RANDOM)
def test_any_frames_are_answered(server: Server, witness: Peer, rng: Random) -> None:
    data = mutations.frames(rng)
    with open_client(target_of(server)) as client:
        client.try_send(data)
        client.finish()
        check(client.ending(), CLOSES, data)


@ON_A_SERVER
@given(RANDOM)
def test_any_deflate_is_answered(server: Server, witness: Peer, rng: Random) -> None:
    data = mutations.compressed(rng)
    with open_client(target_of(server), DEFLATE) as client:
        client.try_send(data)
        client.finish()
        check(client.ending(), CLOSES, data)


@ON_A_SERVER
@given(st.lists(RANDOM, min_size=1, max_size=9))
def test_any_messages_are_answered_and_no_handler_fails(server: Server, witness: Peer, rngs: list[Random]) -> None:
    data = [mutations.message(rng) for rng in rngs]
    with open_client(target_of(server)) as client:
        for each in data:
            client.try_send(frame(TEXT, each))
        client.finish()
        check(client.ending(), CLOSES, b"\n".join(data))
        assert "INTERNAL" not in client.received, data


CHEAP = [name for name in fuzz.TARGETS if name != "conversation"]  # which test_fuzz_costs runs


@IN_PROCESS
@given(st.sampled_from(CHEAP), st.binary(max_size=300))
def test_the_targets_accept_any_bytes(name: str, data: bytes) -> None:
    fuzz.TARGETS[name](data)


@IN_PROCESS
@given(RANDOM, st.sampled_from(CHEAP))
def test_the_targets_accept_almost_valid_input(rng: Random, name: str) -> None:
    if name == "inbound":
        data = bytes([rng.randrange(256)]) + rng.choice((mutations.frames, mutations.compressed))(rng)
    elif name in ("message", "subscription"):
        data = mutations.message(rng)
    else:
        data = fuzz.mutated(rng, fuzz.corpus(name))
    fuzz.TARGETS[name](data)


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_each_kept_input_passes(name: str) -> None:
    kept = fuzz.corpus(name)
    assert kept, "each target has a corpus"
    for data in kept:
        fuzz.TARGETS[name](data)
    fuzz_costs.close()


def test_a_target_that_fails_is_reported_with_its_input(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(data: bytes) -> None:
        raise AssertionError("wrong")

    monkeypatch.setattr(fuzz, "atheris", None)
    monkeypatch.setattr(fuzz, "FOUND", tmp_path)
    monkeypatch.setitem(fuzz.TARGETS, "message", fails)
    assert fuzz.main(["message", "--seconds", "1"]) == 1
    assert "AssertionError: wrong" in capsys.readouterr().err
    (kept,) = (tmp_path / "message").iterdir()
    assert kept.read_bytes() is not None
